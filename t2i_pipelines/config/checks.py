"""Declare a setting once: its default, help, check and command-line option; and prompt templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import FrozenInstanceError, dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Self, TypeVar, cast, get_args

from t2i_pipelines.errors import ConfigError

T = TypeVar("T")

Check = Callable[[str, Any], None]
"""Refuses a value by :class:`~t2i_pipelines.errors.ConfigError`: (name, value) -> nothing."""

NEAR = 0.62
"""How alike two names must be for one to be a slip for the other: ``model`` is near ``model_name``, and
``top_k`` is not near ``token``."""


@dataclass(frozen=True, kw_only=True)
class Cli:
    """How a setting is written on the command line, where its name and type do not tell.

    :ivar flags: names of the option; ``--name`` if empty.
    :ivar kind: the type that the option is read as; that of the setting if None.
    :ivar default: the option's default, in place of the setting's.
    :ivar convert: makes the setting of what was read.
    :ivar envvar: the environment variable that is read, too.
    :ivar help: in place of the first sentence of the setting's help.
    """

    flags: tuple[str, ...] = ()
    kind: Any = None
    default: Any = None
    convert: Callable[[Any], Any] | None = None
    envvar: str | None = None
    help: str = ""


REPEATABLE = Cli(kind=list[str], convert=lambda given: tuple(given or ()))
"""An option that may be given several times."""


def setting(
    default: Any, help: str, check: Check | None = None, *, cli: Cli | None = None, **more: Any
) -> Any:
    """Declare a field of settings. All doors are derived from it: see :class:`Checked`.

    :param help: what it means, its unit and range. The first sentence is the help of the command line and
        of the HTTP service.
    :param check: refuses a wrong value.
    :param more: arguments of :func:`dataclasses.field`.
    """
    return field(default=default, metadata={"help": help, "check": check, "cli": cli or Cli()}, **more)


def first_sentence(help: str) -> str:
    """Return the first sentence, without the marks of code."""
    return re.split(r"(?<=\.)\s", help)[0].replace("``", "")


def described(kind: type[T]) -> type[T]:
    """Add the help of each field to the docstring of a class of settings, for ``help()``."""
    lines = [f":ivar {one.name}: {one.metadata['help']}" for one in fields(cast(Any, kind))]
    kind.__doc__ = "\n\n".join([kind.__doc__ or "", "\n".join(lines)])
    return kind


@dataclass(kw_only=True)
class Checked:
    """Settings that are checked as soon as they are given.

    A dataclass that is derived from this declares each of its fields by :func:`setting`, and nothing else has
    to name them: signatures of builders, command-line options, the fields of the HTTP service, the
    ``TypedDict`` for editors (``config/args.py``) and ``docs/reference/settings.md`` follow from it. ``make
    reference`` writes the last two.
    """

    is_frozen: ClassVar[bool] = True
    """Whether settings stay as they were checked."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        for one in fields(self):
            if (check := one.metadata.get("check")) is not None:
                check(one.name, getattr(self, one.name))
        self.__dict__["is_checked"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, before the check alone where the class is frozen."""
        if self.is_frozen and "is_checked" in self.__dict__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}; make another by dataclasses.replace")
        super().__setattr__(name, value)

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Build from keyword arguments.

        :raises ConfigError: If one is unknown; the message lists the known.
        """
        check_known(cls, given)
        return cls(**given)

    def part(self, kind: type[T]) -> T:
        """Return the settings of one of the classes that these are made of, without checking them again."""
        part = object.__new__(kind)
        # copies: lists and mappings of the caller may change
        values = {one.name: deepcopy(getattr(self, one.name)) for one in fields(cast(Any, kind))}
        part.__dict__.update(values, is_checked=True)
        return part


def check_known(kind: Any, settings: dict[str, Any]) -> None:
    """Check that keyword arguments are fields of a dataclass.

    :raises ConfigError: If one is not; the message names the nearest, and lists the known.
    """
    known = [one.name for one in fields(kind)]
    if unknown := sorted(settings.keys() - set(known)):
        nearest = [near for one in unknown for near in get_close_matches(one, known, 1, NEAR)]
        hint = f" (did you mean {', '.join(nearest)}?)" if nearest else ""
        raise ConfigError(
            f"unknown setting {', '.join(unknown)}{hint}; known settings are {', '.join(known)}"
        )


def check_one_of(name: str, value: object, kind: Any) -> None:
    """Check that a setting is one of the values of a ``Literal``.

    :raises ConfigError: If it is not; the message lists them.
    """
    if value not in get_args(kind):
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}")


def check_whole_number(
    name: str, value: object, highest: int, *, lowest: int = 1, optional: bool = False
) -> None:
    """Check that a setting is an int from ``lowest`` to ``highest``, or None where it may be left out.

    :raises ConfigError: If it is not.
    """
    if value is None and optional:
        return
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


def by_value(check: Callable[[Any], object]) -> Check:
    """Return the check of a function that takes the value alone."""

    def by_name_and_value(name: str, value: Any) -> None:
        check(value)

    return by_name_and_value


def one_of(kind: Any) -> Check:
    """Return the check of a ``Literal``."""
    return partial(check_one_of, kind=kind)


def whole_number(highest: int, *, lowest: int = 1, optional: bool = False) -> Check:
    """Return the check of an int from ``lowest`` to ``highest``, or None where it may be left out."""
    return partial(check_whole_number, highest=highest, lowest=lowest, optional=optional)


def share(*, lowest: float = 0.0, optional: bool = False) -> Check:
    """Return the check of a number from ``lowest`` to 1, or None where it may be left out."""
    return partial(check_share, lowest=lowest, optional=optional)


def number(*, above_zero: bool = False, optional: bool = False) -> Check:
    """Return the check of a finite number of at least 0, or None where it may be left out."""

    def check(name: str, value: Any) -> None:
        if value is None and optional:
            return
        fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
        if not fine or (above_zero and not value):
            raise ConfigError(f"{name} must be {'more than' if above_zero else 'at least'} 0, got {value!r}")

    return check


def seconds(name: str, value: Any) -> None:
    """Check that a setting is a number of seconds above 0.

    :raises ConfigError: If it is not.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not float(value) > 0:
        raise ConfigError(f"{name} must be more than 0 seconds, got {value!r}")


def flag(name: str, value: Any) -> None:
    """Check that a setting is True or False.

    :raises ConfigError: If it is not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")


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
    """Return the text in each of the templates."""
    return [one.replace("{}", text) for one in templates]
