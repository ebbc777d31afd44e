"""How much load the service bears: ``python -m benchmarks.serve``, or ``--soak MINUTES`` for its memory.

1. Text searches a second and their latency at 1, 8 and 32 clients, with micro-batching and one by one, in
   turns in one run, on a model of ViT-B/32's shape. No text is asked for twice, so none comes from the cache.
2. The queue: as many clients as it has room for see no error, and p99 stays within what the queue may take;
   three times as many get 429 with ``Retry-After``, or an answer, and nothing else.
3. ``--soak``: searches by words and images, pages, thumbnails, inserts and bad requests for so long; memory
   must stay flat.

Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.peers.machine import machine
from benchmarks.search import NAME, endless_texts, row, take, verdict, vit_b_32
from benchmarks.serve_client import Connection, Load, ask, search_body, service, under_load
from t2i_pipelines import close
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder

CLIENTS = (1, 8, 32)
FASTER = 3.0
"""How many times the rate of one-by-one handling micro-batching must have at 32 clients."""

QUEUE = 32
"""Queries that may wait in the second part."""

SLACK = 1.5
"""What p99 may be, in times of what a full queue takes: clients, and this machine, take time as well."""

GROWTH = 1.05
"""Memory in the last quarter of a soak, in times of the second quarter's."""

RIGHT = {"wrong": 422, "insert": 202}
"""What each kind of request is answered by in a soak; 200 if it is not here."""

INSERT = b'{"source": "photos"}'
GALLERY = Path(__file__).parent.parent / "data" / "gallery"


def filled(folder: Path, model: str, rows: int) -> str:
    """A database of random vectors, that nobody has open."""
    uri = str(folder / "milvus.db")
    space = load_encoder(model).space
    collection = open_collection(uri=uri, collection_name=NAME)
    collection.prepare(space)
    random = np.random.default_rng(0)
    for first in range(0, rows, 1000):
        vectors = random.normal(size=(min(1000, rows - first), space.dim)).astype(np.float32)
        collection.upsert([row(first + at, vector) for at, vector in enumerate(vectors)])
    collection.flush()
    close(uri)
    return uri


def options(uri: str, model: str, *more: str) -> list[str]:
    """For ``t2i serve``."""
    return ["--uri", uri, "--collection-name", NAME, "--model-name", model, *more]


