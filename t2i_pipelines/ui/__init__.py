"""A page to search with and insert by, on this machine alone: ``build_ui(search).launch()``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.errors import ConfigError, MissingExtraError
from t2i_pipelines.pipelines.build import shows_settings
from t2i_pipelines.pipelines.searcher import Searcher

if TYPE_CHECKING:
    from t2i_pipelines.ui.app import Page

__all__ = ["build_ui"]

QUERIES = (
    "a cat",
    "una tarta de cumpleaños y un globo",
    "公共汽车",
    "ein Schmetterling",
    "un ponte",
    "a rocket at night",
    "una moto roja",
    "a hamburger and french fries",
)
TITLE = "Type words, get the matching images"

EXAMPLES = QUERIES[:5]
"""One in each of five languages."""


@shows_settings
def build_ui(
    search: Searcher | None = None,
    *,
    title: str = TITLE,
    examples: Sequence[str] = EXAMPLES,
    insert: bool = True,
    **settings: Unpack[SettingsArgs],
) -> Page:
    """Build the page: ``build_ui(search).launch()``, or ``build_ui(uri="milvus.db").launch()``.

    It is a ``gradio.Blocks``; ``launch`` serves it on 127.0.0.1 alone, and it calls no other host.

    :param search: what finds and, by the same settings, inserts; or give the settings themselves.
    :param title: the heading.
    :param examples: queries to try by a click; none for no examples.
    :param insert: whether images can be inserted, too. Each visitor of the page can then insert what this
        process may read.
    :param settings: see :class:`t2i_pipelines.config.Settings`.
    :raises ConfigError: If a setting is wrong, or there are a searcher and settings.
    :raises MissingExtraError: If gradio is not installed.
    """
    if search is not None and settings:
        raise ConfigError(f"give a searcher or settings, not both; got {', '.join(sorted(settings))} as well")
    try:
        from t2i_pipelines.ui.app import Page
    except ImportError as err:
        raise MissingExtraError.of("gradio", "ui") from err
    return Page(search or Searcher(**settings), title, tuple(examples), insert)
