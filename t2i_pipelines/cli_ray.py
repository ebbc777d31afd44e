"""``t2i insert --ray``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_pipelines import console, interrupt
from t2i_pipelines.distributed import insert_distributed

Ray = Annotated[bool, typer.Option("--ray", help="Insert on Ray: of RAY_ADDRESS, else of this machine.")]
Address = Annotated[
    str, typer.Option("--ray-address", help="Insert on the Ray cluster there, such as 10.0.0.1:6379.")
]


def insert_at(address: str) -> Callable[..., int]:
    """Insert on the Ray cluster at ``address``, as ``t2i insert`` does here; gives the number of failures."""

    def insert(source: str, report: Path | None, **settings: Any) -> int:
        with console.progress_bar(None) as tally:
            interrupt.now_say(tally.interrupted)
            insert_distributed(
                source,
                address=address or None,
                report=tally.report,
                progress=lambda outcome: tally.show(),
                **settings,
            )
        console.show_report(tally.report, report)
        return tally.report.counts["failed"]

    return insert
