"""Structured logs: one JSON object a line, on standard error, with a request id and never a user's text."""

from __future__ import annotations

import logging
import sys

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger


def configure_logs(level: str) -> None:
    """Send every log line, ours and the libraries', through one JSON renderer."""
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_stack,
            structlog.processors.JSONRenderer(serializer=_dump),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(max(number, logging.WARNING))


class _Forward(logging.Handler):
    """Libraries' log records, rewritten as ours. Their messages may quote input, so only the name is kept."""

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage() if record.name.startswith("uvicorn") else "library message"
        structlog.get_logger().log(record.levelno, event, logger=record.name)


def _without_stack(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep an exception's class and place, not its message: messages of libraries may quote a text."""
    error = event.pop("error", None)
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is not None:
            event["at"] = f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}"
    return event


def _dump(event: EventDict, **_: object) -> bytes:
    return orjson.dumps(event, default=str)
