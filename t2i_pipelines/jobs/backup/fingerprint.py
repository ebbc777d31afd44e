"""One digest of many rows, in whatever order they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from t2i_pipelines.collection.rows import FIELDS

BYTES = 32


class Fingerprint:
    """Counts rows and sums up their digests, so that their order and their pages do not matter.

    A row's digest is BLAKE2b, 32 bytes, of its vector as little-endian float32, followed by a JSON list of
    id, path, size, mtime, digest and metadata with sorted names. The sum is taken modulo 2**256, which is
    AdHash of Bellare and Micciancio, "A New Paradigm for Collision-free Hashing", 1997. It finds every
    accident; against forgery it is not meant.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows as a collection gives and takes them; a missing value and None are the same."""
        for row in rows:
            vector = np.ascontiguousarray(row["vector"], "<f4").tobytes()
            fields = [row["id"], row["path"], row["size"], row["mtime"], row["digest"], metadata(row)]
            text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            digest = blake2b(vector + text.encode(), digest_size=BYTES).digest()
            self._sum = (self._sum + int.from_bytes(digest)) % (1 << 8 * BYTES)
            self.rows += 1

    def hexdigest(self) -> str:
        """64 hex digits; zeros without a row."""
        return self._sum.to_bytes(BYTES).hex()


def metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row holds beside the fields that every row has."""
    return {name: value for name, value in row.items() if name not in FIELDS and value is not None}
