"""A third-party adapter that does what its endpoint says: `odd://hog`, `odd://spew` … For tests of isolation, as an installed plug-in."""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, SecretStr

from adapters.base import Adapter, AdapterConfig, AdapterContext, DeviceConfig, TagConfig
from schemas.certificates import CertificateFact
from schemas.errors import ConfigError, EndOfStream, NotConnected
from schemas.kinds import telemetry
from schemas.plugin import Plugin
from schemas.values import Duration


class OddDevice(DeviceConfig[TagConfig]):
    """A device of no kind."""


class OddConfig(OddDevice, AdapterConfig):
    """What it does is in its endpoint."""

    kind: Literal["odd"]
    pace: Duration = Field(Duration("10ms"), description="Between two batches.")
    password: SecretStr | None = Field(None, description="A secret.")
    devices: Mapping[str, OddDevice] = Field(default_factory=dict, description="None.")


class OddAdapter:
    """One batch a pace, whose value is its number."""

    def __init__(self, config: OddConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._does = config.endpoint.removeprefix("odd://")
        self._kept: list[bytes] = []
        if self._does == "refuses to be built":
            raise ConfigError("cannot be built", where="plant.yaml:7:3", hint="write it otherwise")

    async def connect(self) -> None:
        match self._does:
            case "not connected":
                raise NotConnected("nobody there", quality=0x80AB0000)
            case "config":
                raise ConfigError("wrong", where="plant.yaml:7:3", hint="write it right")
            case "hangs in connect":
                time.sleep(3600)  # noqa: ASYNC251 (it is odd)
            case "dies in connect":
                os._exit(3)
            case "speaks":
                print("hello from a library")  # noqa: T201
                self._context.log.bind(depth=2).warning("something odd", n=7, what={"a": [1, 2]}, path=self._context.directory)
                try:
                    raise ZeroDivisionError("oops")
                except ZeroDivisionError:
                    self._context.log.exception("it failed")

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        ids = np.array([bound.tag.id for bound in self._context.tags], np.int32)
        counted = self._context.directory / "count"
        number = 0
        while True:
            number += 1
            if self._does == "counts":
                counted.parent.mkdir(parents=True, exist_ok=True)
                counted.write_text(str(number))
            text = None
            if self._does == "tells its secret" and self._config.password is not None:
                text = self._config.password.get_secret_value()
            yield telemetry(
                time_us=self._context.clock.now_us(), tag=ids, value=np.full(len(ids), float(number)), text=text
            )  # fmt: skip
            match self._does:
                case "hog":
                    self._kept.append(os.urandom(2**24))
                case "hog at once":
                    self._kept.append(bytes(10 * 2**30))
                case "spew":
                    _to_every_pipe(b"not a frame at all " * 1000)
                case "spin":
                    while True:
                        pass
                case "segfault":
                    ctypes.string_at(0)
                case "crash":
                    raise ZeroDivisionError("a bug in the adapter")
                case "end of stream":
                    raise EndOfStream
                case "ends":
                    return
                case "lost":
                    raise NotConnected("gone", quality=0x80050000)
            await asyncio.sleep(self._config.pace.s)

    def certificates(self) -> list[CertificateFact]:
        """One that a test looks for."""
        return (
            [CertificateFact("server", "CN=odd", "ab" * 32, 1_800_000_000_000_000, "renew it")]
            if self._does == "certified"
            else []
        )

    async def aclose(self) -> None:
        if self._does == "does not close":
            await asyncio.sleep(3600)


def _to_every_pipe(data: bytes) -> None:
    for number in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.write(number, data)
        except OSError:
            continue


PLUGIN: Plugin[OddConfig, Adapter] = Plugin(OddConfig, OddAdapter)
