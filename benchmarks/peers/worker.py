"""One contender in a process of its own: ``python -m benchmarks.peers.worker OUTCOME < job``.

Threads, memory and failures are its own. Job and outcome travel pickled; the database is made beside the
outcome.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.contenders.started import Encoding, Started, stored_vectors
from benchmarks.peers.inputs import QUERIES, Inputs
from benchmarks.peers.job import NO_VECTORS, Job, Outcome
from benchmarks.peers.memory import peak_rss, rss
from benchmarks.peers.plan import Contender
from t2i_pipelines import close
from t2i_pipelines.errors import MissingExtraError
from t2i_pipelines.types import Matrix

WARM_TEXTS = 5


def perform(job: Job, folder: Path) -> Outcome:
    """Do what the job says; whatever goes wrong becomes the outcome's reason.

    :param folder: an empty one, for the database.
    """
    try:
        _check_packages(job.contender)
        module: Any = importlib.import_module(f"benchmarks.peers.contenders.{job.contender.module}")
        if job.mode == "prepare":
            if hasattr(module, "prepare"):
                module.prepare(job.inputs, **job.contender.options)
            return Outcome()
        return _measure(job, module, folder)
    except Exception as err:
        first = (str(err).strip().splitlines() or [""])[0]
        return Outcome(
            reason=first if isinstance(err, MissingExtraError) else f"{type(err).__name__}: {first}"
        )


def _check_packages(contender: Contender) -> None:
    for package in contender.packages:
        try:
            found = find_spec(package)
        except ModuleNotFoundError:  # of a submodule, whose parent is missing
            found = None
        if found is None:
            raise MissingExtraError(f"{package} is not installed; run: pip install 't2i-pipelines[bench]'")


def _measure(job: Job, module: Any, folder: Path) -> Outcome:
    baseline = rss() if job.baseline is None else job.baseline
    uri = str(folder / "milvus.db")
    started = module.start(job.inputs, uri, **job.contender.options)
    speed, images = (_insert if job.mode == "insert" else _encode)(job.inputs, started)
    memory = peak_rss() - baseline
    text_ms, texts = _embed_texts(started)
    close()  # this library's own hold on the file
    if job.mode == "insert":
        images = stored_vectors(uri, job.inputs.paths)
    return Outcome(speed, memory, text_ms, images, texts, getattr(started, "running", ""))


def _insert(inputs: Inputs, started: Started) -> tuple[float, Matrix]:
    started.insert(inputs.warm_paths)
    paths = inputs.paths
    begin = time.perf_counter()
    started.insert(paths)
    return len(paths) / (time.perf_counter() - begin), NO_VECTORS


def _encode(inputs: Inputs, started: Encoding) -> tuple[float, Matrix]:
    pictures = inputs.fitted
    started.encode(np.resize(pictures, (len(inputs.warm_paths), *pictures.shape[1:])))
    begin = time.perf_counter()
    images = started.encode(pictures)
    return len(pictures) / (time.perf_counter() - begin), images


def _embed_texts(started: Started) -> tuple[NDArray[np.float64], Matrix]:
    for query in QUERIES[:WARM_TEXTS]:
        started.embed_text(query)
    vectors, times = [], []
    for query in QUERIES:
        begin = time.perf_counter()
        vectors.append(started.embed_text(query))
        times.append(1000 * (time.perf_counter() - begin))
    return np.array(times), np.stack(vectors)


if __name__ == "__main__":
    outcome = Path(sys.argv[1])
    outcome.write_bytes(pickle.dumps(perform(pickle.load(sys.stdin.buffer), outcome.parent)))
