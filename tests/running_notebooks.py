"""Runs the notebooks, and tells which shape their results have. As a script it stores the results."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

OFFLINE = {
    # whoever asks for anything beyond this machine gets no answer
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    "HF_HUB_OFFLINE": "1",
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def run(path: Path, model: str | None = None, env: dict[str, str] | None = None) -> Any:
    """Execute a notebook afresh, without a network; the stored one stays as it is.

    :param model: in place of the one that its first cell names.
    :param env: further environment variables.
    :raises nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.source = cell.source.replace('MODEL = "t2i_mini"', f'MODEL = "{model or "t2i_mini"}"')
        cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory() as scratch:
        # int8 forms of models and the like stay out of the user's cache
        places = {"TMPDIR": scratch, "HF_ASSETS_CACHE": f"{scratch}/cache", "PYTHONPATH": str(ROOT)}
        client = NotebookClient(
            notebook, timeout=1200, kernel_name="python3", record_timing=False, coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": str(FOLDER)}},
        )  # fmt: skip
        client.execute(env={**os.environ, **OFFLINE, **places, **(env or {})})
    return tidied(notebook, scratch)


def tidied(notebook: Any, scratch: str) -> Any:
    """Without the folders that the checkout and temporary files happen to be in, and the Python that ran."""
    notebook.metadata.language_info = {"name": "python"}
    for output in outputs(notebook):
        for where, key in texts(output):
            without = re.sub(rf"{re.escape(scratch)}/tmp\w+/", "", where[key])
            where[key] = without.replace(f"{ROOT}/", "")
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in code_cells(notebook):
        yield from cell.outputs


def texts(output: Any) -> Iterator[tuple[Any, str]]:
    """Where the texts of an output are: (mapping, key), images left out."""
    if "text" in output:
        yield output, "text"
    for kind in output.get("data", {}):
        if isinstance(output.data[kind], str) and not re.match(r"image/(?!svg)", kind):
            yield output.data, kind


class Counting(HTMLParser):
    """Counts the parts of a page that say how much it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = (dict(attrs).get("class") or "").split()
        for name in (tag if tag in ("tr", "td", "th", "img", "iframe") else "", *classes):
            if name and (not name.startswith("t2i-") or name in ("t2i-hit", "t2i-row", "t2i-list")):
                self.counts[name] = self.counts.get(name, 0) + 1


def shape(output: Any) -> tuple[Any, ...]:
    """What two runs of an output must have in common, though their numbers and images may differ."""
    if output.output_type == "stream":
        return output.name, len(output.text.splitlines())
    html = Counting()
    html.feed(output.get("data", {}).get("text/html", ""))
    return output.output_type, sorted(output.get("data", {})), html.counts


def shapes(notebook: Any) -> list[list[tuple[Any, ...]]]:
    """Of each cell of code, the shapes of its outputs."""
    return [[shape(output) for output in cell.outputs] for cell in code_cells(notebook)]


if __name__ == "__main__":
    for path in [FOLDER / name for name in sys.argv[1:]] or NOTEBOOKS:
        nbformat.write(run(path), path)
