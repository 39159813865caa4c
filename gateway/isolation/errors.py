"""Errors over the pipe: what an adapter raises in the child is raised again in the gateway, with the same meaning."""

from __future__ import annotations

import json
import traceback

from schemas.errors import ConfigError, EndOfStream, NotConnected

from .frames import Garbled


class AdapterCrashed(Exception):
    """The adapter raised something that is a bug; `str` is the traceback of the child."""


def to_json(error: BaseException | None) -> bytes:
    """An error as JSON; None is `all went well`."""
    match error:
        case None:
            return b"{}"
        case NotConnected():
            plain = {"is": "NotConnected", "message": str(error), "quality": error.quality}
        case ConfigError():
            plain = {"is": "ConfigError", "message": error.message, "where": error.where, "hint": error.hint}
        case EndOfStream():
            plain = {"is": "EndOfStream"}
        case _:
            plain = {"is": "crash", "message": "".join(traceback.format_exception(error))}
    return json.dumps(plain).encode()


def from_json(payload: bytes) -> Exception | None:
    """The error again. Raises Garbled for what `to_json` did not write."""
    try:
        plain = json.loads(payload)
        match plain.get("is"):
            case None:
                return None
            case "NotConnected":
                return NotConnected(str(plain["message"]), quality=int(plain["quality"]))
            case "ConfigError":
                return ConfigError(str(plain["message"]), where=str(plain["where"]), hint=str(plain["hint"]))
            case "EndOfStream":
                return EndOfStream()
            case "crash":
                return AdapterCrashed(str(plain["message"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Garbled(f"not an answer: {error}") from error
    raise Garbled("an answer of an unknown kind")
