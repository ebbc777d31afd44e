"""The MCP server, through the client of its SDK: what assistants find, see and may do."""

import base64
import io
import json
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import anyio
import cv2
import numpy as np
import pytest
from conftest import memory_uri, paint, paint_colours
from mcp.client import Client
from PIL import Image as Pillow
from serving import LOCAL, problem
from starlette.testclient import TestClient
from typer.main import get_command

import t2i_pipelines
from t2i_pipelines import Searcher, build_insert_pipeline, cli
from t2i_pipelines.collection import open_collection
from t2i_pipelines.errors import ConfigError, MissingExtraError, StoreLockedError
from t2i_pipelines.serve import ServeOptions, build_app, build_mcp, mcp, mcp_schemas, serve_mcp
from t2i_pipelines.serve.service import Service
from t2i_pipelines.testing import forget_memory

READS = ["search_images", "search_by_image", "more_like", "look_at_image", "describe_collection"]
KEY = "correct horse battery staple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def photos(folder):
    return paint_colours(folder / "photos")


@pytest.fixture(scope="module")
def stored(folder, photos):
    """The settings of a collection that tests ask, and leave as it was."""
    chosen = {"uri": memory_uri(folder), "model_name": "colour"}
    rows = [
        {"path": str(path), "caption": f"all {path.stem}", "year": 2010 + number}
        for number, path in enumerate(sorted(photos.iterdir()))
    ]
    build_insert_pipeline(**chosen)(rows)
    yield chosen
    forget_memory(memory_uri(folder))


@pytest.fixture
def chosen(tmp_path):
    """The settings of a collection that is not there yet."""
    return {"uri": memory_uri(tmp_path), "model_name": "colour"}


def asked(chosen, *calls, options=None, **given):
    """The results of calls of tools, each a name and its arguments."""

    async def ask():
        async with Client(build_mcp(options, **given, **chosen)) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return anyio.run(ask)


def answer(chosen, name, arguments=None, **given):
    """What a call returns, which must be no error."""
    (result,) = asked(chosen, (name, arguments or {}), **given)
    assert not result.is_error, result.content[0].text
    return result


def refused(chosen, name, arguments=None, **given):
    """The message of a call, which must be an error."""
    (result,) = asked(chosen, (name, arguments or {}), **given)
    assert result.is_error, result.structured_content
    return result.content[0].text.removeprefix(f"Error executing tool {name}: ")


def stems(result):
    return [Path(hit["path"]).stem for hit in result.structured_content["images"]]


def tools(chosen, **given):
    async def list_them():
        async with Client(build_mcp(**given, **chosen)) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}, client.instructions

    return anyio.run(list_them)


def test_tools_only_read_unless_inserting_is_allowed(stored, photos):
    found, instructions = tools(stored)
    assert list(found) == READS
    assert all(tool.annotations.read_only_hint and tool.description for tool in found.values())
    assert "never instructions" in instructions
    found, _ = tools(stored, allow_insert=True, options=ServeOptions(roots=[photos]))
    assert list(found) == [*READS, "insert_images", "look_at_insert"]
    hints = found["insert_images"].annotations
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == (False, False, True)


def test_words_find_what_a_searcher_finds_with_all_that_is_stored(stored, photos):
    wanted = Searcher(**stored)("red", limit=3)
    found = answer(stored, "search_images", {"text": "red", "limit": 3})
    hits = found.structured_content["images"]
    assert [(hit["id"], hit["path"], hit["score"]) for hit in hits] == [
        (hit.id, hit.path, pytest.approx(hit.score)) for hit in wanted
    ]
    assert hits[0]["fields"]["caption"] == "all red"
    assert not {"vector", "digest", "path"} & set(hits[0]["fields"])
    assert json.loads(found.content[0].text) == found.structured_content


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"where": {"caption": "all blue"}}, ["blue"]),
        ({"where": {"year": {"op": "<=", "value": 2010}}}, ["blue"]),
        ({"filter": "year == 2011"}, ["cyan"]),
        ({"limit": 1}, ["red"]),
        ({"where": json.dumps({"caption": "all blue"})}, ["blue"]),  # as some assistants write it
    ],
)
def test_options_choose_among_the_hits(stored, photos, options, wanted):
    assert stems(answer(stored, "search_images", {"text": "red", **options})) == wanted


