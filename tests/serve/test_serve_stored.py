"""Pages of what is stored, its columns, and changes of it, over HTTP."""

import json

import pytest
from conftest import memory_uri, paint_colours
from serving import insert, problem, search, serving

from t2i_pipelines import build_insert_pipeline, sync
from t2i_pipelines.collection import open_collection
from t2i_pipelines.testing import forget_memory

COLOURS = ("red", "green", "blue", "yellow", "white")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def images(folder):
    return paint_colours(folder / "pictures")


def rows(images):
    """Twelve rows, their ids a0 to a11, of files that share five colours."""
    return [
        {
            "id": f"a{at}",
            "path": str(images / f"{COLOURS[at % 5]}.png"),
            "year": 2000 + at % 3,
            "colour": COLOURS[at % 5],
            "tags": ["all", "odd" if at % 2 else "even"],
        }
        for at in range(12)
    ]


@pytest.fixture(scope="module")
def http(folder, images):
    """A service that tests ask, and leave as it was."""
    build_insert_pipeline(uri=memory_uri(folder), model_name="colour")(rows(images))
    with serving(folder, roots=[images]) as client:
        yield client
    forget_memory(memory_uri(folder))


@pytest.fixture
def writable(tmp_path, images):
    """A service that a test may change, with the same rows."""
    build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour")(rows(images))
    with serving(tmp_path, roots=[images]) as client:
        yield client
    forget_memory(memory_uri(tmp_path))


def every_page(http, **asked):
    """The images of all pages, one list a page."""
    found, cursor = [], {}
    while True:
        answer = http.get("/v1/images", params={**asked, **cursor})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["images"])
        if answer.json()["next_cursor"] is None:
            return found
        cursor = {"cursor": answer.json()["next_cursor"]}


def ids(pages):
    return [one["id"] for page in pages for one in page]


ALL = sorted(f"a{at}" for at in range(12))


@pytest.mark.parametrize(
    ("limit", "sizes"), [(5, [5, 5, 2]), (6, [6, 6]), (12, [12]), (100, [12]), (1, [1] * 12)]
)
def test_pages_give_every_image_once_in_the_order_of_ids(http, limit, sizes):
    pages = every_page(http, limit=limit)
    assert [len(page) for page in pages] == sizes
    assert ids(pages) == ALL


def test_a_page_shows_of_an_image_what_its_own_route_shows(http):
    ((first, *_), *_) = every_page(http)
    assert first == http.get("/v1/images/a0").json()
    assert first["path"] == "pictures/red.png"
    assert first["fields"].keys() == {"year", "colour", "tags", "size", "mtime"}


def test_only_the_columns_that_are_asked_for_are_shown(http):
    asked = {"output_fields": ["year", "nowhere"], "limit": 1}
    (image,) = http.get("/v1/images", params=asked).json()["images"]
    assert image["fields"] == {"year": 2000}
    (image,) = http.get("/v1/images", params={"output_fields": "size", "limit": 1}).json()["images"]
    assert image["fields"].keys() == {"size"}


def test_pages_and_counts_are_of_images_that_meet_a_condition(http):
    where = json.dumps({"year": {"op": "!=", "value": 2001}, "colour": "red"})
    asked = {"filter": "year > 1999", "where": where}
    assert ids(every_page(http, limit=1, **asked)) == ["a0", "a5"]
    assert http.get("/v1/count", params=asked).json() == {"count": 2}
    assert http.get("/v1/count").json() == {"count": 12}
    assert http.get("/v1/images", params={"filter": "year > 3000"}).json() == {
        "images": [],
        "next_cursor": None,
    }


def test_images_that_stay_come_once_while_others_come_and_go(writable, tmp_path):
    collection = open_collection(memory_uri(tmp_path))
    first = writable.get("/v1/images", params={"limit": 4}).json()
    assert ids([first["images"]]) == ["a0", "a1", "a10", "a11"]
    collection.delete(["a0", "a2", "a11"])  # before, after, and the one that the cursor names
    row = collection.rows(["a1"], ["*"])["a1"]
    collection.upsert([{**row, "id": "a00"}, {**row, "id": "a30"}])
    rest = every_page(writable, limit=4, cursor=first["next_cursor"])
    assert ids(rest) == ["a3", "a30", "a4", "a5", "a6", "a7", "a8", "a9"]


@pytest.mark.parametrize("id", ["ünï/cödé 猫", 'a "quoted" one', "back\\slash", "new\nline", "a+b=c&d"])
def test_any_id_makes_a_cursor(writable, tmp_path, id):
    collection = open_collection(memory_uri(tmp_path))
    row = collection.rows(["a1"], ["*"])["a1"]
    collection.upsert([{**row, "id": id}, {**row, "id": f"{id}x"}])
    assert ids(every_page(writable, limit=1)) == sorted([*ALL, id, f"{id}x"])


