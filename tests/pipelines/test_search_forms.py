"""What a search asks Milvus for, and what it makes of a refusal or of a row that went meanwhile."""

from types import SimpleNamespace

import numpy as np
import pytest
from stored import SPACE, random_units

from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.collection.failures import RefusedError
from t2i_pipelines.collection.search import Finder, filters
from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.errors import ConfigError


def finder(read, rows=None, version=(2, 6), **options):
    collection = SimpleNamespace(
        is_lite=False, version=version, patience=1.0, read=read, rows=lambda ids, fields: rows
    )
    return Finder(collection, Entry(1, "c", SPACE, "FLAT"), SearchOptions(**options))


def refuse(*_, **__):
    raise RefusedError("no such index parameter")


def test_values_go_apart_from_the_expression_where_milvus_takes_them_so_and_else_as_literals():
    options = SearchOptions(filter="size > 1", where={"year": (">", 2015)})
    plain = {"filter": '($meta["year"] > 2015) and (size > 1)'}
    assert filters(options, is_lite=False, templates=False) == [plain]
    apart = {
        "filter": '($meta["year"] > {where_0}) and (size > 1)',
        "filter_params": {"where_0": 2015},
    }
    assert filters(options, is_lite=False, templates=True) == [apart, plain]
    assert filters(SearchOptions(), is_lite=False, templates=True) == [{"filter": ""}]


def test_a_refusal_is_laid_on_the_filter_only_where_there_is_one():
    query = random_units(1)
    with pytest.raises(RefusedError, match="^no such index parameter$"):
        finder(refuse).find(query)
    with pytest.raises(ConfigError, match=r"filter 'size >> 1' was refused: no such index parameter"):
        finder(refuse, filter="size >> 1").find(query)


def test_values_apart_are_tried_first_and_given_up_only_where_they_are_refused():
    asked = []

    def read(method, **arguments):
        asked.append("filter_params" in arguments)
        if asked[-1]:
            refuse()
        return [[]]

    assert finder(read, where={"year": 1}).find(random_units(1)) == [[]]
    assert asked == [True, False]
    asked.clear()
    assert finder(read, where={"year": 1}, version=(2, 3)).find(random_units(1)) == [[]]
    assert asked == [False]


def test_a_row_that_was_deleted_since_it_was_compared_is_left_out():
    vectors = np.eye(2, SPACE.dim, dtype=np.float32)
    pages = [[{"id": "a", "vector": vectors[0]}, {"id": "b", "vector": vectors[1]}]]

    def read(method, **_):
        return pages.pop() if pages else []

    rest = finder(read, rows={"b": {"path": "b.jpg"}})._rest(vectors[0], set())
    assert [(hit.id, hit.score, hit.path) for hit in rest] == [("b", 0.0, "b.jpg")]
