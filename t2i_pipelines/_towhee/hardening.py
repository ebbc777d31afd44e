"""Run Towhee pipelines without the ways in which 1.1.3 hangs, grows, or hides an error.

What Towhee does, and what :func:`harden` makes of it:

1. Each node of each call takes one thread of one pool; with more nodes than threads, producers wait
   for room in a queue whose consumer has no thread. Here a call hands in all its nodes at once, to a
   pool that is larger than any one call: the oldest call has all its threads and can always finish.
2. A pipeline nested in another starts its consumers first; they take the threads and wait for producers
   that get none. The same cures it.
3. When a node fails while its producer waits for room, the producer is never woken. Here a sealed
   queue wakes it.
4. 1,000 items may wait between two nodes, be they batches of images. Here an operator's class says
   how many of its results may wait (``in_flight``), and the queue after it holds no more.
5. Any exception becomes ``RuntimeError(text)``. Here an error of ours arrives as itself, and any other
   is the ``__cause__`` of Towhee's.
6. A call hands its one row from thread to thread, which can take longer than the work. Here a chain of
   maps runs in the thread of the caller, see :mod:`t2i_pipelines._towhee.chain`.
7. An input that is ``None`` is none: the call does nothing and gives nothing. Here it is refused.
8. An input that is a generator is read to its end, into a list, before the first operator gets it. Here
   operators get an iterator, and read it as they go.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

from t2i_pipelines._towhee.chain import Chain, is_chain
from t2i_pipelines._towhee.door import (
    Graph,
    OperatorPool,
    OPType,
    Pipeline,
    RuntimePipeline,
    TimeProfiler,
    operator_class,
)
from t2i_pipelines._towhee.locks import Lock
from t2i_pipelines._towhee.result import Result
from t2i_pipelines.errors import ConfigError, T2IError

THREADS = 64
"""Threads that a pipeline may use at most; they are started only when needed."""


class _Call(Graph):  # type: ignore[misc]
    """One call of a pipeline."""

    def __init__(self, pipeline: HardenedPipeline, profiler: Any, trace_edges: Any = None) -> None:
        self._failures: list[BaseException] = []
        self._handing_in = pipeline.handing_in
        super().__init__(
            pipeline.dag_repr.nodes,
            pipeline.dag_repr.edges,
            pipeline._operator_pool,
            pipeline._thread_pool,
            profiler,
            trace_edges,
        )

    def _initialize(self) -> None:
        super()._initialize()
        for queue in self._data_queues.values():
            queue.__class__ = Result
        for node in self._node_runners:
            node._call = partial(self._watch, node)
        for node in self._nodes.values():
            if in_flight := _in_flight(node):
                for edge in node.out_edges:
                    self._data_queues[edge].max_size = in_flight

    def _watch(self, node: Any, inputs: Any) -> tuple[bool, Any, str | None]:
        """Call the node's operator as Towhee does, and remember the exception itself."""
        try:
            result = node._op(*inputs)
        except Exception as err:
            self._failures.append(err)
            return False, None, f"{err}, {traceback.format_exc()}"
        return True, self._watch_rows(result) if isinstance(result, Generator) else result, None

    def _watch_rows(self, rows: Iterable[Any]) -> Generator[Any, None, None]:
        try:
            yield from rows
        except Exception as err:
            self._failures.append(err)
            raise

    def async_call(self, inputs: Any) -> Any:
        with self._handing_in:  # calls never interleave, so the oldest always has its threads
            return super().async_call(inputs)

    def result(self) -> Any:
        try:
            return super().result()
        except RuntimeError as err:
            for failure in self._failures:
                if isinstance(failure, T2IError):
                    raise failure from None
            raise err from (self._failures[0] if self._failures else None)

    def stop(self) -> None:
        """Make every node end after the item that it is working on."""
        for node in self._node_runners:
            node._need_stop = True
        for queue in self._data_queues.values():
            queue.clear_and_seal()


def _unlisted(given: Any) -> Any:
    """Return an input that Towhee does not read: an iterator in place of a generator."""
    return chain(given) if isinstance(given, Generator) else given


def _in_flight(node: Any) -> int | None:
    if node.op_info.type != OPType.HUB:
        return None
    return getattr(operator_class(node.op_info.operator), "in_flight", None)