def test_offset_gives_the_next_page(stored, photos):
    every = stems(answer(stored, "search_images", {"text": "red", "limit": 4}))
    assert stems(answer(stored, "search_images", {"text": "red", "limit": 2, "offset": 2})) == every[2:]


def test_an_expression_names_words_and_stored_images(stored, photos):
    (blue,) = answer(stored, "search_images", {"text": "blue", "limit": 1}).structured_content["images"]
    found = answer(stored, "search_images", {"expression": f"like:{blue['id']} + red", "limit": 1})
    assert stems(found) == ["magenta"]


def test_more_like_a_stored_image(stored, photos):
    (blue,) = answer(stored, "search_images", {"text": "blue", "limit": 1}).structured_content["images"]
    found = stems(answer(stored, "more_like", {"id": blue["id"], "limit": 2}))
    assert found[0] == "blue"
    assert found[1] in ("cyan", "magenta")


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_an_image_of_the_assistants_own_is_searched_by(stored, photos, tmp_path, head):
    content = paint(tmp_path / "mine.png", "green").read_bytes()
    data = head + base64.b64encode(content).decode()
    assert stems(answer(stored, "search_by_image", {"data": data, "limit": 1})) == ["green"]


def test_a_file_in_a_folder_that_is_named_is_searched_by(stored, photos):
    options = ServeOptions(roots=[photos])
    found = answer(stored, "search_by_image", {"path": "photos/cyan.png", "limit": 1}, options=options)
    assert found.structured_content["images"][0]["path"] == "photos/cyan.png"
    assert answer(stored, "describe_collection", options=options).structured_content["folders"] == ["photos"]


def test_no_file_elsewhere_is_read(stored, photos, tmp_path):
    outside = paint(tmp_path / "outside.png", "red")
    (photos.parent / "inside").mkdir()
    (photos.parent / "inside" / "link.png").symlink_to(outside)
    paths = [str(outside), "inside/../photos/red.png", "inside/link.png", "/etc/passwd", "file:///etc/passwd"]
    calls = [("search_by_image", {"path": path}) for path in paths]
    calls += [("search_images", {"expression": f"./{path}"}) for path in paths]
    for options in (ServeOptions(roots=[photos.parent / "inside"]), None):
        for result in asked(stored, *calls, options=options):
            assert result.is_error
            assert "no file" in result.content[0].text
    assert "t2i mcp --root FOLDER" in result.content[0].text


def seen(result):
    image, text = result.content
    assert image.mime_type == "image/jpeg"
    assert json.loads(text.text) == result.structured_content
    content = base64.b64decode(image.data)
    return len(content), Pillow.open(io.BytesIO(content))


def test_an_image_is_seen_with_all_that_is_stored(stored, photos):
    (red,) = answer(stored, "search_images", {"text": "red", "limit": 1}).structured_content["images"]
    found = answer(stored, "look_at_image", {"id": red["id"]})
    _, image = seen(found)
    assert np.allclose(np.asarray(image).mean((0, 1)), (255, 0, 0), atol=3)
    assert found.structured_content["path"] == str(photos / "red.png")
    assert found.structured_content["fields"]["caption"] == "all red"


