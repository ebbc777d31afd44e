"""Metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One set for each application, so that two in a process do not count for each other."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "t2i_requests", "Requests, by route and status.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "t2i_request_seconds",
            "Seconds from request to answer.",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.stage_seconds = Histogram(
            "t2i_stage_seconds",
            "Seconds of a stage: a query's decode and queue; a batch's encode and search; a thumbnail.",
            ["stage"],
            registry=registry,
            buckets=SECONDS,
        )
        self.batch_size = Histogram(
            "t2i_batch_size", "Queries embedded and searched at once.", registry=registry, buckets=BATCHES
        )
        self.queue = Gauge("t2i_queue_length", "Queries that wait.", registry=registry)
        self.in_flight = Gauge("t2i_requests_in_flight", "Requests that are answered now.", registry=registry)
        self.jobs = Gauge("t2i_jobs", "Inserts that wait or run.", registry=registry)
        self.failures = Counter(
            "t2i_failures", "Answers that are problems, by code.", ["code"], registry=registry
        )
        self.images = Counter(
            "t2i_insert_images", "Inputs of inserts, by outcome.", ["status"], registry=registry
        )
        self.insert_seconds = Counter(
            "t2i_insert_stage_seconds", "Busy seconds of inserts, by stage.", ["stage"], registry=registry
        )
        self._caches: dict[str, Callable[[], tuple[int, int]]] = {}
        registry.register(_Caches(self._caches))
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=registry)

    def watch_cache(self, name: str, counts: Callable[[], tuple[int, int]]) -> None:
        """Report (hits, misses) of a cache whenever Prometheus asks."""
        self._caches[name] = counts

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """Return all of them, in Prometheus's text format."""
        return generate_latest(self.registry)


class _Caches(Collector):
    """The counts that caches keep themselves."""

    def __init__(self, caches: dict[str, Callable[[], tuple[int, int]]]) -> None:
        self._caches = caches

    def collect(self) -> Iterator[CounterMetricFamily]:
        hits = CounterMetricFamily("t2i_cache_hits", "Found in a cache.", labels=["cache"])
        misses = CounterMetricFamily("t2i_cache_misses", "Not found in a cache.", labels=["cache"])
        for name, counts in self._caches.items():
            for family, count in zip((hits, misses), counts(), strict=True):
                family.add_metric([name], count)
        yield from (hits, misses)
