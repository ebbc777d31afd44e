"""Print progress, hits and summaries, and end a command at Ctrl-C.

Ctrl-C ends a command at once, whatever its threads are doing. It does not wait for the batch that is being
worked on, which may take long. No acknowledged row is lost, and the next run does the rest.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread, Timer
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from t2i_pipelines.errors import ConfigError, ImageDecodeError
from t2i_pipelines.images import is_remote
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.render import is_gone, load, near, percent, printable
from t2i_pipelines.search.view import NOTHING_STORED, verdict
from t2i_pipelines.types import Hit, Outcome

out = Console()
err = Console(stderr=True)

FAILURES_SHOWN = 20


def plain(value: object) -> str:
    """Return a text in one line that neither Rich nor a terminal reads commands in."""
    return escape(printable(value))


class Tally:
    """Takes the outcomes of a run while they come in, and moves the bar.

    :ivar report: of the run so far.
    """

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.report = InsertReport()
        self._progress, self._task = progress, task

    def __call__(self, outcome: Outcome) -> None:
        """Take one outcome."""
        self.report.add(outcome)
        self.show()

    def show(self) -> None:
        """Move the bar to where the report is."""
        counts = self.report.counts
        self._progress.update(self._task, completed=self.report.total, failed=counts["failed"])

    def interrupted(self) -> None:
        """Take the bar away, which gives the terminal its cursor back, and say how far the run came."""
        self._progress.stop()
        show_interruption(self.report)


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work that it would hold; make its folder.

    :raises ConfigError: With the system's reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror}; choose another place") from err


@contextmanager
def progress_bar(total: int | None, doing: str = "inserting") -> Iterator[Tally]:
    """A bar on stderr with rate, time left and failures, for ``total`` inputs, None if unknown."""
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.speed_text}"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]} failed"),
    )
    with _Rated(*columns, console=err, transient=True) as progress:
        yield Tally(progress, progress.add_task("", total=total, failed=0))


@contextmanager
def doing() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done: a line that changes, or in a log a line each."""
    if not err.is_terminal:
        yield lambda text: err.print(plain(text), soft_wrap=True, highlight=False)
        return
    with err.status("") as status:
        yield lambda text: status.update(plain(text))


class _Rated(Progress):
    """A progress display whose tasks know their rate as text."""

    def get_renderables(self) -> Iterator[Any]:
        for task in self.tasks:
            task.speed_text = f"{task.speed:,.0f}/s" if task.speed else ""  # type: ignore[attr-defined]
        yield from super().get_renderables()


def show_report(report: InsertReport, file: Path | None = None) -> None:
    """List twenty failures on stderr, sum up, and tell where the time went; write all to ``file``."""
    for outcome in report.failed[:FAILURES_SHOWN]:
        err.print(f"[red]failed[/] {plain(outcome.reason)}", soft_wrap=True)
    if (more := len(report.failed) - FAILURES_SHOWN) > 0:
        err.print(f"... and {more:,} more")
    if report.note:
        err.print(plain(report.note), soft_wrap=True)
    err.print(report.summary(), soft_wrap=True)
    if skipped := report.skipped.summary():
        err.print(plain(skipped), soft_wrap=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report.as_dict(), ensure_ascii=False, indent=1), encoding="utf-8")
        err.print(f"wrote {plain(str(file))}", soft_wrap=True)
    if report.clocks:
        err.print(report.budget(), soft_wrap=True)


def show_interruption(report: InsertReport) -> None:
    """Say how far a run came that was ended by Ctrl-C."""
    err.print(f"interrupted; so far {report.summary()}; run it again to go on", soft_wrap=True)


def show_change(outcome: Outcome) -> None:
    """One line of a plan on stdout; nothing for what stays as it is."""
    if outcome.status != "unchanged":
        out.print(f"{outcome.status:8} {plain(near(outcome.path))}", soft_wrap=True, highlight=False)


