"""Write what editors and readers need to know of the settings: ``make settings``.

The settings are declared in dataclasses. A type checker cannot derive the ``TypedDict`` of keyword arguments
from these, so ``t2i_pipelines/config/args.py`` is written from them, and so is
``docs/reference/settings.md``. A test compares both with what this module writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from t2i_pipelines.config import search, settings, storage, training
from t2i_pipelines.config.checks import Checked

HERE = Path(__file__).parents[1]
ARGS, DOCS = HERE / "t2i_pipelines/config/args.py", HERE / "docs/reference/settings.md"
PARTS: dict[str, tuple[type[Checked], str]] = {
    "PlaceArgs": (settings.Place, "Where the collection is"),
    "ModelArgs": (settings.Model, "The model"),
    "SearchArgs": (search.SearchOptions, "A search"),
    "AskingArgs": (settings.Asking, "Texts"),
    "InsertingArgs": (settings.Inserting, "An insert"),
    "StorageArgs": (storage.Storage, "A new collection"),
    "DecodingArgs": (settings.Decoding, "Images"),
}
"""Name of the ``TypedDict``, class that declares the settings, and heading in the reference."""

OTHERS: dict[str, tuple[type[Checked], str]] = {"FinetuneArgs": (training.FinetuneOptions, "Fine-tuning")}
"""Settings of other functions."""

_HEAD = '''"""Keyword arguments for type checkers and editors. Written by ``make settings``; do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from t2i_pipelines.config.settings import Frames, Reduce, Truncated
from t2i_pipelines.config.storage import VectorType
from t2i_pipelines.config.training import Augment, Train, TrainPrecision
from t2i_pipelines.types import Backend, Device, OnError, Precision
'''


def args() -> str:
    """Return the text of ``config/args.py``."""
    parts = [_HEAD]
    for name, (kind, _) in {**PARTS, **OTHERS}.items():
        lines = [f"    {one.name}: {one.type}" for one in fields(cast(Any, kind))]
        doc = f'    """Keyword arguments of :class:`~t2i_pipelines.config.{kind.__name__}`."""\n'
        parts.append("\n".join([f"class {name}(TypedDict, total=False):", doc, *lines]) + "\n")
    bases = ", ".join(PARTS)
    whole = f"class SettingsArgs({bases}, total=False):"
    if len(whole) > 110:
        whole = "class SettingsArgs(\n    " + f"{bases}, total=False" + "\n):"
    parts.append(f'{whole}\n    """Keyword arguments of :class:`~t2i_pipelines.config.Settings`."""\n')
    return "\n\n".join(parts)


def reference() -> str:
    """Return the text of ``docs/reference/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Keyword arguments of `build_insert_pipeline`, `build_search_pipeline`, `Searcher`, `sync` and "
        "others, fields of `Settings`, and options of `t2i`, where `limit` is `--limit`. Written by `make "
        "settings`.",
    ]
    for kind, heading in [*PARTS.values(), *OTHERS.values()]:
        lines += ["", f"## {heading}", "", "| setting | default | meaning |", "|---|---|---|"]
        lines += list(_rows(kind))
    return "\n".join(lines) + "\n"


def _rows(kind: type[Checked]) -> Iterator[str]:
    for one in fields(cast(Any, kind)):
        help = (
            re.sub(r":\w+:`~?([^`]*)`", r"`\1`", one.metadata["help"]).replace("``", "`").replace("|", "\\|")
        )
        yield f"| `{one.name}` | `{one.default!r}` | {help} |"


def main() -> None:
    """Write both files."""
    ARGS.write_text(args(), encoding="utf-8")
    DOCS.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"wrote {ARGS.relative_to(HERE)} and {DOCS.relative_to(HERE)}\n")


if __name__ == "__main__":
    main()
