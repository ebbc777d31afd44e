"""A bounded load on the service: so many clients on loopback, each asking again as soon as it is answered.

HTTP by hand, on connections that stay open: a client library would take the cores that are measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


@dataclass
class Load:
    """What a load found.

    :ivar seconds: of each request that was answered by 200.
    :ivar statuses: how often each.
    :ivar hints: seconds that refusals asked to wait.
    :ivar lasted: seconds of the whole.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    hints: list[float] = field(default_factory=list)
    lasted: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second that were answered by 200."""
        return len(self.seconds) / self.lasted

    @property
    def errors(self) -> int:
        """Requests that were answered otherwise."""
        return self.statuses.total() - self.statuses[200]

    def percentile(self, share: float) -> float:
        """Milliseconds; not a number if nothing was answered."""
        if not self.seconds:
            return float("nan")
        return float(1e3 * np.percentile(self.seconds, share))

    def add(self, other: Load) -> None:
        """Put another load's requests to these."""
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.hints += other.hints
        self.lasted += other.lasted


class Connection:
    """One that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by small letters, and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, content

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def search_body(text: str) -> bytes:
    """A search for words."""
    return json.dumps({"text": text}).encode()


def under_load(port: int, clients: int, seconds: float, texts: Iterator[str]) -> Load:
    """Let so many clients search for so long; who is refused waits as it is told, at most 1 s."""

    async def client(load: Load, until: float) -> None:
        connection = Connection(port)
        while time.perf_counter() < until:
            body, began = search_body(next(texts)), time.perf_counter()
            status, headers, _ = await connection.ask("POST", "/v1/search", body)
            load.statuses[status] += 1
            if status == 200:
                load.seconds.append(time.perf_counter() - began)
            elif status == 429:
                load.hints.append(float(headers["retry-after"]))
                await asyncio.sleep(min(1.0, load.hints[-1]))
        connection.close()

    async def all_of_them() -> Load:
        load, began = Load(), time.perf_counter()
        await asyncio.gather(*(client(load, began + seconds) for _ in range(clients)))
        load.lasted = time.perf_counter() - began
        return load

    return asyncio.run(all_of_them())


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request."""

    async def one() -> tuple[int, bytes]:
        connection = Connection(port)
        status, _, content = await connection.ask(method, path, body)
        connection.close()
        return status, content

    return asyncio.run(one())


@contextmanager
def service(
    *options: str, checkout: Path = ROOT, **environment: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """``t2i serve`` with these options: its port, when it is ready, and its process.

    :param checkout: of the project whose service it is.
    :param environment: more of it.
    """
    command = [sys.executable, str(checkout / "t2i_command.py"), "serve", "--port", "0", *options]
    # a file, since a pipe that is not read would stop the service
    with tempfile.NamedTemporaryFile() as said:
        process = subprocess.Popen(
            command, stderr=said, cwd=checkout, env=environment_of(checkout) | environment
        )
        try:
            yield _port(process, Path(said.name)), process
        finally:
            process.terminate()
            process.wait(timeout=300)


def environment_of(checkout: Path) -> dict[str, str]:
    """Return this process's environment, with the modules of a checkout before others."""
    return {**os.environ, "PYTHONPATH": str(checkout)}


def _port(process: subprocess.Popen[bytes], said: Path, seconds: float = 300.0) -> int:
    port, end = 0, time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if not port and (found := re.search(r"http://127\.0\.0\.1:(\d+)", said.read_text(errors="replace"))):
            port = int(found[1])
        with suppress(OSError):  # it does not listen yet
            if port and ask(port, "GET", "/readyz")[0] == 200:
                return port
        time.sleep(0.2)
    raise SystemExit(f"t2i serve did not become ready:\n{said.read_text(errors='replace')}")
