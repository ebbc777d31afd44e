"""Inserting as the page shows it: how far it is, while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from t2i_pipelines._towhee.door import pipe
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import count
from t2i_pipelines.pipelines.build import OUTCOME_COLUMNS, insert_steps
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Outcome

EVERY = 0.3
"""Seconds between two looks at a run."""


@dataclass
class Run:
    """One run of inserting.

    :ivar source: what is inserted.
    :ivar total: inputs, None if unknown.
    :ivar report: of the run so far.
    :ivar error: what ended the run before its end.
    """

    source: str
    total: int | None = None
    report: InsertReport = field(default_factory=InsertReport)
    error: Exception | None = None
    ended: Event = field(default_factory=Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended.is_set()


def insert(source: str, settings: dict[str, Any]) -> Iterator[Run]:
    """Insert what is at ``source``, and give the run again and again until it is over.

    Once started it goes on, also where its progress is not asked for.

    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises SourceError: If no source is named, or there is nothing at it.
    """
    source = source.strip()
    if not source:
        raise SourceError("name a folder, a glob, a table or an image to insert")
    run = Run(source, count(source))
    Thread(target=_go, args=(run, settings), name="t2i-ui-insert", daemon=True).start()
    while not run.ended.wait(EVERY):
        yield run
    yield run


def _go(run: Run, settings: dict[str, Any]) -> None:
    try:
        steps = insert_steps(pipe.input("source"), **settings)
        # a lambda, since Towhee deep-copies any other callable with all that it holds
        counted = steps.map(OUTCOME_COLUMNS, (), lambda *row: run.report.add(Outcome(*row)))
        harden(counted.output())(run.source)
    except Exception as err:
        run.error = err
    finally:
        run.ended.set()
