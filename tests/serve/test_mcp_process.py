"""``t2i mcp`` as a process: it speaks the protocol and nothing else, over stdin and stdout or HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from serving import wait_until
from test_mcp import GREETING, KEY

import t2i_pipelines
from t2i_pipelines import build_insert_pipeline

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "data" / "gallery"
COMMAND = [sys.executable, str(ROOT / "t2i_command.py"), "mcp"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("T2I_")}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)

pytestmark = pytest.mark.slow


@pytest.fixture
def database(tmp_path):
    dogs = sorted(map(str, GALLERY.glob("*dog.*")))
    build_insert_pipeline(uri=tmp_path / "milvus.db", model_name="t2i_mini")(dogs)
    t2i_pipelines.close()
    return str(tmp_path / "milvus.db")


async def search_and_look(client):
    """A search and a look at its best hit, as an assistant does them."""
    assert len((await client.list_tools()).tools) == 5
    found = await client.call_tool("search_images", {"text": "a dog", "limit": 1})
    (hit,) = found.structured_content["images"]
    looked = await client.call_tool("look_at_image", {"id": hit["id"]})
    assert looked.content[0].type == "image"
    return hit["path"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_assistants_of_either_generation_search_on_stdin_and_stdout(database, mode):
    how = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env={**ENVIRONMENT, "T2I_URI": database}
    )

    async def ask():
        async with Client(stdio_client(how), mode=mode) as client:
            return await search_and_look(client)

    assert Path(anyio.run(ask)).parent == GALLERY


def test_stdout_has_the_protocol_and_nothing_else(database, tmp_path):
    def calling(number, tool, **arguments):
        return {
            **GREETING,
            "id": number,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        }

    sent = [
        GREETING,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        calling(2, "search_images", text="a dog"),
        calling(3, "insert_images", source="gallery/000-dog.webp"),
        calling(4, "look_at_image", id="nothing"),
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "--uri", database, "--root", str(GALLERY), "--allow-insert"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT, text=True,
        )  # fmt: skip
    answers = []
    for message in sent:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        if "id" in message:
            answers.append(json.loads(process.stdout.readline()))
    assert [answer["id"] for answer in answers] == [1, 2, 3, 4]
    assert [answer["result"].get("isError", False) for answer in answers] == [False, False, False, True]
    assert answers[2]["result"]["structuredContent"]["counts"] == {"unchanged": 1}
    rest, _ = process.communicate(timeout=120)
    assert (rest, process.returncode, (tmp_path / "log").read_text()) == ("", 0, "")


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_assistants_search_over_http_by_a_key_until_the_server_is_told_to_end(database, tmp_path, told, code):
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*COMMAND, "--http", "--port", "0", "--uri", database, "--root", str(GALLERY)],
            stdout=file, stderr=file, env={**ENVIRONMENT, "T2I_API_KEY": KEY},
        )  # fmt: skip

    async def ask(url):
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=120) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            path = await search_and_look(client)
            process.send_signal(told)
            return path

    try:
        port = re.compile(r"serving on http://127\.0\.0\.1:(\d+)")
        wait_until(lambda: port.search(log.read_text()) or process.poll() is not None, "t2i mcp")
        url = f"http://127.0.0.1:{port.search(log.read_text())[1]}/mcp"
        assert httpx2.post(url, json=GREETING).status_code == 401
        assert anyio.run(ask, url) == "gallery/000-dog.webp"
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_a_server_that_waits_on_stdin(database):
    process = subprocess.Popen(
        [*COMMAND, "--uri", database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    process.stdin.write(json.dumps(GREETING).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--http", "--host", "0.0.0.0"], "error: listening on '0.0.0.0' lets others in: set T2I_API_KEY"),
        (["--allow-insert"], "error: inserting needs folders that images may come from"),
        (["--root", "nothing/here"], "error: a root must be a folder that is there"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(tmp_path, options, said):
    done = subprocess.run(
        [*COMMAND, *options], check=False, capture_output=True, text=True, cwd=tmp_path,
        env=ENVIRONMENT, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
