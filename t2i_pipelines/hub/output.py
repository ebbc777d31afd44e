"""``.output()`` that makes pipelines safe to run, for notebooks that know nothing of this library."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from t2i_pipelines._towhee.door import OPType, Pipeline, RuntimePipeline, operator_class
from t2i_pipelines._towhee.hardening import harden
from t2i_pipelines.errors import ConfigError, T2IError


def harden_every_output() -> None:
    """Let ``Pipeline.output`` return hardened pipelines, and raise our errors as themselves."""
    if not hasattr(Pipeline.output, "hardens"):
        Pipeline.output = _hardened(Pipeline.output)


def _hardened(output: Callable[..., RuntimePipeline]) -> Callable[..., RuntimePipeline]:
    @functools.wraps(output)
    def close(self: Pipeline, *columns: Any) -> RuntimePipeline:
        made = [node["op_info"] for node in self.dag.values() if node["op_info"]["type"] == OPType.HUB]
        known = [(told, operator_class(told["operator"], told["tag"])) for told in made]
        try:
            return harden(output(self, *columns))
        except RuntimeError as err:
            _raise_ours(known, err)
            raise

    close.hardens = True  # type: ignore[attr-defined]
    return close


def _raise_ours(known: list[tuple[dict[str, Any], Any]], err: RuntimeError) -> None:
    """Raise what an operator of this library did not like; Towhee has made a text of it."""
    for told, operator in known:
        if operator is not None and operator.__module__.startswith("t2i_pipelines."):
            try:
                operator(*(told["init_args"] or ()), **(told["init_kws"] or {}))
            except T2IError as ours:
                raise ours from err
            except TypeError as wrong:
                raise ConfigError(f"{told['operator']}: {wrong}") from err
