"""How near our vectors are to those of each family's own library: ``python -m benchmarks.parity``.

Models have random weights and, but for ``--small``, the shape of a published model. Each is written and
compared in a process of its own, which gives its memory back; one takes up to a minute and 2 GB. The table is
printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.parity.families import FAMILIES, NAMED
from benchmarks.parity.samples import Size, least_cosines, sample_images
from benchmarks.peers.memory import peak_rss
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in

HEAD = ("Family", "Compared with", "Least cosine, images", "Least cosine, texts", "Peak memory, GB")


def compare(name: str, size: Size, count: int) -> dict[str, object]:
    """Compare one family, in this process."""
    bring_in()
    with tempfile.TemporaryDirectory() as folder:
        found = least_cosines({**FAMILIES, **NAMED}[name], Path(folder), size, count)
    return {**found._asdict(), "peak": peak_rss() / 1e9}


def in_a_process(name: str, size: Size, count: int) -> dict[str, object]:
    """Compare one family on so many images and texts, in a process of its own.

    :raises RuntimeError: If it fails.
    """
    command = [sys.executable, "-m", "benchmarks.parity", "--alone", name, "--count", str(count)]
    command += ["--small"] * (size == "small")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, found: dict[str, object]) -> str:
    """A line of the table."""
    figures = [f"{found[key]:.7f}" for key in ("images", "texts")]
    return f"| {name} | {found['library']} | {' | '.join(figures)} | {found['peak']:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", help="names as in the table; all where none is given")
    parser.add_argument("--small", action="store_true", help="small models, which take seconds")
    parser.add_argument("--count", type=int, default=20, help="images and texts")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    size: Size = "small" if given.small else "true"
    if given.alone:
        print(json.dumps(compare(given.alone, size, given.count)))
        return
    print(f"{len(sample_images(given.count))} images, {given.count} texts in five languages, {size} sizes\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for name in given.families or [*FAMILIES, *({} if given.small else NAMED)]:
        print(row(name, in_a_process(name, size, given.count)), flush=True)


if __name__ == "__main__":
    main()
