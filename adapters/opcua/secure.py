"""How a session is secured: which endpoint, whose certificate, and that nobody on the way changed what the server said.

Order (OPC 10000-4, 5.4, 5.6.2 and 6.1.3): ask for the endpoints in the clear, examine the certificate of the one that is asked for, open
the channel with it, and compare inside the secured session what was said in the clear.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from asyncua import Client, ua
from asyncua.crypto import security_policies
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.certificates import CertificateFact
from schemas.errors import ConfigError, NotConnected

from .certificates import LOOPBACK, Expected, Problem, expires_us, fingerprint, split_chain, subject
from .config import OpcuaConfig
from .identity import Identities, Identity, promote
from .pki import Trust
from .policies import POLICIES, Policy, by_uri, shown

MODES: Final = {"sign": ua.MessageSecurityMode.Sign, "sign_and_encrypt": ua.MessageSecurityMode.SignAndEncrypt}
_MODE_NAMES: Final = {
    ua.MessageSecurityMode.None_: "none",
    ua.MessageSecurityMode.Sign: "sign",
    ua.MessageSecurityMode.SignAndEncrypt: "sign_and_encrypt",
}
_MAX_ENDPOINTS: Final = 100
REFUSES_US: Final = (
    "BadSecurityChecksFailed",
    "BadCertificateInvalid",
    "BadCertificateTimeInvalid",
    "BadCertificateIssuerTimeInvalid",
    "BadCertificateHostNameInvalid",
    "BadCertificateUriInvalid",
    "BadCertificateUseNotAllowed",
    "BadCertificateIssuerUseNotAllowed",
    "BadCertificateUntrusted",
    "BadCertificateRevocationUnknown",
    "BadCertificateIssuerRevocationUnknown",
    "BadCertificateRevoked",
    "BadCertificateIssuerRevoked",
    "BadCertificateChainIncomplete",
    "BadCertificatePolicyCheckFailed",
    "BadNoValidCertificates",
)
"""What a server answers that does not take the certificate of this gateway."""


class ServerNotTrusted(ConfigError):
    """The server's certificate does not pass. `problems` says all of it."""

    def __init__(self, endpoint: str, problems: Sequence[Problem], store: str, note: str = "") -> None:
        fatal = [problem for problem in problems if problem.fatal]
        super().__init__(
            f"{endpoint}: {fatal[0].status}: {'; '.join(problem.found for problem in fatal)}{note}",
            hint=fatal[0].way_out.replace("{}", store),
        )
        self.problems = problems


