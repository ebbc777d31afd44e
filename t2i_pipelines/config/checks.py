"""Checks that settings of every kind share."""

from __future__ import annotations

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
