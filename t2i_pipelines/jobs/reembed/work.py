"""The old collection, the new one, and what is done to make them equal.

Rows of the old collection, to be embedded again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from t2i_pipelines._towhee.door import pipe
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.collection import Collection, Ledger, aliases, check_exists, open_collection, schema
from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.collection.rows import FIELDS as OWN
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import CollectionNotFoundError, T2IError
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.images.packed import find
from t2i_pipelines.jobs.reembed.checking import SAMPLE, Account, Checks, find_themselves, recall
from t2i_pipelines.jobs.sync.inventory import STAMP_FIELDS, Inventory
from t2i_pipelines.pipelines.build import OUTCOME_COLUMNS, insert_steps
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Encoder, Outcome, Record, Space, content_of

FIELDS = ("path", *Ledger._fields, "$meta")
"""All but the vector, and a partition key."""

AT_ONCE = 1000
"""Rows that are looked up in the new collection at a time."""

FEW = 0.1
"""A share of the rows up to which they are looked up by id; for more, all are read."""


def to_embed(old: Collection, new: Collection, account: Account, only_new: bool = False) -> Iterator[Record]:
    """The rows to do, as records; those that the new collection has already are told to be unchanged.

    :param only_new: whatever it has under an id counts, also what is not the same.
    """
    for rows in _chosen(old, account):
        stored = new.ledger([row["id"] for row in rows])
        for row in rows:
            known = stored.get(row["id"])
            if known is not None and (only_new or known == Ledger(row["size"], row["mtime"], row["digest"])):
                account.tell(Outcome(row["path"], row["id"], "unchanged", ""))
            else:
                yield record_of(row)


def record_of(row: Mapping[str, Any]) -> Record:
    """A stored row as it was before its file was read.

    Size and time stay what they were, whatever the file's are now: a later ``sync`` sees whether it changed.
    """
    digest = row["digest"]
    return Record(
        row["path"],
        row["id"],
        metadata={name: value for name, value in row.items() if name not in OWN and value is not None},
        size=row["size"],
        mtime=row["mtime"],
        digest=digest[len(content_of(digest)) :],
    )


def _chosen(old: Collection, account: Account) -> Iterator[list[dict[str, Any]]]:
    found = aliases.entry_of(old)
    key = found.storage.partition_key if found is not None else None
    fields = FIELDS if key is None else (*FIELDS, key)
    if account.todo.sum() <= FEW * len(account.rows):
        for ids in account.ids_to_do(AT_ONCE):
            yield list(old.rows(ids, fields).values())
        return
    for page in old.scan(fields):
        for start in range(0, len(page), AT_ONCE):
            some = page[start : start + AT_ONCE]
            chosen = account.is_to_do([row["id"] for row in some])
            yield [row for row, is_chosen in zip(some, chosen, strict=True) if is_chosen]


PASSES = 10
"""Looks for rows that changed meanwhile, before the alias is moved; another look comes after that."""


class Work:
    """The old collection, the new one, and the account of what was done."""

    def __init__(
        self,
        place: dict[str, Any],
        old: str,
        new: str,
        settings: dict[str, Any],
        report: InsertReport,
        progress: Callable[[Outcome], object] | None,
    ) -> None:
        self.old = by_name(place, old)
        self.new = by_name(place, new)
        self.report = report
        # contents decide, since a file may have changed without the old collection being told
        self._settings = {**settings, "collection_name": new, "refresh": True}
        self._account = Account(report, progress)

    def follow(self, space: Space) -> None:
        """Make the new collection equal to the old one, until that changes no more."""
        self.new.verify(space)
        self._look()
        self._embed()
        known = self._account.rows
        stored = self._stored()
        extra = find(known.keys, stored.keys) < 0
        self._delete([stored.ids.unpack(key) for key in stored.keys[extra]])
        for _ in range(PASSES):
            if not self.catch_up():
                return

    def catch_up(self) -> bool:
        """Do what changed in the old collection since it was last looked at; tell whether anything did."""
        gone = self._look()
        self._delete(gone)
        return self._embed() or bool(gone)

    def complete(self) -> None:
        """Insert the rows that the new collection lacks, and change no other: others write to it already."""
        self._look()
        self._embed(only_new=True)

    def check(self, encoder: Encoder, pairs: Pairs | None, model: dict[str, Any]) -> Checks:
        """Compare the collections."""
        stored = self._stored()
        failed, lost = self._account.missing(stored)
        chosen = random.Random(0).sample(range(len(stored)), min(SAMPLE, len(stored)))
        ids = [stored.ids.unpack(stored.keys[number]) for number in chosen]
        found = find_themselves(self.new, ids)
        measured = None
        if pairs is not None:
            measured = recall(pairs, self.new, encoder, self.old, _old_model(self.old, model))
        return Checks(len(self._account.rows), len(stored), failed, lost, len(ids), found, measured)

    def _look(self) -> list[str]:
        with self.report.clocks[0].busy("scan"), aliases.newest(self.old):
            return self._account.look(Inventory(self.old.scan(STAMP_FIELDS)))

    def _stored(self) -> Inventory:
        with aliases.newest(self.new):
            return Inventory(self.new.scan(STAMP_FIELDS))

    def _embed(self, only_new: bool = False) -> bool:
        if not self._account.todo.any():
            return False
        records = to_embed(self.old, self.new, self._account, only_new)
        if (first := next(records, None)) is not None:
            steps = insert_steps(pipe.input("source"), **self._settings)
            steps = steps.map(OUTCOME_COLUMNS, (), lambda *row: self._account.tell(Outcome(*row)))
            harden(steps.output())(chain([first], records))
        return True

    def _delete(self, ids: list[str]) -> None:
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            rows = self.new.rows(some, ["path"])
            self.new.delete(some)
            for id in some:
                self._account.tell(Outcome(rows.get(id, {}).get("path", ""), id, "deleted", ""))


def _old_model(old: Collection, model: dict[str, Any]) -> Encoder | str:
    """The model that filled a collection, or why it is not to be had."""
    space = old.space()
    assert space is not None
    try:
        encoder = load_encoder(**{**model, "model_name": space.model_name, "checkpoint_path": None})
        schema.check_same(space, encoder.space, repr(old))
    except T2IError as err:
        return str(err)
    return encoder


def by_name(place: dict[str, Any], collection_name: str) -> Collection:
    """Another collection of the same database."""
    return open_collection(**{**place, "collection_name": collection_name})


def entry_of(named: Collection, place: dict[str, Any]) -> Entry:
    """Return the alias target of a collection's name.

    :raises CollectionNotFoundError: With the collections that there are, if there is none of that name.
    """
    if (entry := aliases.entry_of(named)) is None:
        check_exists(place["uri"], place["token"], named.name)
        raise CollectionNotFoundError(f"{named} was not there when it was asked for; try again")
    return entry
