"""Embed the images of a collection with another model, switch the alias to the result, or switch it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

from t2i_pipelines.collection import Collection, aliases, open_collection
from t2i_pipelines.collection.catalog import generation
from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.config.checks import check_share
from t2i_pipelines.encoders import load_encoder, load_space
from t2i_pipelines.errors import ConfigError, SwapRefusedError
from t2i_pipelines.evaluate.pairs import AnyPairs, Pairs
from t2i_pipelines.jobs.reembed.work import Checks, Work, by_name, entry_of
from t2i_pipelines.pipelines.build import checked, shows_settings
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.search.relevance import calibration_of
from t2i_pipelines.types import Outcome, Stopwatch

UNFINISHED = "t2i_pipelines.catch_up_from"
"""A note in the new collection: which one it must still be compared with."""


@dataclass(frozen=True)
class Reembedding:
    """The result of :func:`reembed`.

    :ivar report: one outcome for each row of the old collection, and ``deleted`` for each that is gone.
    :ivar old: the real name of the earlier target.
    :ivar new: the real name of the target now.
    :ivar checks: results of the checks before the alias was moved; None where there was nothing to do.
    """

    report: InsertReport
    old: str
    new: str
    checks: Checks | None

    def __str__(self) -> str:
        return "\n".join(map(str, filter(None, [self.report, self.checks])))


@shows_settings
def reembed(
    *,
    pairs: AnyPairs | None = None,
    tolerance: float = 0.02,
    force: bool = False,
    report: InsertReport | None = None,
    progress: Callable[[Outcome], object] | None = None,
    **settings: Unpack[SettingsArgs],
) -> Reembedding:
    """Embed the images of a collection by another model: ``reembed(uri="milvus.db", model_name="RN50")``.

    The images are read again, from where they were read before, into a new collection beside the old one,
    with the ids, metadata, sizes, times and digests that they have. Rows that it has are skipped, so a
    run that was killed is ended by the next. Rows that others insert into the old one or delete from it are
    followed. It is stored as the old one is, where the settings do not say otherwise, but for its index.
    Then the new collection is checked, and the name, an alias, is moved to it. A collection whose
    name is no alias yet is given another name first, and its own becomes the alias.

    Searches go on all the time. A search by the old model goes to the old collection, also when the name is
    moved, until it is built again with the new model, or :func:`drop_old` ends that; one by ``"auto"`` takes
    the new model with its next query. So vectors of two models are never compared. Inserts by the old model
    are refused as soon as the name is moved. All of this holds for processes that use this library, and at
    most 6 seconds pass until each has seen it.

    :param pairs: images and their texts, see :meth:`~t2i_pipelines.evaluate.Pairs.of`: recall@10 of both
        collections is measured on them.
    :param tolerance: by how much recall@10 may fall, 0 to 1.
    :param force: move the name whatever the checks find.
    :param report: to be filled, in place of a new one.
    :param progress: called with each :class:`~t2i_pipelines.types.Outcome` as soon as it is known.
    :param settings: see :class:`t2i_pipelines.config.Settings`; ``model_name`` is the new model.
    :raises SwapRefusedError: If more than one in a hundred images failed, or rows are missing, do not find
        themselves, or recall fell. Nothing is moved, and the new collection stays for the next run.
    :raises CollectionNotFoundError: If there is no such collection.
    :raises ConfigError: If a setting is wrong.
    """
    target, _ = checked(settings)
    place = target.place
    check_share("tolerance", tolerance)
    asked = None if pairs is None else Pairs.of(pairs)
    report = InsertReport() if report is None else report
    report.clocks.append(Stopwatch())
    named = open_collection(**place)
    entry_of(named, place)
    encoder = load_encoder(*target.lookup)
    old_name = aliases.make_alias(named)
    new_name = generation(named.name, encoder.space)
    is_done = (space := named.space()) is not None and generation(named.name, space) == new_name
    new_name = old_name if is_done else new_name
    found_as = aliases.entry_of(named)
    kept = found_as.storage.chosen if found_as is not None else {}
    work = Work({**kept, **place}, old_name, new_name, dict(settings), report, progress)
    if is_done:
        return _ended(work, place)
    work.new.prepare(load_space(*target.lookup))
    work.follow(encoder.space)
    found = work.check(encoder, asked, target)
    if (refusals := found.refusals(tolerance)) and not force:
        raise SwapRefusedError(
            f"{named.name!r} stays with {old_name!r}, since in {work.new.name!r} {'; '.join(refusals)}; mend "
            f"that and run it again, or take force=True, or --force"
        )
    calibration_of(work.new, encoder)  # the first to search would wait for it
    work.new.write_note(UNFINISHED, old_name)
    aliases.move(named, work.new.name)
    aliases.wait_for_others(named)
    work.catch_up()
    work.new.write_note(UNFINISHED, "")
    return Reembedding(report, old_name, work.new.name, found)


def _ended(work: Work, place: dict[str, Any]) -> Reembedding:
    """Complete a run that was killed after the name was switched."""
    before = work.new.read_note(UNFINISHED)
    if before:
        work.old = by_name(place, before)
        work.complete()
        work.new.write_note(UNFINISHED, "")
    else:
        work.report.note = (
            f"{place['collection_name']!r} is of this model already, so there was nothing to do"
        )
    return Reembedding(work.report, before or work.new.name, work.new.name, None)


def roll_back(**settings: Unpack[SettingsArgs]) -> tuple[str, str]:
    """Switch the name back to its earlier target; nothing is embedded. A second call switches forth again.

    Changes since then are not in that collection; :func:`~t2i_pipelines.jobs.reembed.reembed`
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
        by_name(checked(settings)[0].place, name).drop()
    return others


def _others(settings: SettingsArgs) -> tuple[Collection, str, list[str]]:
    """Return the collection by its name, its target, and its earlier targets that are there."""
    place = checked(settings)[0].place
    named = open_collection(**place)
    entry = entry_of(named, place)
    return named, entry.real_name, [name for name in entry.beside if by_name(place, name).space() is not None]