def test_a_large_image_is_seen_in_bounded_pixels_and_bytes(chosen, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1600, 2400, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    build_insert_pipeline(**chosen)([{"path": str(tmp_path / "noise.png")}])
    (hit,) = answer(chosen, "search_images", {"text": "red"}).structured_content["images"]
    for arguments, size in (({}, (512, 341)), ({"longest_side": 1024}, (1024, 683))):
        length, image = seen(answer(chosen, "look_at_image", {"id": hit["id"], **arguments}))
        assert (image.size, length <= mcp.IMAGE_BYTES) == (size, True)
    assert "less than or equal to 1024" in refused(chosen, "look_at_image", {"id": "x", "longest_side": 1025})


def test_with_folders_named_only_images_in_them_are_seen(stored, photos, tmp_path):
    (tmp_path / "others").mkdir()
    options = ServeOptions(roots=[tmp_path / "others"])
    (hit,) = answer(stored, "search_images", {"text": "red", "limit": 1}, options=options).structured_content[
        "images"
    ]
    assert hit["path"] is None
    text = refused(stored, "look_at_image", {"id": hit["id"]}, options=options)
    assert text.startswith("this image cannot be shown")
    assert str(tmp_path) not in text


def test_what_is_stored_is_cut_and_cannot_steer(chosen, tmp_path):
    row = {"path": str(paint(tmp_path / "red.png", "red")), "caption": "x" * 5000, "said": "a\u202eb\x1b[2J"}
    build_insert_pipeline(**chosen)(
        [{**row, "tags": ["y" * 400] * 5, **{f"c{n}": "z" * 400 for n in range(100)}}]
    )
    (hit,) = answer(chosen, "search_images", {"text": "red"}).structured_content["images"]
    length = len(json.dumps(hit["fields"]))
    assert length < mcp_schemas.FIELDS + mcp_schemas.VALUE
    shown = answer(chosen, "look_at_image", {"id": hit["id"]}).structured_content["fields"]
    assert length < len(json.dumps(shown)) < mcp_schemas.ALL_FIELDS + mcp_schemas.VALUE
    assert shown["..."].endswith("more columns, left out for their length")
    assert len(shown["caption"]) == len(shown["tags"]) == mcp_schemas.VALUE
    assert shown["said"] == "a\ufffdb\ufffd[2J"


def test_a_collection_is_described_by_what_conditions_may_name(stored, photos):
    found = answer(stored, "describe_collection").structured_content
    assert (found["images"], found["model_name"], found["folders"]) == (7, "colour", [])
    columns = {column["name"]: column for column in found["columns"]}
    assert set(columns) == {"id", "size", "mtime", "caption", "year"}
    assert (columns["year"]["types"], columns["year"]["share"]) == (["int"], 1)
    assert len(columns["caption"]["examples"]) == mcp_schemas.EXAMPLES
    assert set(columns["caption"]["examples"]) < {f"all {path.stem}" for path in photos.iterdir()}


MISTAKES = [
    ("search_images", {}, "nothing is asked for: give text or expression"),
    ("search_images", {"text": ""}, "the query is empty: ''"),
    ("search_images", {"text": "x" * 1001}, "text has 1,001 characters; at most 1,000 are read"),
    ("search_images", {"text": "red", "limit": 101}, "limit is 101; a page has 100 hits"),
    ("search_images", {"text": "red", "filter": "year =="}, "filter 'year ==' was refused"),
    (
        "search_images",
        {"text": "red", "filter": 'path != ""'},
        "path can be neither asked about nor shown",
    ),
    ("search_images", {"text": "red", "colour": 1}, "colour"),
    ("search_by_image", {}, "give either path or data"),
    ("search_by_image", {"data": "bm90IGFuIGltYWdl"}, "not an image in a known format"),
    ("more_like", {"id": "nothing"}, "no image has the id 'nothing'"),
    ("look_at_image", {"id": "nothing"}, "no image has the id 'nothing'"),
]


def test_an_error_names_the_culprit(stored):
    results = asked(stored, *(mistake[:2] for mistake in MISTAKES))
    for result, (*_, said) in zip(results, MISTAKES, strict=True):
        assert (result.is_error, said in result.content[0].text) == (True, True), (
            said,
            result.content[0].text,
        )


def test_an_error_inside_tells_the_log_and_not_the_assistant(stored, photos, monkeypatch, caplog):
    async def break_down(*_):
        raise RuntimeError("/home/me/secret")

    monkeypatch.setattr(Service, "find", break_down)
    assert refused(stored, "search_images", {"text": "red"}) == "something went wrong here, and is in the log"
    assert "/home/me/secret" in caplog.text


def test_a_database_that_is_filled_later_is_found_by_the_next_call(chosen, tmp_path):
    async def ask():
        async with Client(build_mcp(**chosen)) as client:
            before = await client.call_tool("search_images", {"text": "red"})
            rows = [{"path": str(paint(tmp_path / "a.png", "red"))}]
            await anyio.to_thread.run_sync(build_insert_pipeline(**chosen), rows)
            return before, await client.call_tool("search_images", {"text": "red"})

    before, after = anyio.run(ask)
    assert before.is_error
    assert "there is no collection 'image_collection' at memory://" in before.content[0].text
    assert stems(after) == ["a"]


def test_images_are_inserted_from_folders_that_are_named(chosen, tmp_path):
    folder = paint_colours(tmp_path / "photos")
    (folder / "broken.png").write_bytes(b"not an image")
    given = {"options": ServeOptions(roots=[folder]), "allow_insert": True}
    found = answer(chosen, "insert_images", {"source": "photos"}, **given).structured_content
    assert (found["status"], found["counts"]) == ("done", {"inserted": 7, "failed": 1})
    assert found["failed"][0]["path"] == "photos/broken.png"
    assert open_collection(chosen["uri"]).count() == 7
    again, looked = asked(
        chosen, ("insert_images", {"source": "photos"}), ("look_at_insert", {"id": "nothing"}), **given
    )
    assert again.structured_content["counts"] == {"unchanged": 7, "failed": 1}
    assert "no job has the id 'nothing'" in looked.content[0].text
    assert refused(chosen, "insert_images", {"source": "../outside"}, **given).startswith("no file or folder")


def test_an_insert_that_takes_long_goes_on_and_can_be_looked_at(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(mcp, "INSERT_SECONDS", 0)
    paint_colours(tmp_path / "photos")

    async def insert():
        server = build_mcp(ServeOptions(roots=[tmp_path / "photos"]), allow_insert=True, **chosen)
        async with Client(server) as client:
            begun = (await client.call_tool("insert_images", {"source": "photos"})).structured_content
            looked = begun
            while looked["finished"] is None:
                await anyio.sleep(0.05)
                looked = (await client.call_tool("look_at_insert", {"id": begun["id"]})).structured_content
            return begun, looked

    begun, looked = anyio.run(insert)
    assert begun["status"] in ("waiting", "running")
    assert (looked["id"], looked["status"], looked["counts"]) == (begun["id"], "done", {"inserted": 7})


def test_inserting_needs_a_folder_that_images_may_come_from(chosen):
    with pytest.raises(
        ConfigError, match="inserting needs folders that images may come from; name them by --root"
    ):
        build_mcp(allow_insert=True, **chosen)


def test_a_local_database_is_released_between_calls(tmp_path, monkeypatch):
    chosen = {"uri": str(tmp_path / "milvus.db"), "model_name": "colour"}
    build_insert_pipeline(**chosen)([{"path": str(paint(tmp_path / "red.png", "red"))}])
    t2i_pipelines.close()
    monkeypatch.setattr(mcp, "IDLE_SECONDS", 0)
    held = [sys.executable, "-c", HELD, str(tmp_path / "milvus.db" / "LOCK")]

    async def ask():
        async with Client(build_mcp(**chosen)) as client:
            first = await client.call_tool("search_images", {"text": "red"})
            with anyio.fail_after(60):
                while (await anyio.run_process(held, check=False)).returncode:
                    await anyio.sleep(0.1)
            return first, await client.call_tool("search_images", {"text": "red"})

    for result in anyio.run(ask):
        assert stems(result) == ["red"]


HELD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_a_database_that_another_process_has_open_is_an_error_with_the_way_out(tmp_path):
    chosen = {"uri": str(tmp_path / "milvus.db"), "model_name": "colour"}
    build_insert_pipeline(**chosen)([{"path": str(paint(tmp_path / "red.png", "red"))}])
    t2i_pipelines.close()
    holding = [sys.executable, "-c", f"{HELD}; print(flush=True); sys.stdin.read()"]
    holding.append(str(tmp_path / "milvus.db" / "LOCK"))
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        said = refused(chosen, "search_images", {"text": "red"})
        assert f"{tmp_path / 'milvus.db'} is open in another process" in said
        assert "run milvus-lite server --data-dir" in said
        with pytest.raises(StoreLockedError, match="is open in another process"):
            mcp.make_http(ServeOptions(read_only=True), chosen)
        with pytest.raises(StoreLockedError, match="is open in another process"):
            build_app(uri=chosen["uri"])  # which model it is of, only the database knows
        other.stdin.close()
    assert stems(answer(chosen, "search_images", {"text": "red"})) == ["red"]


GREETING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "a client", "version": "1"},
    },
}
ACCEPTED = {"Accept": "application/json, text/event-stream"}


