"""Moves a connection over to the renewed certificate of this gateway, without a word where all goes well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from adapters.base import AdapterContext
from schemas.certificates import CertificateFact
from schemas.errors import ConfigError, NotConnected

from .config import OpcuaConfig
from .connection import Connection, try_successor

_LOOK_EVERY_S: Final = 6 * 3600.0


class Renewal:
    """What one adapter knows of the certificates of its connection."""

    def __init__(self, config: OpcuaConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._told = ""
        self.certificates: Sequence[CertificateFact] = ()

    def connected(self, connection: Connection) -> None:
        """Note the certificates of a new connection; says once that the server does not take the renewed one yet."""
        self.certificates = connection.certificates
        self._tell(connection.renewal)

    async def watch(self) -> None:
        """Look every six hours whether a renewed certificate is due, and whether the server takes it; never returns.

        A session may last for years, and a server checks our certificate at each renewal of the channel. Once the server takes the
        renewed one this raises NotConnected: the next connection is made with it.
        """
        if not self._config.secured:
            await asyncio.get_running_loop().create_future()
        context = self._context
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                refused = await try_successor(self._config, context.name, context.directory, context.base)
            except ConfigError as error:  # a file that cannot be read; the connection that stands needs it only when it ends
                refused = str(error)
            if refused == "":
                raise NotConnected(f"{self._config.endpoint} takes the renewed certificate of the gateway: connecting with it")
            self._tell(refused or "")

    def _tell(self, refused: str) -> None:
        if refused and not self._told:
            self._context.log.warning(
                "the server does not take the renewed certificate of the gateway yet; the old one is used until it expires",
                adapter=self._context.name,
                error=refused,
            )
        self._told = refused
