"""Logging: a line for people on a terminal, JSON elsewhere. Events are constant sentences, data are fields."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog


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
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor
    if json_lines:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=json_lines),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Patient(out))),
        cache_logger_on_first_use=False,
    )
    quiet_libraries()


def quiet_libraries() -> None:
    """The protocol libraries log every lost connection several times over, asyncua as critical; the supervisor says it once."""
    for name in ("pymodbus", "asyncua", "snap7", "s7", "s7commplus", "amqtt", "transitions", "paho"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
