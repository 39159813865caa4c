"""What goes over the pipes between the gateway and a model's worker: the file once, then rows and answers as checked arrays."""

from __future__ import annotations

import json
import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_models.inference import Numbers, Request
from edge_models.state import array_text, pack, text_array, unpack
from schemas.errors import StateMismatch

from .frames import Garbled

_ASKED: Final = "inference"
_OUTPUT: Final = "\0output"  # no input of a graph is called that
_LENGTH: Final = struct.Struct("<I")
_NONSENSE: Final = (StateMismatch, KeyError, ValueError, RecursionError)
"""What `unpack` raises for bytes that nobody packed; JSON that is none, or is nested without end, among them."""


def setup_to_bytes(data: bytes, file: str, where: str, memory_limit: int) -> bytes:
    """The payload of SETUP for a worker."""
    head = json.dumps({"file": file, "where": where, "memory_limit": memory_limit}).encode()
    return _LENGTH.pack(len(head)) + head + data


def setup_from_bytes(payload: bytes) -> tuple[bytes, str, str, int]:
    """Bytes of the model, its file and place in the configuration, and the memory limit."""
    (length,) = _LENGTH.unpack_from(payload)
    head = json.loads(payload[4 : 4 + length])
    return payload[4 + length :], str(head["file"]), str(head["where"]), int(head["memory_limit"])


def request_to_bytes(request: Request) -> bytes:
    """The payload of INFER."""
    return pack(_ASKED, 1, "", {_OUTPUT: text_array(request.output), **request.inputs})


def request_from_bytes(payload: bytes) -> Request:
    """The request again. Raises Garbled."""
    try:
        arrays = unpack(payload, _ASKED, 1, "")
        output = array_text(arrays.pop(_OUTPUT))
    except _NONSENSE as error:
        raise Garbled(f"not a request: {error}") from error
    return Request({name: _numbers(array) for name, array in arrays.items()}, output)


def answers_to_bytes(answers: Numbers | None, why: str = "") -> bytes:
    """The payload of ANSWERS; None with the reason where there are none."""
    told = {} if answers is None else {"answers": answers}
    return pack(_ASKED, 1, "", {**told, "why": text_array(why)})


def answers_from_bytes(payload: bytes) -> tuple[Numbers | None, str]:
    """The answers, or why there are none. Raises Garbled."""
    try:
        arrays = unpack(payload, _ASKED, 1, "")
        why = array_text(arrays["why"])
    except _NONSENSE as error:
        raise Garbled(f"not answers: {error}") from error
    found = arrays.get("answers")
    if found is not None and found.ndim != 2:
        raise Garbled("answers of another shape")
    return (None if found is None else _numbers(found)), why


def _numbers(array: npt.NDArray[np.generic]) -> Numbers:
    return array.astype(np.float32) if array.dtype == np.float32 else array.astype(np.float64)
