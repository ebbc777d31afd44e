"""The Ray dataset: parts of the source -> tasks that read, tasks that decode, actors that embed and write."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from t2i_pipelines.encoders.registry import registered
from t2i_pipelines.errors import ClusterError
from t2i_pipelines.jobs.ray import work
from t2i_pipelines.jobs.ray.parts import Part
from t2i_pipelines.jobs.ray.shipment import Shipment, unpacked
from t2i_pipelines.jobs.ray.work import Encoder, Steps, Writer

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

    Writes replace rows by id, and ids depend on nothing but the source, so what is done twice is there once.

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
        threads = decode["decode_workers"] or 1
        made_with = {
            **given,
            "skip_unchanged": {**given["skip_unchanged"], **ON_CPU},
            "image_decode": {**decode, **ON_CPU, "decode_workers": threads},
            "milvus_insert": {**given["milvus_insert"], **ON_CPU},
        }
        model_name = decode["model_name"]
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
