"""A reader that looks while a writer makes the collection sees it whole or not at all."""

import threading

import pytest

from t2i_pipelines.collection import open_collection
from t2i_pipelines.types import Space

SPACE = Space("colour", "weights", "none", 3)


@pytest.mark.parametrize("attempt", range(3))
def test_a_reader_never_meets_a_collection_that_is_half_made(tmp_path, attempt):
    collection = open_collection(uri=tmp_path / f"{attempt}.db")
    failures: list[Exception] = []
    seen = threading.Event()

    def look() -> None:
        try:
            while not collection.verify(SPACE):
                pass
        except Exception as err:
            failures.append(err)
        seen.set()

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    collection.prepare(SPACE)
    assert seen.wait(30)
    for reader in readers:
        reader.join()
    assert failures == []
