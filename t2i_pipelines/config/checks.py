"""Checks that several settings share, and prompt templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args

from t2i_pipelines.errors import ConfigError


def check_known(kind: Any, settings: dict[str, Any]) -> None:
    """Check that keyword arguments are fields of a dataclass.

    :raises ConfigError: If one is not; the message lists the known.
    """
    known = [one.name for one in fields(kind)]
    if unknown := sorted(settings.keys() - set(known)):
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known settings are {', '.join(known)}")


def check_one_of(name: str, value: object, kind: Any) -> None:
    """Check that a setting is one of the values of a ``Literal``.

    :raises ConfigError: If it is not; the message lists them.
    """
    if value not in get_args(kind):
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}")


def check_whole_number(name: str, value: object, highest: int, *, lowest: int = 1) -> None:
    """Check that a setting is an int from ``lowest`` to ``highest``.

    :raises ConfigError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    if not lowest <= value <= highest:
        raise ConfigError(f"{name} must be between {lowest} and {highest}, got {value}")


def check_share(name: str, value: object, *, lowest: float = 0.0, optional: bool = False) -> None:
    """Check that a setting is a number from ``lowest`` to 1, or None where it may be left out.

    :raises ConfigError: If it is not.
    """
    if value is None and optional:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= 1:
        raise ConfigError(f"{name} must be a number from {lowest:g} to 1, got {value!r}")


PHOTO = (
    "a photo of {}.",
    "a good photo of {}.",
    "a bad photo of {}.",
    "a close-up photo of {}.",
    "a cropped photo of {}.",
    "a bright photo of {}.",
    "a dark photo of {}.",
    "a blurry photo of {}.",
)
"""Those of the 80 prompts of Radford et al. 2021 ("Learning Transferable Visual Models From Natural Language
Supervision", section 3.1.4) that tell how a photograph was taken, without the article before the class: a
query such as "a white dog" brings its own. The prompts are those of OpenAI's
``notebooks/Prompt_Engineering_for_ImageNet.ipynb``.
"""

NAMED = {"photo": PHOTO}


def templates_of(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates of a setting; none is the text as it is.

    :param templates: ``photo``, a text with ``{}``, or several of these.
    :raises ConfigError: If one is neither.
    """
    given = [templates] if isinstance(templates, str) else list(templates)
    chosen: list[str] = []
    for one in given:
        if not isinstance(one, str) or (one not in NAMED and one.count("{}") != 1):
            raise ConfigError(
                f"templates must be 'photo' or texts of your own with one {{}} each, for example "
                f"'a drawing of {{}}'; got {one!r}"
            )
        chosen += NAMED.get(one, (one,))
    return tuple(chosen) or ("{}",)


def filled(templates: Sequence[str], text: str) -> list[str]:
    """The text in each of the templates."""
    return [one.replace("{}", text) for one in templates]
