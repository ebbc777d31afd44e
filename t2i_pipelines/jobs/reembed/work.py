"""Fill the new collection of a model swap from the old one, and check whether it may take over.

Each row of the old collection has one outcome, however often it is looked at.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from t2i_pipelines.collection import Collection, Ledger, aliases, check_exists, open_collection, schema
from t2i_pipelines.collection.catalog import Entry
from t2i_pipelines.collection.rows import FIELDS as OWN
from t2i_pipelines.config.settings import Target
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import CollectionNotFoundError, T2IError
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.jobs.sync import STAMP_FIELDS, Inventory, described
from t2i_pipelines.pipelines.build import checked, insert_arguments, run_insert
from t2i_pipelines.pipelines.report import STATUSES, InsertReport
from t2i_pipelines.types import Encoder, Outcome, Record, Space, content_of

MOST_FAILED = 0.01
"""Of the old rows; more need ``force=True``."""

SAMPLE = 200
"""Rows that are searched for by their own vectors."""

LEAST_FOUND = 0.99
"""Of the sample. An index that is not exact may miss one."""

ROUNDING = 1e-4
"""By which the cosine of a vector to itself may differ from 1."""

DEPTH = 10
AT_ONCE = 64


class Recall(NamedTuple):
    """The share of texts of which a right image is among the first 10 hits, 0 to 1.

    :ivar old: None where the old model cannot be loaded; ``reason`` tells why.
    """

    texts: int
    new: float
    old: float | None
    reason: str = ""

    def __str__(self) -> str:
        old = (
            f"the old model cannot be measured: {self.reason}"
            if self.old is None
            else f"{self.old:.3f} before"
        )
        return f"recall@{DEPTH} on {self.texts:,} texts: {self.new:.3f}, {old}"


@dataclass(frozen=True)
class Checks:
    """Results of the checks before the alias is moved.

    :ivar rows: of the old collection; :ivar stored: of the new one.
    :ivar failed: old rows that are not in the new one, because they could not be read or embedded.
    :ivar lost: old rows that are not in the new one for no known reason.
    :ivar sampled: rows that were searched for by their own vectors.
    :ivar found: how many of them came first; an image that is as near, as a copy is, may come before.
    :ivar recall: on the pairs that were given.
    """

    rows: int
    stored: int
    failed: int
    lost: int
    sampled: int
    found: int
    recall: Recall | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.stored:,} of {self.rows:,} rows are in the new collection",
            f"{self.found:,} of {self.sampled:,} find themselves first",
        ]
        return "\n".join([*lines, *([str(self.recall)] if self.recall else [])])

    def refusals(self, tolerance: float) -> list[str]:
        """Return why the new collection should not take the old one's place; empty if it may."""
        found = []
        if self.failed > MOST_FAILED * self.rows:
            found.append(
                f"{self.failed:,} of {self.rows:,} images failed, which is more than {MOST_FAILED:.0%}"
            )
        if self.lost or self.stored != self.rows - self.failed:
            found.append(f"{self.stored:,} rows are stored, and {self.rows - self.failed:,} should be")
        if self.found < LEAST_FOUND * self.sampled:
            found.append(f"only {self.found:,} of {self.sampled:,} rows find themselves")
        recall = self.recall
        if recall is not None and recall.old is not None and recall.new < recall.old - tolerance:
            found.append(
                f"recall@{DEPTH} fell from {recall.old:.3f} to {recall.new:.3f}, by more than {tolerance:g}"
            )
        return found