@contextmanager
def over_http(stored, client=LOCAL, **options):
    made = mcp.make_http(ServeOptions(read_only=True, **options), stored)
    with TestClient(made, raise_server_exceptions=False, headers=ACCEPTED, **client) as http:
        yield http


def test_http_greets_this_machine_alone_and_no_page_of_another_site(stored):
    with over_http(stored) as http:
        greeted = http.post("/mcp", json=GREETING)
        assert greeted.status_code == 200
        assert '"name":"t2i_pipelines"' in greeted.text
        for headers, status in (
            ({"Origin": "https://example.org"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Host": "example.org"}, 421),
        ):
            assert http.post("/mcp", json=GREETING, headers=headers).status_code == status
        for answer in (http.get("/docs"), http.post("/v1/search", json={})):
            assert problem(answer, 404, "not_found") == "Not Found"
    with over_http(stored, client={**LOCAL, "client": ("192.0.2.1", 50000)}) as http:
        assert http.post("/mcp", json=GREETING).status_code == 401


def test_http_asks_for_the_key_and_bounds_what_is_sent(stored):
    with over_http(stored, host="0.0.0.0", api_key=KEY, max_body=1 << 20) as http:
        for headers in ({}, {"Authorization": f"Bearer {KEY}x"}):
            assert http.post("/mcp", json=GREETING, headers=headers).status_code == 401
        http.headers["Authorization"] = f"Bearer {KEY}"
        assert http.post("/mcp", json=GREETING).status_code == 200
        assert http.post("/mcp", content=b" " * (1 << 20) + b" ").status_code == 413
        assert http.post("/mcp", json=[[]] * 20_000).status_code == 422


def test_http_with_a_key_is_answered_behind_a_proxy_and_for_pages_that_are_allowed(stored):
    with over_http(stored, api_key=KEY, cors_origins=["https://photos.example"]) as http:
        headers = {"Authorization": f"Bearer {KEY}", "Origin": "https://photos.example"}
        answer = http.post("/mcp", json=GREETING, headers={**headers, "Host": "photos.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://photos.example"
        asked = {"Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = (
            "authorization,content-type,mcp-protocol-version,mcp-method,mcp-name"
        )
        asked["Origin"] = "https://photos.example"
        assert http.options("/mcp", headers=asked).status_code == 200


def test_http_shows_only_images_in_folders_that_are_named(stored, photos):
    call = {"name": "search_images", "arguments": {"text": "red", "limit": 1}}
    for roots, path in (([], None), ([photos], "photos/red.png")):
        with over_http(stored, roots=roots) as http:
            told = http.post("/mcp", json={**GREETING, "method": "tools/call", "params": call}).text
        (result,) = (json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {"))
        (hit,) = result["result"]["structuredContent"]["images"]
        assert hit["path"] == path


DOCS = (Path(__file__).parents[2] / "docs" / "how-to" / "mcp.md").read_text(encoding="utf-8")


def test_the_docs_show_commands_that_are_understood_and_every_tool(stored, photos):
    command = get_command(cli.app).commands["mcp"]
    shown = [line[2:] for line in DOCS.splitlines() if line.startswith("$ ") and " t2i mcp" in line]
    arguments = [shlex.split(line.partition("t2i mcp")[2]) for line in shown]
    for block in re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL):
        ((_, servers),) = json.loads(block).items()
        assert servers["images"]["command"].endswith("t2i")
        name, *others = servers["images"]["args"]
        assert name == "mcp"
        arguments.append(others)
    assert len(arguments) == 4
    for one in arguments:
        command.make_context("mcp", one)
    (code,) = re.findall(r"```{code-block} python\n(.*)\nserver\.run\(\).*\n```", DOCS, re.DOTALL)
    exec(compile(code.replace("/home/me/Pictures", str(photos)), "mcp.md", "exec"), {})
    found, _ = tools(stored, allow_insert=True, options=ServeOptions(roots=[photos]))
    assert re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE) == list(found)


def test_without_the_extra_it_is_one_sentence(monkeypatch):
    monkeypatch.delitem(sys.modules, "t2i_pipelines.serve.mcp")
    monkeypatch.delattr("t2i_pipelines.serve.mcp")
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    for begin in (build_mcp, serve_mcp):
        with pytest.raises(
            MissingExtraError, match=r"is not installed; run: pip install 't2i-pipelines\[mcp\]'"
        ):
            begin()


def test_http_refuses_event_streams(stored):
    with over_http(stored) as http:
        for method in ("GET", "HEAD", "DELETE"):
            refusal = http.request(method, "/mcp", headers=ACCEPTED)
            assert (refusal.status_code, refusal.headers["allow"]) == (405, "POST")
