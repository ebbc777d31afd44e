"""How a collection is stored: chosen when it is made, and what a Milvus must be able to do for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypedDict

from t2i_pipelines.config.checks import check_one_of, check_whole_number
from t2i_pipelines.config.search import NUMBERS, TEXTS, check_field
from t2i_pipelines.errors import ConfigError

VectorType: TypeAlias = Literal["FLOAT_VECTOR", "FLOAT16_VECTOR"]
Version: TypeAlias = tuple[int, int]

AUTO = "AUTO"
"""Chosen by the number of rows, and again when that has grown. Not Milvus's AUTOINDEX."""

MAX_REPLICAS = 64

SINCE: dict[str, Version] = {
    "HNSW_SQ": (2, 5),
    "HNSW_PQ": (2, 5),
    "HNSW_PRQ": (2, 5),
    "IVF_RABITQ": (2, 6),
    "FLOAT16_VECTOR": (2, 4),
    "mmap": (2, 3),
    "partition_key": (2, 4),
    "replica_number": (2, 3),
}
"""The first Milvus in which each works; what is not here, the server may decide. From Milvus's release notes
and the pages of the indexes (HNSW_SQ "Compatible with Milvus 2.5.x", IVF_RABITQ "2.6.x"). A server 2.3 takes
FLOAT16_VECTOR, too, and finds wrong neighbours; and a partition key, but an upsert puts rows into partitions
where a search for the key does not look (milvus-io/milvus#30772)."""


LITE_LACKS = {
    "vector_type": "stores numbers of 32 bits only",
    "mmap": "holds every row in memory",
    "replica_number": "is one process",
}


class HowStored(TypedDict, total=False):
    """Keyword arguments of :class:`Storage`, but for the index."""

    vector_type: VectorType
    mmap: bool
    partition_key: str | None
    replica_number: int


class StorageArgs(HowStored, total=False):
    """What storing takes as keyword arguments; :class:`Storage` says what each means."""

    index_type: str


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a collection is stored. Looked at when it is made; one that is there stays as it is.

    :ivar index_type: ``AUTO`` is chosen by the number of rows, and again whenever they are flushed and have
        grown past a limit; see :mod:`t2i_pipelines.collection.schema`.
    :ivar vector_type: ``FLOAT16_VECTOR`` halves what vectors take in memory and on disk; a server's, from 2.4
        on.
    :ivar mmap: let a server keep on disk what it would hold in memory, and read it from there as needed; the
        index, too, from 2.4 on.
    :ivar partition_key: a metadata field, of text, by which a server sets rows apart: searches that ask for
        one value of it look at those rows alone. Where a row has none, it is the empty text. At most 255
        bytes.
    :ivar replica_number: query nodes that each hold all rows, 1 to 64: the more, the more searches a second.
    """

    index_type: str = AUTO
    vector_type: VectorType = "FLOAT_VECTOR"
    mmap: bool = False
    partition_key: str | None = None
    replica_number: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot work anywhere.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        object.__setattr__(self, "index_type", str(self.index_type).upper())
        check_one_of("vector_type", self.vector_type, VectorType)
        check_whole_number("replica_number", self.replica_number, MAX_REPLICAS)
        if not isinstance(self.mmap, bool):
            raise ConfigError(f"mmap must be True or False, got {self.mmap!r}")
        if self.partition_key is not None:
            check_field(self.partition_key, "partition_key")
            if self.partition_key in (*TEXTS, *NUMBERS) or not self.partition_key.isidentifier():
                raise ConfigError(
                    f"partition_key must be a field of your own, its name of letters, digits and _, such as "
                    f"'album'; got {self.partition_key!r}"
                )

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that are not left as they are."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}


def check_supported(storage: Storage, version: Version | None, where: str) -> None:
    """Pass if the Milvus can store a collection like this.

    :param version: of the server, (0, 0) if it did not tell one that can be read; None is Milvus Lite.
    :param where: its address, for the message.
    :raises ConfigError: Names the setting, the server's version and what it needs.
    """
    for name, value in storage.chosen.items():
        if version is None and name in LITE_LACKS:
            raise ConfigError(
                f"{name}={value!r} needs a Milvus server, and {where} is Milvus Lite, which "
                f"{LITE_LACKS[name]}; leave it out, or run a server"
            )
        needed = SINCE.get(value if name in ("index_type", "vector_type") else name)
        if version is not None and needed is not None and (0, 0) < version < needed:
            raise ConfigError(
                f"{name}={value!r} needs Milvus {_shown(needed)} or later, and {where} is {_shown(version)}; "
                f"leave it out, or update the server"
            )


def _shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