@pytest.mark.parametrize("cursor", ["a0", "", "YTA", "ä", "=", "YWZ0ZXIg_w", "x" * 256])
def test_a_cursor_that_is_none_is_refused(http, cursor):
    said = problem(http.get("/v1/images", params={"cursor": cursor}), 422, "invalid_cursor")
    assert "is no cursor; send next_cursor as it came" in said


def test_columns_come_with_their_types_and_how_many_images_were_looked_at(http):
    assert http.get("/v1/columns").json() == {
        "columns": [
            {"name": "colour", "type": "string"},
            {"name": "tags", "type": "array"},
            {"name": "year", "type": "integer"},
        ],
        "rows": 12,
        "complete": True,
    }


def test_columns_of_a_sample_say_so(http, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.serve.images.SAMPLE", 5)
    found = http.get("/v1/columns").json()
    assert (found["rows"], found["complete"]) == (5, False)


def test_the_commonest_values_of_a_column_come_with_their_counts(http):
    assert http.get("/v1/columns/tags/values", params={"limit": 2}).json() == {
        "column": "tags",
        "values": [{"value": "all", "count": 12}, {"value": "even", "count": 6}],
        "rows": 12,
        "complete": True,
    }
    assert http.get("/v1/columns/a%2Fb (c)/values").json()["values"] == []
    colours = http.get("/v1/columns/colour/values").json()["values"]
    assert [one["count"] for one in colours] == [3, 3, 2, 2, 2]


@pytest.mark.parametrize(
    ("path", "asked", "code", "said"),
    [
        ("/v1/images", {"limit": 101}, "page_too_large", "a page has 100 images, cursor gives the next"),
        ("/v1/images", {"limit": 0}, "invalid_request", "query.limit: Input should be greater than or equal"),
        ("/v1/images", {"offset": 3}, "invalid_request", "query.offset: Extra inputs are not permitted"),
        (
            "/v1/images",
            {"output_fields": "path"},
            "hidden_field",
            "path can be neither asked about nor shown",
        ),
        ("/v1/images", {"filter": "year >"}, "invalid_option", "filter 'year >' was refused"),
        ("/v1/count", {"filter": "path like 'x%'"}, "hidden_field", "path can be neither"),
        ("/v1/count", {"filter": "y" * 1001}, "query_too_long", "filter has 1,001 characters"),
        ("/v1/count", {"where": "{"}, "invalid_request", "query.where: Invalid JSON"),
        ("/v1/count", {"where": '{"digest": "x"}'}, "hidden_field", "digest can be neither"),
        (
            "/v1/count",
            {"where": '{"year": {"op": "in", "value": 3}}'},
            "invalid_option",
            "needs a list of values",
        ),
        ("/v1/columns/path/values", {}, "hidden_field", "path can be neither"),
        ("/v1/columns/size/values", {}, "invalid_option", "column must be the name of metadata, got 'size'"),
        ("/v1/columns/year/values", {"limit": 1001}, "invalid_request", "less than or equal to 1000"),
    ],
)
def test_what_is_wrong_is_a_problem_that_says_so(http, path, asked, code, said):
    assert said in problem(http.get(path, params=asked), 422, code)


def test_images_are_deleted_by_filter_and_counted(writable):
    asked = {
        "filter": "year == 2001",
        "where": '{"colour": {"op": "in", "value": ["green", "white", "red"]}}',
    }
    assert writable.delete("/v1/images", params=asked).json() == {"deleted": 3}
    assert ids(every_page(writable)) == [id for id in ALL if id not in ("a1", "a10", "a4")]
    assert len(search(writable, text="green", limit=50)) == 9
    assert writable.delete("/v1/images", params={"filter": 'id != ""'}).json() == {"deleted": 9}
    assert writable.get("/v1/count").json() == {"count": 0}


@pytest.mark.parametrize("nothing", [{}, {"filter": " "}, {"where": "{}"}, {"where": '{"year": []}'}])
def test_deleting_without_a_condition_is_refused(http, nothing):
    said = problem(http.delete("/v1/images", params=nothing), 422, "invalid_option")
    assert "filter and where have no condition, so every row would be deleted" in said
    assert http.get("/v1/count").json() == {"count": 12}


def test_deleting_by_what_is_hidden_or_wrong_is_refused(http):
    problem(http.delete("/v1/images", params={"filter": 'path != ""'}), 422, "hidden_field")
    problem(http.delete("/v1/images", params={"filter": "year >"}), 422, "invalid_option")
    problem(http.delete("/v1/images", params={"ids": "a0"}), 422, "invalid_request")
    assert http.get("/v1/count").json() == {"count": 12}


def update(http, id, /, **fields):
    return http.patch(f"/v1/images/{id}", json={"fields": fields})


def test_metadata_is_changed_and_found_by(writable):
    before = writable.get("/v1/images/a0").json()
    changed = update(writable, "a0", year=1984, colour=None, caption="a car")
    assert changed.status_code == 200
    kept = {name: value for name, value in before["fields"].items() if name != "colour"}
    assert changed.json() == {**before, "fields": {**kept, "year": 1984, "caption": "a car"}}
    assert changed.json() == writable.get("/v1/images/a0").json()
    (hit,) = search(writable, text="red", where={"caption": "a car"})
    assert (hit["id"], round(hit["score"], 5)) == ("a0", 1)
    assert writable.get("/v1/images/a0/thumbnail").status_code == 200
    assert writable.get("/v1/count").json() == {"count": 12}


def test_what_the_collection_uses_itself_is_not_changed(writable):
    for name in ("id", "path", "vector", "digest", "size", "mtime"):
        for value in ("x", None):
            said = problem(update(writable, "a0", year=1, **{name: value}), 422, "invalid_option")
            assert f"metadata may not be called {name!r}" in said
    assert writable.get("/v1/images/a0").json()["fields"]["year"] == 2000


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({}, "invalid_request", "body.fields: Field required"),
        ({"fields": {}}, "invalid_request", "body.fields: Dictionary should have at least 1 item"),
        ({"fields": {"": 1}}, "invalid_request", "at least 1 character"),
        ({"fields": {"$x": 1}}, "invalid_option", "'$x' is no name for metadata"),
        ({"fields": {"n": 2**70}}, "invalid_option", "does not fit 64 bits"),
        ({"fields": {"x": "y" * 70_000}}, "invalid_option", "at most 65535 are stored"),
        ({"fields": {"x": ["y" * 40_000, "z" * 40_000]}}, "invalid_option", "Milvus stores 65535"),
        ({"fields": {"x": [0] * 11_000}}, "query_too_long", "at most 10,000 are read"),
    ],
)
def test_an_update_that_is_wrong_is_a_problem_that_says_so(http, body, code, said):
    assert said in problem(http.patch("/v1/images/a0", json=body), 422, code)


