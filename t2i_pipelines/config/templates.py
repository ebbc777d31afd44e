"""Texts that each text of a query is put into."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_pipelines.errors import ConfigError

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