@contextmanager
def _stopped_by_ctrl_c(calls: Sequence[_Call]) -> Iterator[None]:
    """Leave no node of these calls at work, wherever between handing in and the result Ctrl-C came."""
    try:
        yield
    except KeyboardInterrupt:
        for call in calls:
            call.stop()
        for call in calls:
            wait(call.features or ())  # one left at work may wait for ever for what Python takes down
        raise


class HardenedPipeline(RuntimePipeline):  # type: ignore[misc]
    """Towhee's ``RuntimePipeline``, safe under load. Made by :func:`harden`. Thread-safe."""

    def __init__(self, pipeline: RuntimePipeline) -> None:
        dag = pipeline.dag_repr
        for node in dag.nodes.values():
            if node.op_info.type == OPType.HUB:
                operator_class(node.op_info.operator)
        self._dag_repr = dag
        self._operator_pool: OperatorPool = pipeline._operator_pool
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self.handing_in = Lock()
        self._chain = Chain(dag, self._operator_pool) if is_chain(dag) else None

    @property
    def _thread_pool(self) -> ThreadPoolExecutor:
        """Of this process: the threads of a parent are gone in a forked child."""
        pool = self._pools.get(os.getpid())
        if pool is None:
            pool = ThreadPoolExecutor(max(THREADS, len(self._dag_repr.nodes)), "t2i-pipeline")
            pool = self._pools.setdefault(os.getpid(), pool)
        return pool

    def __repr__(self) -> str:
        """The operators in one line."""
        from t2i_pipelines._towhee.drawing import line

        return line(self._dag_repr)

    def _repr_svg_(self) -> str:
        """Return what a notebook shows: a drawing of the operators."""
        from t2i_pipelines._towhee.drawing import svg

        return svg(self._dag_repr)

    def preload(self) -> _Call:
        """Create the operators, as Towhee does when a pipeline is closed."""
        return _Call(self, TimeProfiler(False))

    def _call(
        self, *inputs: Any, profiler: bool, tracer: bool, trace_edges: Any = None
    ) -> tuple[Any, Any, Any]:
        columns = self._dag_repr.nodes["_input"].inputs
        if len(inputs) != len(columns):
            raise ConfigError(
                f"this pipeline takes {len(columns)} input(s), {', '.join(columns)}; got {len(inputs)}"
            )
        if none := [name for name, one in zip(columns, inputs, strict=True) if one is None]:
            raise ConfigError(f"{none[0]} must not be None: Towhee takes that for a call without input")
        inputs = tuple(map(_unlisted, inputs))
        if self._chain is not None and not (profiler or tracer):
            return self._chain(inputs), None, None
        call = _Call(self, TimeProfiler(profiler), trace_edges)
        with _stopped_by_ctrl_c([call]):
            result = call(inputs)
        return (
            result,
            [call.time_profiler] if profiler else None,
            [call.data_queues] if tracer else None,
        )

    def _batch(
        self, batch_inputs: Any, profiler: bool, tracer: bool, trace_edges: Any = None
    ) -> tuple[Any, Any, Any]:
        calls = [_Call(self, TimeProfiler(profiler), trace_edges) for _ in batch_inputs]
        with _stopped_by_ctrl_c(calls):
            pending = [
                call.async_call(list(map(_unlisted, (inputs,) if call.input_col_size == 1 else inputs)))
                for call, inputs in zip(calls, batch_inputs, strict=True)
            ]
            results = [one.result() for one in pending]
        return (
            results,
            [call.time_profiler for call in calls] if profiler else None,
            [call.data_queues for call in calls] if tracer else None,
        )


def harden(pipeline: RuntimePipeline) -> RuntimePipeline:
    """Make any Towhee pipeline safe to run, however deep, nested, long or concurrent.

    :param pipeline: what ``.output(...)`` returned; it is not to be used any more.
    :return: a ``RuntimePipeline`` that gives the same results.
    :raises ConfigError: If it is given a pipeline that was not closed by ``.output(...)``.
    :raises UnknownOperatorError: If an operator is not registered locally.
    """
    if isinstance(pipeline, Pipeline) or not isinstance(pipeline, RuntimePipeline):
        raise ConfigError(
            f"harden() takes a closed pipeline, the result of .output(...); got {type(pipeline).__name__}"
        )
    return pipeline if isinstance(pipeline, HardenedPipeline) else HardenedPipeline(pipeline)
