"""``POST /v1/search`` finds what ``Searcher`` finds."""

import base64
import json

import pytest
from conftest import memory_uri, paint_colours
from serving import insert, names, problem, search, serving

from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.errors import StoreUnavailableError
from t2i_pipelines.testing import forget_memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def pictures(folder):
    return paint_colours(folder / "pictures")


@pytest.fixture(scope="module")
def settings(folder):
    yield {"uri": memory_uri(folder), "model_name": "colour"}
    forget_memory(memory_uri(folder))


@pytest.fixture(scope="module")
def http(folder, pictures, settings):
    """A service that tests ask, and leave as it was."""
    rows = [
        {"path": str(path), "colour": path.stem, "year": 2000 + n}
        for n, path in enumerate(sorted(pictures.iterdir()))
    ]
    build_insert_pipeline(**settings)(rows)
    with serving(folder, roots=[pictures]) as client:
        yield client


def as_told(http, settings, query, **options):
    """Hits over HTTP beside those of a Searcher: ids and scores."""
    wanted = Searcher(**settings)(query, **options)
    body = {"text": query, **options} if isinstance(query, str) else {"like": query.id, **options}
    found = search(http, **body)
    assert [(hit["id"], hit["score"]) for hit in found] == [(hit.id, hit.score) for hit in wanted]
    return found


def test_words_find_what_a_searcher_finds(http, settings):
    found = as_told(http, settings, "a red car", limit=3)
    assert names(found)[0] == "red"
    assert found[0]["path"] == "pictures/red.png"
    assert found[0]["links"]["thumbnail"] == f"/v1/images/{found[0]['id']}/thumbnail"


def test_options_mean_what_they_mean_to_a_searcher(http, settings):
    as_told(http, settings, "red", limit=2, offset=1)
    as_told(http, settings, "red", radius=0.1, range_filter=0.9)
    as_told(http, settings, "red", diversity=0.5, limit=3)
    assert names(search(http, text="red", filter="year >= 2003")) == names(
        search(http, text="red", where={"year": {"op": ">=", "value": 2003}})
    )
    both = search(http, text="red", where={"year": [{"op": ">", "value": 2001}, {"op": "<", "value": 2003}]})
    assert len(both) == 1
    assert names(search(http, text="red", where={"colour": "blue"}, output_fields=["colour"])) == ["blue"]


def test_further_fields_come_along_but_never_where_the_file_is(http, pictures):
    (hit, *_) = search(http, text="red", output_fields=["*"])
    assert hit["fields"]["colour"] == "red"
    assert hit["fields"].keys() == {"colour", "year", "size", "mtime"}
    assert str(pictures) not in json.dumps(search(http, text="red", output_fields=["*"]))


@pytest.mark.parametrize(
    "body",
    [
        {"filter": 'path like "/%"'},
        {"where": {"path": {"op": "like", "value": "/%"}}},
        {"output_fields": ["vector"]},
        {"group_by": "path"},
    ],
)
def test_where_files_are_cannot_be_asked_either(http, body):
    assert "can be neither asked about nor shown" in problem(
        http.post("/v1/search", json={"text": "red", **body}), 422, "hidden_field"
    )
    assert http.post("/v1/search", json={"text": "red", "filter": "colour == 'path'"}).status_code == 200


def test_a_picture_of_ones_own_as_base64_and_as_a_form(http, pictures):
    content = (pictures / "green.png").read_bytes()
    assert names(search(http, image=base64.b64encode(content).decode(), limit=1)) == ["green"]
    form = http.post(
        "/v1/search",
        files={"image": ("x.png", content)},
        data={"limit": "1", "where": '{"year": {"op": ">", "value": 0}}'},
    )
    assert names(form.json()["results"][0]["hits"]) == ["green"]


def test_a_sum_of_a_picture_and_words(http, pictures):
    red = base64.b64encode((pictures / "red.png").read_bytes()).decode()
    assert names(search(http, image=red, text="green", limit=1)) == ["yellow"]
    assert names(search(http, expression="red + green", limit=1)) == ["yellow"]
    assert names(search(http, expression="./pictures/red.png + green", limit=1)) == ["yellow"]


def test_more_like_a_stored_picture(http):
    (red,) = search(http, text="red", limit=1)
    assert names(search(http, like=red["id"], limit=1)) == ["red"]
    assert "no image has the id 'nobody'" in problem(
        http.post("/v1/search", json={"like": "nobody"}), 422, "invalid_query"
    )


def test_several_queries_have_results_in_their_order(http):
    found = http.post("/v1/search", json={"queries": [{"text": "red"}, {"expression": "blue"}], "limit": 1})
    assert [names(one["hits"]) for one in found.json()["results"]] == [["red"], ["blue"]]


