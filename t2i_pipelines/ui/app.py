"""The page, as a Gradio app."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from t2i_pipelines.errors import QueryError, T2IError
from t2i_pipelines.pipelines.searcher import Searcher
from t2i_pipelines.ui import address, finding, markup, serving
from t2i_pipelines.ui.finding import MOST, Finder, Found, Run, Start, Wanted
from t2i_pipelines.ui.images import Images
from t2i_pipelines.ui.markup import plainly

log = logging.getLogger("t2i_pipelines.ui")

AT_ONCE = 8
"""Searches that are answered at the same time."""

UNFORESEEN = "Something went wrong that this page did not expect. Try it again; its log says more."

ASKING = """(turn, ...given) => {
  for (const id of ["t2i-stop", "t2i-found"]) document.getElementById(id)?.setAttribute("data-busy", "");
  return [globalThis.t2i_turn = (globalThis.t2i_turn ?? 0) + 1, ...given];
}"""
"""In the browser, numbers what is asked, for Gradio may start and end it in another order, and shows Stop."""

VISITING = ASKING.replace("...given];", "...given.with(1, location.search)];")
"""The same, for the search that the address holds."""

STOPPING = """(turn, latest) => {
  globalThis.t2i?.rest();
  globalThis.t2i?.say("Stopped.");
  return [globalThis.t2i_turn = (globalThis.t2i_turn ?? 0) + 1, latest];
}"""

Answer = tuple[Any, ...]
"""A value for each component that a search changes, in the order of ``Page._answered``."""


class Latest:
    """What a tab asked last.

    :ivar turn: its number.
    :ivar run: the insert that it began.
    """

    turn = 0
    run: Run | None = None


@dataclass(frozen=True)
class Tab:
    """What a tab of the browser shows, and what its controls say.

    :ivar found: the result; None before the first search.
    """

    found: Found | None
    where: tuple[tuple[str, Any], ...]
    words: str
    limit: float
    weakest: float
    fold: bool
    filter: str

    @property
    def wanted(self) -> Wanted:
        """The options of the next search."""
        return Wanted(int(self.limit), self.weakest / 100, self.filter or "", self.where, self.fold)


class Page(gr.Blocks):
    """The page, a ``gradio.Blocks``; see :func:`t2i_pipelines.ui.build_ui`."""

    def __init__(self, search: Searcher, title: str, examples: tuple[str, ...], insert: bool) -> None:
        super().__init__(analytics_enabled=False, title=title)
        self._finder, self._examples = Finder(search), examples
        self._settings: dict[str, Any] = dict(search.settings)
        self._inserts = insert
        self._own = Wanted(
            limit=min(MOST, self._settings.get("limit", Wanted.limit)),
            min_relevance=self._settings.get("min_relevance", Wanted.min_relevance),
        )
        fixed: dict[str, Any] = {"js_on_load": None, "apply_default_css": False}
        with self:
            gr.HTML(markup.heading(title), **fixed)
            gr.HTML(markup.viewer(), elem_id="t2i-viewer", **_scripted())
            if insert:
                with gr.Tab("Search"):
                    self._search_tab()
                with gr.Tab("Insert"):
                    self._insert_tab()
            else:
                self._search_tab()

    def launch(self, *args: Any, **options: Any) -> Any:
        """Serve the page on 127.0.0.1, without telemetry, share link, API, or files other than hits.

        :param options: those of ``gradio.Blocks.launch``.
        :raises ConfigError: If another machine could reach the page by them.
        """
        waits = not options.pop("prevent_thread_lock", False) and not serving.is_interactive()
        routes = Images(self._finder).routes
        with serving.direct_to_loopback():
            served = super().launch(*args, **serving.checked(options, routes), css=markup.style())
        if waits:
            self.block_thread()
        return served

    def _search_tab(self) -> None:
        with gr.Row(elem_classes="t2i-ask", equal_height=True):
            words = gr.Textbox(
                label="What an image should show",
                show_label=False,
                placeholder="What an image should show",
                autofocus=True,
                container=False,
                max_lines=1,
                scale=6,
                min_width=220,
                elem_id="t2i-words",
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=110)
            upload = gr.UploadButton(
                "Search by image", file_types=["image"], scale=1, min_width=170, size="lg"
            )
        chips = gr.HTML(markup.chips(self._examples), visible=bool(self._examples), **_scripted())
        filters = gr.HTML(elem_id="t2i-filters", **_scripted())
        with gr.Accordion("More options", open=False):
            plain: dict[str, Any] = {"buttons": [], "min_width": 240}
            with gr.Row():
                limit = gr.Slider(1, MOST, self._own.limit, step=1, label="Images a page", **plain)
                weakest = gr.Slider(
                    0, 100, 100 * self._own.min_relevance, step=5, label="Hide matches below (%)", **plain
                )
                fold = gr.Checkbox(self._own.fold, label="Show near duplicates as one image", min_width=320)
            filter = gr.Textbox(label="Advanced: a filter expression", placeholder="year > 2015", max_lines=1)
        stop = gr.Button("Stop", elem_id="t2i-stop", size="sm")
        found = gr.HTML(markup.waiting(), elem_id="t2i-found", **_scripted())
        place = gr.Textbox(visible=False)
        state, where, latest = gr.State(None), gr.State(()), gr.State(Latest())
        turn = gr.Number(0, visible=False)
        told = [state, where, words, limit, weakest, fold, filter]
        self._answered = ("html", "found", "where", "filters", "words", "limit", "weakest", "fold", "filter")
        shown = [found, state, where, filters, words, limit, weakest, fold, filter]
        how: dict[str, Any] = {
            "concurrency_limit": AT_ONCE,
            "show_progress": "hidden",
            "api_visibility": "private",
            # "once" would drop what is asked while an answer is on its way
            "trigger_mode": "multiple",
        }

        def on(event: Any, answer: Callable[..., Answer], *more: Any, js: str = ASKING) -> None:
            event(_in_turn(answer), [turn, latest, *more, *told], shown, js=js, **how)

        changed = [limit.release, weakest.release, fold.input, filter.submit]
        on(lambda *a, **k: gr.on([words.submit, button.click], *a, **k), self._ask)
        on(chips.ask, self._try)
        on(upload.upload, self._upload, upload)
        on(found.like, self._like)
        on(found.step, self._step)
        on(found.visit, self._back)
        on(filters.choose, self._add)
        on(filters.unchoose, self._remove)
        on(lambda *a, **k: gr.on(changed, *a, **k), self._again)
        on(self.load, self._visit, place, js=VISITING)
        aside = {**how, "concurrency_limit": None}
        filters.column(self._column, [where], filters, **aside)
        stop.click(_stop_search, [turn, latest], None, js=STOPPING, **aside)
        self._filters = filters

    def _insert_tab(self) -> None:
        with gr.Row(elem_classes="t2i-ask", equal_height=True):
            source = gr.Textbox(
                label="What to insert",
                show_label=False,
                placeholder="A folder on this machine",
                container=False,
                max_lines=1,
                scale=6,
                min_width=220,
                elem_id="t2i-source",
            )
            button = gr.Button("Insert", variant="primary", scale=1, min_width=110)
            stop = gr.Button("Stop", visible=False, scale=1, min_width=110)
        run = gr.HTML(markup.how_to_insert(), js_on_load=None, apply_default_css=False, elem_id="t2i-run")
        latest = gr.State(Latest())
        how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [source.submit, button.click],
            self._insert,
            [source, latest],
            [run, button, stop],
            concurrency_limit=1,
            trigger_mode="once",
            **how,
        ).then(lambda: self._offered(()), None, self._filters, **how)
        stop.click(_stop_run, [latest], [stop], **how)

    def _ask(self, *told: Any) -> Answer:
        tab = Tab(*told)
        if not tab.words.strip():
            return self._start(tab.wanted)
        return self._answer(lambda: self._finder.words(tab.words, tab.wanted))

    def _try(self, event: gr.EventData, *told: Any) -> Answer:
        text, tab = self._examples[int(event.number)], Tab(*told)
        return self._answer(lambda: self._finder.words(text, tab.wanted), words=text)

    def _upload(self, path: str, *told: Any) -> Answer:
        file = Path(path)
        try:
            content = file.read_bytes()
        finally:
            file.unlink(missing_ok=True)
        wanted = Tab(*told).wanted
        return self._answer(lambda: self._finder.image(content, file.name, wanted), words="")

    def _like(self, event: gr.EventData, *told: Any) -> Answer:
        id, wanted = str(event.id), Tab(*told).wanted
        return self._answer(lambda: self._finder.like(id, wanted), words="")

    def _step(self, event: gr.EventData, *told: Any) -> Answer:
        found, step = Tab(*told).found, 1 if int(event.step) > 0 else -1
        return self._answer(lambda: self._finder.page(_there(found), step))

    def _again(self, *told: Any) -> Answer:
        tab = Tab(*told)
        return self._refresh(tab, tab.wanted)

    def _add(self, event: gr.EventData, *told: Any) -> Answer:
        tab = Tab(*told)
        try:
            chosen = address.read_condition(str(event.column), str(event.value))
        except T2IError as err:
            return self._refused(err)
        where = tuple(dict.fromkeys([*tab.where, chosen]))
        return self._filtered(tab, where)

    def _remove(self, event: gr.EventData, *told: Any) -> Answer:
        tab = Tab(*told)
        return self._filtered(tab, tuple(one for n, one in enumerate(tab.where) if n != int(event.number)))

    def _visit(self, search: str, *told: Any) -> Answer:
        return self._follow(search)

    def _back(self, event: gr.EventData, *told: Any) -> Answer:
        return self._follow(str(event.search))

    def _follow(self, search: str) -> Answer:
        """Answer the search that an address holds, and set the controls to it."""
        try:
            link = address.read(search, self._own)
        except T2IError as err:
            return self._refused(err, filters=self._offered(()))
        wanted, at = link.wanted, link.page - 1
        controls = {
            "where": wanted.where,
            "filters": self._offered(wanted.where),
            "words": link.words,
            "limit": wanted.limit,
            "weakest": 100 * wanted.min_relevance,
            "fold": wanted.fold,
            "filter": wanted.filter,
        }
        if link.words:
            return self._answer(lambda: self._finder.words(link.words, wanted, at), **controls)
        if link.like:
            return self._answer(lambda: self._finder.like(link.like, wanted, at), **controls)
        return self._start(wanted, **controls)

    def _filtered(self, tab: Tab, where: tuple[tuple[str, Any], ...]) -> Answer:
        return self._refresh(tab, replace(tab.wanted, where=where), where=where, filters=self._offered(where))

    def _refresh(self, tab: Tab, wanted: Wanted, **controls: Any) -> Answer:
        """Search again for what is shown, by other options."""
        found = tab.found
        if found is None:
            return self._start(wanted, **controls)
        return self._answer(lambda: self._finder.again(found, wanted), **controls)

    def _column(self, event: gr.EventData, where: tuple[tuple[str, Any], ...]) -> str:
        return self._offered(where, str(event.column))

    def _offered(self, where: tuple[tuple[str, Any], ...], column: str = "") -> str:
        """Return the menus of columns and values; without Milvus or columns, those that were chosen."""
        try:
            columns = self._finder.columns()
            values = self._finder.values(column) if column in columns else []
        except T2IError as err:
            log.info("columns are not listed: %s", err)
            columns, values = [], []
        return markup.filters(columns, column, values, where)

    def _start(self, wanted: Wanted, **controls: Any) -> Answer:
        return self._answer(lambda: self._finder.start(wanted), **controls)

    def _answer(self, find: Callable[[], Found | Start], **controls: Any) -> Answer:
        try:
            shown = find()
            link = address.link_of(shown, self._own)
            if isinstance(shown, Start):
                html = markup.start(shown, link, self._inserts)
            else:
                html = markup.found(shown, link, self._settings.get("output_fields", ()))
            found = shown if isinstance(shown, Found) else None
            return self._values(html=html, found=found, **controls)
        except Exception as err:
            return self._refused(err, **controls)

    def _refused(self, err: Exception, **controls: Any) -> Answer:
        return self._values(html=markup.refused(self._sentence(err)), found=None, **controls)

    def _values(self, **given: Any) -> Answer:
        return tuple(given.get(name, gr.skip()) for name in self._answered)

    def _insert(self, source: str, latest: Latest) -> Iterator[Answer]:
        try:
            for run in finding.insert(source, self._settings):
                latest.run = run
                error = "" if run.error is None else self._sentence(run.error)
                going = not run.is_over
                stop = gr.Button(visible=going) if not run.is_stopped else gr.skip()
                yield markup.inserted(run, self._settings, error), gr.Button(visible=not going), stop
            self._finder.forget()
        except Exception as err:
            yield markup.refused(self._sentence(err)), gr.skip(), gr.skip()
        yield gr.skip(), gr.Button(visible=True), gr.Button("Stop", visible=False, interactive=True)

    def _sentence(self, err: Exception) -> str:
        if isinstance(err, T2IError):
            return plainly(err, self._settings)
        log.exception("the page met an error that is not ours", exc_info=err)
        return UNFORESEEN


def _scripted() -> dict[str, Any]:
    return {"js_on_load": markup.resource("page.js"), "apply_default_css": False}


def _in_turn(answer: Callable[..., Answer]) -> Callable[..., Answer]:
    """Show no answer that is overtaken, as by words the search again that leaving an option begins."""

    @wraps(answer)
    def latest(*told: Any) -> Answer:
        # where gradio gives an event, it is the first
        at = int(isinstance(told[0], gr.EventData))
        turn, asked = told[at : at + 2]
        asked.turn = max(asked.turn, turn)
        html, *others = answer(*told[:at], *told[at + 2 :])
        if turn != asked.turn:
            return tuple(gr.skip() for _ in (html, *others))
        return markup.numbered(html, turn), *others

    return latest


def _stop_search(turn: int, asked: Latest) -> None:
    """Let what was asked before be overtaken."""
    asked.turn = max(asked.turn, turn)


def _stop_run(asked: Latest) -> Any:
    if asked.run is not None:
        asked.run.stopped.set()
    return gr.Button("Stopping…", interactive=False)


def _there(shown: Found | None) -> Found:
    if shown is None:
        raise QueryError("the page no longer knows what it shows; search again")
    return shown
