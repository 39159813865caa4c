"""The process of a model's worker: `python -m gateway.isolation.worker PARENT`, with requests on stdin and answers on stdout.

It loads one ONNX file and runs it on what it is asked, one request after the other. A thread shows that it lives and how much memory it has
while the model computes. It ends when it is told to, when its stdin ends, and by the kernel's hand when the gateway dies first.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from edge_models.inference import NoAnswer, infer, session

from . import errors, memory, pipes, requests
from .frames import BEAT_S, MAX_SETUP, Frame, Frames, Say, encode

_NICER: Final = 10
_READ: Final = 1 << 20


class Worker:
    """The conversation, one frame at a time."""

    def __init__(self, up: BinaryIO) -> None:
        self._up, self._lock = up, threading.Lock()
        self._session: Any = None

    def run(self, frames: Iterator[Frame]) -> None:
        """Until the gateway says CLOSE, or is gone."""
        for frame in frames:
            match frame.say:
                case Say.SETUP:
                    self._send(Frame(Say.ANSWER, errors.to_json(self._set_up(frame.payload))))
                case Say.INFER:
                    self._send(Frame(Say.ANSWERS, self._answered(frame.payload)))
                case Say.CLOSE:
                    return

    def _set_up(self, payload: bytes) -> Exception | None:
        try:
            data, file, where, bound = requests.setup_from_bytes(payload)
            memory.limit(bound)
            self._session = session(data, file, where)
        except MemoryError:
            os._exit(memory.OUT_OF_MEMORY)
        except Exception as error:  # noqa: BLE001 (whatever it is, the gateway is told)
            return error
        gc.collect()
        threading.Thread(target=self._show_life, daemon=True).start()
        return None

    def _answered(self, payload: bytes) -> bytes:
        try:
            return requests.answers_to_bytes(infer(self._session, requests.request_from_bytes(payload)))
        except NoAnswer as error:
            if "alloc" in str(error):
                os._exit(memory.OUT_OF_MEMORY)
            return requests.answers_to_bytes(None, str(error))
        except MemoryError:
            os._exit(memory.OUT_OF_MEMORY)

    def _show_life(self) -> None:
        pause = threading.Event()
        while True:
            self._send(Frame(Say.BEAT, memory.resident().to_bytes(8, "little")))
            pause.wait(BEAT_S)

    def _send(self, frame: Frame) -> None:
        data = encode(frame)
        with self._lock:
            try:
                while data:
                    data = data[self._up.write(data) :]
            except OSError:
                os._exit(0)  # the gateway is gone


def _frames(down: BinaryIO) -> Iterator[Frame]:
    frames = Frames(MAX_SETUP)
    while data := down.read(_READ):
        yield from frames.feed(data)


def _go_nowhere() -> None:
    """Work in a directory that is empty and stays so: a relative name in a graph leads to no file of the gateway's."""
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    os.rmdir(directory)


def main(parent: int) -> None:
    """Run until the gateway lets go or is gone; what libraries print goes to stderr."""
    down, up = pipes.taken(parent)
    os.nice(_NICER)  # collecting and delivering go first
    _go_nowhere()
    Worker(up).run(_frames(down))


if __name__ == "__main__":
    main(int(sys.argv[1]))
