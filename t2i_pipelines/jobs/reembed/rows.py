"""Rows of the old collection, to be embedded again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from t2i_pipelines.collection import Collection, Ledger, aliases
from t2i_pipelines.collection.rows import FIELDS as OWN
from t2i_pipelines.jobs.reembed.account import Account
from t2i_pipelines.types import Outcome, Record, content_of

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