class RefusesOurCertificate(ConfigError):
    """The server does not take the certificate of this gateway."""

    def __init__(self, endpoint: str, status: str, identity: Identity) -> None:
        super().__init__(
            f"{endpoint} refuses the certificate of this gateway ({status})",
            hint=f"trust it there, most servers list it among the rejected clients: fingerprint {fingerprint(identity.parsed)}, "
            f"file {identity.certificate}; `genba doctor opcua {endpoint}` says where to look",
        )
        self.status = status


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server said in the clear: its endpoints, and its clock minus ours where it told."""

    endpoints: Sequence[ua.EndpointDescription]
    skew: timedelta | None = None

    def names(self) -> list[str]:
        """`Basic256Sha256, sign_and_encrypt`, each once, the strongest first."""
        return list(dict.fromkeys(protection(one) for one in self.strongest_first()))

    def strongest_first(self) -> list[ua.EndpointDescription]:
        """Its endpoints, those that we cannot speak last."""
        return sorted(self.endpoints, key=_strength, reverse=True)


def protection(endpoint: ua.EndpointDescription) -> str:
    """`Basic256Sha256, sign_and_encrypt`."""
    return f"{shown(endpoint.SecurityPolicyUri)}, {_MODE_NAMES.get(endpoint.SecurityMode, '?')}"


def _strength(endpoint: ua.EndpointDescription) -> tuple[int, int]:
    policy = by_uri(endpoint.SecurityPolicyUri)
    return (-1 if policy is None else policy.strength, int(endpoint.SecurityMode))


@dataclass
class Security:
    """The security of one connection: what its configuration asks for, and the certificates there are. Lives for one attempt."""

    config: OpcuaConfig
    policy: Policy
    mode: ua.MessageSecurityMode
    store: str  # what `genba trust` calls the trust list: `--directory pki`
    trust: Trust
    identities: Identities | None
    own: Path
    problems: list[Problem] = field(default_factory=list)
    offer: Offer | None = None
    server: Sequence[x509.Certificate] = ()

    @classmethod
    def load(cls, config: OpcuaConfig, name: str, directory: Path, base: Path) -> Security:
        """Read the trust list, and our certificate where one is needed. Blocking. Raises ConfigError."""
        security = config.security
        policy = POLICIES[security.policy if security is not None else "None"]
        if policy.deprecated and security is not None and not security.allow_deprecated:
            raise ConfigError(
                f"the policy {policy.name} is withdrawn from the standard",
                hint="use Basic256Sha256, or add `allow_deprecated: true` to `security` where the server has nothing better",
            )
        mode = MODES[security.mode] if security is not None and config.secured else ua.MessageSecurityMode.None_
        pki = (directory / "pki").resolve()  # `genba test` links to the gateway's own
        at = base / security.trust if security is not None and security.trust else pki
        # Without security nothing rests on a certificate, but a password that is encrypted for it.
        trust = Trust.load(at) if config.secured or config.auth is not None else Trust(at, (), (), ())
        identities = Identities.load_or_make(pki, f"genba {name}") if config.secured else None
        return cls(config, policy, mode, f"--directory {at}", trust, identities, pki / "own")

    @property
    def candidates(self) -> Sequence[Identity | None]:
        """The certificates to try, the renewed one first; a single None without security."""
        return (None,) if self.identities is None else self.identities.candidates

    @property
    def local(self) -> bool:
        """True where nobody else can listen."""
        return urlsplit(self.config.endpoint).hostname in LOOPBACK

    def chosen(self, offer: Offer) -> ua.EndpointDescription:
        """The endpoint that is asked for. Raises ConfigError saying what there is instead; there is no fall back."""
        self.offer = offer
        for one in offer.endpoints:
            if one.SecurityPolicyUri == self.policy.uri and one.SecurityMode == self.mode and one.ServerCertificate:
                return one
        asked = self.config.security
        assert asked is not None
        raise ConfigError(
            f"{self.config.endpoint} has no endpoint with {asked.policy}, {asked.mode}",
            hint=f"it offers {'; '.join(offer.names()) or 'none'}",
        )

    def examine(self, content: bytes, application: ua.ApplicationDescription) -> list[Problem]:
        """What is wrong with a server's certificate (or chain), as DER. Keeps it. Pure but for the clock."""
        try:
            self.server = split_chain(content)
        except ValueError as error:
            way_out = "look at the certificate that the server is configured with"
            return [Problem("BadCertificateInvalid", f"what it sends is not a certificate: {error}", way_out)]
        asked = self.config.security
        expected = Expected(
            application.ApplicationUri or "",
            urlsplit(self.config.endpoint).hostname or "",
            self.policy,
            allow_other_host=asked is not None and asked.allow_other_host,
            allow_deprecated=asked is not None and asked.allow_deprecated,
        )
        skew = None if self.offer is None else self.offer.skew
        return self.trust.examine(self.server, expected, datetime.now(UTC), skew)

    async def accept(self, content: bytes, application: ua.ApplicationDescription) -> None:
        """Raises ServerNotTrusted when the certificate does not pass; one that nobody trusts is kept for a person to look at."""
        self.problems = self.examine(content, application)
        fatal = [problem for problem in self.problems if problem.fatal]
        if not fatal:
            return
        note = ""
        if self.server and self.server[0] not in self.trust.certificates:
            reason = "; ".join(f"{problem.status}: {problem.found}" for problem in fatal)
            try:
                await asyncio.to_thread(self.trust.reject, self.server[0], reason, self.config.endpoint)
            except OSError as error:
                note = f"; and its certificate cannot be kept in {self.trust.directory}: {error.strerror}"
        raise ServerNotTrusted(self.config.endpoint, self.problems, self.store, note)

    async def validate(self, certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        """asyncua's hook: the server's certificate as the session shows it. Without security nothing rests on it yet."""
        del certificate  # `verify` compares what the session shows with what was examined
        if self.server and self.offer is not None:
            now = {one.Server.ApplicationUri for one in self.offer.endpoints}
            if application.ApplicationUri not in now:
                raise self._changed(f"it calls itself {application.ApplicationUri}")

    def verify(self, session: ua.CreateSessionResult) -> None:
        """That the secured session says what was said in the clear (OPC 10000-4, 5.6.2.2). Raises ConfigError where it does not.

        Compared is what a choice rests on: application, policy, mode, and the users that are taken.
        """
        if self.offer is None or not self.server:
            return
        shown_now = session.ServerCertificate or b""
        try:
            same = split_chain(shown_now)[0] == self.server[0]
        except (ValueError, IndexError):
            same = False
        if not same:
            raise self._changed("it shows another certificate")
        before, now = _digest(self.offer.endpoints), _digest(session.ServerEndpoints)
        if before != now:
            hidden = sorted({f"{shown(one[1])}, {_MODE_NAMES.get(one[2], '?')}" for one in before ^ now})
            raise self._changed(f"its endpoints differ ({'; '.join(hidden)})")

    def _changed(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.config.endpoint} says something else inside the secured session than in the clear: {what}",
            hint="something between the gateway and the server may change messages; where a proxy is meant to be there, let it "
            "pass the server's answers as they are",
        )

    @asynccontextmanager
    async def handshake(self, identity: Identity | None) -> AsyncIterator[None]:
        """Around channel and session: tells a server that does not take our certificate. Raises RefusesOurCertificate, ConfigError."""
        try:
            yield
        except ua.UaStatusCodeError as error:
            status = ua.StatusCode(error.code).name
            if identity is not None and status in REFUSES_US:
                raise RefusesOurCertificate(self.config.endpoint, status, identity) from error
            raise
        except (
            ConnectionError,
            TimeoutError,
        ) as error:  # some servers hang up without a word; then the old one may be what they know
            if identity is not None and identity.renewed:
                raise RefusesOurCertificate(self.config.endpoint, "it hangs up", identity) from error
            raise
        except ua.UaError as error:  # asyncua compares too, and has no codes for it
            if identity is not None and "certificate mismatch" in str(error):
                raise self._changed("it shows another certificate") from error
            if identity is not None and "No matching endpoints" in str(error):
                raise self._changed("the endpoint in use is not among its endpoints") from error
            raise

    async def secure(self, client: Client, identity: Identity, offer: Offer) -> None:
        """Examine the server and give `client` the policy. Raises ServerNotTrusted, ConfigError."""
        endpoint = self.chosen(offer)
        await self.accept(endpoint.ServerCertificate, endpoint.Server)
        await self.arm(client, identity, endpoint)

    async def arm(self, client: Client, identity: Identity, endpoint: ua.EndpointDescription) -> None:
        """Give `client` policy, keys and the certificate of a server that was examined."""
        client.application_uri = identity.uri
        await client.set_security(
            getattr(security_policies, f"SecurityPolicy{self.policy.name}"),
            str(identity.certificate),
            str(identity.key),
            server_certificate=endpoint.ServerCertificate[: _first_length(self.server)],
            mode=self.mode,
        )

    async def settle(self, identity: Identity | None) -> Identity | None:
        """Called once the server has taken `identity`: a renewed certificate takes the place of the old one."""
        if identity is None or not identity.renewed:
            return identity
        return await asyncio.to_thread(promote, self.own, identity)

    def facts(self, identity: Identity | None) -> Sequence[CertificateFact]:
        """The certificates that the connection rests on."""
        found = []
        if identity is not None:
            action = "Trust the renewed certificate of the gateway in the server (genba trust own shows it)"
            if identity.parsed.issuer != identity.parsed.subject:
                action = "Give the gateway a new certificate from its authority"
            found.append(_fact("own", identity.parsed, action))
        if identity is not None and self.server:
            found.append(
                _fact("server", self.server[0], "Renew the certificate of the server, then accept it (genba trust accept)")
            )
        return found


