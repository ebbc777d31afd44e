"""``POST /v1/embeddings`` gives OpenAI's clients and Infinity's the vectors that a search uses."""

import base64
import io
import threading

import numpy as np
import openai
import pytest
import uvicorn
from conftest import memory_uri
from PIL import Image
from serving import problem, serving, wait_until

from t2i_pipelines import Searcher
from t2i_pipelines.encoders.registry import load
from t2i_pipelines.serve import ServeOptions, build_app
from t2i_pipelines.testing import forget_memory

KEY = "correct horse battery staple"


def png(*colour, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def uri(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield (found := tmp_path_factory.mktemp("served"))
    forget_memory(memory_uri(found))


@pytest.fixture(scope="module")
def http(folder):
    with serving(folder) as client:
        yield client


@pytest.fixture(scope="module")
def searcher(folder):
    return Searcher(uri=memory_uri(folder), model_name="colour")


def embed(http, **body):
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def client(folder):
    """OpenAI's own, of a service on a port that wants a key and has the bundled model."""
    app = build_app(ServeOptions(api_key=KEY), uri=folder / "milvus.db", model_name="t2i_mini")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the service")
    port = server.servers[0].sockets[0].getsockname()[1]
    with openai.OpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as found:
        yield found
    server.should_exit = True
    thread.join(60)


@pytest.mark.parametrize("encoding_format", [openai.omit, "float", "base64"])
def test_openais_client_gets_the_vectors_of_a_searcher(client, folder, encoding_format):
    texts = ["a white dog", "a boat", "a white dog on a beach"]
    found = client.embeddings.create(model="t2i_mini", input=texts, encoding_format=encoding_format)
    expected = Searcher(uri=folder / "milvus.db", model_name="t2i_mini").embed(texts)
    assert [one.index for one in found.data] == [0, 1, 2]
    for one, vector in zip(found.data, expected, strict=True):
        if encoding_format == "base64":
            vectors = np.frombuffer(base64.b64decode(one.embedding), "<f4")
        else:
            vectors = np.array(one.embedding, np.float32)
        assert vectors.tolist() == vector.tolist()
    assert found.model == "t2i_mini"
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (17, 17)  # words, starts and ends
    assert client.embeddings.create(model="t2i_mini", input="a boat", dimensions=len(expected[0])).data


def test_openais_client_embeds_images_as_infinity_does(client, folder):
    images = [png(255, 0, 0), png(0, 0, 255)]
    found = client.embeddings.create(
        model="t2i_mini", input=[uri(one) for one in images], extra_body={"modality": "image"}
    )
    expected = Searcher(uri=folder / "milvus.db", model_name="t2i_mini").embed(images)
    assert [np.array(one.embedding, np.float32).tolist() for one in found.data] == [
        vector.tolist() for vector in expected
    ]


def test_openais_client_is_refused_by_name_and_without_the_key(client):
    with pytest.raises(openai.NotFoundError, match="by 't2i_mini', not by 'text-emb.*; send") as err:
        client.embeddings.create(model="text-embedding-3-small", input="a boat")
    assert err.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError, match="body.input"):
        client.embeddings.create(model="t2i_mini", input=[[1, 2]])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").embeddings.create(model="t2i_mini", input="a boat")


def test_the_answer_has_the_form_of_openais(http):
    assert embed(http, input=["red", "yellow"], model="colour", user="someone") == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1, 0, 0]},
            {"object": "embedding", "index": 1, "embedding": np.float32([0.5**0.5, 0.5**0.5, 0]).tolist()},
        ],
        "model": "colour",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},  # it has no tokens
    }


def test_one_text_and_a_list_of_one_are_the_same(http):
    assert embed(http, input="red") == embed(http, input=["red"])


def test_images_come_as_data_uris_or_base64(http, searcher):
    content = png(255, 0, 0)
    (vector,) = searcher.embed([content])
    for written in (uri(content), base64.b64encode(content).decode(), uri(content).replace("png", "x")):
        (one,) = embed(http, input=written, modality="image")["data"]
        assert one["embedding"] == vector.tolist()


