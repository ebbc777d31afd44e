"""Gradio's server answers the page alone: no files, no API, no other host's name, no other page."""

import asyncio

import pytest


def status(path, host="127.0.0.1:7860", origin=None, kind="http", site=None):
    """What a request for ``path`` is answered with; 200 is what got through."""
    from t2i_pipelines.ui.serving import Gate

    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"inside"})

    async def send(message):
        sent.append(message)

    told = {"host": host, "origin": origin, "sec-fetch-site": site}
    headers = [(name.encode(), value.encode()) for name, value in told.items() if value is not None]
    asyncio.run(Gate(app)({"type": kind, "path": path, "headers": headers}, None, send))
    return sent


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/theme.css", "/assets/index.js", "/static/img/logo.svg", "/gradio_api/queue/join",
        "/gradio_api/queue/data", "/gradio_api/cancel", "/gradio_api/upload",
        "/gradio_api/heartbeat/a1", "/gradio_api/startup-events", "/image/view", "/image/download",
    ],
)  # fmt: skip
def test_the_page_gets_what_it_needs_under_a_policy(path):
    start, body = status(path)
    headers = dict(start["headers"])
    assert (start["status"], body["body"]) == (200, b"inside")
    assert headers[b"x-own"] == b"1"
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'; ")
    assert b"http" not in headers[b"content-security-policy"]
    ancestors = headers[b"content-security-policy"].partition(b"frame-ancestors ")[2]
    assert ancestors == b"'self' localhost:* 127.0.0.1:* vscode-webview:"
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd",
        "/gradio_api/proxy=https://example.org/", "/gradio_api/info", "/gradio_api/openapi.json",
        "/gradio_api/call/_ask", "/gradio_api/run/_ask", "/gradio_api/api/_ask", "/monitoring",
        "/gradio_api/runs",
        "/gradio_api/stream/a/b/c/playlist-file", "/gradio_api/vibe-edit", "/docs", "/gradio_api/mcp",
        "/gradio_api/component_server", "/gradio_api/dev/reload", "/svelte/x",
        "/image/", "/image/raw", "/image/view/x", "/gradio_api/queue/join/x",
    ],
)  # fmt: skip
def test_other_routes_are_not_there(path):
    start, body = status(path)
    assert (start["status"], body["body"]) == (404, b"")


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("localhost:7860", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("evil.example:7860", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_only_this_machines_own_names_are_answered(host, answer):
    assert status("/", host)[0]["status"] == answer


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("http://127.0.0.1:7860", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8888", 403),
        ("http://localhost:7860", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_other_pages_in_the_same_browser_can_send_nothing(origin, answer):
    assert status("/gradio_api/queue/join", origin=origin)[0]["status"] == answer


@pytest.mark.parametrize(
    ("path", "site", "answer"),
    [
        ("/", "cross-site", 200),
        ("/", "none", 200),
        ("/image/view", "none", 200),
        ("/image/view", "same-origin", 200),
        ("/image/view", "same-site", 403),
        ("/image/view", "cross-site", 403),
        ("/config", "cross-site", 403),
    ],
)
def test_other_sites_may_link_to_the_page_and_ask_for_no_part_of_it(path, site, answer):
    assert status(path, site=site)[0]["status"] == answer


def test_sockets_are_refused_and_the_start_of_the_server_is_passed():
    assert status("/", kind="websocket")[0]["status"] == 404
    assert status("/", kind="lifespan")[0]["status"] == 200
