"""Prometheus metrics. Labels are few and bounded: never a key, a user or a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tremplin import __version__
from tremplin.machine import resident_bytes
from tremplin.registry.manifest import Manifest
from tremplin.serve.call import Priority
from tremplin.serve.fleet import Fleet
from tremplin.serve.infer import Inferencer
from tremplin.serve.timing import Timings
from tremplin.serve.work import BatchRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a cache hit to a long bulk request on a slow core.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What one process counts. Made once, by the composition root."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody reads
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tremplin_requests_total", "Requests answered.", ["route", "code"], registry=self.registry
        )
        self._duration = Histogram(
            "tremplin_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "tremplin_queue_duration_seconds",
            "From a request's arrival in the queue until the engine took its first row.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._tokenize = Summary(
            "tremplin_tokenize_duration_seconds", "Time to tokenize a request.", registry=self.registry
        )
        self._batch_rows = Histogram(
            "tremplin_batch_rows",
            "Rows in a batch.",
            ["model", "version"],
            buckets=ROWS,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "tremplin_batch_duration_seconds",
            "Time the engine took for a batch.",
            ["model", "version"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "tremplin_tokens_total",
            "Tokens computed, padding apart.",
            ["model", "version"],
            registry=self.registry,
        )
        self._padding = Counter(
            "tremplin_padding_tokens_total",
            "Padding computed beside the tokens.",
            ["model", "version"],
            registry=self.registry,
        )
        self._batch_failures = Counter(
            "tremplin_batch_failures_total",
            "Batches the engine could not run.",
            ["model", "version"],
            registry=self.registry,
        )
        self._cached = Counter(
            "tremplin_cached_rows_total", "Rows answered from the cache.", registry=self.registry
        )
        Gauge("tremplin_build_info", "1, with the release.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)
        Gauge(
            "process_resident_memory_bytes", "Resident memory of the server.", registry=self.registry
        ).set_function(lambda: float(resident_bytes()))
        # Finding a child by its labels costs more than counting; the label sets are few and bounded.
        self._request_child = lru_cache(maxsize=1024)(self._requests.labels)
        self._duration_child = lru_cache(maxsize=256)(self._duration.labels)

        self._batch_children = lru_cache(maxsize=256)(self._children)

    def watch(self, fleet: Fleet) -> None:
        """Report the state of the versions that are loaded when Prometheus asks."""
        self.registry.register(FleetCollector(fleet))

    def request(self, route: str, code: int, seconds: float) -> None:
        """Count one answer; ``route`` is a template, never an address a caller chose."""
        self._request_child(route, str(code)).inc()
        self._duration_child(route).observe(seconds)

    def phases(self, timings: Timings) -> None:
        """Count where the time of one inference went; the engine's part is counted by batch."""
        if timings.cached:
            self._cached.inc(timings.cached)
        if timings.compute_ms:
            self._tokenize.observe(timings.tokenize_ms / 1e3)
            self._queue.observe(timings.queue_ms / 1e3)

    def batch(self, manifest: Manifest, record: BatchRecord) -> None:
        """Count one batch; called from the engine's threads."""
        rows, seconds, tokens, padding, failures = self._batch_children(manifest.model, manifest.version)
        rows.observe(record.rows)
        seconds.observe(record.seconds)
        tokens.inc(record.tokens)
        padding.inc(record.padded_tokens - record.tokens)
        if record.failed:
            failures.inc()

    def _children(self, model: str, version: str) -> tuple[Histogram, Histogram, Counter, Counter, Counter]:
        return (
            self._batch_rows.labels(model, version),
            self._batch_seconds.labels(model, version),
            self._tokens.labels(model, version),
            self._padding.labels(model, version),
            self._batch_failures.labels(model, version),
        )

    def exposition(self) -> bytes:
        """Return the metrics as Prometheus reads them."""
        return generate_latest(self.registry)


class FleetCollector(Collector):
    """Reads the loaded versions when it is asked: which they are changes while the server runs."""

    LABELS = ("model", "version")

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Return one sample a version of each metric."""
        for name, help_text, read in OF_A_VERSION:
            family: GaugeMetricFamily | CounterMetricFamily
            if name.endswith("_total"):
                family = CounterMetricFamily(name.removesuffix("_total"), help_text, labels=self.LABELS)
            else:
                family = GaugeMetricFamily(name, help_text, labels=self.LABELS)
            for inferencer in self._fleet.inferencers:
                manifest = inferencer.manifest
                family.add_metric([manifest.model, manifest.version], float(read(inferencer)))
            yield family


# Name, help and value of what is read from a loaded version.
OF_A_VERSION: tuple[tuple[str, str, Callable[[Inferencer], float]], ...] = (
    ("tremplin_queue_tokens", "Tokens admitted and not yet answered.", lambda one: one.admission.queued_tokens),
    (
        "tremplin_queue_work_seconds",
        "Seconds the queued work is predicted to take.",
        lambda one: max(map(one.admission.predicted_wait_s, Priority)),
    ),
    ("tremplin_cost_drift_ratio", "Observed over predicted batch time, of late.", lambda one: one.costs.drift),
    ("tremplin_engine_healthy", "1 while batches succeed.", lambda one: one.engine.health()),
    ("tremplin_engine_restarts_total", "Engines started anew.", lambda one: one.engine.restarts),
    (
        "tremplin_version_forced_info",
        "1 for a version served although it misses its quality bound.",
        lambda one: bool(one.broken_bounds),
    ),
)
