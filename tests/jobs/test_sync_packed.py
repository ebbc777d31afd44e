"""Ids and digests in 16 bytes each, and the records that wait: nothing is lost or mixed up."""

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.images import packed, path_key, records
from t2i_pipelines.jobs.sync.plan import GONE, UNCHANGED, Inventory, Spill, Twins, preview
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.types import Record

SIXTEEN = st.binary(min_size=16, max_size=16)
HEX = st.text("0123456789abcdefABCDEF ", min_size=32, max_size=32)


@given(st.text(min_size=1) | SIXTEEN.map(bytes.hex) | HEX)
def test_an_id_comes_back_as_it_was(id):
    ids = packed.Ids()
    key = ids.pack(id, remember=True)
    assert len(key) == 16
    assert ids.unpack(packed.packed([key])[0]) == id


def test_the_id_of_a_path_needs_no_remembering():
    ids = packed.Ids()
    key = path_key("/photos/a.jpg")
    assert ids.unpack(ids.pack(key)) == key


@given(st.lists(SIXTEEN | st.integers(0, 300).map(lambda n: n.to_bytes(16, "big")), unique=True), SIXTEEN)
def test_keys_are_found_where_they_are_and_others_are_not(keys, other):
    array = packed.packed(keys)
    order = np.argsort(array)
    found = packed.find(array, packed.packed([*keys, other]), order)
    assert found.tolist()[:-1] == list(range(len(keys)))
    assert found[-1] == (keys.index(other) if other in keys else -1)
    assert packed.find(array[order], array).tolist() == np.argsort(order).tolist()


def test_a_packed_dict_is_a_dict_however_often_it_is_merged(monkeypatch):
    monkeypatch.setattr(packed, "_RECENT", 7)
    rng = random.Random(5)
    plain, found = {}, packed.PackedDict()
    for n in range(500):
        key = rng.randbytes(14) + bytes(2)  # NumPy cuts off the zeros
        plain[key] = found[key] = n.to_bytes(16, "little")
    assert {key: found.get(key) for key in plain} == plain
    assert found.get(b"nobody".ljust(16)) is None


def rows(count: int):
    for start in range(0, count, 10_000):
        yield [
            {"id": path_key(str(n)), "size": n, "mtime": n, "digest": f"{n:032x}:{n:016x}"}
            for n in range(start, min(count, start + 10_000))
        ]


@pytest.mark.slow
def test_a_row_takes_41_bytes_and_while_they_are_gathered_no_more_than_twice_that():
    count = 200_000
    tracemalloc.start()
    inventory = Inventory(rows(count))
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now / count == pytest.approx(41, abs=2)
    assert (peak - 8_000_000) / count < 82, "beside one page"
    assert len(inventory) == count


def test_rows_that_no_source_names_come_out_with_their_ids():
    inventory = Inventory(rows(25))
    places = inventory.places([path_key(str(n)) for n in range(25)])
    assert sorted(places) == list(range(25))
    inventory.states[places[:20]] = UNCHANGED
    assert inventory.gone() == 5
    assert {id for ids in inventory.gone_ids(2) for id in ids} == {path_key(str(n)) for n in range(20, 25)}
    assert inventory.places(["nobody"]).tolist() == [-1]
    assert set(Inventory([]).states) <= {GONE}


def test_what_is_foreseen_is_not_held_on_to(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(50)]
    for n, file in enumerate(files):
        file.write_bytes(bytes([n % 30]))
    twins = Twins(Inventory([]))
    look_up = SkipUnchanged(uri=str(tmp_path / "x.db"), model_name="colour")
    found = list(preview(records(files), look_up, twins))
    assert [record.status for record in found] == ["inserted"] * 30 + ["reused"] * 20
    assert twins._under_way == {}


def test_records_that_wait_come_back_as_often_as_one_likes():
    waiting = Spill()
    odd = lambda: None  # noqa: E731 - cannot be pickled
    waiting.add([Record("/a", "a", {"year": 2015}), Record("/b", "b")])
    waiting.add([Record("/c", "c", {"odd": odd})])
    waiting.add([Record("/d", "d")])
    for _ in range(2):
        found = list(waiting)
        assert [record.path for record in found] == ["/a", "/b", "/c", "/d"]
        assert found[0].metadata == {"year": 2015}
        assert found[2].metadata == {"odd": odd}
        for record in found:
            record.fail("must not be seen the next time")
    assert len(waiting) == 4
    assert all(record.status is None for record in waiting)
    waiting.close()
