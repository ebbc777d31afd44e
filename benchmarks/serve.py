"""How much load the service bears: ``python -m benchmarks.serve``.

1. Text searches a second and their latency at 1, 8, 32 and 128 clients on kept connections, with the model
   ``t2i_mini``, in a small and in a larger collection; ``--before CHECKOUT`` measures the service of another
   checkout of the project in turns with this one's, each with a database of its own and this one's model.
   The targets are for the small collection: a search of the larger one is mostly Milvus Lite's own work,
   which is measured alone, too. Nothing else is measured with ``--kept``.
2. The same at 1, 8 and 32 clients with micro-batching and one by one, in turns in one run, on a model of
   ViT-B/32's shape. No text is asked for twice, so none comes from the cache.
3. The queue: as many clients as it has room for see no error, and p99 stays within what the queue may take;
   three times as many get 429 with ``Retry-After``, or an answer, and nothing else.
4. ``--soak MINUTES``: see :mod:`benchmarks.soak`.

Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.peers.machine import machine
from benchmarks.search import NAME, endless_texts, take, verdict, vit_b_32
from benchmarks.serve_client import ROOT, Load, environment_of, service, under_load
from benchmarks.soak import soak
from t2i_pipelines.encoders import load_encoder

KEPT = (1, 8, 32, 128)
"""Clients of the first part."""

MINI = ROOT / "t2i_pipelines" / "encoders" / "t2i_mini"
"""The bundled model: by its path, as that of an older checkout has the same name and other vectors."""

SMALL = 300
"""Rows of the small collection of the first part, as many as the gallery has images."""

LARGE = 10_000
"""Rows of its large collection, and of the other parts."""

ALONE = 10.0
"""Milliseconds that half of the searches of one client may take, of ``t2i_mini``."""

RATIO = 2.0
"""How many times the rate of the service before this one's must have, of 8 clients."""

CLIENTS = (1, 8, 32)
"""Numbers of clients of the second part."""

FASTER = 3.0
"""How many times the rate of one-by-one handling micro-batching must have at 32 clients."""

QUEUE = 32
"""Queries that may wait in the third part."""

SLACK = 1.5
"""What p99 may be, in times of what a full queue takes: clients, and this machine, take time as well."""

_FILL = """
import sys
from pathlib import Path

import numpy as np

import t2i_pipelines
from t2i_pipelines import close
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder

checkout, uri, name, model, rows = sys.argv[1:]
assert Path(t2i_pipelines.__file__).is_relative_to(checkout), t2i_pipelines.__file__
space = load_encoder(model).space
collection = open_collection(uri=uri, collection_name=name)
collection.prepare(space)
random = np.random.default_rng(0)
for first in range(0, int(rows), 1000):
    vectors = random.normal(size=(min(1000, int(rows) - first), space.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    collection.upsert([
        {"id": f"{number:032x}", "vector": vector, "path": f"/photos/{number // 1000}/{number}.jpg",
         "size": 10_000, "mtime": number, "digest": f"{number:032x}:"}
        for number, vector in enumerate(vectors, first)
    ])
collection.flush()
close(uri)
"""


_SEARCH = """
import sys
import time

import numpy as np
from pymilvus import MilvusClient

uri, name, searches = sys.argv[1:]
client = MilvusClient(uri)
client.load_collection(name)
fields = client.describe_collection(name)["fields"]
dim = next(field["params"]["dim"] for field in fields if field["name"] == "vector")
took = []
for vector in np.random.default_rng(0).normal(size=(int(searches), dim)).astype(np.float32):
    began = time.perf_counter()
    client.search(name, [vector], limit=11, output_fields=["path"], search_params={"metric_type": "COSINE"})
    took.append(time.perf_counter() - began)
print(1e3 * np.median(took))
client.close()
"""


def filled(folder: Path, model: str, rows: int, checkout: Path = ROOT) -> str:
    """Return the URI of a closed database of random vectors, which a checkout's own code wrote."""
    uri = str(folder / "milvus.db")
    command = [sys.executable, "-c", _FILL, str(checkout), uri, NAME, model, str(rows)]
    subprocess.run(command, check=True, cwd=checkout, env=environment_of(checkout))
    return uri


def options(uri: str, model: str, *more: str) -> list[str]:
    """For ``t2i serve``."""
    return ["--uri", uri, "--collection-name", NAME, "--model-name", model, *more]


def kept(
    model: str,
    sizes: Sequence[int],
    rounds: int,
    seconds: float,
    before: Path | None,
    document: Path | None,
) -> bool:
    """The first part; gives whether the targets are met.

    :param sizes: numbers of rows; the targets are for the first.
    :param before: checkout of the service to compare with.
    :param document: takes the tables.
    """
    checkouts = {**({"before": before.resolve()} if before else {}), "after": ROOT}
    commits = ", ".join(f"{name} {_commit(checkout)}" for name, checkout in checkouts.items())
    here, loads, tables = machine(), [], []
    for rows in sizes:
        found, alone = _kept_loads(model, rows, rounds, seconds, checkouts)
        about = (
            f"{here.processor}, {here.cores} cores, {time.strftime('%Y-%m-%d')}; {commits}; "
            f"{Path(model).name}, {rows:,} rows in Milvus Lite, which takes {alone:.1f} ms for one search "
            f"without the service; {rounds} x {seconds:g} s for each cell"
        )
        loads.append(found)
        tables.append(f"{about}\n\n{kept_table(found)}")
        print(f"\n{tables[-1]}\n", flush=True)
    if document is not None:
        text = placed(document.read_text(encoding="utf-8"), "\n\n".join(tables))
        document.write_text(text, encoding="utf-8")
    return kept_verdicts(loads[0])


