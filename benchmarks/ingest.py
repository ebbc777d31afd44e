"""How fast, and how small, inserting is: ``python -m benchmarks.ingest``, or ``make bench-ingest``.

For 12-megapixel photos and images of 500 x 375, with a CLIP of ViT-B/32's shape and with ``t2i_mini``: each
stage alone, files to rows in Milvus Lite, and the loops of the Milvus and the Towhee tutorial over the same
files with a model of the same size. Each figure is the median of several rounds; in a round each is measured
once, in a process of its own.

``end to end / slowest stage`` wants 0.9. Where stages share the cores, no pipeline can do more images a
second than cores / (core-seconds of all stages), so that is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from rich.table import Table

from benchmarks.peers.__main__ import show_machine
from benchmarks.peers.machine import machine
from benchmarks.peers.pictures import QUALITY, write_pictures
from benchmarks.peers.plan import WARM
from t2i_pipelines.cli import console

ROOT = Path(__file__).parents[1]
STAGES = ("decode", "encode", "insert")
TUTORIALS = ("Milvus tutorial", "Towhee tutorial")
DRAWN = 64
PHOTO, WEB = "12 MP", "500 x 375"
SIDE = 8  # images across a photo: 8 x 500 and 8 x 375 pixels
DIFFERENT = 8  # photos; further ones have the pixels of these, and bytes of their own
SIZES = (PHOTO, WEB)
MODELS = ("ViT-B/32", "t2i_mini", "tiny")
SHARE, TIMES, BYTES, FLAT = 0.9, 3.0, 600e6, 1.1

MANY = {
    "end to end": "Milvus Lite with all its vectors and their index in the same process",
    "end to end, served": "Milvus Lite in a process of its own",
}
NOTE = (
    "Images a second: medians. / slowest: end to end, to the slowest stage alone, which has all {cores} "
    "cores to itself. of all cores: to what {cores} cores could do at most, that is cores / core-seconds of "
    "all stages. MB: most RAM over that of the process with the model loaded and one image embedded."
)

Figures = dict[str, float]


def write_files(folder: Path, size: str, count: int) -> list[str]:
    """Write JPEGs, no two of which have the same bytes, where they are not there yet.

    A photo is a mosaic of 64 drawn images, so that it has as much detail as these in each pixel: 5 MB.
    """
    drawn = folder / "drawn"
    if not (drawn / f"{DRAWN - 1:04}.jpg").is_file():
        write_pictures(drawn, DRAWN, first_seed=0)
    place = folder / size.replace(" ", "")
    place.mkdir(exist_ok=True)
    paths = [place / f"{number:05}.jpg" for number in range(count)]
    contents = [path.read_bytes() for path in sorted(drawn.iterdir())]
    if size == PHOTO:
        contents = [mosaic(contents, seed) for seed in range(min(count, DIFFERENT))]
    for number, path in enumerate(paths):
        if not path.is_file():
            # bytes behind an image's end are not looked at
            path.write_bytes(contents[number % len(contents)] + number.to_bytes(4, "big"))
    return [str(path) for path in paths]


def mosaic(contents: Sequence[bytes], seed: int) -> bytes:
    """One JPEG of 4000 x 3000 from 64 of 500 x 375."""
    parts = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in contents]
    random.Random(seed).shuffle(parts)
    rows = [np.hstack(parts[at : at + SIDE]) for at in range(0, SIDE * SIDE, SIDE)]
    return bytes(cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def perform(**job: object) -> Figures:
    """Do one job of ``ingest_worker.py`` in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ingest_worker"]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise SystemExit(f"{job['what']} with {job['shape']} failed: {last}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Plan:
    """What is measured.

    :ivar counts: (size, model) -> images a measurement.
    :ivar tutorials: size -> images that a tutorial's loop takes at most: one keeps 43 MB of each.
    :ivar many: numbers of images of 500 x 375 that shall take the same memory.
    """

    folder: Path
    models: tuple[str, ...]
    counts: dict[tuple[str, str], int]
    tutorials: dict[str, int]
    many: tuple[int, ...]
    rounds: int

    def jobs(self) -> Iterator[tuple[str, str, str, int]]:
        """(what, size, model, images) of one round."""
        for model in self.models:
            web = self.counts[WEB, model]
            yield "encode", WEB, model, web  # of decoded images: the size of the files means nothing
            yield "insert", WEB, model, web
            for size in SIZES:
                count = self.counts[size, model]
                yield "decode", size, model, count
                yield "end to end", size, model, count
                for what in TUTORIALS:
                    yield what, size, model, min(self.tutorials[size], count)
            yield "decode never", PHOTO, model, self.counts[PHOTO, model]


