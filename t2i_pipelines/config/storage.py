"""How a collection is stored: chosen when it is made, and what a Milvus must be able to do for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from t2i_pipelines.config.checks import Checked, described, flag, one_of, setting, whole_number
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


def _check_partition_key(name: str, value: Any) -> None:
    if value is None:
        return
    check_field(value, name)
    if value in (*TEXTS, *NUMBERS) or not value.isidentifier():
        raise ConfigError(
            f"{name} must be a field of your own, its name of letters, digits and _, such as 'album'; "
            f"got {value!r}"
        )


@described
@dataclass(kw_only=True, unsafe_hash=True)
class Storage(Checked):
    """How a new collection is stored. One that is there stays as it is."""

    index_type: str = setting(
        AUTO,
        "Index of a new collection. AUTO follows the number of images. It is chosen again whenever rows are "
        "flushed and have grown past a limit; see :mod:`t2i_pipelines.collection.schema`.",
    )
    vector_type: VectorType = setting(
        "FLOAT_VECTOR",
        "Vector type of a new collection: FLOAT_VECTOR, or FLOAT16_VECTOR on a server from 2.4 on. The "
        "second halves what vectors take in memory and on disk.",
        one_of(VectorType),
    )
    mmap: bool = setting(
        False,
        "Let a server read a new collection from disk as needed. The index, too, from 2.4 on.",
        flag,
    )
    partition_key: str | None = setting(
        None,
        "Partition key of a new collection: a column that searches filter by. Metadata, of text, at most 255 "
        "bytes; a server sets rows apart by it, and such searches look at the rows of that value alone. A "
        "row without it has the empty text.",
        _check_partition_key,
    )
    replica_number: int = setting(
        1,
        "Number of query nodes that hold all of a new collection. 1 to 64; the more, the more searches "
        "a second.",
        whole_number(MAX_REPLICAS),
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work anywhere.

        :raises ConfigError: With the setting, its value and what it may be.
        """
        self.index_type = str(self.index_type).upper()
        super().__post_init__()

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that are not left as they are."""
        own = fields(Storage)
        return {one.name: value for one in own if (value := getattr(self, one.name)) != one.default}


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
