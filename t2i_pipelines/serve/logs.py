"""Logs and traces: a line of JSON an event, the id of the request in each, and spans by OpenTelemetry."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec

from asgi_correlation_id import CorrelationIdFilter, correlation_id
from fastapi.telemetry import TelemetryConfig
from pythonjsonlogger.json import JsonFormatter

from t2i_pipelines.errors import MissingExtraError
from t2i_pipelines.search.render import printable
from t2i_pipelines.serve.middleware import OPEN
from t2i_pipelines.serve.options import LogFormat
from t2i_pipelines.serve.problems import route_path

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables of which one says where traces are sent."""

log = logging.getLogger("t2i_pipelines.serve")


class _OneLine(logging.Formatter):
    """Keeps what a message repeats of a request in one line, and commands in it from terminals."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text, request_id = printable(super().formatMessage(record)), correlation_id.get()
        return f"{text} [{request_id}]" if request_id else text


def write_logs(
    handler: logging.Handler, format: LogFormat, layout: str = "%(asctime)s %(levelname)s %(message)s"
) -> None:
    """Write the events of the service by a handler, and as JSON the warnings of everything else, too.

    :param format: ``json``: an object a line with ``time`` (ISO 8601, UTC), ``level``, ``logger``,
        ``message`` and ``request_id``; in the access log ``method``, ``path``, ``route``, ``status``,
        ``seconds``, ``bytes``, ``client`` and the name of the ``key``, too. ``text``: a line to read.
    :param layout: of a line of text.
    """
    loggers = ["t2i_pipelines.serve", "uvicorn"]
    if format == "json":
        loggers = [""]
        logging.captureWarnings(True)
        handler.addFilter(CorrelationIdFilter())
        handler.addFilter(_add_span)
        names = {"levelname": "level", "name": "logger", "message": "message", "correlation_id": "request_id"}
        handler.setFormatter(JsonFormatter(list(names), timestamp="time", rename_fields=names))
    else:
        handler.setFormatter(_OneLine(layout))
    for name in loggers:
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("t2i_pipelines.serve").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _add_span(record: logging.LogRecord) -> bool:
    """Add the ids of the span, if there is one, to a record."""
    trace = sys.modules.get("opentelemetry.trace")  # without it there are no spans
    if trace is not None and (span := trace.get_current_span().get_span_context()).is_valid:
        record.trace_id = trace.format_trace_id(span.trace_id)
        record.span_id = trace.format_span_id(span.span_id)
    return True


def telemetry() -> TelemetryConfig:
    """Return the configuration of FastAPI's own instrumentation: a span, and metrics, of each request.

    The standard variables OTEL_* ask for it and say where to, OTEL_EXPORTER_OTLP_ENDPOINT before all. A
    provider that is there already is used without them.
    """
    asked = any(os.environ.get(name) for name in ENDPOINTS)
    installed = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter")
    if asked and not installed:
        log.warning("no traces are sent: %s", MissingExtraError.of("opentelemetry-sdk", "otel"))
    return TelemetryConfig(
        auto_configure=bool(installed),
        operation_spans=False,  # one of each request is enough
        exclude=lambda scope: route_path(scope) in OPEN,
    )
