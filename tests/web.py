"""A web server on this machine that answers as it is told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web:
    """Pages to serve, and a record of what was asked for.

    :ivar pages: path -> bytes, or a function that answers with the handler it is given.
    :ivar asked: path -> how often.
    :ivar headers: of the last request.
    :ivar peak: most requests that were answered at the same time.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.pages: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.pause = 0.0
        self.peak = self._now = 0
        self._lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        with self._lock:
            self.asked[path] += 1
            self.headers = dict(request.headers)
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            time.sleep(self.pause)
            page = self.pages.get(path)
            if callable(page):
                page(request)
            elif page is None:
                send(request, 404)
            else:
                send(request, 200, page)
        finally:
            with self._lock:
                self._now -= 1


def send(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Answer in full."""
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


def one_after_another(*answers: Any) -> Any:
    """A page that answers otherwise each time; the last answer stays."""
    left = list(answers)
    lock = threading.Lock()

    def answer(request: BaseHTTPRequestHandler) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        now(request)

    return answer


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Web]:
    """A server on a free port of 127.0.0.1; of every address of this machine, if ``host`` is 0.0.0.0."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Say nothing where the other side has hung up."""

    server = Server((host, 0), Handler)
    web = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
