"""The Ray dataset: parts of the source -> tasks that read, tasks that decode, actors that embed and write.

Every input's outcome is counted exactly once, although Ray may do a piece of work twice.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from t2i_pipelines.encoders.registry import registered
from t2i_pipelines.errors import ClusterError
from t2i_pipelines.jobs.ray import work
from t2i_pipelines.jobs.ray.work import Encoder, Part, Shipment, Steps, Writer, unpacked
from t2i_pipelines.operators.base import Outcomes
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Outcome, Stopwatch

RETRIES = 3
"""Retries of a batch whose process died. An image that ends it each time ends the run."""

ON_CPU = {"device": "cpu", "precision": "auto"}
"""Of a model that only tells its space and fits images."""


@dataclass(frozen=True)
class Workers:
    """How many processes do what.

    :ivar encoders: at least and at most.
    :ivar gpus: of one encoder.
    :ivar cpus: of one encoder.
    :ivar writers: to Milvus.
    :ivar readers: of parts, at most.
    """

    encoders: tuple[int, int]
    gpus: float
    cpus: float
    writers: int
    readers: int


@dataclass(frozen=True)
class Flow:
    """The steps, by the processes that take them.

    Writes replace rows by id, and ids depend on nothing but the source, so a row written twice is there once.

    :ivar decoding: threads of a task, for which it has as many CPUs.
    """

    read: Steps
    prepare: Steps
    embed: Steps
    write: Steps
    decoding: int

    @classmethod
    def of(cls, given: Mapping[str, dict[str, Any]], ray: Any) -> Flow:
        """Divide the operators of :func:`~t2i_pipelines.pipelines.build.insert_arguments` among processes."""
        decode = given["image_decode"]
        threads = decode["decoding"].decode_workers or 1
        target = replace(decode["model"], **ON_CPU)
        decoding = replace(decode["decoding"], decode_workers=threads)
        made_with = {
            **given,
            "skip_unchanged": {**given["skip_unchanged"], "target": target},
            "image_decode": {**decode, "model": target, "decoding": decoding},
            "milvus_insert": {**given["milvus_insert"], "target": target},
        }
        model_name = target.model_name
        factory = registered(model_name)
        code = None if factory is None else ray.cloudpickle.dumps(factory)

        def steps(*names: str) -> Steps:
            return Steps(tuple((name, made_with[name]) for name in names), model_name, code)

        return cls(
            steps("read_source"),
            steps("skip_unchanged", "prefetch", "image_decode"),
            steps("clip", "normalize"),
            steps("milvus_insert"),
            threads,
        )

    def run(self, ray: Any, parts: Sequence[Part], workers: Workers) -> Iterator[Shipment]:
        """Work on parts; gives each batch when it has ended, in any order, some perhaps twice.

        :raises ClusterError: If Ray gives up.
        """
        tasks, actors = ray.data.TaskPoolStrategy, ray.data.ActorPoolStrategy
        rows = [{work.PART: pickle.dumps(part)} for part in parts]
        least, most = workers.encoders
        again = {"max_restarts": -1, "max_task_retries": RETRIES}
        each = {"batch_size": None, "batch_format": "pyarrow"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray 2.60 is about to rename the options of retries
            dataset = (
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map_batches(
                    partial(work.read, steps=self.read), num_cpus=0, max_retries=RETRIES,
                    compute=tasks(min(workers.readers, len(rows))), **each,
                )
                .map_batches(
                    partial(work.prepare, steps=self.prepare), num_cpus=self.decoding,
                    max_retries=RETRIES, **each,
                )
                .map_batches(
                    Encoder, fn_constructor_args=(self.embed,), num_cpus=workers.cpus, num_gpus=workers.gpus,
                    compute=actors(min_size=least, max_size=most), **again, **each,
                )
                .map_batches(
                    Writer, fn_constructor_args=(self.write,), num_cpus=0,
                    compute=actors(size=workers.writers), **again, **each,
                )
            )  # fmt: skip
        tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
        try:
            while (table := _next(ray, tables)) is not None:
                yield unpacked(table)
        finally:
            with suppress(AttributeError):
                tables.close()


def _next(ray: Any, tables: Iterator[Any]) -> Any:
    try:
        return next(tables, None)
    except Exception as err:  # Ray and Ray Data have errors of many kinds; ours come as values
        lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
        said = lines[-1 if isinstance(err, ray.exceptions.RayTaskError) else 0]
        raise ClusterError(
            f"Ray has given up: {said}; what was stored is safe: run it again, with isolate=True (--isolate) "
            "if an image may have crashed its decoder"
        ) from err


@dataclass
class _Arrived:
    """The records of one part that have arrived.

    :ivar upto: records, from its first on, without a gap.
    :ivar beyond: start -> length of what came out of turn.
    :ivar total: how many records it has, once known.
    """

    upto: int = 0
    beyond: dict[int, int] = field(default_factory=dict)
    total: int | None = None

    def take(self, start: int, length: int) -> bool:
        """Take note of some records; False if they have come before."""
        if start < self.upto or start in self.beyond:
            return False
        self.beyond[start] = length
        while self.upto in self.beyond:
            self.upto += self.beyond.pop(self.upto)
        return True


class Arrivals:
    """Put shipments, in any order, into a report.

    Memory: of a part that is complete only its length is kept.

    :param report: to be filled.
    :param clock: of the run.
    :param tell: called with each outcome that has not come before.
    """

    def __init__(self, report: InsertReport, clock: Stopwatch, tell: Callable[[Outcome], object]) -> None:
        self._report, self._clock, self._tell = report, clock, tell
        self._parts: dict[int, _Arrived] = {}
        self._to_sort = [_Sorted(report.failed), _Sorted(report.rows)]
        self._outcomes = Outcomes()
        self.changed = False

    def take(self, shipment: Shipment) -> None:
        """Count the outcomes of a batch, unless they have been counted.

        :raises T2IError: The one that the shipment carries.
        """
        if shipment.error is not None:
            raise shipment.error
        self._clock.add(shipment.stages)
        part = self._parts.setdefault(shipment.part, _Arrived())
        if shipment.total is not None:
            if part.total is None:
                for (kind, reason), count in shipment.skipped:
                    self._clock.skipped.add(kind, reason, count)
            part.total = shipment.total
            return
        if not part.take(shipment.start, len(shipment.batch)):
            return
        shipment.batch.clock = self._clock
        for number, outcome in enumerate(self._outcomes(shipment.batch), shipment.start):
            self.changed |= outcome.status not in ("unchanged", "skipped", "failed")
            self._report.add(outcome)
            for kept in self._to_sort:
                kept.note((shipment.part, number))
            self._tell(outcome)

    def check(self, parts: int) -> int:
        """See that nothing is missing of the first ``parts`` parts; give how many records there are.

        :raises ClusterError: If something is.
        """
        found = [self._parts.get(number, _Arrived()) for number in range(parts)]
        total = sum(part.total or 0 for part in found)
        whole = [part.total == part.upto and not part.beyond for part in found]
        if not all(whole):
            came = sum(part.upto + sum(part.beyond.values()) for part in found)
            raise ClusterError(
                f"Ray gave {came:,} outcomes for {total:,} inputs, so some are not accounted for; "
                "what was stored is safe: run it again"
            )
        return total

    def sort(self) -> None:
        """Sort the outcomes that the report keeps by the order of the source."""
        for kept in self._to_sort:
            kept.sort()


class _Sorted:
    """The end of a list that grows, to be sorted by the place of each."""

    def __init__(self, grows: list[Any]) -> None:
        self._grows = grows
        self._first = len(grows)
        self._places: list[tuple[int, int]] = []

    def note(self, place: tuple[int, int]) -> None:
        """Note the place of an outcome, if the list has one more."""
        if len(self._grows) > self._first + len(self._places):
            self._places.append(place)

    def sort(self) -> None:
        """By place."""
        added = self._grows[self._first :]
        pairs = sorted(zip(self._places, added, strict=True), key=lambda pair: pair[0])
        self._grows[self._first :] = [one for _, one in pairs]
