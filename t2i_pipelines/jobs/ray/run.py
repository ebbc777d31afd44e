"""A run of inserting on Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from t2i_pipelines.collection import open_collection
from t2i_pipelines.collection.elsewhere import written_elsewhere
from t2i_pipelines.collection.uri import parse_uri
from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.images import brief
from t2i_pipelines.jobs.ray.arrivals import Arrivals
from t2i_pipelines.jobs.ray.cluster import connected, load_ray, quietly
from t2i_pipelines.jobs.ray.flow import Flow, Workers
from t2i_pipelines.jobs.ray.parts import rounds
from t2i_pipelines.pipelines.build import insert_arguments
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.stages import Stopwatch, log
from t2i_pipelines.types import Outcome

MOST = 10_000


def run(
    source: object,
    *,
    address: str | None,
    encoders: int | tuple[int, int] | None,
    gpus: float | None,
    writers: int,
    readers: int,
    report: InsertReport | None,
    progress: Callable[[Outcome], object] | None,
    settings: Mapping[str, Any],
) -> InsertReport:
    """What :func:`t2i_pipelines.jobs.ray.insert_distributed` says."""
    given = insert_arguments(settings)
    _check_uri(given["milvus_insert"]["uri"])
    pool = None if encoders is None else _pool(encoders)
    check_whole_number("writers", writers, MOST)
    check_whole_number("readers", readers, MOST)
    load_ray()
    report = InsertReport() if report is None else report
    clock = Stopwatch()
    report.clocks.append(clock)
    log.info("inserting %s on Ray", brief(source, 200), extra={"source": brief(source, 200)})
    names = ("uri", "token", "collection_name", "timeout")
    collection = open_collection(**{name: given["milvus_insert"][name] for name in names})
    one_writer = collection.is_lite  # it loses rows of a second one
    collection.close()  # an idle connection may be hung up on, which gRPC says on the screen
    arrivals = Arrivals(report, clock, progress or (lambda outcome: None))
    parts = 0
    try:
        with connected(address) as ray, quietly(ray):
            flow = Flow.of(given, ray)
            workers = _workers(
                ray, pool, gpus, given["clip"]["device"], 1 if one_writer else writers, readers
            )
            for some in rounds(source):
                for shipment in flow.run(ray, some, workers):
                    arrivals.take(shipment)
                parts += len(some)
                total = arrivals.check(parts)
    finally:
        arrivals.sort()
    if not parts or not total:
        raise SourceError(f"the source is empty: {brief(source)} names no image")
    if arrivals.changed:
        with clock.busy("insert"):
            written_elsewhere(collection)
            collection.flush()
            written_elsewhere(collection)
    clock.log_end()
    return report


def _check_uri(uri: str) -> None:
    path = parse_uri(uri).path
    if path is not None:
        raise ConfigError(
            f"uri {str(path)!r} is a local file, which one process can open, and Ray works with many; serve "
            f"it: milvus-lite server --data-dir {path} --host 127.0.0.1 --port 19530, and give "
            "uri='http://127.0.0.1:19530', or the uri of a Milvus server"
        )


def _pool(encoders: int | tuple[int, int]) -> tuple[int, int]:
    least, most = (encoders, encoders) if isinstance(encoders, int) else encoders
    check_whole_number("encoders", least, MOST)
    check_whole_number("encoders", most, MOST)
    if least > most:
        raise ConfigError(f"encoders must be (at least, at most), got {encoders!r}")
    return least, most


def _workers(
    ray: Any, pool: tuple[int, int] | None, gpus: float | None, device: str, writers: int, readers: int
) -> Workers:
    has = ray.cluster_resources()
    if gpus is None:
        gpus = 1.0 if device == "cuda" else 0.0
    if pool is None:
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        pool = (1, max(1, int(has.get("GPU", 0) / gpus) if gpus else nodes))
    # with one core for all, an encoder that holds it would wait for images that no task can decode
    cpus = 1.0 if has.get("CPU", 0) >= 2 else 0.0
    return Workers(pool, gpus, cpus, writers, readers)