def find_themselves(collection: Collection, ids: Sequence[str]) -> int:
    """How many of these rows come first when searched for by their own vectors, or are as near as that."""
    rows = collection.rows(ids, ["vector"])
    known = [id for id in ids if id in rows]
    vectors = np.array([rows[id]["vector"] for id in known], np.float32).reshape(len(known), -1)
    found = 0
    for start in range(0, len(known), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        for id, hits in zip(known[some], collection.search(vectors[some], limit=DEPTH), strict=True):
            own = [hit for hit in hits if hit.id == id] or hits[-1:] * (len(hits) == DEPTH)
            found += bool(own) and own[0].score >= max(hits[0].score, 1.0) - ROUNDING
    return found


def recall(pairs: Pairs, new: Collection, encoder: Encoder, old: Collection, old_encoder: Any) -> Recall:
    """Return how well both find the images of these pairs.

    :param old_encoder: the old model, or the reason why there is none.
    """
    if isinstance(old_encoder, str):
        return Recall(len(pairs), _recall(pairs, new, encoder), None, old_encoder)
    return Recall(len(pairs), _recall(pairs, new, encoder), _recall(pairs, old, old_encoder))


def _recall(pairs: Pairs, collection: Collection, encoder: Encoder) -> float:
    found = 0
    for start in range(0, len(pairs.texts), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        vectors = encoder.encode_texts(pairs.texts[some])
        for right, hits in zip(pairs.shown[some], collection.search(vectors, limit=DEPTH), strict=True):
            found += bool({pairs.images[number] for number in right} & {hit.path for hit in hits})
    return found / len(pairs.texts)


OPEN = 0
"""The state of a row without outcome yet; others are one more than the outcome's place in ``STATUSES``."""

FAILED = STATUSES.index("failed") + 1


class Account(Inventory):
    """The rows of the old collection, and the outcome of each.

    A row is ``todo`` if it is new or changed since the look before, ``stored`` if the new collection has it.

    :param report: takes the outcomes; that of a row which is done again takes the place of the one before.
    :ivar stored: how many rows the new collection has.
    """

    def __init__(self, report: InsertReport, progress: Callable[[Outcome], object] | None) -> None:
        super().__init__([])
        for column in ("todo", "look", "stored"):
            self.ask(f"ALTER TABLE rows ADD COLUMN {column} INTEGER DEFAULT 0")
        self._looks = self.stored = 0
        self._report, self._progress = report, progress
        self._turn = threading.Lock()

    def look(self, pages: Iterable[list[Any]]) -> list[str]:
        """Take a new look at the old collection; return the ids that are gone since the last one."""
        self._looks += 1
        for page in pages:
            self.each(
                f"INSERT INTO rows (id, stamp, content, todo, look) VALUES (?, ?, ?, 1, {self._looks})"
                " ON CONFLICT (id) DO UPDATE SET todo = stamp != excluded.stamp"
                f" OR content != excluded.content OR state = {OPEN},"
                " stamp = excluded.stamp, content = excluded.content, look = excluded.look",
                map(described, page),
            )
        self._gone = dict(self.ask("SELECT id, state FROM rows WHERE look < ?", self._looks))
        self.ask("DELETE FROM rows WHERE look < ?", self._looks)
        return list(self._gone)

    def compare(self, pages: Iterable[list[Any]]) -> list[str]:
        """Take a look at the new collection; return the ids that the old one lacks."""
        self.ask("UPDATE rows SET stored = 0")
        self.stored, extra = 0, []
        for page in pages:
            ids = [row["id"] for row in page]
            self.each("UPDATE rows SET stored = 1 WHERE id = ?", ((id,) for id in ids))
            extra += sorted(set(ids) - self.of(ids).keys())
            self.stored += len(ids)
        return extra

    def sample(self, many: int) -> list[str]:
        """Return the ids of some stored rows, the same each time."""
        count = self.count("stored")
        places = ", ".join(map(str, random.Random(0).sample(range(1, count + 1), min(many, count))))
        numbered = "SELECT id, row_number() OVER (ORDER BY id) AS place FROM rows WHERE stored"
        return [id for (id,) in self.ask(f"SELECT id FROM ({numbered}) WHERE place IN ({places})")]

    def tell(self, outcome: Outcome) -> None:
        """Take the outcome of a row. Thread-safe."""
        with self._turn:
            known = self.ask("SELECT state FROM rows WHERE id = ?", outcome.id)
            state = known[0][0] if known else self._gone.pop(outcome.id, OPEN)
            if state != OPEN:
                self._take_back(outcome.id, state)
            self.mark([(STATUSES.index(outcome.status) + 1, outcome.id)])
            self._report.add(outcome)
        if self._progress is not None:
            self._progress(outcome)

    def missing(self) -> tuple[int, int]:
        """Return how many rows the new collection lacks: those that failed, and others."""
        failed = self.count(f"NOT stored AND state = {FAILED}")
        return failed, self.count("NOT stored") - failed

    def _take_back(self, id: str, state: int) -> None:
        report = self._report
        report.counts[STATUSES[state - 1]] -= 1
        report.rows[:] = [one for one in report.rows if one.id != id]
        if state == FAILED:
            report.failed[:] = [one for one in report.failed if one.id != id]


FIELDS = ("path", *Ledger._fields, "$meta")
"""All but the vector, and a partition key."""

ROWS_AT_ONCE = 1000
"""Rows that are looked up in the new collection at a time."""

FEW = 0.1
"""A share of the rows up to which they are looked up by id; for more, all are read."""


def to_embed(old: Collection, new: Collection, account: Account, only_new: bool = False) -> Iterator[Record]:
    """Yield the rows to do, as records; those that the new collection already has are reported as unchanged.

    :param only_new: a row that it has counts, also where it differs.
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
    """Return a stored row as it was before its file was read.

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
    if account.count("todo") <= FEW * len(account):
        for ids in account.ids("todo", ROWS_AT_ONCE):
            yield list(old.rows(ids, fields).values())
        return
    for page in old.scan(fields):
        for start in range(0, len(page), ROWS_AT_ONCE):
            some = page[start : start + ROWS_AT_ONCE]
            chosen = account.of([row["id"] for row in some], "todo")
            yield [row for row in some if row["id"] in chosen]


PASSES = 10
"""Looks for rows that changed meanwhile, before the alias is moved; another look comes after that."""


class Work:
    """The old collection, the new one, and the account of the outcomes."""

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
        # contents decide, since a file may have changed since it was stored in the old collection
        self._settings = {**settings, "collection_name": new, "refresh": True}
        self._account = Account(report, progress)

    def follow(self, space: Space) -> None:
        """Make the new collection equal to the old one, until that changes no more."""
        self.new.verify(space)
        self._look()
        self._embed()
        self._delete(self._compare())
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

    def check(self, encoder: Encoder, pairs: Pairs | None, target: Target) -> Checks:
        """Compare the collections."""
        self._compare()
        account = self._account
        failed, lost = account.missing()
        ids = account.sample(SAMPLE)
        found = find_themselves(self.new, ids)
        measured = None
        if pairs is not None:
            measured = recall(pairs, self.new, encoder, self.old, _old_model(self.old, target))
        return Checks(len(account), account.stored, failed, lost, len(ids), found, measured)

    def _look(self) -> list[str]:
        with self.report.clocks[0].busy("scan"), aliases.newest(self.old):
            return self._account.look(self.old.scan(STAMP_FIELDS))

    def _compare(self) -> list[str]:
        with aliases.newest(self.new):
            return self._account.compare(self.new.scan(()))

    def _embed(self, only_new: bool = False) -> bool:
        if not self._account.count("todo"):
            return False
        records = to_embed(self.old, self.new, self._account, only_new)
        if (first := next(records, None)) is not None:
            given = insert_arguments(*checked(self._settings))
            run_insert(chain([first], records), given, self._account.tell)
        return True

    def _delete(self, ids: list[str]) -> None:
        for start in range(0, len(ids), ROWS_AT_ONCE):
            some = ids[start : start + ROWS_AT_ONCE]
            rows = self.new.rows(some, ["path"])
            self.new.delete(some)
            for id in some:
                self._account.tell(Outcome(rows.get(id, {}).get("path", ""), id, "deleted", ""))


def _old_model(old: Collection, target: Target) -> Encoder | str:
    """Return the model that filled a collection, or why it is not to be had."""
    space = old.space()
    assert space is not None
    try:
        encoder = load_encoder(space.model_name, None, *target.lookup[2:])
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
