"""How cost grows with the number of rows: ``python -m benchmarks.scale server --rows 10000 100000``.

Fills a collection of ours step by step with vectors of 512 numbers (``clip_like.py`` tells how they are
made), and takes at each number of rows: the rate of inserting, how long indexes take to be built and loaded,
p50 and p99 of a search for one vector by one client, recall@10 against an exact comparison by NumPy, for
images and for words, memory, and disk. Every measurement is a line of JSON in ``--out`` as soon as it is
taken. ``--table FILE`` prints tables of such lines, how each figure grows, and sizes
beside those that ``t2i capacity`` computes.

``server`` starts the wheel ``milvus``, a real server, unless ``--uri`` names one, of which neither memory nor
disk is seen. ``lite`` is Milvus Lite in this process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clip_like import DIM, ClipLike, Matrix, Truth
from benchmarks.scale_table import against, filled, tables
from t2i_pipelines.collection import Collection, close, open_collection, schema
from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.config.storage import AUTO
from t2i_pipelines.types import Space

ROWS = {"lite": [10_000, 30_000, 100_000], "server": [10_000, 30_000, 100_000, 300_000, 1_000_000]}
QUERIES, LIMIT, A_BATCH = 200, 10, 5000
SEARCHES, FEWEST, LONGEST = 500, 100, 30.0
"""Searches for one vector: that many, or as many as take that many seconds, but not fewer than that."""

SPACE = Space("clip_like", "c1" * 32, "none", DIM)
NAME = "scale"


@dataclass(frozen=True)
class Engine:
    """What is measured.

    :ivar pid: of the process that holds the vectors; None if it cannot be seen.
    :ivar folder: of its data; None if it cannot be seen.
    """

    name: str
    uri: str
    token: str = ""
    pid: int | None = None
    folder: Path | None = None

    def memory(self) -> int | None:
        """Bytes of the process, RSS."""
        import psutil

        return None if self.pid is None else int(psutil.Process(self.pid).memory_info().rss)

    def disk(self) -> dict[str, int]:
        """Bytes on disk: all, and of a server's parts."""
        parts = {"disk": "**/*", "disk_rows": "**/insert_log/**/*", "disk_index": "**/index_files/**/*"}
        return {} if self.folder is None else {name: _size(self.folder, what) for name, what in parts.items()}


def _size(folder: Path, pattern: str) -> int:
    total = 0
    for file in folder.glob(pattern):
        try:
            total += file.stat().st_size if file.is_file() and not file.is_symlink() else 0
        except FileNotFoundError:
            continue
    return total


