"""What an insert costs those who search meanwhile: ``python -m benchmarks.serve_insert``.

In each round so many clients search without an insert, and then while one runs; the rest of that insert runs
alone. Then they search while a short one begins and ends, with all that Milvus does at an end. A round has
files of its own, so that none is skipped as unchanged: JPEGs of 640 x 480 cut from the photographs in
``data/``. No text is asked for twice, so none comes from the cache.

Ends with 1 where p99 during an insert is more than ``TIMES`` that without, or where the insert stands still.
Further options are those of ``t2i serve``, such as ``--insert-share 1`` for an insert that never pauses.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.peers.machine import machine
from benchmarks.search import endless_texts, verdict, vit_b_32
from benchmarks.serve import filled, options
from benchmarks.serve_client import Load, ask, service, under_load

CLIENTS = (1, 8)
TIMES = 4.0
"""What p99 of searches may be during an insert, in times of that without."""

WIDTH, HEIGHT, LARGER, QUALITY = 640, 480, 1.2, 90
SHORT = 24
"""Images of an insert that ends while others search."""

NONE, RUNNING, WHOLE = "none", "running", "a short one"
PHOTOGRAPHS = Path(__file__).parent.parent / "data" / "photographs"


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs, each a part of a photograph, enlarged; no two have the same bytes."""
    random = np.random.default_rng(0)
    size = (int(WIDTH * LARGER), int(HEIGHT * LARGER))
    whole = [
        cv2.resize(cv2.imread(str(path)), size, interpolation=cv2.INTER_CUBIC)
        for path in sorted(PHOTOGRAPHS.iterdir())
    ]
    folder.mkdir()
    for number in range(count):
        down, across = (int(random.integers(one)) for one in (size[1] - HEIGHT, size[0] - WIDTH))
        part = whole[number % len(whole)][down : down + HEIGHT, across : across + WIDTH]
        encoded = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        # bytes behind an image's end are not looked at
        (folder / f"{number:05}.jpg").write_bytes(encoded.tobytes() + number.to_bytes(4, "big"))


def linked(folder: Path, other: Path, count: int) -> None:
    """Give so many files of a folder a second path: another image to whoever inserts it."""
    other.mkdir()
    for path in sorted(folder.iterdir())[:count]:
        os.link(path, other / path.name)


class Insert:
    """An insert that runs."""

    def __init__(self, port: int, source: str) -> None:
        body = json.dumps({"source": source}).encode()
        self._port, self._id = port, json.loads(ask(port, "POST", "/v1/insert", body)[1])["id"]

    def begin(self) -> None:
        """Wait for the first images."""
        while self.done < 1:
            time.sleep(0.05)

    @property
    def report(self) -> dict[str, object]:
        """As the service sees it."""
        return dict(json.loads(ask(self._port, "GET", f"/v1/jobs/{self._id}")[1]))

    @property
    def done(self) -> int:
        """Images inserted so far."""
        report = self.report
        if report["status"] == "failed" or set(dict(report["counts"])) - {"inserted"}:  # type: ignore[call-overload]
            raise SystemExit(f"the insert failed: {report}")
        return sum(dict(report["counts"]).values())  # type: ignore[call-overload]

    def finish(self) -> tuple[int, float]:
        """Wait for the end; gives how many images were left, and how many seconds they took."""
        before, began = self.done, time.perf_counter()
        while self.report["finished"] is None:
            time.sleep(0.05)
        return self.done - before, time.perf_counter() - began


class Figures:
    """What the rounds found.

    :ivar loads: searches, by clients and the insert that ran.
    :ivar images: images inserted and seconds that took, by the clients that searched meanwhile.
    """

    def __init__(self) -> None:
        self.loads: defaultdict[tuple[int, str], Load] = defaultdict(Load)
        self.images: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)

    def round(self, port: int, source: str, seconds: float, texts: Iterator[str]) -> None:
        """Search without an insert, with one, and let its rest run alone."""
        for clients in CLIENTS:
            self.loads[clients, NONE].add(under_load(port, clients, seconds, texts))
        insert = Insert(port, source)
        insert.begin()
        for clients in CLIENTS:
            before, began = insert.done, time.perf_counter()
            self.loads[clients, RUNNING].add(under_load(port, clients, seconds, texts))
            self.images[clients].append((insert.done - before, time.perf_counter() - began))
            if insert.report["finished"]:
                raise SystemExit("the insert ended before the searches did; give it more --images")
        self.images[0].append(insert.finish())
        for clients in CLIENTS:
            insert = Insert(port, f"{source}-{clients}")
            self.loads[clients, WHOLE].add(under_load(port, clients, seconds, texts))
            insert.finish()

    def speed(self, clients: int) -> float:
        """Images a second."""
        images, seconds = np.sum(self.images[clients], axis=0)
        return float(images / seconds)

    def show(self) -> bool:
        """Print the table; gives whether the targets are met."""
        print("\n| clients | insert | searches/s | p50 ms | p99 ms | worst ms | images/s |")
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
        print(f"| 0 | alone | | | | | {self.speed(0):,.0f} |")
        for (clients, insert), load in self.loads.items():
            times = " | ".join(f"{load.percentile(share):,.0f}" for share in (50, 99, 100))
            images = f"{self.speed(clients):,.1f}" if insert == RUNNING else ""
            print(f"| {clients} | {insert} | {load.rate:,.0f} | {times} | {images} |")
        print()
        met = True
        for clients in CLIENTS:
            met &= self.speed(clients) > 0
            without = self.loads[clients, NONE]
            for insert in (RUNNING, WHOLE):
                during = self.loads[clients, insert]
                ratio = during.percentile(99) / without.percentile(99)
                met &= verdict(f"p99 of {clients} clients, insert: {insert}", ratio, TIMES, at_least=False)
                met &= set(without.statuses + during.statuses) == {200}
        return met


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="t2i_mini", help="name or path")
    parser.add_argument("--b32", action="store_true", help="a model of ViT-B/32's shape in place of that")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=4_000, help="of each round's insert")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "t2i-bench-serve")
    given, more = parser.parse_known_args()  # the others are those of `t2i serve`
    model = vit_b_32(given.workdir) if given.b32 else given.model
    here, texts, figures = machine(), endless_texts(), Figures()
    print(f"{here.processor}, {here.cores} cores; {Path(model).name}; {time.strftime('%Y-%m-%d')}")
    print(f"{given.rows:,} rows in Milvus Lite; {given.rounds} inserts of {given.images:,} images", end="; ")
    print(f"{given.seconds:g} s each; {' '.join(more)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = filled(folder, model, given.rows)
        write_images(folder / "images", given.images)
        (folder / "root").mkdir()
        for number in range(given.rounds):
            linked(folder / "images", folder / "root" / str(number), given.images)
            for clients in CLIENTS:
                linked(folder / "images", folder / "root" / f"{number}-{clients}", SHORT)
        with service(*options(uri, model, "--root", f"root={folder / 'root'}", *more)) as (port, _):
            under_load(port, CLIENTS[-1], given.seconds, texts)  # warm
            for number in range(given.rounds):
                figures.round(port, f"root/{number}", given.seconds, texts)
    sys.exit(0 if figures.show() else 1)


if __name__ == "__main__":
    main()