def _fact(owner: Literal["own", "server"], certificate: x509.Certificate, action: str) -> CertificateFact:
    return CertificateFact(owner, subject(certificate), fingerprint(certificate), expires_us(certificate), action)


def _first_length(chain: Sequence[x509.Certificate]) -> int:
    return len(chain[0].public_bytes(Encoding.DER))


Digest = frozenset[tuple[str, str, ua.MessageSecurityMode, frozenset[tuple[int, str]]]]


def _digest(endpoints: Sequence[ua.EndpointDescription]) -> Digest:
    found = set()
    for one in endpoints or ():
        tokens = frozenset((int(token.TokenType), token.SecurityPolicyUri or "") for token in one.UserIdentityTokens or ())
        found.add((one.Server.ApplicationUri or "", one.SecurityPolicyUri or "", one.SecurityMode, tokens))
    return frozenset(found)


async def discover(client: Client) -> Offer:
    """Ask a server for its endpoints, on an open channel without security. Raises what `failures` translates."""
    request = ua.GetEndpointsRequest()
    request.Parameters.EndpointUrl = client.server_url.geturl()
    data = await client.uaclient._send_request(request)  # not `get_endpoints`: its answer leaves the server's clock out
    response = ua.ua_binary.struct_from_binary(ua.GetEndpointsResponse, data)
    response.ResponseHeader.ServiceResult.check()
    told = response.ResponseHeader.Timestamp
    skew = None
    if told is not None and told.year > 1970:
        skew = (told if told.tzinfo else told.replace(tzinfo=UTC)) - datetime.now(UTC)
    endpoints = response.Endpoints or []
    if len(endpoints) > _MAX_ENDPOINTS:
        raise NotConnected(f"{request.Parameters.EndpointUrl} offers {len(endpoints)} endpoints, more than any server has")
    return Offer(endpoints, skew)
