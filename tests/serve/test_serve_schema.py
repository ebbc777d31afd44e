"""What the OpenAPI document says is what happens, whatever is sent."""

import threading
from types import SimpleNamespace

import pytest
import schemathesis
import uvicorn
from conftest import paint
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import wait_until

import t2i_pipelines
import t2i_pipelines.testing
from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.serve import ServeOptions, build_app

pytestmark = pytest.mark.slow

KEY = "correct horse battery staple"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """In this process, on a port of its own, with two images."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("red", "blue"):
        paint(folder / "pictures" / f"{name}.png", name)
    chosen = {"uri": folder / "milvus.db", "model_name": "colour"}
    build_insert_pipeline(**chosen)(
        [{"path": str(folder / "pictures" / f"{name}.png"), "id": name} for name in ("red", "blue")]
    )
    app = build_app(ServeOptions(roots=[folder / "pictures"], uploads=folder / "kept", api_key=KEY), **chosen)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the service")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield SimpleNamespace(app=app, url=f"http://127.0.0.1:{port}", folder=folder)
    server.should_exit = True
    thread.join(60)
    t2i_pipelines.close()


OPERATIONS = [
    ("POST", "/v1/search"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/insert"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{id}"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/v1/count"),
    ("GET", "/v1/columns"),
    ("GET", "/v1/columns/{name}/values"),
    ("GET", "/v1/images"),
    ("GET", "/v1/images/{id}"),
    ("PATCH", "/v1/images/{id}"),
    ("GET", "/v1/images/{id}/file"),
    ("GET", "/v1/images/{id}/thumbnail"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("DELETE", "/v1/images/{id}"),
    ("DELETE", "/v1/images"),  # last: there is a condition that every image meets
]


def test_all_operations_are_tried(service):
    paths = service.app.openapi()["paths"]
    assert sorted(OPERATIONS) == sorted(
        (method.upper(), path) for path, one in paths.items() for method in one
    )


def test_the_document_has_examples_that_work(service):
    import httpx2

    document = service.app.openapi()
    request = document["paths"]["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    bodies = [one for one in request["examples"] if "year" not in str(one)]
    assert len(request["examples"]) >= 3
    for body in bodies:
        body = {name: value for name, value in body.items()}
        if "queries" in body:
            body["queries"][1]["like"] = "red"
        answer = httpx2.post(f"{service.url}/v1/search", json=body, headers={"X-API-Key": KEY})
        assert answer.status_code == 200, answer.text


def test_examples_of_embeddings_updates_and_parameters_work(service):
    import httpx2

    paths, schemas = service.app.openapi()["paths"], service.app.openapi()["components"]["schemas"]
    with httpx2.Client(base_url=service.url, headers={"X-API-Key": KEY}) as http:
        for body in schemas["EmbeddingsRequest"]["examples"]:
            assert http.post("/v1/embeddings", json=body).status_code == 200, body
        for body in schemas["ImageUpdate"]["examples"]:
            assert http.patch("/v1/images/blue", json=body).json()["fields"]["year"] == 2016
        for path in ("/v1/images", "/v1/count"):
            parameters = {one["name"]: one for one in paths[path]["get"]["parameters"]}
            for name in ("filter", "where"):
                (example,) = parameters[name].get("examples") or parameters[name]["schema"]["examples"]
                assert parameters[name]["description"]
                answer = http.get(path, params={name: example})
                assert answer.json().get("count", len(answer.json().get("images", []))) == 1, answer.text
        assert http.get("/v1/columns/year/values").json()["values"] == [{"value": 2016, "count": 1}]


@pytest.mark.filterwarnings("ignore:no row has a column")
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_nothing_that_is_sent_breaks_it(service, method, path, mode):
    """What the document allows, and what it does not."""
    operation = schemathesis.openapi.from_url(f"{service.url}/openapi.json")[path][method]
    statuses = set()

    @settings(derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def attack(case):
        answer = case.call(headers={"Authorization": f"Bearer {KEY}"})
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    try:
        attack()
    except Unsatisfiable:  # nothing about it can be wrong
        assert mode is GenerationMode.NEGATIVE
    assert statuses or mode is GenerationMode.NEGATIVE
    answered = ("/v1/search", "/v1/embeddings", "/v1/images", "/v1/count", "/v1/columns")
    if path in answered and method != "DELETE" and mode is GenerationMode.POSITIVE:
        assert 200 in statuses


def test_the_document_says_how_to_upload(service):
    import httpx2

    operation = service.app.openapi()["paths"]["/v1/insert"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["image"]["items"] == {"type": "string", "format": "binary"}
    image = (service.folder / "pictures" / "red.png").read_bytes()
    for number, fields in enumerate(form["properties"]["fields"]["examples"], 1):
        answer = httpx2.post(
            f"{service.url}/v1/insert", files=[("image", ("dog.jpg", image))] * number,
            data={"fields": fields}, headers={"X-API-Key": KEY},
        )  # fmt: skip
        assert answer.status_code == 202, answer.text
    (header,) = [one for one in operation["parameters"] if one["in"] == "header"]
    assert header["name"] == "Idempotency-Key"


def test_every_operation_is_described(service):
    for path, methods in service.app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            if path not in ("/healthz", "/readyz"):
                assert operation["security"], (method, path)
            problems = [
                one["content"] for status, one in operation["responses"].items() if int(status) >= 400
            ]
            assert problems
            assert all("application/problem+json" in one for one in problems), (method, path)
