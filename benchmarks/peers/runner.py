"""The contenders in turn, round after round, each in a process of its own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from benchmarks.peers.contenders import CONTENDERS, MILVUS_TUTORIAL
from benchmarks.peers.figures import Row, row
from benchmarks.peers.inputs import Inputs
from benchmarks.peers.job import Job, Outcome
from benchmarks.peers.machine import bare_interpreter
from benchmarks.peers.plan import Contender, Mode, Plan
from benchmarks.peers.targets import Verdict, judge
from t2i_pipelines.errors import ConfigError, T2IError

ROOT = Path(__file__).parents[2]
"""Where ``python -m benchmarks.peers...`` finds this package."""

TIMEOUT = 3600.0
"""Seconds that one process may take."""

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
"""For every process alike."""

Perform: TypeAlias = Callable[[Job], Outcome]


@dataclass(frozen=True)
class Result:
    """One run.

    :ivar base: the row that ratios refer to; None if the Milvus tutorial's loop was left out.
    """

    rows: tuple[Row, ...]
    base: Row | None
    verdicts: tuple[Verdict, ...]


def choose(names: tuple[str, ...]) -> tuple[Contender, ...]:
    """The contenders whose names contain one of these, in capitals or not; all if there are none.

    :raises ConfigError: If one is contained in no name; the message lists the names.
    """
    for name in names:
        if not any(name.lower() in one.name.lower() for one in CONTENDERS):
            known = "; ".join(one.name for one in CONTENDERS)
            raise ConfigError(f"no contender is called {name!r}; there are: {known}")
    return tuple(
        one for one in CONTENDERS if not names or any(name.lower() in one.name.lower() for name in names)
    )


def run(plan: Plan, folder: Path, say: Callable[[str], None], perform: Perform | None = None) -> Result:
    """Make the inputs in ``folder`` unless they are there, measure, and sum up.

    A contender that fails once is not tried again.

    :param say: told what is being done, in a few words.
    :param perform: does one job; in a process of its own if this is None.
    :raises T2IError: If the inputs cannot be made.
    """
    perform = perform or in_a_process
    inputs = Inputs(folder.absolute(), plan.images, plan.shape)
    if not inputs.are_made:
        say(f"making {plan.images} images and a CLIP of the shape of {plan.shape.name}")
        _run_module("benchmarks.peers.inputs", str(inputs.folder), str(plan.images), plan.shape.name)
    outcomes = _measure(plan, inputs, say, perform)
    rows = tuple(
        row(one, mode, outcomes[one.name, mode], _share(inputs, one).right[0]) for one, mode in _ways(plan)
    )
    base = next((one for one in rows if one.contender == MILVUS_TUTORIAL and one.is_measured), None)
    return Result(rows, base, tuple(judge(rows, base)))


def _share(inputs: Inputs, contender: Contender) -> Inputs:
    """What of the inputs the contender is given."""
    return inputs if contender.most is None else replace(inputs, images=min(inputs.images, contender.most))


def _ways(plan: Plan) -> list[tuple[Contender, Mode]]:
    return [(contender, mode) for contender in plan.contenders for mode in contender.modes]


def _measure(
    plan: Plan, inputs: Inputs, say: Callable[[str], None], perform: Perform
) -> dict[tuple[str, Mode], list[Outcome]]:
    """Every round's outcomes by contender and mode; where preparing failed, that is the only one."""
    outcomes: dict[tuple[str, Mode], list[Outcome]] = {}
    bare = bare_interpreter()
    for contender in plan.contenders:
        say(f"preparing {contender.name}")
        prepared = perform(Job(contender, "prepare", inputs))
        for mode in contender.modes:
            outcomes[contender.name, mode] = [prepared] if prepared.reason else []
    for number in range(1, plan.rounds + 1):
        for contender, mode in _ways(plan):
            so_far = outcomes[contender.name, mode]
            if not any(one.reason for one in so_far):
                say(f"round {number} of {plan.rounds}: {contender.name}, {mode}")
                job = Job(contender, mode, _share(inputs, contender), bare if contender.ours else None)
                so_far.append(perform(job))
                say(so_far[-1].reason or f"{contender.name}, {mode}: {so_far[-1].speed:.1f} images/s")
    return outcomes


def in_a_process(job: Job) -> Outcome:
    """Perform a job by :mod:`benchmarks.peers.worker`."""
    # Milvus Lite still writes while its process ends, so the database is removed from here
    with tempfile.TemporaryDirectory(dir=job.inputs.folder) as folder:
        outcome = Path(folder) / "outcome"
        try:
            _run_module(
                "benchmarks.peers.worker",
                str(outcome),
                given=pickle.dumps(job),
                HF_ASSETS_CACHE=str(job.inputs.folder / "assets"),  # int8 forms are kept there
            )
        except T2IError as err:
            return Outcome(reason=str(err))
        read = pickle.loads(outcome.read_bytes())
        assert isinstance(read, Outcome)
        return read


def _run_module(module: str, *arguments: str, given: bytes = b"", **environment: str) -> None:
    """``python -m module arguments``.

    :raises T2IError: If it fails; the message ends with the last line that it wrote.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            input=given,
            capture_output=True,
            timeout=TIMEOUT,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, **environment},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise T2IError(f"{module} took more than {TIMEOUT:.0f} s") from None
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
        raise T2IError(f"{module} ended with exit code {done.returncode}: {last}")
