"""A real Chromium without a window, and the `t2i ui` that it looks at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = (
    "no Chromium; install it, for example: apt-get install chromium, or name it: CHROMIUM=/path/to/chrome"
)
LOOPBACK = {"127.0.0.1"}

GALLERY = Path(__file__).parent.parent / "data" / "gallery"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}


def chromium() -> str:
    """Where the browser is that the system has. None is ever downloaded."""
    named = [os.environ.get("CHROMIUM", ""), *NAMES]
    found = next(filter(None, map(shutil.which, filter(None, named))), None)
    if found is None:
        raise RuntimeError(MISSING)
    return found


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser of playwright's."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox refuses root, which CI often is
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=root)
        try:
            yield browser
        finally:
            browser.close()


LEFT = ("AbortError: signal is aborted", "Unexpected error Connection errored out.")


class Visit:
    """One tab, and a record of what it asked for.

    :ivar page: of playwright's.
    :ivar outside: what it asked of other hosts; nothing of that was answered.
    :ivar complaints: errors of its scripts, and what its policy refused.
    """

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(60_000)
        self.outside: list[str] = []
        self.complaints: list[str] = []
        self.context.route("**/*", self._pass)
        self.page = self.context.new_page()
        self.page.on("websocket", lambda socket: self._note(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("framenavigated", lambda _: self._left())
        # playwright catches file dialogs while somebody listens, and begins with that only some time later
        self.page.on("filechooser", lambda _: None)
        self.page.goto(url)
        # the page takes the focus there once it listens
        self.page.wait_for_function("document.activeElement?.matches('#t2i-words input')")
        # and answers the search that its address tells
        self.page.locator("#t2i-found [data-turn]").wait_for()

    @property
    def words(self) -> Any:
        return self.page.get_by_label("What an image should show")

    @property
    def hits(self) -> Any:
        return self.page.locator("#t2i-found .t2i-hit:visible")

    def names(self) -> list[str]:
        return self.page.locator("#t2i-found .t2i-name:visible").all_inner_texts()

    def ask(self, text: str) -> None:
        """Type a query and wait for its results."""
        self.words.fill(text)
        self.words.press("Enter")
        self.wait_for_heading(text)

    def wait_for_heading(self, text: str) -> None:
        self.page.locator("#t2i-found h2", has_text=text).wait_for()

    def _pass(self, route: Any) -> None:
        if self._note(route.request.url):
            route.continue_()
        else:
            route.abort()

    def _note(self, url: str) -> bool:
        own = urlsplit(url).hostname in LOOPBACK or urlsplit(url).scheme in ("data", "blob")
        if not own:
            self.outside.append(url)
        return own

    def _left(self) -> None:
        """Forget what Gradio says when a page is left while it listens to the server."""
        self.complaints[:] = [one for one in self.complaints if not one.startswith(LEFT)]

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} {message.location.get('url', '')}".strip())


@contextmanager
def serving_ui(*arguments: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `t2i ui`; give its URL and the process. The file UI_CONTACTS gets the other hosts it speaks to."""
    Path(environment["UI_CONTACTS"]).touch()
    # this checkout, whichever one is installed
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    program = [sys.executable, str(Path(__file__).with_name("ui_server.py")), "ui", *map(str, arguments)]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(program, env={**os.environ, **environment}, **pipes) as process:
        try:
            said = []
            for line in process.stderr or ():
                said.append(line)
                if url := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    yield url[0], process
                    break
            else:
                raise AssertionError("".join(said))
        finally:
            process.terminate()