class Run:
    """Fills a collection and writes down what that and its searches take."""

    def __init__(self, engine: Engine, index_type: str, write: Callable[[dict[str, Any]], None]) -> None:
        self._engine, self._write = engine, write
        self._made = ClipLike()
        self._queries = {"pictures": self._made.pictures(QUERIES), "words": self._made.words(QUERIES)}
        self._truths = {kind: Truth(some) for kind, some in self._queries.items()}
        self.collection = open_collection(
            engine.uri, engine.token, NAME, timeout=600.0, index_type=index_type
        )
        self.collection.drop()
        self.collection.prepare(SPACE)
        self._rows = 0

    def grow(self, rows: int) -> None:
        """Insert up to that many rows, flush, and measure with the index that there is then."""
        taken, added = 0.0, rows - self._rows
        for first, vectors in self._made.chunks(self._rows, rows):
            for at in range(0, len(vectors), A_BATCH):
                batch = [_row(first + at + n, one) for n, one in enumerate(vectors[at : at + A_BATCH])]
                begun = time.perf_counter()
                self.collection.upsert(batch)
                taken += time.perf_counter() - begun
            for truth in self._truths.values():
                truth.add(first, vectors)
        self._rows = rows
        full = self._engine.memory()
        begun = time.perf_counter()
        self.collection.finish()
        flushed = time.perf_counter() - begun
        built = self._wait_for_index()
        if not self.collection.is_lite:
            time.sleep(15)  # what was searched row by row gives way to the index
        self._measure(insert_per_s=added / taken, flush_s=flushed, memory_full=full, index_wait_s=built)

    def change(self, index_type: str, graph: dict[str, int] | None = None, label: str = "") -> None:
        """Build another index over all rows, and measure with it."""
        own = dict(schema.GRAPH)
        schema.GRAPH.update(graph or {})
        catalog = self.collection.catalog
        try:
            catalog._drop_index(self._entry())
            time.sleep(10)  # for the memory of the old one to be given back
            released, before = self._engine.memory(), self._engine.disk().get("disk_index", 0)
            begun = time.perf_counter()
            catalog._make_index(SPACE, index_type)
            made = time.perf_counter() - begun
            built = made + self._wait_for_index()
            grown = self._engine.disk().get("disk_index", 0) - before
            begun = time.perf_counter()
            catalog._call("load_collection", 3600.0)
            loaded = time.perf_counter() - begun
            catalog.forget()
        finally:
            schema.GRAPH.update(own)
        time.sleep(5)
        more = {"build_s": built, "load_s": loaded, "memory_released": released, "disk_index_new": grown}
        params = schema.build_params(index_type, is_lite=self.collection.is_lite)
        if params.keys() & (graph or {}).keys():
            params |= graph or {}
        self._measure(label=label or index_type, params=params, **more)

    def back_to(self, index_type: str) -> None:
        """The index to go on growing with."""
        catalog = self.collection.catalog
        catalog._drop_index(self._entry())
        catalog._make_index(SPACE, index_type)
        catalog._call("load_collection", 3600.0)
        catalog.forget()

    def _entry(self) -> Entry:
        entry = self.collection.catalog.find()
        assert entry is not None
        return entry

    def _wait_for_index(self) -> float:
        """A server builds it in the background. Gives the seconds until it was done."""
        if self.collection.is_lite:
            return 0.0
        client, begun = self.collection.connection._open(30.0), time.perf_counter()
        since: float | None = None
        while True:
            state, now = client.describe_index(NAME, "vector"), time.perf_counter()
            ready = state.get("state") == "Finished" and not int(state.get("pending_index_rows", 0))
            since = (since or now) if ready else None
            # it is also "Finished" before it has begun
            calm = 2 if int(state.get("indexed_rows", 0)) >= self._rows else 30
            if since is not None and now - since > calm:
                return since - begun
            time.sleep(0.25)

    def _measure(self, label: str = "", **more: Any) -> None:
        search = self.collection.search
        queries = self._queries["words"]
        search(queries[:50], limit=LIMIT)  # warm
        for query in queries[:20]:
            search(query[None], limit=LIMIT)
        taken: list[float] = []
        while len(taken) < SEARCHES and (len(taken) < FEWEST or sum(taken) < LONGEST):
            query = queries[len(taken) % QUERIES, None]
            begun = time.perf_counter()
            search(query, limit=LIMIT)
            taken.append(time.perf_counter() - begun)
        p50, p99 = np.percentile(taken, [50, 99])
        recall = {f"recall_{kind}": truth.recall(self._found(kind)) for kind, truth in self._truths.items()}
        index_type = self.collection.index_type
        self._write(
            {
                "rows": self._rows,
                "index": label or index_type,
                "params": schema.build_params(index_type, is_lite=self.collection.is_lite),
                "p50_ms": 1e3 * p50,
                "p99_ms": 1e3 * p99,
                "searches": len(taken),
                **recall,
                "memory": self._engine.memory(),
                **self._engine.disk(),
                **more,
            }
        )

    def _found(self, kind: str) -> list[list[int]]:
        hits = [self.collection.search(some, limit=LIMIT) for some in np.array_split(self._queries[kind], 10)]
        return [[int(hit.id) for hit in one] for some in hits for one in some]


