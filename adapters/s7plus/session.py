"""One session with a PLC over the library `s7commplus`: connect, look names up, read, notice a changed program. For the worker's loop.

Only reading functions of the library are called. Whatever goes wrong ends the session for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from s7commplus import AsyncClient
from s7commplus.error import S7AuthenticationError, S7CertificateError, S7Error

from schemas.errors import ConfigError, NotConnected

from .config import S7PlusConfig
from .plan import CHUNK

_CLOSE_S: Final = 0.4
_TYPES: Final = {
    "BBOOL": "bool",
    "TIMEOFDAY": "tod",
    "DATEANDTIME": "dt",
    **{
        name: name.lower()
        for name in (
            "BOOL", "BYTE", "CHAR", "WORD", "INT", "DWORD", "DINT", "REAL", "DATE", "TIME", "S5TIME", "LREAL", "ULINT", "LINT", "LWORD",
            "USINT", "UINT", "UDINT", "SINT", "WCHAR", "LTIME", "LTOD", "LDT",
        )
    },
}  # fmt: skip
"""Our names of the library's types; strings have their length besides."""


class Symbol(NamedTuple):
    """A variable as the PLC describes it: where it is, and its type in our spelling, empty for one that cannot be read."""

    access: tuple[int, ...]
    type: str


class Session:
    """Not connected until `open`. `peer` is the endpoint, for messages."""

    def __init__(self, config: S7PlusConfig, base: Path) -> None:
        self._config, self.peer = config, config.endpoint
        self._ca = None if config.ca is None else str(base / config.ca)
        self._client = AsyncClient()
        logging.getLogger("s7commplus").setLevel(logging.CRITICAL)  # what matters of its warnings is raised too

    async def open(self) -> None:
        """Connect and log in. Raises NotConnected; ConfigError for a certificate or a password that is not right."""
        config, client = self._config, self._client
        password = config.password.get_secret_value() if config.password is not None else None
        with self._told():
            await client.connect(
                config.host,
                config.port,
                use_tls=config.tls,
                tls_ca=self._ca if config.tls else None,
                tls_cert_fingerprint=config.fingerprint if config.tls else None,
                connection_type=config.connection,
            )
            if password is not None and config.tls:
                await client.authenticate(password)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the PLC's certificate in hex; empty without TLS."""
        found = self._client.peer_certificate_fingerprint()
        return found.hex() if found is not None else ""

    @property
    def protection_level(self) -> int | None:
        """What the PLC lets this session do: 1 everything, 2 read, 3 a panel's access, 4 nothing; None where it does not say."""
        level: int | None = self._client.protection_level
        return level

    async def symbols(self) -> Mapping[str, Symbol]:
        """Every variable of the PLC by name."""
        with self._told():
            catalogue = await self._client.refresh_tag_catalog()
        return {
            tag.name: Symbol((tag.access_area, *tag.lids), _type_of(tag.softdatatype.name, tag.string_length))
            for tag in catalogue
        }

    async def program_changed(self) -> bool:
        """Whether blocks were loaded since `symbols`. The library compares the list of blocks and when each was changed."""
        with self._told():
            return bool(await self._client.refresh_caches_if_program_changed())

    async def look(self) -> None:
        """Ask the PLC for anything at all. Raises NotConnected when it is gone."""
        with self._told():
            await self._client.list_datablocks()

    async def read(self, items: Sequence[tuple[int, ...]], timeout_s: float) -> list[bytes | None]:
        """The bytes of variables in their order, None for what the PLC does not give. Each request has `timeout_s`."""
        values: list[bytes | None] = []
        for at in range(0, len(items), CHUNK):
            chunk = [(access[0], list(access[1:]), 0) for access in items[at : at + CHUNK]]
            with self._told():
                try:
                    async with asyncio.timeout(timeout_s):
                        values += await self._client.read_symbolic_multi(chunk)
                except RuntimeError:  # the library's word for an answer that refuses the whole request
                    if not self._client.connected:
                        raise
                    values += [None] * len(chunk)
        return values

    async def close(self) -> None:
        """Take leave of the PLC, for a moment; `abort` ends it where the PLC does not listen any more."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._client.disconnect()
        except (TimeoutError, S7Error, OSError, ValueError):
            pass  # it ends either way

    def abort(self) -> None:
        """Drop the connection at once where it still stands; on the loop it belongs to."""
        writer = self._client._writer
        if writer is not None:
            writer.transport.abort()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the library raises, as who must act."""
        try:
            yield
        except S7CertificateError as error:
            hint = f"`genba doctor s7plus {self._config.host}` shows the certificate; write its fingerprint, once you trust it"
            raise ConfigError(f"{self.peer}: {error}", hint=hint) from error
        except S7AuthenticationError as error:
            raise ConfigError(f"{self.peer}: {error}", hint="check `password`") from error
        except (TimeoutError, asyncio.CancelledError):
            raise
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            why = "the other side closed the connection" if isinstance(error, asyncio.IncompleteReadError) else error.strerror
            raise NotConnected(f"{self.peer}: {why or error}") from error
        except Exception as error:  # the library raises whatever bytes that make no sense lead it to
            raise NotConnected(f"{self.peer}: {error or type(error).__name__}") from error


def _type_of(name: str, length: int) -> str:
    if name in ("STRING", "WSTRING"):
        return f"{name.lower()}[{length}]" if length else name.lower()
    return _TYPES.get(name, "")
