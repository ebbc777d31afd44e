"""Groups of images that are alike, over a whole collection."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import emptied, random_units, row, unit

from t2i_pipelines.collection import duplicates
from t2i_pipelines.collection.duplicates import components, groups

pytest_plugins = ["milvus_backends"]


def plainly(vectors, threshold):
    """Components by walking from vector to vector."""
    alike = vectors @ vectors.T >= threshold
    number = np.full(len(vectors), -1)
    for start in range(len(vectors)):
        if number[start] < 0:
            waiting = [start]
            while waiting:
                at = waiting.pop()
                if number[at] < 0:
                    number[at] = start
                    waiting += np.flatnonzero(alike[at]).tolist()
    return number


@given(st.integers(0, 10**6), st.integers(1, 90), st.floats(-0.5, 0.99), st.sampled_from([1, 7, 32, 2048]))
def test_components_are_those_of_a_walk_whatever_the_blocks(seed, count, threshold, block):
    vectors = random_units(count, seed)[:, :3].copy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    if (np.abs(cosines - threshold) < 1e-6).any():  # rounding decides
        return
    before, duplicates.A_BLOCK = duplicates.A_BLOCK, block
    try:
        assert components(vectors, threshold).tolist() == plainly(vectors, threshold).tolist()
    finally:
        duplicates.A_BLOCK = before


@pytest.mark.slow
def test_a_chain_is_one_group_and_fifty_thousand_equal_vectors_are_no_trouble():
    angles = np.radians(np.arange(0, 90, 5))
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert set(components(chain, np.cos(np.radians(6)))) == {0}
    assert len(set(components(chain, np.cos(np.radians(4))))) == len(chain)
    same = np.ones((20_000, 1), np.float32)
    assert set(components(same, 0.94).tolist()) == {0}


def page(vectors):
    return [{"id": str(at), "path": f"{at}.jpg", "vector": vector} for at, vector in enumerate(vectors)]


def test_groups_come_largest_first_members_by_path():
    x, y, z = unit(0, 1, 2)
    vectors = [x, y, 2 * x, z, y, x + 1e-3 * z]
    found = groups([page(vectors)], len(x), 0.99)
    assert [[one.path for one in group] for group in found] == [
        ["0.jpg", "2.jpg", "5.jpg"],
        ["1.jpg", "4.jpg"],
    ]
    assert found[0][0] == ("0", "0.jpg", pytest.approx(1))
    assert groups([], 16, 0.9) == []
    assert groups([page(unit(0, 1))], 16, 0.9) == []


def test_groups_of_one_size_and_members_come_by_path_and_those_of_one_path_by_id():
    stored = zip("abcdefg", ("z", "y", "x", "b", "w", "a", "a"), unit(0, 1, 0, 1, 0, 2, 2), strict=True)
    found = groups([[{"id": id, "path": path, "vector": vector} for id, path, vector in stored]], 16, 0.9)
    named = [[(one.id, one.path) for one in group] for group in found]
    assert named == [[("e", "w"), ("c", "x"), ("a", "z")], [("f", "a"), ("g", "a")], [("d", "b"), ("b", "y")]]


def test_a_cosine_of_just_the_threshold_is_alike():
    assert set(components(np.eye(2, dtype=np.float32), 0.0).tolist()) == {0}


def test_those_of_one_block_are_compared_with_one_another(monkeypatch):
    monkeypatch.setattr(duplicates, "A_BLOCK", 2)
    assert components(unit(0, 0, 1, 1, 2), 0.9).tolist() == [0, 0, 2, 2, 4]


@pytest.fixture
def store(milvus_backend):
    collection = milvus_backend.open("duplicates")
    collection.drop()
    yield emptied(collection)
    collection.drop()
    collection.close()


def test_a_collection_tells_its_duplicates(store):
    vectors = random_units(300, seed=1)
    copies = {f"copy{at}": vectors[at] + 1e-3 * random_units(1, seed=at)[0] for at in (3, 5, 8)}
    stored = [row(at, vector, kind="original") for at, vector in enumerate(vectors)]
    store.upsert([*stored, *(row(id, vector, kind="copy") for id, vector in copies.items())])
    found = [{one.id for one in group} for group in store.duplicates(0.99)]
    assert sorted(map(sorted, found)) == [["3", "copy3"], ["5", "copy5"], ["8", "copy8"]]
    assert store.duplicates(0.99, where={"kind": "original"}) == []
    assert store.duplicates(1.0 - 1e-9, filter='kind == "copy"') == []
    assert [one.path for one in store.duplicates()[0]] == ["3.jpg", "copy3.jpg"]


SCRIPT = """
import re, resource
from pathlib import Path
import numpy as np
from t2i_pipelines.collection import duplicates

def pages(random=np.random.default_rng(0)):
    for start in range(0, 1000, 10):
        vectors = random.normal(size=(10, 100_000)).astype(np.float32)
        yield [{"id": str(start + at), "path": "p", "vector": vector} for at, vector in enumerate(vectors)]

held = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, (held + ROOM * 2**20,) * 2)
print(len(duplicates.groups(pages(), 100_000, -1)[0]))
"""


@pytest.mark.slow
def test_memory_does_not_hold_the_vectors():
    """They take 400 MB, and the process may take 200 more than it has."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ROOM", "200")], capture_output=True, text=True, check=False
    )
    assert (run.stdout.strip(), run.stderr) == ("1000", "")