def _row(number: int, vector: Matrix) -> dict[str, Any]:
    """What is stored of an image: as many bytes as of a real one."""
    path = f"/photos/{number // 1000:06}/{number:09}.jpg"
    digest = f"{number:032x}:{number:030x}"
    about = {"path": path, "size": 100_000, "mtime": 1_700_000_000_000_000_000 + number, "digest": digest}
    return {"id": f"{number:032}", "vector": vector, **about}


@contextmanager
def engine(name: str, uri: str | None, token: str) -> Iterator[Engine]:
    """Milvus Lite in a temporary folder, the server at ``uri``, or one that is started here."""
    if uri is not None:
        yield Engine(name, uri, token)
    elif name == "lite":
        with tempfile.TemporaryDirectory() as folder:
            yield Engine(name, f"{folder}/milvus.db", pid=os.getpid(), folder=Path(folder))
            close(f"{folder}/milvus.db")
    else:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from milvus_backends import a_server  # type: ignore[import-not-found]

        data = Path(tempfile.mkdtemp(prefix="t2i-milvus-"))
        with a_server(data) as server:
            yield Engine(name, server.uri, server.token, server.pids[-1], data)


def machine() -> dict[str, Any]:
    """What it ran on."""
    import psutil

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"cpu": (models or [platform.machine()])[0], "cores": os.cpu_count(), "memory_gb": memory}


def measure(given: argparse.Namespace) -> None:
    """Grow through the rows, and at those of ``--build`` build further indexes."""
    with engine(given.engine, given.uri, given.token) as place:
        about: dict[str, Any] = {"engine": place.name, "dim": DIM, **machine()}

        def write(record: dict[str, Any]) -> None:
            line = json.dumps({**about, "date": time.strftime("%Y-%m-%d"), **record})
            with given.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(line, flush=True)

        run = Run(place, given.index_type, write)
        about["version"] = _version(run.collection)
        about |= {"memory_empty": place.memory(), "disk_empty": place.disk().get("disk")}
        try:
            for rows in given.rows or ROWS[place.name]:
                run.grow(rows)
                for index in given.index if rows in given.build else ():
                    name, _, degree = index.partition("/")
                    graph = {"M": int(degree), "efConstruction": 200} if degree else None
                    run.change(name, graph, f"{name} M {degree}" if degree else name)
                if rows in given.build and given.index:
                    run.back_to(given.index_type)
        finally:
            run.collection.drop()
            run.collection.close()


def _version(collection: Collection) -> str:
    if collection.is_lite:
        from importlib.metadata import version

        return version("milvus-lite")
    return str(collection.connection._open(30.0).get_server_version())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or print the tables of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("engine", nargs="?", choices=list(ROWS))
    parser.add_argument("--rows", type=int, nargs="+", help="rising")
    parser.add_argument("--index-type", default=AUTO, help="to grow with; AUTO follows the rows")
    parser.add_argument(
        "--build", type=int, nargs="*", default=[], help="rows at which to build --index, too"
    )
    parser.add_argument("--index", nargs="*", default=[], help="such as IVF_SQ8, HNSW, or HNSW/16: with M 16")
    parser.add_argument("--uri", help="a Milvus server")
    parser.add_argument("--token", default=os.environ.get("MILVUS_TOKEN", ""), help="of that server")
    parser.add_argument("--out", type=Path, default=Path("scale.jsonl"), help="lines are appended to it")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing: print tables of FILE")
    parser.add_argument("--document", type=Path, help="with --table: put them between the marks of this file")
    given = parser.parse_args(arguments)
    if given.table is not None and given.document is not None:
        given.document.write_text(filled(given.document.read_text(encoding="utf-8"), given.table), "utf-8")
    elif given.table is not None:
        print(tables(given.table), against(given.table), sep="\n\n")
    elif given.engine is None:
        parser.error("give lite or server, or --table FILE")
    else:
        measure(given)


if __name__ == "__main__":
    main()
