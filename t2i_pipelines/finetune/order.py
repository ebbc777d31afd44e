"""Which pairs make which batch: it follows from the seed and the step alone, so a run can be taken up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.finetune.material import Material

DOMAIN, REPLAY = 1, 2


class Batch(NamedTuple):
    """What one step learns from, each image and each caption once.

    :ivar step: 1 and up.
    :ivar epoch: 1 and up.
    """

    step: int
    epoch: int
    pictures: NDArray[np.int64]
    captions: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The batches of a run.

    :ivar domain: what every epoch passes once.
    :ivar replay: what is mixed in, as often as need be.
    :ivar size: pairs a batch.
    :ivar share: of a batch, from ``replay``.
    """

    domain: Material
    replay: Material | None
    size: int
    share: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse what teaches nothing.

        :raises SourceError: If there is only one image, or one caption.
        :raises ConfigError: If a batch has no room for the pairs themselves.
        """
        if self.size <= self.replayed:
            raise ConfigError(
                f"replay_share={self.share} leaves no room for the pairs in batches of {self.size}; lower it"
            )
        rows = (
            self.domain.rows if self.replay is None else np.concatenate([self.domain.rows, self.replay.rows])
        )
        for what, numbers in (("image", rows[:, 0]), ("caption", rows[:, 1])):
            if len(np.unique(numbers)) < 2:
                raise SourceError(
                    f"{self.domain.name}: there is only one {what} to learn from, and nothing to tell it "
                    f"from; give pairs with different {what}s, or add some by replay="
                )

    @property
    def replayed(self) -> int:
        """Pairs of each batch that come from ``replay``."""
        return 0 if self.replay is None else round(self.share * self.size)

    @property
    def steps_an_epoch(self) -> int:
        """Batches in which every pair of the domain comes once."""
        return -(-len(self.domain.rows) // (self.size - self.replayed))

    def batches(self, after: int, steps: int) -> Iterator[Batch]:
        """Those after the step ``after``, up to the step ``steps``."""
        shuffled, of_epoch = [np.empty(0, np.int64)], 0
        for step in range(after + 1, steps + 1):
            epoch, at = divmod(step - 1, self.steps_an_epoch)
            if of_epoch != epoch + 1:
                of_epoch = epoch + 1
                mixed = self._random(DOMAIN, of_epoch).permutation(len(self.domain.rows))
                shuffled = np.array_split(mixed, self.steps_an_epoch)  # of nearly equal size
            rows = self.domain.rows[shuffled[at]]
            if self.replay is not None and self.replayed:
                rows = np.concatenate([rows, self._replay(step)])
            yield Batch(step, of_epoch, np.unique(rows[:, 0]), np.unique(rows[:, 1]))

    def _replay(self, step: int) -> NDArray[np.int64]:
        assert self.replay is not None
        chosen = self._random(REPLAY, step).integers(0, len(self.replay.rows), self.replayed)
        return self.replay.rows[chosen]

    def _random(self, what: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, what, number])
