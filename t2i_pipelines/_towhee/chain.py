"""Pipelines that are a chain of maps, run in the thread of their caller.

Towhee gives each node a thread and a locked queue, and builds them for each call: 0.3 to 0.5 ms for a
search, whose work takes 2 to 10. The one row of a chain needs neither.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from typing import Any

from t2i_pipelines._towhee.door import (
    ColumnType,
    OperatorPool,
    OPType,
    SharedType,
    set_runtime_config,
)
from t2i_pipelines._towhee.result import Result
from t2i_pipelines.errors import T2IError


def is_chain(dag: Any) -> bool:
    """Return whether the nodes of a pipeline are maps, of one row; maps alone cannot branch and meet again.

    Those of a pipeline within a pipeline have names of their own for columns, and stand at the end: no chain.
    """
    nodes, followers = dag.nodes.values(), list(dag.nodes)[1:]
    return (
        all(node.iter_info.type == "map" for node in nodes)
        and all(node.next_nodes == [one] for node, one in zip(nodes, followers, strict=False))
        and all(kind is ColumnType.SCALAR for edge in dag.edges.values() for _, kind in edge["data"])
    )


class Chain:
    """Runs a chain as Towhee does, and gives what it gives. Thread-safe.

    :param pool: where the operators come from.
    """

    def __init__(self, dag: Any, pool: OperatorPool) -> None:
        first, *self._nodes, last = dag.nodes.values()
        self._inputs = first.inputs
        self._carried = [[name for name, _ in dag.edges[node.in_edges[0]]["data"]] for node in self._nodes]
        self._outputs = dag.edges[last.in_edges[0]]["data"]
        self._result = dag.edges[last.out_edges[0]]["data"]
        self._pool = pool
        self._shared: dict[str, Any] = {}

    def __call__(self, inputs: Sequence[Any]) -> Result:
        """Return one row in, at most one out.

        :raises RuntimeError: As Towhee does, where a node fails; an error of ours arrives as itself.
        """
        row = dict(zip(self._inputs, inputs, strict=True))
        for node, carried in zip(self._nodes, self._carried, strict=True):
            if not _is_there(row, carried):
                break
            row |= self._work(node, [row[name] for name in node.inputs])
        queue = Result(self._result, max_size=0)
        if _is_there(row, [name for name, _ in self._outputs]):
            queue.put_dict(row)
        queue.seal()
        return queue

    def _work(self, node: Any, given: list[Any]) -> dict[str, Any]:
        operator = self._shared.get(node.uid) or self._acquire(node)
        try:
            return _named(node.outputs, operator(*given))
        except T2IError:
            raise
        except Exception as err:
            said = f"{err}, {traceback.format_exc()}"
            raise RuntimeError(f"Node-{node.name} runs failed, error msg: {said}\n") from err
        finally:
            if node.uid not in self._shared:
                self._pool.release_op(operator)

    def _acquire(self, node: Any) -> Any:
        """Return the operator of a node; one that calls may share is remembered."""
        told = node.op_info
        if told.type not in (OPType.HUB, OPType.BUILTIN):
            self._shared[node.uid] = told.operator
            return told.operator
        with set_runtime_config(node.config):
            operator = self._pool.acquire_op(
                node.uid, told.operator, told.init_args, told.init_kws, told.tag, told.latest
            )
        if operator.shared_type == SharedType.Shareable:
            self._shared[node.uid] = operator
        return operator


def _is_there(row: dict[str, Any], names: list[str]) -> bool:
    """Return whether a row goes on.

    It must have a value in each column that is still wanted, and one at least.
    """
    return bool(names) and all(row.get(name) is not None for name in names)


def _named(names: Sequence[str], result: Any) -> dict[str, Any]:
    """Return what an operator returned, by column; of a generator, lists of what it yields."""
    if isinstance(result, Generator):
        rows = list(result)
        result = rows if len(names) == 1 else [[row[at] for row in rows] for at in range(len(names))]
    if len(names) == 1:
        return {names[0]: result}
    return {name: result[at] for at, name in enumerate(names)}