def test_a_new_service_finds_nothing(tmp_path):
    with serving(tmp_path) as client:
        assert search(client, text="red") == []


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({}, "invalid_request", "nothing is asked for"),
        ({"queries": []}, "invalid_request", "at least 1 item"),
        ({"text": "x", "queries": [{"text": "y"}]}, "invalid_request", "not both"),
        ({"queries": [{}]}, "invalid_request", "a query is empty"),
        ({"text": "x", "colour": 1}, "invalid_request", "colour"),
        ({"text": ""}, "invalid_query", "the query is empty"),
        ({"text": "a\x00b"}, "invalid_query", "control character"),
        ({"expression": "a + "}, "invalid_query", "nothing stands behind"),
        ({"text": "x", "limit": 0}, "invalid_request", "greater than or equal to 1"),
        ({"text": "x", "limit": 101}, "page_too_large", "a page has 100 hits"),
        ({"text": "x", "offset": 16384}, "invalid_option", "offset must be between"),
        ({"text": "x", "filter": "year >"}, "invalid_option", "filter"),
        ({"text": "x", "range_filter": 0.5}, "invalid_option", "range_filter"),
        ({"text": "x" * 1001}, "query_too_long", "1,001 characters; at most 1,000"),
        ({"text": "x", "filter": "y" * 1001}, "query_too_long", "filter has 1,001"),
        (
            {"text": "x", "where": {"year": {"op": "in", "value": ["x" * 40] * 2000}}},
            "query_too_long",
            "where is",
        ),
        (
            {"text": "x", "where": {f"a{n}": n for n in range(65)}},
            "query_too_long",
            "65 conditions; at most 64",
        ),
        ({"text": "x", "where": {"a": [{"op": ">", "value": 1}] * 65}}, "query_too_long", "65 conditions"),
        ({"text": "x", "output_fields": [""]}, "invalid_request", "at least 1 character"),
        ({"text": "x", "output_fields": ["a"] * 65}, "invalid_request", "at most 64 items"),
        ({"queries": [{"text": "x"}] * 33}, "too_many_queries", "33 queries; a request may have 32"),
        ({"image": base64.b64encode(b"nothing").decode()}, "unreadable_image", "not an image"),
        ({"image": ""}, "unreadable_image", "cannot read image"),
    ],
)
def test_what_is_wrong_is_a_problem_that_says_so(http, body, code, said):
    assert said in problem(http.post("/v1/search", json=body), 422, code)


NO_JSON = [b"", b"{", b"[" * 9_000, b'{"text": "\xff"}', b'{"limit": 1e999, "text": "x"}', b"null"]


@pytest.mark.parametrize("body", NO_JSON, ids=lambda body: str(body[:9]))
def test_what_is_no_json_is_a_problem(http, body):
    for path in ("/v1/search", "/v1/insert"):
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
        unread = path == "/v1/insert" and answer.status_code == 400
        assert problem(answer, *((400, "bad_request") if unread else (422, "invalid_request")))


@pytest.mark.parametrize(
    "where",
    [
        "{",
        "[" * 100_000,
        "[" * 9_000,
        '["\\ud800"]',
        '{"year": NaN}',
        "[]",
        '{"a": {"op": "eval", "value": 1}}',
    ],
)
def test_what_is_no_json_in_a_form_is_a_problem(http, pictures, where):
    red = (pictures / "red.png").read_bytes()
    answer = http.post("/v1/search", files={"image": red}, data={"where": where})
    assert problem(answer, 422, answer.json()["code"])


@pytest.mark.parametrize("charset", ["undefined", "punycode"])
def test_a_form_in_a_charset_that_does_not_fit_is_a_problem(http, charset):
    form = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\ndog \xff\r\n--x--\r\n'
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    told = problem(http.post("/v1/search", content=form, headers=kind), 400, "bad_request")
    assert told.startswith("the form's charset does not fit: ")


@pytest.mark.parametrize("filter", ["size > 1" + "0" * 20, "(" * 490 + "id != ''" + ")" * 490])
def test_a_filter_that_milvus_lite_cannot_take_is_a_problem(tmp_path, pictures, filter):
    with serving(tmp_path, roots=[pictures], settings={"uri": str(tmp_path / "milvus.db")}) as client:
        insert(client, source="pictures/red.png")
        told = problem(
            client.post("/v1/search", json={"text": "red", "filter": filter}), 422, "invalid_option"
        )
        assert told.startswith("filter ")
        assert "was refused" in told


def test_another_type_of_request_is_a_problem(http):
    assert "application/json or multipart" in problem(
        http.post("/v1/search", content=b"{}", headers={"content-type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    assert problem(
        http.post("/v1/search", json=None, content=b"{", headers={"content-type": "application/json"}),
        422,
        "invalid_request",
    )
    assert problem(http.post("/v1/search", files={"text": ("x", b"y")}), 422, "invalid_request")
    assert problem(http.get("/v1/nothing"), 404, "not_found")
    assert problem(http.put("/v1/search"), 405, "method_not_allowed")


def test_a_database_that_does_not_answer_is_503_with_retry_after(http, monkeypatch, caplog):
    def gone(*_, **__):
        raise StoreUnavailableError("no Milvus server answers at http://user:secret@10.1.2.3:19530")

    monkeypatch.setattr("t2i_pipelines.serve.service.Searcher.find", gone)
    answer = http.post("/v1/search", json={"text": "red"})
    assert problem(answer, 503, "store_unavailable") == "the database does not answer; try again"
    assert answer.headers["retry-after"] == "1"
    assert "10.1.2.3" in caplog.text


def test_what_nobody_foresaw_is_500_without_details(http, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("secret /srv/thing")

    monkeypatch.setattr("t2i_pipelines.serve.service.Searcher.find", broken)
    assert "secret" not in problem(http.post("/v1/search", json={"text": "red"}), 500, "internal_error")
    assert "secret /srv/thing" in caplog.text
