"""Rows and vectors that tests of the store share."""

from contextlib import contextmanager

import numpy as np

from t2i_pipelines.types import Space

DIM = 16
SPACE = Space("fake", "a1" * 32, "squash 64", DIM)


def unit(*directions):
    """One vector for each number: along that axis."""
    return np.eye(DIM, dtype=np.float32)[list(directions)]


def random_units(count, seed=0):
    """(count, DIM) in all directions."""
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def row(key, vector, **more):
    return {
        "id": str(key),
        "vector": np.asarray(vector, np.float32),
        "path": f"{key}.jpg",
        "size": 1,
        "mtime": 2,
        "digest": "d",
        **more,
    }


def emptied(collection):
    """The collection, there and without rows."""
    collection.prepare(SPACE)
    collection.write("delete", filter='id != ""')
    assert collection.count() == 0
    return collection


@contextmanager
def made(collection):
    """The collection, new and without rows; dropped at the end."""
    collection.drop()
    collection.prepare(SPACE)
    yield collection
    collection.drop()
    collection.close()
