"""The page, as a Gradio app."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from t2i_pipelines.errors import QueryError, T2IError
from t2i_pipelines.pipelines.searcher import Searcher
from t2i_pipelines.ui import finding, markup, serving
from t2i_pipelines.ui.finding import MOST, Finder, Found, Wanted
from t2i_pipelines.ui.markup import plainly

log = logging.getLogger("t2i_pipelines.ui")

AT_ONCE = 8
"""Searches that are answered at the same time."""

UNFORESEEN = "That did not work, for an unexpected reason; the log of the server has it."

NEXT_TURN = "(turn, ...told) => [globalThis.t2i_turn = (globalThis.t2i_turn ?? 0) + 1, ...told]"
"""In the browser, numbers what is asked: Gradio may start and end it in another order."""

Shown = tuple[str, Found | None]
"""The result as HTML, and as what can be gone on from."""


class Latest:
    """What a tab asked last.

    :ivar turn: its number.
    """

    turn = 0


class Page(gr.Blocks):
    """The page, a ``gradio.Blocks``; see :func:`t2i_pipelines.ui.build_ui`."""

    def __init__(self, search: Searcher, title: str, examples: tuple[str, ...], insert: bool) -> None:
        super().__init__(analytics_enabled=False, title=title)
        self._finder, self._examples = Finder(search), examples
        self._settings: dict[str, Any] = dict(search.settings)
        self._inserts = insert
        with self:
            gr.HTML(markup.heading(title), js_on_load=None, apply_default_css=False)
            if insert:
                with gr.Tab("Search"):
                    self._search_tab()
                with gr.Tab("Insert"):
                    self._insert_tab()
            else:
                self._search_tab()

    def launch(self, *args: Any, **options: Any) -> Any:
        """Serve the page on 127.0.0.1, without telemetry, share link, API or files.

        :param options: those of ``gradio.Blocks.launch``.
        :raises ConfigError: If another machine could reach the page by them.
        """
        waits = not options.pop("prevent_thread_lock", False) and not serving.is_interactive()
        with serving.direct_to_loopback():
            served = super().launch(*args, **serving.checked(options), css=markup.style())
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
                "Search by image", file_types=["image"], scale=1, min_width=190, size="lg"
            )
        script = markup.resource("page.js")
        chips = gr.HTML(
            markup.chips(self._examples),
            js_on_load=script,
            apply_default_css=False,
            visible=bool(self._examples),
        )
        with gr.Accordion("Options", open=False), gr.Row():
            plain: dict[str, Any] = {"buttons": [], "min_width": 260}
            own = min(MOST, self._own("limit", Wanted.limit))
            limit = gr.Slider(1, MOST, own, step=1, label="Hits a page", **plain)
            own = self._own("min_relevance", Wanted.min_relevance)
            relevance = gr.Slider(0, 1, own, step=0.05, label="Minimum relevance", **plain)
            filter = gr.Textbox(label="Filter", placeholder="year > 2015", max_lines=1, min_width=260)
        found = gr.HTML(
            markup.welcome(self._inserts), js_on_load=script, apply_default_css=False, elem_id="t2i-found"
        )
        state = gr.State(None)
        asked_last = [gr.Number(0, visible=False), gr.State(Latest())]
        wanted = [limit, relevance, filter]
        shown = [found, state]
        how: dict[str, Any] = {
            "concurrency_limit": AT_ONCE,
            "show_progress": "minimal",
            "api_visibility": "private",
            # "once" would drop what is asked while an answer is on its way
            "trigger_mode": "multiple",
            "js": NEXT_TURN,
        }
        gr.on([words.submit, button.click], _in_turn(self._ask), [*asked_last, words, *wanted], shown, **how)
        chips.ask(_in_turn(self._try), [*asked_last, *wanted], [words, *shown], **how)
        upload.upload(_in_turn(self._upload), [*asked_last, upload, *wanted], shown, **how)
        found.like(_in_turn(self._like), [*asked_last, state, *wanted], shown, **how)
        found.step(_in_turn(self._step), [*asked_last, state, *wanted], shown, **how)
        changed = [limit.release, relevance.release, filter.submit]
        gr.on(changed, _in_turn(self._again), [*asked_last, state, *wanted], shown, **how)

    def _insert_tab(self) -> None:
        with gr.Row(elem_classes="t2i-ask", equal_height=True):
            source = gr.Textbox(
                label="What to insert",
                show_label=False,
                placeholder="A folder, a glob, a table or an image on this machine",
                container=False,
                max_lines=1,
                scale=6,
                min_width=220,
                elem_id="t2i-source",
            )
            button = gr.Button("Insert", variant="primary", scale=1, min_width=110)
        run = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="t2i-run")
        gr.on(
            [source.submit, button.click],
            self._insert,
            source,
            run,
            concurrency_limit=1,
            show_progress="hidden",
            trigger_mode="once",
            api_visibility="private",
        )

    def _own(self, name: str, default: Any) -> Any:
        return self._settings.get(name, default)

    def _ask(self, text: str, *wanted: Any) -> Shown:
        return self._answer(lambda: self._finder.words(text, _wanted(wanted)))

    def _try(self, event: gr.EventData, *wanted: Any) -> tuple[str, str, Found | None]:
        text = self._examples[int(event.number)]
        return text, *self._ask(text, *wanted)

    def _upload(self, path: str, *wanted: Any) -> Shown:
        file = Path(path)
        try:
            content = file.read_bytes()
        finally:
            file.unlink(missing_ok=True)
        return self._answer(lambda: self._finder.image(content, file.name, _wanted(wanted)))

    def _like(self, event: gr.EventData, shown: Found | None, *wanted: Any) -> Shown:
        return self._answer(lambda: self._finder.like(_there(shown), int(event.rank), _wanted(wanted)))

    def _step(self, event: gr.EventData, shown: Found | None, *_wanted: Any) -> Shown:
        return self._answer(lambda: self._finder.page(_there(shown), int(event.step)))

    def _again(self, shown: Found | None, *wanted: Any) -> Shown:
        if shown is None:
            return markup.welcome(self._inserts), None
        return self._answer(lambda: self._finder.again(shown, _wanted(wanted)))

    def _answer(self, find: Callable[[], Found]) -> Shown:
        try:
            found = find()
            return markup.found(found), found
        except Exception as err:
            return markup.refused(self._sentence(err)), None

    def _insert(self, source: str) -> Iterator[str]:
        try:
            for run in finding.insert(source, self._settings):
                error = "" if run.error is None else self._sentence(run.error)
                yield markup.inserted(run, self._settings, error)
        except Exception as err:
            yield markup.refused(self._sentence(err))

    def _sentence(self, err: Exception) -> str:
        if isinstance(err, T2IError):
            return plainly(err, self._settings)
        log.exception("the page met an error that is not ours", exc_info=err)
        return UNFORESEEN


def _in_turn(answer: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Show no answer that is overtaken, as by words the search again that leaving an option begins."""

    @wraps(answer)
    def latest(*told: Any) -> tuple[Any, ...]:
        # where gradio gives an event, it is the first
        at = int(isinstance(told[0], gr.EventData))
        turn, asked = told[at : at + 2]
        asked.turn = max(asked.turn, turn)
        shown = answer(*told[:at], *told[at + 2 :])
        return shown if turn == asked.turn else tuple(gr.skip() for _ in shown)

    return latest


def _wanted(told: tuple[Any, ...]) -> Wanted:
    limit, min_relevance, filter = told
    return Wanted(int(limit), float(min_relevance), filter or "")


def _there(shown: Found | None) -> Found:
    if shown is None:
        raise QueryError("the page no longer knows what it shows; search again")
    return shown