class Found:
    """Median figures, by what was measured, the size of the images, and the model."""

    def __init__(self) -> None:
        self._rounds: defaultdict[tuple[str, str, str], list[Figures]] = defaultdict(list)

    def add(self, what: str, size: str, model: str, figures: Figures) -> None:
        """Take what one round found."""
        self._rounds[what, size, model].append(figures)

    def get(self, figure: str, what: str, size: str, model: str) -> float:
        """The median of ``speed`` (images/s), ``core`` (core-seconds an image), or ``memory`` (bytes)."""
        where = WEB if what in ("encode", "insert") else size
        return median(one[figure] for one in self._rounds[what, where, model])

    def slowest(self, size: str, model: str) -> tuple[float, str]:
        """The slowest stage alone."""
        return min((self.get("speed", stage, size, model), stage) for stage in STAGES)

    def bound(self, size: str, model: str, cores: int) -> float:
        """Images a second that the cores could do if none was ever idle, and nothing else to do."""
        return cores / sum(self.get("core", stage, size, model) for stage in STAGES)


def run(plan: Plan) -> Found:
    """Write what is needed, and measure."""
    files, warm = {}, {}
    for size in SIZES:
        most = max(plan.counts[size, model] for model in plan.models)
        most = max(most, *plan.many) if size == WEB else most
        paths = write_files(plan.folder, size, most + WARM)
        files[size], warm[size] = paths[:most], paths[most:]
    for model in plan.models:
        if not (plan.folder / model_folder(model) / "openai.pt").is_file():
            perform(what="prepare", shape=model, folder=str(plan.folder / model_folder(model)))
    found = Found()

    def job(what: str, size: str, model: str, count: int) -> Figures:
        console.err.print(f"  {what}, {size}, {model}, {count:,} images", highlight=False)
        return perform(
            what=what,
            shape=model,
            folder=str(plan.folder / model_folder(model)),
            paths=files[size][:count],
            warm=warm[size],
        )

    for _ in range(plan.rounds):
        for what, size, model, count in plan.jobs():
            found.add(what, size, model, job(what, size, model, count))
    for what in MANY:
        for count in plan.many:
            found.add(f"{what} {count}", WEB, plan.models[-1], job(what, WEB, plan.models[-1], count))
    return found


def model_folder(model: str) -> str:
    """A name for a folder."""
    return model.replace("/", "-")