def compare(model: str, rows: int, rounds: int, seconds: float) -> bool:
    """The first part; gives whether the target is met."""
    texts = endless_texts()
    ways = {"one by one": ("--search-batch", "1"), "micro-batched": ()}
    loads = {(way, clients): Load() for way in ways for clients in CLIENTS}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        uris = [filled(Path(folder), model, rows) for folder in (one, other)]
        with (
            service(*options(uris[0], model, *ways["one by one"])) as (slow, _),
            service(*options(uris[1], model, *ways["micro-batched"])) as (fast, _),
        ):
            ports = dict(zip(ways, (slow, fast), strict=True))
            for port in ports.values():  # warm: each length of texts and each size of batch is new once
                under_load(port, CLIENTS[-1], seconds, texts)
            gc.collect()
            for _ in range(rounds):
                for way, clients in loads:
                    loads[way, clients].add(under_load(ports[way], clients, seconds, texts))
    print("\n| clients | handling | searches/s | p50 ms | p95 ms | p99 ms | errors |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for clients in CLIENTS:
        for way in ways:
            load = loads[way, clients]
            errors = load.statuses.total() - load.statuses[200]
            times = " | ".join(f"{load.percentile(share):,.0f}" for share in (50, 95, 99))
            print(f"| {clients} | {way} | {load.rate:,.0f} | {times} | {errors} |")
    most = CLIENTS[-1]
    ratio = loads["micro-batched", most].rate / loads["one by one", most].rate
    met = verdict(f"\nmicro-batching at {most} clients", ratio, FASTER, at_least=True)
    return met and all(load.statuses.total() == load.statuses[200] for load in loads.values())


def overload(model: str, rows: int, seconds: float) -> bool:
    """The second part; gives whether the queue's limit holds."""
    texts = endless_texts()
    batch = 32
    with tempfile.TemporaryDirectory() as folder:
        uri = filled(Path(folder), model, rows)
        more = ("--max-queue", str(QUEUE), "--search-batch", str(batch))
        with service(*options(uri, model, *more)) as (port, _):
            under_load(port, QUEUE, seconds, texts)  # warm
            within = under_load(port, QUEUE, seconds, texts)
            beyond = under_load(port, 3 * (QUEUE + batch), seconds, texts)
    bound = (QUEUE + batch) / within.rate
    print(f"\nqueue of {QUEUE}, batches of {batch}")
    for clients, load in ((QUEUE, within), (3 * (QUEUE + batch), beyond)):
        waits = f", asked to wait {min(load.hints):g} to {max(load.hints):g} s" if load.hints else ""
        print(f"{clients} clients: {dict(load.statuses)}, {load.rate:,.0f}/s{waits}")
    met = [
        verdict(f"p99 {where}, {late:,.0f} ms", late / 1e3 / bound, SLACK, at_least=False)
        for where, late in (("within", within.percentile(99)), ("beyond", beyond.percentile(99)))
    ]
    clean = set(within.statuses) == {200} and set(beyond.statuses) == {200, 429}
    print(f"no error within, 429 and nothing else beyond: {'met' if clean else 'missed'}", flush=True)
    return clean and all(met)


class Soak:
    """A mixed load, for so many minutes.

    :ivar statuses: how often each kind of request had which status.
    :ivar held: MiB that the service held, once in a while.
    """

    def __init__(self, port: int, process: int, minutes: float) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.held: list[float] = []
        self._port, self._process, self._minutes = port, psutil.Process(process), minutes
        self._ends = time.monotonic() + 60 * minutes
        self._requests = self._endless()

    async def run(self) -> None:
        """Until the time is up."""
        await asyncio.gather(*(self._client() for _ in range(8)), self._inserter(), self._watch())

    @staticmethod
    def _endless() -> Iterator[tuple[str, str, bytes]]:
        """Kind, path and body of searches."""
        picture = b64encode((GALLERY / "001-dog-soccer-ball.jpg").read_bytes()).decode()
        for text, offset in zip(endless_texts(), itertools.cycle(range(0, 200, 10)), strict=False):
            yield "words", "/v1/search", search_body(text)
            yield "page", "/v1/search", json.dumps({"text": "red", "offset": offset}).encode()
            yield "picture", "/v1/search", json.dumps({"image": picture}).encode()
            yield "wrong", "/v1/search", b'{"expression": "./photos/../x.png"}'

    async def _client(self) -> None:
        connection = Connection(self._port)
        while time.monotonic() < self._ends:
            kind, path, body = next(self._requests)
            status, _, content = await connection.ask("POST", path, body)
            self.statuses[kind, status] += 1
            for hit in json.loads(content)["results"][0]["hits"][:2] if kind == "words" else ():
                status, _, _ = await connection.ask("GET", hit["links"]["thumbnail"])
                self.statuses["thumbnail", status] += 1
        connection.close()

    async def _inserter(self) -> None:
        connection = Connection(self._port)
        while time.monotonic() < self._ends:
            status, _, _ = await connection.ask("POST", "/v1/insert", INSERT)
            self.statuses["insert", status] += 1
            await asyncio.sleep(min(5.0, 6 * self._minutes))
        connection.close()

    async def _watch(self) -> None:
        while time.monotonic() < self._ends:
            self.held.append(self._process.memory_info().rss / 2**20)
            await asyncio.sleep(min(1.0, 0.6 * self._minutes))


def soak(minutes: float, model: str) -> bool:
    """The third part; gives whether memory stays flat."""
    with tempfile.TemporaryDirectory() as folder:
        more = ("--uri", f"{folder}/milvus.db", "--model-name", model, "--root", f"photos={GALLERY}")
        with service(*more) as (port, process):
            _, job = ask(port, "POST", "/v1/insert", INSERT)
            while b'"finished":null' in ask(port, "GET", f"/v1/jobs/{json.loads(job)['id']}")[1]:
                time.sleep(0.5)
            load = Soak(port, process.pid, minutes)
            asyncio.run(load.run())
    for (kind, status), count in sorted(load.statuses.items()):
        print(f"{kind}: {count:,} times {status}")
    quarter = len(load.held) // 4
    before, after = np.median(load.held[quarter : 2 * quarter]), np.median(load.held[-quarter:])
    told = f"memory {before:,.0f} -> {after:,.0f} MiB in {minutes:g} min"
    flat = verdict(told, after / before, GROWTH, at_least=False)
    right = {(kind, status) for kind, status in load.statuses if status == RIGHT.get(kind, 200)}
    if wrong := load.statuses.keys() - right:
        print(f"these are not the right answers: {sorted(wrong)}: missed")
    return flat and not wrong


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="name or path; one of ViT-B/32's shape if left out")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="the third part alone")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "t2i-bench-serve")
    given = parser.parse_args()
    if given.soak:
        sys.exit(0 if soak(given.soak, given.model or "t2i_mini") else 1)
    model = given.model or vit_b_32(given.workdir)
    here = machine()
    running = getattr(load_encoder(model), "running", "")
    words = [len(text.split()) for text in take(endless_texts(), 1000)]
    print(f"{here.processor}, {here.cores} cores; {Path(model).name}, {running}")
    print(f"{given.rows:,} rows in Milvus Lite; {given.rounds} x {given.seconds:g} s each")
    print(f"captions in five languages, {np.mean(words):.1f} words each")
    met = compare(model, given.rows, given.rounds, given.seconds)
    met = overload(model, given.rows, given.seconds) and met
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
