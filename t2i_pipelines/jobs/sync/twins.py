"""Images with the same content, so that each is decoded and embedded once."""

from __future__ import annotations

import threading

import numpy as np

from t2i_pipelines.images.packed import PackedDict, find, packed
from t2i_pipelines.jobs.sync.inventory import PENDING, Inventory, content_key
from t2i_pipelines.types import Record


class Twins:
    """Finds the first image with some content: stored before, stored by this run, or under way.

    Rows that this run is about to change are not offered: they may hold something else when it is time
    to read their vectors. What this run stores is remembered at 32 bytes an image.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        # of the rows with one content, those that will change come last
        self._by_content = np.lexsort((inventory.states == PENDING, inventory.contents))
        self._stored = PackedDict()
        self._under_way: dict[str, Record] = {}
        self._lock = threading.Lock()

    def claim(self, content: str, record: Record) -> Record | None:
        """An image with this content; None if ``record`` is the first, which others may then get.

        :param content: 32 hex digits.
        """
        with self._lock:
            key = self._find(bytes.fromhex(content))
            if key is not None:
                return Record("", self._inventory.ids.unpack(key))
            first = self._under_way.setdefault(content, record)
            return None if first is record else first

    def settle(self, record: Record) -> None:
        """Take note that ``record`` has ended: it is stored, or the next with its content is the first."""
        with self._lock:
            content = content_key(record.digest)
            if self._under_way.get(content.hex()) is record:
                del self._under_way[content.hex()]
                if record.status != "failed":
                    self._stored[content] = self._inventory.ids.pack(record.id, remember=True)

    def _find(self, content: bytes) -> bytes | None:
        """The packed id of a stored row that stays as it is until the run is about to end."""
        if (key := self._stored.get(content)) is not None:
            return key
        place = int(find(self._inventory.contents, packed([content]), self._by_content)[0])
        if place < 0 or self._inventory.states[place] == PENDING:
            return None
        return bytes(self._inventory.keys[place])