def test_texts_are_put_into_the_templates_of_the_service(tmp_path):
    settings = {"uri": memory_uri(tmp_path), "model_name": "colour", "templates": ["a red {}", "a blue {}"]}
    with serving(tmp_path, settings=settings) as client:
        (one,) = embed(client, input="green")["data"]
        assert one["embedding"] == Searcher(**settings).embed("green").tolist()
        assert one["embedding"] != Searcher(uri=settings["uri"], model_name="colour").embed("green").tolist()
    forget_memory(settings["uri"])


def test_a_text_that_was_searched_for_is_not_embedded_again(http):
    texts = load("colour").texts
    assert http.post("/v1/search", json={"text": "a yellow submarine"}).status_code == 200
    before = texts.misses
    embed(http, input=["a yellow submarine"])
    assert texts.misses == before


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({}, "invalid_request", "body.input: Field required"),
        ({"input": []}, "invalid_request", "at least 1 item"),
        ({"input": [[1, 2, 3]]}, "invalid_request", "valid string"),
        ({"input": [1, 2]}, "invalid_request", "valid string"),
        ({"input": "x", "unknown": 1}, "invalid_request", "body.unknown: Extra inputs"),
        ({"input": "x", "encoding_format": "int8"}, "invalid_request", "'float' or 'base64'"),
        ({"input": "x", "modality": "audio"}, "invalid_request", "'text' or 'image'"),
        ({"input": "x", "dimensions": 2}, "wrong_dimensions", "3 dimensions, not 2; send 3, or none"),
        ({"input": ["x"] * 33}, "too_many_queries", "33 queries; a request may have 32"),
        ({"input": "x" * 1001}, "query_too_long", "input has 1,001 characters; at most 1,000"),
        ({"input": ""}, "invalid_query", "empty"),
        (
            {"input": "red car!", "modality": "image"},
            "invalid_query",
            "'red car!' is no image: give a data URI",
        ),
        ({"input": "data:image/png,xx", "modality": "image"}, "invalid_query", "is not in base64"),
        ({"input": "data:,", "modality": "image"}, "invalid_query", "is not in base64"),
        ({"input": "AAAA", "modality": "image"}, "unreadable_image", "cannot read image"),
    ],
)
def test_what_is_wrong_is_a_problem_that_says_so(http, body, code, said):
    assert said in problem(http.post("/v1/embeddings", json=body), 422, code)


def test_images_on_the_web_are_embedded_only_where_that_is_allowed(http, tmp_path, monkeypatch):
    body = {"input": "https://example.org/a.png", "modality": "image"}
    said = problem(http.post("/v1/embeddings", json=body), 403, "urls_not_allowed")
    assert "images on the web are not allowed here" in said
    with serving(tmp_path, allow_urls=True) as client:
        body["input"] = "http://127.0.0.1:9/a.png"
        said = problem(client.post("/v1/embeddings", json=body), 422, "unreadable_image")
        assert "its host has no public address" in said
        asked = {}
        monkeypatch.setattr(
            "t2i_pipelines.serve.requests.fetch",
            lambda url, **how: asked.update({url: how}) or png(255, 0, 0),
        )
        body["input"] = ["https://example.org/a.png", uri(png(0, 0, 255))]
        assert [one["embedding"] for one in embed(client, **body)["data"]] == [[1, 0, 0], [0, 0, 1]]
        (how,) = asked.values()
        assert how["only_public"]
        assert how["within"] <= 10
    forget_memory(memory_uri(tmp_path))


def test_another_model_is_refused_with_the_name_of_this_one(http):
    answer = http.post("/v1/embeddings", json={"model": "clip", "input": "x"})
    assert problem(answer, 404, "model_not_found").endswith(
        "by 'colour', not by 'clip'; send that name, or none"
    )
