"""From a function that inserts to what ``t2i insert`` does by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2i_pipelines.cli import console, interrupt
from t2i_pipelines.pipelines.report import InsertReport


def insert_by(run: Callable[..., InsertReport]) -> Callable[..., int]:
    """With a progress bar and a report; gives the number of failures.

    :param run: takes a source, ``report=``, ``progress=`` and settings.
    """

    def insert(source: str, report: Path | None, **settings: Any) -> int:
        with console.progress_bar(None) as tally:
            interrupt.now_say(tally.interrupted)
            run(source, report=tally.report, progress=lambda outcome: tally.show(), **settings)
        console.show_report(tally.report, report)
        return tally.report.counts["failed"]

    return insert
