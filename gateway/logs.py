"""Logging: a line for people on a terminal, JSON elsewhere. Events are constant sentences, data are fields."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal, TextIO, cast, get_args

import structlog

Level = Literal["debug", "info", "warning", "error"]


_NUMBERS: Final = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "exception": 40}


class _Threshold:
    """Drops what is below the level, which may change while the gateway runs: loggers that were made before it follow."""

    number = logging.INFO

    def __call__(
        self, logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """See structlog's processors."""
        if _NUMBERS.get(method, logging.CRITICAL) < self.number:
            raise structlog.DropEvent
        return event


_THRESHOLD: Final = _Threshold()
"""The one of this process, as the configuration of structlog is."""


class _Patient:
    """A stream whose reader may go away: a log that nobody reads any more is no reason to stop collecting."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text where the stream is closed or its disk full."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Flush where there is something to flush to."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


def configure(*, level: str = "info", stream: TextIO | None = None, as_json: bool | None = None) -> None:
    """Set up structlog and quieten the libraries. Called once by the command line, never by a library module."""
    out = stream or sys.stderr
    json_lines = not out.isatty() if as_json is None else as_json
    renderer: structlog.typing.Processor
    if json_lines:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty())
    structlog.configure(
        processors=[
            _THRESHOLD,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=json_lines),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Patient(out))),
        cache_logger_on_first_use=False,
    )
    quiet_libraries()
    set_level(level)


def set_level(level: str) -> None:
    """Write from this level on, also through loggers that exist."""
    _THRESHOLD.number = logging.getLevelNamesMapping()[level.upper()]


def level() -> Level:
    """What is written from."""
    return next(one for one in get_args(Level) if logging.getLevelNamesMapping()[one.upper()] >= _THRESHOLD.number)


def quiet_libraries() -> None:
    """The protocol libraries log every lost connection several times over, asyncua as critical; the supervisor says it once."""
    for name in ("pymodbus", "asyncua", "snap7", "s7", "s7commplus", "amqtt", "transitions", "paho"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
