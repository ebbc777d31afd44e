"""A mixed load on the service for a long time: ``python -m benchmarks.serve --soak MINUTES``.

Searches by words and images, pages of hits, thumbnails, files, inserts of images that change, uploads, and
bad requests. Halfway, the Milvus server is killed and started again on the same port and data, unless the
database is Milvus Lite. Each answer must be the right one; while Milvus is away, 503 is, too. Memory must
stay flat.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from urllib3.filepost import encode_multipart_formdata

from benchmarks.search import endless_texts, verdict
from benchmarks.serve_client import ROOT, Connection, ask, search_body, service

GROWTH = 1.10
"""Memory at the end, in times of that after a sixth of the time: minute 5 of 30."""

RIGHT: dict[str, int | str] = {"wrong": 422, "insert": 202, "upload": 202, "job": "done"}
"""What each kind of request is answered by; 200 if it is not here."""

AWAY = 503
"""What a request may be answered by while Milvus is away."""

HANGS = 120.0
"""Seconds without an answer after which a request counts as unanswered."""

CLIENTS = 8
CHANGING = 16
"""Images that each insert finds changed."""

UPLOADED = 4
"""New images of each upload."""

PAUSE = 5.0
"""Seconds between two inserts, and between two uploads."""

GALLERY = ROOT / "data" / "gallery"


@dataclass(frozen=True)
class Database:
    """Where the service keeps its images.

    :ivar restart: kills the server and starts it again; None if there is no server.
    """

    uri: str
    token: str = ""
    restart: Callable[[], None] | None = None


@contextmanager
def database(folder: Path, *, lite: bool) -> Iterator[Database]:
    """Milvus Lite in a folder, or the server of the wheel ``milvus``."""
    if lite:
        yield Database(str(folder / "milvus.db"))
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from milvus_backends import a_server  # type: ignore[import-not-found]

    with a_server() as server:
        yield Database(server.uri, server.token, server.restart)


@dataclass(frozen=True)
class Answer:
    """One that a request had.

    :ivar status: of HTTP, or how a job has ended; 0 if none came.
    :ivar began: when it was asked for, in seconds.
    :ivar ended: when it came.
    """

    kind: str
    status: int | str
    began: float
    ended: float

    @property
    def is_right(self) -> bool:
        """Whether this kind of request must have it."""
        return self.status == RIGHT.get(self.kind, 200)


class Soak:
    """A mixed load, for so many minutes.

    :ivar counts: how often each kind of request had which status.
    :ivar wrong: answers that were not the right ones.
    :ivar longest: seconds that each kind of request waited for its answer at most.
    :ivar held: seconds since the start -> MiB that the service held.
    :ivar away: when Milvus went, and when the service was ready again.
    """

    def __init__(self, port: int, process: int, minutes: float, files: Path, database: Database) -> None:
        self.counts: Counter[tuple[str, int | str]] = Counter()
        self.wrong: list[Answer] = []
        self.longest: dict[str, float] = {}
        self.held: dict[float, float] = {}
        self.away: tuple[float, float] | None = None
        self._port, self._process = port, psutil.Process(process)
        self._files, self._restart_milvus = files, database.restart
        self._seconds = 60 * minutes
        self._requests = _endless_requests()

    async def run(self) -> None:
        """Until the time is up."""
        self._began = time.monotonic()
        clients = [self._client() for _ in range(CLIENTS)]
        await asyncio.gather(
            *clients, self._inserter(), self._uploader(), self._watch(), self._log(), self._restart()
        )

    @property
    def unexpected(self) -> list[Answer]:
        """Wrong answers but the 503, and the jobs that failed, of the time when Milvus was away."""
        first, last = self.away or (0.0, 0.0)
        return [
            one
            for one in self.wrong
            if one.status not in (AWAY, "failed") or one.ended < first or one.began > last
        ]

    def memory(self, first: float, last: float) -> float:
        """MiB, the median between two shares of the time."""
        return float(np.median([mib for at, mib in self.held.items() if first <= at / self._seconds <= last]))

    def _passed(self) -> float:
        return time.monotonic() - self._began

    @property
    def _is_over(self) -> bool:
        return self._passed() >= self._seconds

    async def _ask(
        self,
        connection: Connection,
        kind: str,
        method: str,
        path: str,
        body: bytes = b"",
        content: str = "application/json",
    ) -> bytes:
        """The body of an answer; empty if it is not the right one."""
        began = self._passed()
        try:
            asking = connection.ask(method, path, body, content)
            status, _, answered = await asyncio.wait_for(asking, HANGS)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            connection.close()
            status, answered = 0, b""
        return answered if self._count(kind, status, began).is_right else b""

    def _count(self, kind: str, status: int | str, began: float) -> Answer:
        answer = Answer(kind, status, began, self._passed())
        self.counts[kind, status] += 1
        self.longest[kind] = max(self.longest.get(kind, 0.0), answer.ended - began)
        if not answer.is_right:
            self.wrong.append(answer)
        return answer

    async def _client(self) -> None:
        connection = Connection(self._port)
        while not self._is_over:
            kind, body = next(self._requests)
            content = await self._ask(connection, kind, "POST", "/v1/search", body)
            hits = json.loads(content)["results"][0]["hits"] if content and kind == "words" else ()
            for part, hit in zip(("thumbnail", "file"), hits, strict=False):
                await self._ask(connection, part, "GET", hit["links"][part])
            if not content and kind != "wrong":
                await asyncio.sleep(0.1)  # as who is refused would
        connection.close()

    async def _inserter(self) -> None:
        connection = Connection(self._port)
        random = np.random.default_rng(2)
        while not self._is_over:
            for number in range(CHANGING):
                (self._files / f"{number}.png").write_bytes(_image(random))
            await self._inserted(connection, "insert", b'{"source": "changing"}')
            await asyncio.sleep(min(PAUSE, self._seconds / 20))
        connection.close()

    async def _uploader(self) -> None:
        connection = Connection(self._port)
        random = np.random.default_rng(3)
        while not self._is_over:
            images = [("image", (f"{number}.png", _image(random))) for number in range(UPLOADED)]
            await self._inserted(connection, "upload", *encode_multipart_formdata(images))
            await asyncio.sleep(min(PAUSE, self._seconds / 20))
        connection.close()

    async def _inserted(
        self, connection: Connection, kind: str, body: bytes, content: str = "application/json"
    ) -> None:
        """Insert, and wait until the job has ended."""
        began = self._passed()
        accepted = await self._ask(connection, kind, "POST", "/v1/insert", body, content)
        while accepted:
            await asyncio.sleep(0.5)
            report = await self._ask(connection, "report", "GET", f"/v1/jobs/{json.loads(accepted)['id']}")
            if report and (job := json.loads(report))["finished"]:
                failed = job["counts"].get("failed")
                self._count("job", "failed" if failed else job["status"], began)
                return
            if self._passed() > began + 5 * HANGS:
                self._count("job", "hangs", began)
                return

    async def _watch(self) -> None:
        while not self._is_over:
            self.held[self._passed()] = self._process.memory_info().rss / 2**20
            await asyncio.sleep(min(1.0, self._seconds / 200))

    async def _log(self) -> None:
        """Print a line a minute."""
        before: Counter[tuple[str, int | str]] = Counter()
        while not self._is_over:
            await asyncio.sleep(min(60.0, self._seconds / 10))
            latest = list(self.held.values())[-1]
            now = sorted((self.counts - before).items(), key=str)
            counts = ", ".join(f"{kind} {status}: {count:,}" for (kind, status), count in now)
            _say(f"{self._passed() / 60:5.1f} min {latest:7,.0f} MiB  {counts}")
            before = self.counts.copy()

    async def _restart(self) -> None:
        """Kill Milvus halfway, start it, and wait until the service is ready."""
        if self._restart_milvus is None:
            return
        await asyncio.sleep(self._seconds / 2)
        gone = self._passed()
        self.away = (gone, float("inf"))
        _say("Milvus is killed and started again")
        await asyncio.to_thread(self._restart_milvus)
        _say(f"Milvus is there after {self._passed() - gone:.0f} s")
        connection = Connection(self._port)
        while self._passed() < gone + 5 * HANGS:
            try:
                if (await connection.ask("GET", "/readyz"))[0] == 200:
                    break
            except (OSError, asyncio.IncompleteReadError):
                connection.close()
            await asyncio.sleep(0.5)
        connection.close()
        self.away = (gone, self._passed())
        print(
            f"{time.strftime('%H:%M:%S')} the service is ready after {self._passed() - gone:.0f} s",
            flush=True,
        )


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def _endless_requests() -> Iterator[tuple[str, bytes]]:
    """Kind and body of searches."""
    image = b64encode((GALLERY / "001-dog-soccer-ball.jpg").read_bytes()).decode()
    for text, offset in zip(endless_texts(), itertools.cycle(range(0, 200, 10)), strict=False):
        yield "words", search_body(text)
        yield "page", json.dumps({"text": "red", "offset": offset}).encode()
        yield "image", json.dumps({"image": image}).encode()
        yield "wrong", b'{"expression": "./photos/../x.png"}'


def _image(random: np.random.Generator) -> bytes:
    """A PNG that differs from all others."""
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, size=(64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def soak(minutes: float, model: str, *, lite: bool) -> bool:
    """Run it; give whether each answer was right and memory stayed flat."""
    with tempfile.TemporaryDirectory() as folder, database(Path(folder), lite=lite) as place:
        changing = Path(folder) / "changing"
        changing.mkdir()
        roots = (
            "--root",
            f"photos={GALLERY}",
            "--root",
            f"changing={changing}",
            "--uploads",
            f"{folder}/uploads",
        )
        more = ("--uri", place.uri, "--model-name", model, *roots)
        with service(*more, MILVUS_TOKEN=place.token) as (port, process):
            _, job = ask(port, "POST", "/v1/insert", b'{"source": "photos"}')
            while b'"finished":null' in ask(port, "GET", f"/v1/jobs/{json.loads(job)['id']}")[1]:
                time.sleep(0.5)
            load = Soak(port, process.pid, minutes, changing, place)
            asyncio.run(load.run())
    for (kind, status), count in sorted(load.counts.items(), key=str):
        print(f"{kind}: {count:,} times {status}")
    print("longest, s: " + ", ".join(f"{kind} {most:.1f}" for kind, most in sorted(load.longest.items())))
    unexpected = load.unexpected
    for one in unexpected[:20]:
        print(f"{one.kind} had {one.status}, {one.began:.1f} to {one.ended:.1f} s: missed")
    away = "" if load.away is None else f", {len(load.wrong) - len(unexpected):,} while Milvus was away"
    print(f"wrong answers: {len(unexpected):,}{away}: {'missed' if unexpected else 'met'}")
    before, after = load.memory(4 / 30, 5 / 30), load.memory(0.9, 1.0)
    flat = verdict(
        f"memory {before:,.0f} -> {after:,.0f} MiB in {minutes:g} min", after / before, GROWTH, at_least=False
    )
    return flat and not unexpected