def show_hits(query: str, hits: Sequence[Hit], images: bool = True) -> None:
    """Print a table: rank, score, relevance where there is one, path, further fields.

    A thumbnail stands before each where the terminal can show one; nothing is fetched for it. A file that
    is gone is marked, and so is a query that nothing matches.
    """
    title = plain(query)
    said = verdict(hits) if isinstance(hits, Hits) else "" if hits else NOTHING_STORED
    if not hits:
        out.print(f"{title}: {said[0].lower()}{said[1:].rstrip('.')}")
        return
    with_images = images and _is_sized_terminal()
    table = Table(title=title, title_justify="left", show_lines=with_images)
    if with_images:
        table.add_column("")
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    with_relevance = any(hit.relevance is not None for hit in hits)
    if with_relevance:
        table.add_column("relevance", justify="right")
    table.add_column("path", overflow="fold")
    extra = list(dict.fromkeys(name for hit in hits for name in hit.fields))
    for name in extra:
        table.add_column(plain(name), overflow="fold")
    for rank, hit in enumerate(hits, hits.first_rank if isinstance(hits, Hits) else 1):
        gone = is_gone(hit.path)
        cells = [_image(hit.path)] if with_images else []
        cells += [str(rank), f"{hit.score:.3f}"]
        if with_relevance:
            cells.append(percent(hit.relevance))
        cells.append(plain(near(hit.path)) + (" [red](missing)[/]" if gone else ""))
        cells += [plain(hit.fields.get(name, "")) for name in extra]
        table.add_row(*cells)
    out.print(table)
    if said:
        out.print(said, soft_wrap=True)


def as_json(query: str, hits: Sequence[Hit]) -> str:
    """Return one JSON object: the query, whether nothing matches, and each hit with its fields.

    ``no_match`` and ``relevance`` are there where the collection is calibrated. Columns are in ``fields``,
    and beside the hit's own keys where they have other names.
    """
    no_match = hits.no_match if isinstance(hits, Hits) else None
    known = {} if no_match is None else {"no_match": no_match}
    found = {"query": query, **known, "hits": [_as_dict(hit) for hit in hits]}
    text = json.dumps(found, ensure_ascii=False, default=str)
    # half a character, and what the terminal's encoding lacks, can only be written escaped
    return text if _can_be_written(text) else json.dumps(found, default=str)


def _can_be_written(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_sized_terminal() -> bool:
    """Return whether stdout is a terminal that knows how large it is; thumbnails are sized in its cells."""
    try:
        return out.is_terminal and os.get_terminal_size(sys.stdout.fileno()).columns > 0
    except (OSError, ValueError):  # no terminal after all, or stdout is replaced or closed
        return False


def _as_dict(hit: Hit) -> dict[str, Any]:
    relevance = {} if hit.relevance is None else {"relevance": hit.relevance}
    own = {"id": hit.id, "score": hit.score, **relevance, "path": hit.path}
    return {**hit.fields, **own, "fields": hit.fields}


def _image(path: str) -> Any:
    from textual_image.renderable import Image as TerminalImage

    if is_remote(path):
        return ""
    try:
        return TerminalImage(load(path, 96), width=12, height=6)
    except ImageDecodeError:
        return ""


EXIT_CODE = 130
"""128 + SIGINT, as a shell reports it."""

AT_MOST = 2.0
"""Seconds that saying so may take: another thread may hold a lock that the output needs."""

_SIGINT = int(signal.SIGINT)


class _Watch:
    """A thread that ends the process at SIGINT.

    A handler of Python's own runs in the main thread, and there only between two steps of Python: not while
    a model is loaded, for example.

    :ivar say: called before the end.
    """

    def __init__(self, say: Callable[[], object]) -> None:
        self.say = say
        self._ending = Lock()
        atexit.register(self._let_exit)
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        Thread(target=self._listen, name="t2i-interrupt", daemon=True).start()

    def _listen(self) -> None:
        while number := os.read(self._heard, 1):
            if number[0] == _SIGINT:
                self._end()
        os.close(self._heard)

    def _end(self) -> None:
        if not self._ending.acquire(blocking=False):
            return
        try:
            late = Timer(AT_MOST, os._exit, [EXIT_CODE])
            late.daemon = True
            late.start()
            self.say()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(EXIT_CODE)

    def _let_exit(self) -> None:
        """Where the process exits by itself, let an interruption come to its end, and let no other begin."""
        self._ending.acquire()
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def stop(self) -> None:
        """Leave Ctrl-C to Python again."""
        atexit.unregister(self._let_exit)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._told)


_watch: _Watch | None = None


def end_at_once(say: Callable[[], object]) -> None:
    """From now on, let Ctrl-C end the process with exit code 130 after calling ``say``.

    To be called from the main thread.
    """
    global _watch
    _watch = _Watch(say)


def say_at_interrupt(say: Callable[[], object]) -> None:
    """Replace what is called; without effect where Ctrl-C is not ours."""
    if _watch is not None:
        _watch.say = say


def leave_to_python() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` again, for a command that cleans up after itself."""
    global _watch
    if _watch is not None:
        _watch.stop()
        _watch = None
