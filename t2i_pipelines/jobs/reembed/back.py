"""What a name stood for before: let it stand for that again, or delete it."""

from __future__ import annotations

from typing import Unpack

from t2i_pipelines.collection import Collection, aliases, open_collection
from t2i_pipelines.config.settings import SettingsArgs
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.jobs.reembed.work import by_name, entry_of
from t2i_pipelines.pipelines.build import checked


def roll_back(**settings: Unpack[SettingsArgs]) -> tuple[str, str]:
    """Let the name stand again for what it stood for before; nothing is embedded. Twice is forth again.

    What was inserted or deleted since is not in that collection; :func:`~t2i_pipelines.jobs.reembed.reembed`
    with its model moves the name back with all of it.

    :param settings: ``uri``, ``token``, ``collection_name`` and ``timeout``.
    :return: real names: what it stood for, what it stands for.
    :raises ConfigError: If it is no alias, or what it stood for is not there any more.
    """
    named, real_name, others = _others(settings)
    if not others:
        raise ConfigError(
            f"{named.name!r} stands for {real_name!r}, and for nothing before that is still there"
        )
    aliases.move(named, others[0])
    aliases.wait_for_others(named)
    return real_name, others[0]


def drop_old(**settings: Unpack[SettingsArgs]) -> list[str]:
    """Delete the collections that the name stood for before. Searches by their models fail from then on.

    :param settings: ``uri``, ``token``, ``collection_name`` and ``timeout``.
    :return: their real names.
    """
    _, _, others = _others(settings)
    for name in others:
        by_name(checked(settings)[1], name).drop()
    return others


def _others(settings: SettingsArgs) -> tuple[Collection, str, list[str]]:
    """The collection by its name, what that stands for, and what it stood for before and is there."""
    _, place, _ = checked(settings)
    named = open_collection(**place)
    entry = entry_of(named, place)
    return named, entry.real_name, [name for name in entry.beside if by_name(place, name).space() is not None]
