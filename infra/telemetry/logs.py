"""Structured logs: readable on a terminal, JSON lines elsewhere. They contain counts and reasons, never identifiers."""

import logging
import sys
from typing import cast

import structlog


def configure_logs(stage: str) -> None:
    """Configure logging for this process; every line contains `stage`."""
    human = sys.stderr.isatty()
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {"stage": stage, **event},  # not a context variable: threads log too
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if human else [structlog.processors.format_exc_info]),
            # Plain tracebacks: the default shows local variables, which may hold events.
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if human
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def get_logger() -> structlog.stdlib.BoundLogger:
    """The process's logger."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger())
