"""Why an OPC UA server cannot be read: network, protocol, policy, its certificate, ours, the user, and then what it says of itself."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from asyncua import ua
from pydantic import ValidationError

from adapters.reach import reach
from schemas.errors import ConfigError, NotConnected
from schemas.plugin import Check

from . import certificates as c
from .access import OpcuaAccess
from .advice import TRUST_US, side_by_side
from .certificates import Problem
from .config import OpcuaConfig
from .connection import ask_endpoints, failures, hang_up, new_client, quiet_library
from .identity import Identity
from .policies import by_uri
from .secure import Offer, RefusesOurCertificate, Security, protection
from .users import activate, token_names

_NAMES: Final[Mapping[str, str]] = {
    "BadCertificateUntrusted": "trust",
    "BadCertificateChainIncomplete": "trust",
    "BadCertificateTimeInvalid": "validity",
    "BadCertificateIssuerTimeInvalid": "validity",
    "BadCertificateHostNameInvalid": "host name",
    "BadCertificateUriInvalid": "application URI",
    "BadCertificateUseNotAllowed": "key usage",
    "BadCertificatePolicyCheckFailed": "algorithm",
    "BadCertificateRevoked": "revocation",
    "BadCertificateIssuerRevoked": "revocation",
    "BadCertificateRevocationUnknown": "revocation",
}
_CROWDED: Final = ("BadTooManySessions", "BadMaxConnectionsReached", "BadTcpServerTooBusy", "BadTcpNotEnoughResources")
_SKEW_S: Final = 5.0


async def examine(options: OpcuaAccess) -> AsyncGenerator[Check, None]:
    """One check after the other, ending where nothing more can be found out."""
    quiet_library()
    try:
        config, place = await asyncio.to_thread(options.config), options.place()
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        yield Check("options", "failure", f"{where}: {found['msg'].removeprefix('Value error, ')}".lstrip(": "), "see --help")
        return
    except OSError as error:
        yield Check("options", "failure", f"cannot read {error.filename}: {error.strerror}", "see --password-file")
        return
    parts = urlsplit(config.endpoint)
    network = await reach(parts.hostname or "", parts.port or 4840, timeout_s=config.timeout.s)
    yield network
    if network.result == "failure":
        return
    hello = await _hello(config)
    yield hello
    if hello.result == "failure":
        return
    try:
        async with _translated(config.endpoint):
            offer = await ask_endpoints(new_client(config, "doctor"))
    except (ConfigError, NotConnected, _Crowded) as error:
        yield _failure("offers", error, config, "the server speaks OPC UA and tells no endpoints: look at its log")
        return
    for check in _offered(offer):
        yield check
    try:
        security = await asyncio.to_thread(Security.load, config, place.name, place.directory, place.base)
    except ConfigError as error:
        yield _failure("policy", error, config, "look at the files that are named")
        return
    policy = _policy(security, offer)
    yield policy
    if policy.result == "failure":
        return
    async for check in _beyond(config, security, offer, place.base):
        yield check


async def _hello(config: OpcuaConfig) -> Check:
    client = new_client(config, "doctor")
    at = f"{client.server_url.hostname}:{client.server_url.port}"
    try:
        async with asyncio.timeout(config.timeout.s):
            await client.connect_socket()
            await client.send_hello()
    except ua.UaStatusCodeError as error:
        status = ua.StatusCode(error.code).name
        if status in _CROWDED:
            return Check("OPC UA", "failure", f"{at} takes no more connections ({status})", _crowded())
        way_out = "check the path behind the port: engineering tool or server's settings show the whole endpoint"
        return Check("OPC UA", "failure", f"{at} speaks OPC UA and refuses {config.endpoint} ({status})", way_out)
    except TimeoutError:
        return Check(
            "OPC UA",
            "failure",
            f"{at} accepts connections and does not answer in {config.timeout.s:g} s",
            "the port may belong to something else, or the server hangs: check the port, restart the server",
        )
    except (OSError, ua.UaError, ValueError, LookupError, struct.error) as error:
        return Check(
            "OPC UA",
            "failure",
            f"{at} does not speak OPC UA ({str(error) or type(error).__name__})",
            "the port belongs to something else: check it; OPC UA is on 4840 unless the server says otherwise, KEPServerEX on 49320",
        )
    finally:
        await hang_up(client)
    return Check("OPC UA", "ok", f"{at} speaks OPC UA")


def _offered(offer: Offer) -> Iterator[Check]:
    """Every endpoint: policy, mode, and which users it takes."""
    if not offer.endpoints:
        yield Check("offers", "warning", "no endpoint at all", "look at the endpoints in the server's settings")
    for one in offer.strongest_first():
        policy = by_uri(one.SecurityPolicyUri)
        note = " (cannot be spoken)" if policy is None else " (withdrawn)" if policy.deprecated else ""
        yield Check("offers", "ok", f"{protection(one)}{note}; users: {token_names(one.UserIdentityTokens)}")


def _policy(security: Security, offer: Offer) -> Check:
    best = next((one for one in offer.strongest_first() if by_uri(one.SecurityPolicyUri) is not None), None)
    policy = None if best is None else by_uri(best.SecurityPolicyUri)
    secured = "write `security: {{policy: {0}, mode: {1}}}` (here: --policy {0} --mode {1})"
    better = ""
    if best is not None and policy is not None and policy.strength:
        better = secured.format(*protection(best).split(", "))
        if policy.deprecated:
            better += ", with `allow_deprecated: true`: it is withdrawn from the standard, so ask for a newer server"
    if security.identities is not None:
        try:
            security.chosen(offer)
        except ConfigError as error:
            without = "the server has no security; switch a policy on there"
            return Check("policy", "failure", f"{error.message}; {error.hint}", better or without)
        name = security.policy.name
        if security.policy.deprecated:
            return Check("policy", "warning", f"{name} is withdrawn from the standard", better or "ask for a newer server")
        return Check("policy", "ok", f"{name}, {security.config.security.mode if security.config.security else ''}")
    security.offer = offer
    if not any(one.SecurityMode == ua.MessageSecurityMode.None_ for one in offer.endpoints):
        return Check(
            "policy", "failure", "the server has no endpoint without security", better or "look at the server's settings"
        )
    return Check(
        "policy", "warning", "messages go in the clear", better or "the server has no security; switch a policy on there"
    )


async def _beyond(config: OpcuaConfig, security: Security, offer: Offer, base: Path) -> AsyncGenerator[Check, None]:
    """Certificates, session, user and status, once there is an endpoint to speak to."""
    refused = False
    endpoint: ua.EndpointDescription | None = None
    if security.identities is not None:
        endpoint = security.chosen(offer)
        problems = security.examine(endpoint.ServerCertificate, endpoint.Server)
        if security.server:
            ours = security.identities.candidates[0].parsed
            yield Check("certificates", "ok", side_by_side(security.server[0], ours))
        for check in await _server_certificate(security, problems):
            yield check
            refused |= check.result == "failure"
        if refused and not _usable(security):
            return
        for warning in _ours(security.identities.current):
            yield warning
    for number, identity in enumerate(security.candidates, 1):
        last = number == len(security.candidates)
        client = new_client(config, "doctor")
        try:
            session, check = await _session(client, security, identity, endpoint)
            if session is None and not last:
                yield Check("our certificate", "warning", f"the renewed one: {check.found}", check.way_out)
                continue
            yield check
            if session is None or refused:
                return  # nothing of a user goes to a server that is not trusted
            async for check in _inside(client, session, security, base):
                yield check
            return
        finally:
            await _close(client)


async def _server_certificate(security: Security, problems: Sequence[Problem]) -> list[Check]:
    fatal = [problem for problem in problems if problem.fatal]
    if fatal and security.server and security.server[0] not in security.trust.certificates:
        reason = "; ".join(f"{problem.status}: {problem.found}" for problem in fatal)
        await asyncio.to_thread(security.trust.reject, security.server[0], reason, security.config.endpoint)
    checks = [
        Check(
            _NAMES.get(problem.status, "certificate"),
            "failure" if problem.fatal else "warning",
            f"{problem.found} ({problem.status})",
            problem.way_out.replace("{}", security.store),
        )
        for problem in problems
    ]
    if not fatal:
        checks.append(Check("its certificate", "ok", "trusted, valid, of this application and meant for servers"))
    return checks


def _usable(security: Security) -> bool:
    """True where a channel can be tried with that certificate, trusted or not: it tells whether the server trusts us."""
    return bool(security.server) and c.key(security.server[0]).startswith("RSA")


def _ours(identity: Identity) -> Iterator[Check]:
    left = identity.parsed.not_valid_after_utc - datetime.now(UTC)
    if left.days < 30:
        yield Check(
            "our certificate",
            "warning",
            f"expires in {left.days} days" if left.days >= 0 else "has expired",
            "trust the renewed one in the server, or give the gateway a new one where an authority signed it",
        )


async def _session(
    client: Any, security: Security, identity: Identity | None, endpoint: ua.EndpointDescription | None
) -> tuple[ua.CreateSessionResult | None, Check]:
    """Channel and session, not activated: what the server thinks of our certificate."""
    shown = endpoint is not None and identity is not None
    name = "our certificate" if shown else "session"
    try:
        async with _translated(security.config.endpoint):
            client.certificate_validator = security.validate
            if endpoint is not None and identity is not None:
                await security.arm(client, identity, endpoint)
            await client.connect_socket()
            await client.send_hello()
            try:
                async with security.handshake(identity):
                    await client.open_secure_channel()
                    session = await client.create_session()
            except (ConnectionError, TimeoutError):
                if identity is None:
                    raise
                hangs_up = "the server hangs up when it sees it: most do when they do not trust it"
                return None, Check(name, "failure", hangs_up, _trust_us(identity))
            security.verify(session)
    except RefusesOurCertificate as error:
        assert identity is not None
        return None, Check(name, "failure", f"the server refuses it ({error.status})", _trust_us(identity))
    except _Crowded as error:
        return None, Check("session", "failure", f"the server takes no more sessions ({error})", _crowded())
    except (ConfigError, NotConnected) as error:
        return None, _failure("session", error, security.config, "look at the log of the server")
    return session, Check(name, "ok", "the server takes it" if shown else "the server opens one")


async def _inside(client: Any, session: ua.CreateSessionResult, security: Security, base: Path) -> AsyncGenerator[Check, None]:
    auth = security.config.auth
    who = "anonymous" if auth is None else auth.username or f"certificate {auth.certificate}"
    try:
        async with _translated(security.config.endpoint):
            await activate(client, session, security, base)
    except _Crowded as error:
        yield Check("session", "failure", f"the server takes no more sessions ({error})", _crowded())
        return
    except (ConfigError, NotConnected) as error:
        yield _failure("user", error, security.config, "look at the log of the server")
        return
    yield Check("user", "ok", f"{who} is let in")
    try:
        async with _translated(security.config.endpoint):
            status = await client.get_node(ua.ObjectIds.Server_ServerStatus).read_value()
            for check in _status(status):
                yield check
    except (ConfigError, NotConnected, _Crowded) as error:
        yield Check(
            "server",
            "warning",
            f"it does not tell its status: {error}",
            "give this user the right to browse and read the server object",
        )


def _status(status: ua.ServerStatusDataType) -> Iterator[Check]:
    build = status.BuildInfo
    product = c.clean(" ".join(str(part) for part in (build.ManufacturerName, build.ProductName, build.SoftwareVersion) if part))
    state = getattr(status.State, "name", str(status.State)).rstrip("_")
    running = state == "Running"
    yield Check(
        "server",
        "ok" if running else "warning",
        f"{product or 'unnamed'}, {state}",
        "" if running else "the server says itself that it does not run as it should: look at its log",
    )
    told = status.CurrentTime
    offset_s = ((told if told.tzinfo else told.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    wrong = abs(offset_s) > _SKEW_S
    yield Check(
        "clock",
        "warning" if wrong else "ok",
        f"the server's is {offset_s:+.1f} s against ours",
        "set a time server (NTP) at the server and at the gateway: readings carry the server's time" if wrong else "",
    )


class _Crowded(Exception):
    """The server has no room for another session."""


@asynccontextmanager
async def _translated(endpoint: str) -> AsyncIterator[None]:
    """As `failures`, with the full server told apart."""
    async with failures(endpoint):
        try:
            yield
        except ua.UaStatusCodeError as error:
            status = ua.StatusCode(error.code).name
            if status in _CROWDED:
                raise _Crowded(status) from error
            raise
        except (AttributeError, TypeError) as error:  # what asyncua makes of nonsense
            raise NotConnected(f"{endpoint} answers with something that is not OPC UA: {error}") from error


def _failure(name: str, error: Exception, config: OpcuaConfig, otherwise: str) -> Check:
    message = error.message if isinstance(error, ConfigError) else str(error)
    way_out = error.hint if isinstance(error, ConfigError) and error.hint else otherwise
    return Check(name, "failure", message.removeprefix(f"{config.endpoint}: ").removeprefix(f"{config.endpoint} "), way_out)


def _trust_us(identity: Identity) -> str:
    return TRUST_US.format(sha1=c.thumbprint(identity.parsed), file=identity.certificate)


def _crowded() -> str:
    return "close other clients, or raise the number of sessions in the server; it frees one that was lost after a minute or so"


async def _close(client: Any) -> None:
    with suppress(Exception):
        async with asyncio.timeout(1):
            await client.uaclient.close_session(True)
            await client.close_secure_channel()
    await hang_up(client)
