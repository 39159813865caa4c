"""An asyncua server that shows any certificate and offers any policy: started once, turned into another one for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.server.user_managers import PermissiveUserManager
from cryptography import x509

from adapters.opcua.config import OpcuaConfig
from adapters.opcua.connection import Connection, open_connection, quiet_library
from adapters.opcua.pki import Trust
from adapters.opcua.simulator import stop
from tests.adapters.opcua.certs import URI, Pair, der, make
from tests.adapters.opcua.rig import configure

Kind = ua.SecurityPolicyType
ENCRYPTED = (Kind.Basic256Sha256_SignAndEncrypt,)
SECURITY = {"policy": "Basic256Sha256", "mode": "sign_and_encrypt", "trust": "pki"}
Validator = Callable[[x509.Certificate, ua.ApplicationDescription], Awaitable[None]]
_TOKENS = (ua.AnonymousIdentityToken, ua.X509IdentityToken, ua.UserNameIdentityToken)


class Host:
    """The server (it takes a second to start). `as_` makes it another one, at the same endpoint."""

    def __init__(self, server: Server) -> None:
        self.server = server
        assert server.bserver is not None
        self.endpoint = f"opc.tcp://127.0.0.1:{server.bserver.port}/plant"

    @asynccontextmanager
    async def as_(
        self,
        pair: Pair | None = None,
        offers: Sequence[ua.SecurityPolicyType] = ENCRYPTED,
        *,
        takes: Validator | None = None,
        users: Any = None,
        tokens: Sequence[type] = _TOKENS,
    ) -> AsyncIterator[str]:
        """The endpoint, for the time of the block. `takes` is the server's check of clients, `users` its user manager."""
        server, inner, pair = self.server, self.server.iserver, pair or make()
        assert server.bserver is not None
        inner.certificate, inner.private_key = pair.certificate, pair.key
        inner.certificate_validator, inner.user_manager = takes, users or PermissiveUserManager()
        inner.supported_tokens = tuple(tokens)
        inner.endpoints.clear()
        server._policies.clear()  # the list that the listening socket hands to each connection
        server.set_security_policy(list(offers))
        await server._setup_server_nodes()
        found = inner.get_endpoints
        try:
            yield self.endpoint
        finally:
            inner.get_endpoints = found  # whatever a test put there


@asynccontextmanager
async def host() -> AsyncIterator[Host]:
    quiet_library()
    server = Server()
    await server.init()
    await server.set_application_uri(URI)
    server.set_security_policy([Kind.NoSecurity])
    server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
    await server.start()
    try:
        yield Host(server)
    finally:
        await stop(server)


async def trusting(folder: Path, *pairs: Pair) -> None:
    """The trust list `pki` below `folder`, with these in it."""
    await asyncio.to_thread(_trusting, folder, pairs)


def _trusting(folder: Path, pairs: Sequence[Pair]) -> None:
    Trust.load(folder / "pki")
    for number, pair in enumerate(pairs):
        (folder / "pki" / "trusted" / f"{number}.der").write_bytes(der(pair.certificate))


def asked(endpoint: str, **more: Any) -> OpcuaConfig:
    return configure({"state": "i=2259"}, endpoint, **({"security": SECURITY} | more))


async def opened(endpoint: str, folder: Path, **more: Any) -> Connection:
    return await open_connection(asked(endpoint, **more), "robot", folder / "state", folder)


async def connects(endpoint: str, folder: Path, **more: Any) -> None:
    await (await opened(endpoint, folder, **more)).aclose()
