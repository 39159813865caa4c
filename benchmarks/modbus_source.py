"""A fast Modbus TCP server for benchmarks: float32 registers of one unit, function code 3, as its own process.

Values wander a little with time; tag k can be made to jump for a moment so that alert latency is measured. `--delay` makes it a
device that takes its time over each answer, requests that overlap in parallel. Prints `PORT n`.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import time

import numpy as np


class Source:
    """The registers as one array of bytes, refreshed at most every 20 ms."""

    def __init__(self, tags: int, jump_every_s: float, hold_s: float, quiet_s: float) -> None:
        self._rng = np.random.default_rng(1)
        self._mean = 20.0 + self._rng.normal(0, 2, tags)
        self._jump_every_s, self._hold_s, self._quiet_s = jump_every_s, hold_s, quiet_s
        self._start = time.monotonic()
        self._fresh = 0.0
        self._image = b""

    def image(self) -> bytes:
        now = time.monotonic()
        if now - self._fresh > 0.02:
            self._fresh = now
            values = self._mean + self._rng.normal(0, 0.2, len(self._mean))
            since = now - self._start - self._quiet_s
            if self._jump_every_s and since > 0:
                # Jump number n starts at n * jump_every and lasts hold_s; each hits another tag.
                newest = int(since / self._jump_every_s)
                for n in range(max(0, newest - int(self._hold_s / self._jump_every_s)), newest + 1):
                    values[(n * 7919) % len(values)] += 100.0
            self._image = values.astype(">f4").tobytes()
        return self._image


class Server(asyncio.Protocol):
    """Modbus TCP framing: MBAP header of 7 bytes, function code 3 only."""

    def __init__(self, source: Source, delay_s: float) -> None:
        self._source, self._delay_s = source, delay_s
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 12:
            tid, _, length, unit, code, address, count = struct.unpack(">HHHBBHH", self._buffer[:12])
            self._buffer = self._buffer[6 + length :]
            image = self._source.image()
            if code != 3 or (address + count) * 2 > len(image):
                self._answer(struct.pack(">HHHBBB", tid, 0, 3, unit, code | 0x80, 2))
                continue
            body = image[address * 2 : (address + count) * 2]
            self._answer(struct.pack(">HHHBBB", tid, 0, 3 + len(body), unit, code, len(body)) + body)

    def _answer(self, frame: bytes) -> None:
        if self._delay_s:
            self._loop.call_later(self._delay_s, self._transport.write, frame)
        else:
            self._transport.write(frame)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--jump-every", type=float, default=0.0)
    parser.add_argument("--hold", type=float, default=1.0)
    parser.add_argument("--quiet", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that a device takes to answer")
    options = parser.parse_args()
    source = Source(options.tags, options.jump_every, options.hold, options.quiet)
    server = await asyncio.get_running_loop().create_server(lambda: Server(source, options.delay), "127.0.0.1", 0)
    print(f"PORT {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
