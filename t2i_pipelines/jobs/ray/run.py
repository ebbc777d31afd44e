"""Insert on Ray, which is started quietly if it does not run yet."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from t2i_pipelines.collection import open_collection
from t2i_pipelines.collection.connection import parse_uri
from t2i_pipelines.config.checks import check_whole_number
from t2i_pipelines.errors import ClusterError, ConfigError, MissingExtraError, SourceError
from t2i_pipelines.images import brief
from t2i_pipelines.jobs.ray.flow import Arrivals, Flow, Workers
from t2i_pipelines.jobs.ray.work import rounds
from t2i_pipelines.pipelines.build import checked, insert_arguments
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Outcome, Stopwatch, log

ANSWERS = 10.0
"""Seconds within which a cluster must take a connection."""

SILENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""No reports to Ray's makers, and no output of its C++ on the user's terminal."""

_SAYS_NOTHING = "Progress bars disabled"


def load_ray() -> Any:
    """Return the module ``ray``, with ``ray.data``.

    :raises MissingExtraError: If it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as err:
        raise MissingExtraError(
            f"Ray Data is not installed ({err}); run: pip install 't2i-pipelines[ray]'"
        ) from err
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray within the block: what runs already in this process, else a cluster's, else one of this machine.

    Only what was started here is ended. What is started here has no dashboard and reports nothing to Ray's
    makers, unless ``RAY_USAGE_STATS_ENABLED`` says so; its processes end with this one, however that ends.

    :param address: of a cluster; None for ``RAY_ADDRESS``, or where that is empty, this machine.
    :raises ClusterError: If nothing answers there.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    _start(ray, place)
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, place: str) -> None:
    only_here = {"include_dashboard": False} if place == "local" else {}
    try:
        _check_reachable(place)
        with warnings.catch_warnings(), _environment(), _without_stderr():
            warnings.simplefilter("ignore")
            ray.init(place, log_to_driver=False, logging_level=logging.ERROR, **only_here)
    except (ConnectionError, ValueError, RuntimeError, OSError) as err:
        cause = f"{err}".strip().partition("\n")[0] or type(err).__name__
        raise ClusterError(
            f"no Ray cluster can be used at {place!r}: {cause}; give the address of one (address=, "
            "--ray-address or RAY_ADDRESS, such as 10.0.0.1:6379), or 'local' for one of this machine"
        ) from err


def _check_reachable(place: str) -> None:
    """Try ``host:port``; Ray would go on for a quarter of an hour without an answer."""
    host, colon, port = place.rpartition(":")
    if colon and "//" not in place and port.isdecimal():
        socket.create_connection((host, int(port)), ANSWERS).close()


@contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray reads when it starts, unless the user has set it."""
    missing = SILENT.keys() - os.environ.keys()
    os.environ.update({name: SILENT[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what Ray's C++ says while it starts, such as its log level, off the screen."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def quietly(ray: Any) -> Iterator[None]:
    """Within the block, Ray Data works without progress bars, and logs to its file and only warnings here.

    One row is one block: Ray neither splits nor joins the batches.
    """
    log = logging.getLogger("ray.data")
    shown = [one for one in log.handlers if one.level >= logging.INFO]
    levels = [one.level for one in shown]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a copy sets what Ray itself calls deprecated
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1
    context.max_errored_blocks = 0
    for one in shown:
        one.setLevel(logging.WARNING)
        one.addFilter(_is_news)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for one, level in zip(shown, levels, strict=True):
            one.setLevel(level)
            one.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_SAYS_NOTHING)


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
    """Return what :func:`t2i_pipelines.jobs.ray.insert_distributed` says."""
    target, chosen = checked(settings)
    given = insert_arguments(target, chosen)
    _check_uri(str(target.uri))
    pool = None if encoders is None else _pool(encoders)
    check_whole_number("writers", writers, MOST)
    check_whole_number("readers", readers, MOST)
    load_ray()
    report = InsertReport() if report is None else report
    clock = Stopwatch()
    report.clocks.append(clock)
    log.info("inserting %s on Ray", brief(source, 200), extra={"source": brief(source, 200)})
    collection = open_collection(**target.place)
    one_writer = collection.is_lite  # it loses rows of a second one
    collection.close()  # an idle connection may be hung up on, which gRPC says on the screen
    arrivals = Arrivals(report, clock, progress or (lambda outcome: None))
    parts = 0
    try:
        with connected(address) as ray, quietly(ray):
            flow = Flow.of(given, ray)
            workers = _workers(ray, pool, gpus, target.device, 1 if one_writer else writers, readers)
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
            collection.require_strong_consistency()
            collection.flush()
            collection.require_strong_consistency()
    clock.log_end()
    return report


def _check_uri(uri: str) -> None:
    address = parse_uri(uri)
    if (path := address.path) is not None:
        raise ConfigError(
            f"uri {str(path)!r} is a local file, which one process can open, and Ray works with many; serve "
            f"it: milvus-lite server --data-dir {path} --host 127.0.0.1 --port 19530, and give "
            "uri='http://127.0.0.1:19530', or the uri of a Milvus server"
        )
    if not address.is_shared:
        raise ConfigError(
            f"uri {uri!r} is the memory of this process, and Ray works with many; give the uri of a server"
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
