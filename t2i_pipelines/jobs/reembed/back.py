"""Switch a name back to its earlier target, or delete that."""

from __future__ import annotations

from typing import Unpack

from t2i_pipelines.collection import Collection, aliases, open_collection
from t2i_pipelines.config.settings import SettingsArgs
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.jobs.reembed.work import by_name, entry_of
from t2i_pipelines.pipelines.build import checked


def roll_back(**settings: Unpack[SettingsArgs]) -> tuple[str, str]:
    """Switch the name back to its earlier target; nothing is embedded. A second call switches forth again.

    What was inserted or deleted since is not in that collection; :func:`~t2i_pipelines.jobs.reembed.reembed`
    with its model moves the name back with all of it.

    :param settings: ``uri``, ``token``, ``collection_name`` and ``timeout``.
    :return: real names of the target before and after.
    :raises ConfigError: If it is no alias, or its earlier target is gone.
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
    """Delete the earlier targets of the name. Searches by their models fail from then on.

    :param settings: ``uri``, ``token``, ``collection_name`` and ``timeout``.
    :return: their real names.
    """
    _, _, others = _others(settings)
    for name in others:
        by_name(checked(settings)[1], name).drop()
    return others


def _others(settings: SettingsArgs) -> tuple[Collection, str, list[str]]:
    """Return the collection by its name, its target, and its earlier targets that are there."""
    _, place, _ = checked(settings)
    named = open_collection(**place)
    entry = entry_of(named, place)
    return named, entry.real_name, [name for name in entry.beside if by_name(place, name).space() is not None]
