"""Ids and digests as 16 bytes each, in NumPy arrays: what ten million rows fit into memory as."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.bytes_]
"""(N,) of 16 bytes. NumPy cuts zero bytes off the end of an element; :func:`whole` puts them back."""

SIZE = 16
_RECENT = 65_536


def packed(values: Sequence[bytes]) -> Packed:
    """N values of 16 bytes -> (N,)."""
    return np.array(values, f"S{SIZE}")


def whole(value: bytes) -> bytes:
    """Return an element of a packed array, with all its 16 bytes."""
    return value.ljust(SIZE, b"\0")


def find(sorted_keys: Packed, wanted: Packed, sorter: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """For each wanted key its place, -1 where it is not among the sorted keys.

    :param sorter: the order that sorts ``sorted_keys``, where they do not lie in order; the places are
        then those in ``sorted_keys``.
    """
    if not len(sorted_keys):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(sorted_keys, wanted, sorter=sorter), len(sorted_keys) - 1)
    if sorter is not None:
        places = sorter[places]
    return np.where(sorted_keys[places] == wanted, places, -1)


class Ids:
    """Ids to 16 bytes and back.

    The ids that are made from paths are 32 hex digits, and pack without loss. Any other is packed as
    its BLAKE2b digest; to get it back it must have been remembered, at about 200 bytes each.
    """

    def __init__(self) -> None:
        self._odd: dict[bytes, str] = {}

    def pack(self, id: str, remember: bool = False) -> bytes:
        """16 bytes; no two ids share them in practice."""
        try:
            plain = bytes.fromhex(id)
            if len(plain) == SIZE and plain.hex() == id:
                return plain
        except ValueError:
            pass
        digest = hashlib.blake2b(id.encode(), digest_size=SIZE, person=b"t2i id").digest()
        if remember:
            self._odd[digest] = id
        return digest

    def unpack(self, key: bytes) -> str:
        """Return the id that was packed."""
        return self._odd.get(whole(key)) or whole(key).hex()


class PackedDict:
    """16 bytes -> 16 bytes, at 32 bytes an entry, and for a moment twice that when it has grown."""

    def __init__(self) -> None:
        self._keys = self._values = packed([])
        self._recent: dict[bytes, bytes] = {}

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._recent[key] = value
        if len(self._recent) >= max(_RECENT, len(self._keys) // 8):
            self._merge()

    def get(self, key: bytes) -> bytes | None:
        """Return the value, None without one."""
        if (recent := self._recent.get(key)) is not None:
            return recent
        place = int(find(self._keys, packed([key]))[0])
        return None if place < 0 else whole(self._values[place])

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, packed(list(self._recent))])
        values = np.concatenate([self._values, packed(list(self._recent.values()))])
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]
        self._recent.clear()