def test_an_update_by_a_number_that_is_none_removes_nothing(http):
    answer = http.patch(
        "/v1/images/a0", content=b'{"fields": {"year": NaN}}', headers={"content-type": "application/json"}
    )
    assert "year is NaN, which is no JSON; null removes a column" in problem(answer, 422, "invalid_request")


def test_an_update_has_a_bounded_body(http):
    answer = http.patch("/v1/images/a0", json={"fields": {"x": "y" * (1 << 19)}})
    assert "524,288 bytes at most" in problem(answer, 413, "too_large")


def test_an_unknown_image_is_not_updated(http):
    assert "'a99'" in problem(update(http, "a99", year=1), 404, "image_not_found")
    assert http.get("/v1/count").json() == {"count": 12}


def test_an_image_whose_id_has_slashes_is_updated(writable, tmp_path):
    collection = open_collection(memory_uri(tmp_path))
    collection.upsert([{**collection.rows(["a1"], ["*"])["a1"], "id": "x/y/file"}])
    assert update(writable, "x/y/file", year=7).json()["fields"]["year"] == 7


def test_a_service_that_only_reads_changes_nothing(folder, http, images):
    with serving(folder, roots=[images], read_only=True) as client:
        problem(update(client, "a0", year=1), 403, "read_only")
        problem(client.delete("/v1/images", params={"filter": 'id != ""'}), 403, "read_only")
        assert client.get("/v1/count").json() == {"count": 12}


def test_an_update_stays_when_the_same_is_inserted_and_synced_again(tmp_path, images):
    settings = {"uri": memory_uri(tmp_path), "model_name": "colour"}
    try:
        build_insert_pipeline(**settings)(rows(images))
        with serving(tmp_path, roots=[images]) as client:
            update(client, "a0", year=1984)
            assert sync(rows(images), **settings).counts["unchanged"] == 12
            assert client.get("/v1/images/a0").json()["fields"]["year"] == 1984
            others = [{**one, "year": 7} for one in rows(images)]
            assert sync(others, **settings).counts["updated"] == 12
            assert client.get("/v1/images/a0").json()["fields"]["year"] == 7
    finally:
        forget_memory(settings["uri"])


def test_an_update_of_a_file_of_a_folder_stays_when_it_is_inserted_again(tmp_path, images):
    with serving(tmp_path, roots=[images]) as client:
        insert(client, source="pictures")
        (image, *_) = client.get("/v1/images").json()["images"]
        update(client, image["id"], year=1984)
        report = insert(client, source="pictures")
        assert set(report["counts"]) <= {"unchanged", "skipped"}
        assert client.get(image["links"]["image"]).json()["fields"]["year"] == 1984
    forget_memory(memory_uri(tmp_path))


def test_an_empty_service_has_pages_counts_and_columns_of_nothing(tmp_path):
    with serving(tmp_path) as client:
        assert client.get("/v1/images").json() == {"images": [], "next_cursor": None}
        assert client.get("/v1/count").json() == {"count": 0}
        assert client.get("/v1/columns").json() == {"columns": [], "rows": 0, "complete": True}
        assert client.get("/v1/columns/year/values").json()["values"] == []
        assert client.delete("/v1/images", params={"filter": "year > 1"}).json() == {"deleted": 0}
    forget_memory(memory_uri(tmp_path))
