"""A hub of one's own on this machine, which the real ``huggingface_hub`` client can download from.

It answers what the client asks of huggingface.co: the list of a repository's files, and for each file its
size, commit and digest, then its bytes, from an offset if the client resumes.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """:ivar repos: repository -> folder with its files. :ivar seen: (method, path, Range) of each request.

    :ivar cut: bytes after which a download's connection is dropped, once for each entry.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Path] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.cut: list[int] = []
        self.token: str | None = None

    def files(self, repo: str) -> list[str]:
        folder = self.repos[repo]
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub: Hub = self.server.hub
        path = self.path.partition("?")[0]
        hub.seen.append((self.command, path, self.headers.get("Range")))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b'{"error": "a token is needed"}', {"X-Error-Code": "GatedRepo"}, body)
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api(hub, "/".join(parts[2:4]), parts[4:], body)
        else:
            self._file(hub, "/".join(parts[:2]), "/".join(parts[4:]), body)

    def _api(self, hub: Hub, repo: str, rest: list[str], body: bool) -> None:
        if repo not in hub.repos:
            self._send(404, b'{"error": "no such repository"}', {"X-Error-Code": "RepoNotFound"}, body)
        elif rest[:1] == ["tree"]:
            entries = [
                {
                    "type": "file",
                    "path": name,
                    "oid": "0" * 40,
                    "size": (hub.repos[repo] / name).stat().st_size,
                }
                for name in hub.files(repo)
            ]
            self._json(entries, body)
        else:
            siblings = [{"rfilename": name} for name in hub.files(repo)]
            self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}, body)

    def _file(self, hub: Hub, repo: str, name: str, body: bool) -> None:
        if repo not in hub.repos or not (hub.repos[repo] / name).is_file():
            code = "EntryNotFound" if repo in hub.repos else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code}, body)
            return
        content = (hub.repos[repo] / name).read_bytes()
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status = 206
        self._send(status, content[start:], headers, body, hub.cut if name.endswith(".onnx") else [])

    def _json(self, found: object, body: bool) -> None:
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool, cut: list[int] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if cut:
            self.wfile.write(content[: cut.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[Hub, str]]:
    """The hub and its address, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