def show(plan: Plan, found: Found, cores: int) -> None:
    """Print two tables, and how each figure stands to its target."""
    table = _table("Images a second", "", *STAGES, "end to end", "/ slowest", "of all cores", "MB")
    others = _table("Images a second, beside the tutorials", "", "end to end", *TUTORIALS, "times")
    verdicts = []
    for size in SIZES:
        for model in plan.models:
            name, here = f"{size}, {model}", (size, model)
            through = found.get("speed", "end to end", *here)
            slowest, stage = found.slowest(*here)
            bound = found.bound(*here, cores)
            memory = found.get("memory", "end to end", *here)
            stages = [f"{found.get('speed', one, *here):.1f}" for one in STAGES]
            share = f"{through / slowest:.2f}"
            table.add_row(
                name, *stages, f"{through:.1f}", share, f"{through / bound:.2f}", f"{memory / 1e6:.0f}"
            )
            loops = [found.get("speed", one, *here) for one in TUTORIALS]
            times = through / max(loops)
            others.add_row(name, f"{through:.1f}", *(f"{one:.1f}" for one in loops), f"{times:.1f}")
            most = min(1.0, bound / slowest)
            why = f"; {cores} cores allow {most:.2f}" if most < SHARE else ""
            verdicts += [
                verdict(f"{name}: end to end / {stage} alone", through / slowest, SHARE) + why,
                verdict(f"{name}: end to end / faster tutorial", times, TIMES),
            ]
            if size == PHOTO:
                verdicts.append(verdict(f"{name}: MB over the model's", memory / 1e6, BYTES / 1e6, most=True))
    console.out.print(table, others)
    console.out.print(NOTE.format(cores=cores), highlight=False, soft_wrap=True)
    for model in plan.models:
        fast, slow = (found.get("speed", one, PHOTO, model) for one in ("decode", "decode never"))
        said = f"decoding {PHOTO} for {model}: {fast:.1f}/s with reduce='auto', {slow:.1f}/s with 'never'"
        console.out.print(f"{said}: {fast / slow:.1f} times", highlight=False, soft_wrap=True)
    for what, where in MANY.items():
        sizes = [found.get("memory", f"{what} {count}", WEB, plan.models[-1]) / 1e6 for count in plan.many]
        megabytes = ", ".join(
            f"{count:,}: {size:.0f} MB" for count, size in zip(plan.many, sizes, strict=True)
        )
        name = f"images of {WEB}, {plan.models[-1]}, {where}"
        console.out.print(f"{name}: {megabytes}", highlight=False, soft_wrap=True)
        if what != "end to end":
            verdicts.append(
                verdict(f"{name}: MB of most / MB of fewest", sizes[-1] / sizes[0], FLAT, most=True)
            )
    console.out.print("\nTargets", highlight=False)
    for line in verdicts:
        console.out.print(line, highlight=False, soft_wrap=True)


def verdict(name: str, value: float, wanted: float, most: bool = False) -> str:
    """One target in words: wanted, found, and by how much it is met or missed.

    :param most: the value shall be at most ``wanted``, not at least.
    """
    good = value <= wanted if most else value >= wanted
    said = "[green]met[/]" if good else "[red]missed[/]"
    limit = "at most" if most else "at least"
    apart = 100 * abs(value / wanted - 1)
    return f"{name}: wanted {limit} {wanted:g}, found {value:.3g}: {said} by {apart:.0f} %"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of few images, in three minutes")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--photos", type=int, help="of 12 MP in each measurement, default 96; 5 MB each")
    parser.add_argument("--pictures", type=int, help="of 500 x 375, default 192; 8 times that with t2i_mini")
    parser.add_argument("--many", type=int, nargs=2, help="shall take the same memory, default 1000 10000")
    parser.add_argument("--model", action="append", choices=MODELS, help="default: ViT-B/32 and t2i_mini")
    parser.add_argument("--workdir", type=Path, help="keep images and models here, for the next time")
    given = parser.parse_args()
    usual = (1, 16, 64, (64, 256)) if given.quick else (3, 96, 192, (1000, 10_000))
    asked = (given.rounds, given.photos, given.pictures, given.many)
    rounds, photos, pictures, many = (one or other for one, other in zip(asked, usual, strict=True))
    models = tuple(given.model or MODELS[:2])
    counts = {(PHOTO, model): photos for model in models}
    counts |= {(WEB, model): pictures * (8 if model == "t2i_mini" else 1) for model in models}
    tutorials = {PHOTO: 4, WEB: 16} if given.quick else {PHOTO: 12, WEB: 48}
    here = machine()
    show_machine(here)
    made = nullcontext(str(given.workdir)) if given.workdir else tempfile.TemporaryDirectory()
    with made as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        plan = Plan(Path(folder).absolute(), models, counts, tutorials, tuple(many), rounds)
        show(plan, run(plan), here.cores)


if __name__ == "__main__":
    main()