def _kept_loads(
    model: str, rows: int, rounds: int, seconds: float, checkouts: Mapping[str, Path]
) -> tuple[dict[int, dict[str, Load]], float]:
    """Return the loads by the number of clients and by the checkout, and :func:`_alone` of the same rows."""
    texts = endless_texts()
    loads = {clients: {name: Load() for name in checkouts} for clients in KEPT}
    with ExitStack() as stack:
        ports = {}
        for name, checkout in checkouts.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            uri = filled(folder, model, rows, checkout)
            alone = _alone(uri)
            ports[name], _ = stack.enter_context(service(*options(uri, model), checkout=checkout))
        for port in ports.values():
            under_load(port, CLIENTS[-1], seconds, texts)  # warm
        gc.collect()
        for turn in range(rounds):
            for clients, sides in loads.items():
                for name in sorted(sides, reverse=turn % 2 == 0):  # neither is always the first
                    sides[name].add(under_load(ports[name], clients, seconds, texts))
    return loads, alone


def _alone(uri: str, searches: int = 100) -> float:
    """Return the median milliseconds of a search by ``MilvusClient`` alone, for the hits of one query."""
    command = [sys.executable, "-c", _SEARCH, uri, NAME, str(searches)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def kept_table(loads: Mapping[int, Mapping[str, Load]]) -> str:
    """Return the loads as a table of Markdown.

    :param loads: by the number of clients, then by the name of the checkout: before, if any, and after.
    """
    lines = [
        "| clients | searches/s | p50, ms | p95, ms | p99, ms | errors | times the rate |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for clients, sides in loads.items():
        found = list(sides.values())
        cells = [f"{clients}", " → ".join(f"{load.rate:,.0f}" for load in found)]
        for share in (50, 95, 99):
            cells.append(" → ".join(f"{load.percentile(share):,.1f}" for load in found))
        cells.append(" → ".join(f"{load.errors:,}" for load in found))
        cells.append(f"{found[-1].rate / found[0].rate:.1f}" if len(found) > 1 else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept_verdicts(loads: Mapping[int, Mapping[str, Load]]) -> bool:
    """Print the figures that have a target; give whether all are met, and nothing went wrong."""
    alone, eight = loads[1]["after"], loads[8]
    met = [verdict("p50 of one client", alone.percentile(50), ALONE, "ms", at_least=False)]
    if "before" in eight:
        ratio = eight["after"].rate / eight["before"].rate
        met.append(verdict("rate of 8 clients", ratio, RATIO, at_least=True))
    errors = sum(sides["after"].errors for sides in loads.values())
    met.append(verdict("errors", errors, 0, "", at_least=False))
    return all(met)


def placed(document: str, text: str) -> str:
    """Return a document with a text between ``<!-- measured -->`` and ``<!-- end -->``."""
    pattern = r"(?<=<!-- measured -->\n).*?(?=<!-- end -->)"
    whole, count = re.subn(pattern, lambda _: f"{text}\n", document, count=1, flags=re.DOTALL)
    assert count == 1, "the document has no place for the table"
    return whole


def _commit(checkout: Path) -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, check=True, cwd=checkout, capture_output=True, text=True).stdout.strip()


def compare(model: str, rows: int, rounds: int, seconds: float) -> bool:
    """The second part; gives whether the target is met."""
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
            times = " | ".join(f"{load.percentile(share):,.0f}" for share in (50, 95, 99))
            print(f"| {clients} | {way} | {load.rate:,.0f} | {times} | {load.errors} |")
    most = CLIENTS[-1]
    ratio = loads["micro-batched", most].rate / loads["one by one", most].rate
    met = verdict(f"\nmicro-batching at {most} clients", ratio, FASTER, at_least=True)
    return met and not any(load.errors for load in loads.values())


def overload(model: str, rows: int, seconds: float) -> bool:
    """The third part; gives whether the queue's limit holds."""
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


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="name or path; that of each part if left out")
    parser.add_argument("--rows", type=int, help=f"{SMALL} and {LARGE} in the first part if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="whose service to compare with")
    parser.add_argument("--document", type=Path, help="takes the table of the first part")
    parser.add_argument("--kept", action="store_true", help="the first part alone")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="the fourth part alone")
    parser.add_argument("--lite", action="store_true", help="soak with Milvus Lite, without a restart")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "t2i-bench-serve")
    given = parser.parse_args()
    mini, sizes = given.model or str(MINI), (given.rows,) if given.rows else (SMALL, LARGE)
    if given.soak:
        sys.exit(0 if soak(given.soak, mini, lite=given.lite) else 1)
    met = kept(mini, sizes, given.rounds, given.seconds, given.before, given.document)
    if given.kept:
        sys.exit(0 if met else 1)
    model = given.model or vit_b_32(given.workdir)
    here = machine()
    running = getattr(load_encoder(model), "running", "")
    words = [len(text.split()) for text in take(endless_texts(), 1000)]
    print(f"{here.processor}, {here.cores} cores; {Path(model).name}, {running}")
    print(f"{sizes[-1]:,} rows in Milvus Lite; {given.rounds} x {given.seconds:g} s each")
    print(f"captions in five languages, {np.mean(words):.1f} words each")
    met = compare(model, sizes[-1], given.rounds, given.seconds) and met
    met = overload(model, sizes[-1], given.seconds) and met
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
