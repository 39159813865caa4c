"""Secured sessions against asyncua's server: nothing less than what was asked for, nobody in between, no password for strangers."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from struct import pack
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.ua_client import UaClient
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.uaprocessor import UaProcessor
from asyncua.server.user_managers import CertificateUserManager
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.opcua import certificates, connection, renewal, secure, users
from adapters.opcua.identity import Identities
from adapters.opcua.pki import Trust
from adapters.opcua.policies import POLICIES
from adapters.opcua.secure import RefusesOurCertificate, ServerNotTrusted
from adapters.opcua.store import Store
from schemas.errors import ConfigError, NotConnected
from tests.adapters.opcua import secured
from tests.adapters.opcua.certs import NOW, URI, authority, der, key, make
from tests.adapters.opcua.rig import make_adapter, read_some
from tests.adapters.opcua.secured import ENCRYPTED, SECURITY, Host, Kind, asked, connects, opened, trusting

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host() -> AsyncIterator[Host]:
    async with secured.host() as one:
        yield one


@pytest.fixture
def abroad(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as a host somewhere in the plant."""
    for module in (certificates, secure):
        monkeypatch.setattr(module, "LOOPBACK", frozenset())


@pytest.mark.parametrize(
    ("policy", "mode", "offer"),
    [
        ("Basic256Sha256", "sign", Kind.Basic256Sha256_Sign),
        ("Basic256Sha256", "sign_and_encrypt", Kind.Basic256Sha256_SignAndEncrypt),
        ("Aes128Sha256RsaOaep", "sign", Kind.Aes128Sha256RsaOaep_Sign),
        ("Aes128Sha256RsaOaep", "sign_and_encrypt", Kind.Aes128Sha256RsaOaep_SignAndEncrypt),
        ("Aes256Sha256RsaPss", "sign", Kind.Aes256Sha256RsaPss_Sign),
        ("Aes256Sha256RsaPss", "sign_and_encrypt", Kind.Aes256Sha256RsaPss_SignAndEncrypt),
    ],
)
async def test_every_current_policy_in_both_modes(
    host: Host, tmp_path: Path, policy: str, mode: str, offer: ua.SecurityPolicyType
) -> None:
    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair, (offer,)) as endpoint:
        seen = await read_some(asked(endpoint, security={"policy": policy, "mode": mode, "trust": "pki"}), tmp_path)
    assert seen.rows["state"][0]["quality"] == 0


@pytest.mark.parametrize(
    ("policy", "offer"), [("Basic256", Kind.Basic256_SignAndEncrypt), ("Basic128Rsa15", Kind.Basic128Rsa15_SignAndEncrypt)]
)
async def test_a_withdrawn_policy_only_where_it_is_asked_for(
    host: Host, tmp_path: Path, policy: str, offer: ua.SecurityPolicyType
) -> None:
    pair = make()
    await trusting(tmp_path, pair)
    security = {"policy": policy, "trust": "pki"}
    async with host.as_(pair, (offer,)) as endpoint:
        with pytest.raises(ConfigError, match="withdrawn from the standard"):
            await opened(endpoint, tmp_path, security=security)
        await connects(endpoint, tmp_path, security=security | {"allow_deprecated": True})


@pytest.mark.parametrize(
    ("offers", "names"),
    [
        ((Kind.NoSecurity,), "it offers None, none"),
        ((Kind.NoSecurity, Kind.Basic256Sha256_Sign), "it offers Basic256Sha256, sign; None, none"),
        ((Kind.Aes128Sha256RsaOaep_SignAndEncrypt,), "it offers Aes128Sha256RsaOaep, sign_and_encrypt"),
    ],
)
async def test_never_anything_less_than_asked_for(
    host: Host, tmp_path: Path, offers: Sequence[ua.SecurityPolicyType], names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[object] = []
    create = UaClient.create_session

    async def counted(self: UaClient, parameters: object) -> object:
        sessions.append(parameters)
        return await create(self, parameters)

    monkeypatch.setattr(UaClient, "create_session", counted)
    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair, offers) as endpoint:
        with pytest.raises(ConfigError, match=r"no endpoint with Basic256Sha256, sign_and_encrypt") as error:
            await opened(endpoint, tmp_path)
        assert names in error.value.hint
        assert sessions == []
        if Kind.NoSecurity in offers:  # the control: without security asked for, the same server gives a session
            await connects(endpoint, tmp_path, security=None)
            assert len(sessions) == 1


async def test_untrusted_accepted_and_rejected_again(host: Host, tmp_path: Path) -> None:
    pair, pki = make(), tmp_path / "pki"
    async with host.as_(pair) as endpoint:
        with pytest.raises(ServerNotTrusted, match="BadCertificateUntrusted") as error:
            await opened(endpoint, tmp_path)
        fingerprint = certificates.fingerprint(pair.certificate)
        assert f"genba trust accept --directory {pki} {fingerprint[:12]}" in error.value.hint
        (entry,) = await asyncio.to_thread(Store(pki).entries)
        assert (entry.state, entry.sha256, entry.uri) == ("rejected", fingerprint, URI)
        assert "not trusted" in entry.reason
        await asyncio.to_thread(Store(pki).accept, fingerprint[:8])
        await connects(endpoint, tmp_path)
        await asyncio.to_thread(Store(pki).reject, fingerprint[:8])
        with pytest.raises(ServerNotTrusted):
            await opened(endpoint, tmp_path)


async def test_a_server_that_nobody_trusts_gets_no_message_of_ours(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels: list[ua.MessageSecurityMode] = []
    plain = UaClient.open_secure_channel

    async def counted(self: UaClient, parameters: ua.OpenSecureChannelParameters) -> object:
        channels.append(parameters.SecurityMode)
        return await plain(self, parameters)

    monkeypatch.setattr(UaClient, "open_secure_channel", counted)
    async with host.as_() as endpoint:
        with pytest.raises(ServerNotTrusted):
            await opened(endpoint, tmp_path)
    assert channels == [ua.MessageSecurityMode.None_], "the endpoints were asked for, and that was all"


@pytest.mark.parametrize(
    ("made", "status"),
    [
        ({"days": (-20, -2)}, "BadCertificateTimeInvalid: expired on"),
        ({"days": (2, 20)}, "BadCertificateTimeInvalid: not valid before"),
        ({"uri": "urn:acme:other"}, "BadCertificateUriInvalid"),
        ({"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, "BadCertificateUseNotAllowed"),
        ({"own": key(0, 1024)}, "BadCertificatePolicyCheckFailed"),
    ],
)
async def test_a_trusted_certificate_must_still_be_right(host: Host, tmp_path: Path, made: dict[str, Any], status: str) -> None:
    pair = make(**made)
    await trusting(tmp_path, pair)
    async with host.as_(pair) as endpoint:
        with pytest.raises(ServerNotTrusted, match=status):
            await opened(endpoint, tmp_path)
    assert list((tmp_path / "pki" / "rejected").iterdir()) == [], "it is trusted; accepting it again would not help"


@pytest.mark.usefixtures("abroad")
async def test_an_authority_vouches_for_one_host_only(host: Host, tmp_path: Path) -> None:
    plant = authority()
    await trusting(tmp_path, plant)
    async with host.as_(make(signer=plant, hosts=("plc-8",))) as endpoint:
        with pytest.raises(ServerNotTrusted, match=r"BadCertificateHostNameInvalid: .*127\.0\.0\.1.*plc-8"):
            await opened(endpoint, tmp_path)
        await connects(endpoint, tmp_path, security=SECURITY | {"allow_other_host": True})
    async with host.as_(make(signer=plant, hosts=("127.0.0.1",))) as endpoint:
        await connects(endpoint, tmp_path)


@pytest.mark.parametrize("what", ["mode", "application", "users", "more"])
async def test_endpoints_that_differ_inside_the_session_end_it(host: Host, tmp_path: Path, what: str) -> None:
    """Somebody on the way changed the answer to GetEndpoints, which nothing protects."""
    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair) as endpoint:
        await connects(endpoint, tmp_path)  # the control
        inner = host.server.iserver
        true = inner.get_endpoints
        answers = 0

        async def forged(*given: Any, **more: Any) -> list[ua.EndpointDescription]:
            nonlocal answers
            answers += 1
            found = copy.deepcopy(await true(*given, **more))
            if answers > 1:
                return found
            if what == "more":
                return [*found, ua.EndpointDescription(SecurityPolicyUri="urn:stronger", SecurityMode=found[0].SecurityMode)]
            if what == "users":
                found[0].UserIdentityTokens = found[0].UserIdentityTokens[:1]
            weak = copy.deepcopy(found[0])
            weak.SecurityMode = ua.MessageSecurityMode.Sign
            if what == "application":
                weak.Server.ApplicationUri = "urn:acme:other"
            return found if what == "users" else [*found, weak]

        inner.get_endpoints = forged
        with pytest.raises(ConfigError, match="something else inside the secured session"):
            await opened(endpoint, tmp_path)
        assert answers == 2


async def test_another_certificate_inside_the_session_ends_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, other = make(), make(key(5))
    await trusting(tmp_path, pair, other)
    plain = UaClient.create_session

    async def swapped(self: UaClient, parameters: object) -> ua.CreateSessionResult:
        answer = await plain(self, parameters)
        answer.ServerCertificate = der(other.certificate)
        return answer

    async with host.as_(pair) as endpoint:
        await connects(endpoint, tmp_path)  # the control
        monkeypatch.setattr(UaClient, "create_session", swapped)
        with pytest.raises(ConfigError, match="it shows another certificate"):
            await opened(endpoint, tmp_path)


async def test_a_server_that_does_not_trust_us_is_named_with_our_fingerprint(host: Host, tmp_path: Path) -> None:
    async def nobody(certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair, takes=nobody) as endpoint:
        with pytest.raises(RefusesOurCertificate, match="refuses the certificate of this gateway") as error:
            await opened(endpoint, tmp_path)
    own = (await asyncio.to_thread(Identities.load_or_make, tmp_path / "state" / "pki", "genba robot")).current
    assert certificates.fingerprint(own.parsed) in error.value.hint


class Guests:
    """A server's list of clients."""

    def __init__(self, *known: x509.Certificate) -> None:
        self.known = list(known)
        self.seen: list[x509.Certificate] = []

    async def check(self, certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        self.seen.append(certificate)
        if certificate not in self.known:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)


def old_certificate(folder: Path) -> x509.Certificate:
    """Puts one of ours that ends in 20 days."""
    own = folder / "pki" / "own"
    pair = make(
        key(6), name="genba robot", uri="urn:box:genba:robot", days=(-1000, 20), purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,)
    )
    certificate, private = pair.save(own, "old")
    certificate.rename(own / "certificate.der")
    private.rename(own / "key.pem")
    return pair.certificate


async def exhaust(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_the_old_certificate_serves_until_the_server_takes_the_new(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await asyncio.to_thread(old_certificate, tmp_path)
    guests, pair = Guests(old), make()
    await trusting(tmp_path, pair)
    monkeypatch.setattr(renewal, "_LOOK_EVERY_S", 0.05)
    async with host.as_(pair, takes=guests.check) as endpoint:
        adapter = make_adapter(asked(endpoint), tmp_path)
        await adapter.connect()
        try:
            own, server = adapter.certificates()
            assert (own.owner, own.fingerprint) == ("own", certificates.fingerprint(old))
            assert own.expires_us == certificates.micros(NOW + timedelta(days=20)) // 10**6 * 10**6
            assert "renewed" in own.action
            assert (server.owner, server.fingerprint) == ("server", certificates.fingerprint(pair.certificate))
            new = guests.seen[0]
            assert guests.seen == [new, old]
            stream = adapter.batches()
            await anext(stream)
            guests.known.append(new)  # the server's administrator acts
            with pytest.raises(NotConnected, match="takes the renewed certificate"):
                await asyncio.wait_for(exhaust(stream), 10)
            guests.known.remove(old)
            await adapter.connect()
            assert adapter.certificates()[0].fingerprint == certificates.fingerprint(new)
        finally:
            await adapter.aclose()
    found = await asyncio.to_thread(Identities.load_or_make, tmp_path / "pki", "genba robot")
    assert (found.current.parsed, found.successor) == (new, None)


async def test_a_server_that_hangs_up_on_the_new_certificate_is_shown_the_old(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, pair = await asyncio.to_thread(old_certificate, tmp_path / "state"), make()
    await trusting(tmp_path, pair)
    plain = UaProcessor.open_secure_channel

    def strict(self: UaProcessor, algorithm: ua.AsymmetricAlgorithmHeader, seq: object, body: object) -> None:
        if algorithm.SenderCertificate not in (None, der(old)):
            raise RuntimeError("not with me")
        plain(self, algorithm, seq, body)

    monkeypatch.setattr(UaProcessor, "open_secure_channel", strict)
    async with host.as_(pair) as endpoint:
        one = await opened(endpoint, tmp_path, timeout="500ms")
        await one.aclose()
    assert "it hangs up" in one.renewal
    assert one.certificates[0].fingerprint == certificates.fingerprint(old)


SECRET = {"username": "genba", "password": "s3cret"}


class Passwords:
    """Notes what was given, takes everybody."""

    def __init__(self) -> None:
        self.given: list[tuple[object, object]] = []

    def get_user(self, iserver: object, username: object = None, password: object = None, certificate: object = None) -> object:
        self.given.append((username, password))
        return User(role=UserRole.User)


@pytest.mark.usefixtures("abroad")
async def test_a_password_is_not_sent_in_the_clear(host: Host, tmp_path: Path) -> None:
    users = Passwords()
    async with host.as_(make(), (Kind.NoSecurity,), users=users) as endpoint:
        with pytest.raises(ConfigError, match="only in the clear, so it is not sent"):
            await opened(endpoint, tmp_path, security=None, auth=SECRET)
        assert users.given == []
        await connects(endpoint, tmp_path, security=None, auth=SECRET | {"allow_cleartext": True})
        assert users.given == [("genba", "s3cret")]


@pytest.mark.usefixtures("abroad")
async def test_a_password_is_encrypted_only_for_a_trusted_server(host: Host, tmp_path: Path) -> None:
    users, pair = Passwords(), make(hosts=("127.0.0.1",))
    security = {"policy": "None", "trust": "pki"}
    async with host.as_(pair, (Kind.NoSecurity, *ENCRYPTED), users=users) as endpoint:
        with pytest.raises(ServerNotTrusted, match="BadCertificateUntrusted"):
            await opened(endpoint, tmp_path, security=security, auth=SECRET)
        assert users.given == []
        await asyncio.to_thread(Store(tmp_path / "pki").accept, certificates.fingerprint(pair.certificate))
        await connects(endpoint, tmp_path, security=security, auth=SECRET)
        assert users.given == [("genba", "s3cret")]


async def test_this_machine_may_have_the_password(host: Host, tmp_path: Path) -> None:
    users = Passwords()
    async with host.as_(make(), (Kind.NoSecurity,), users=users) as endpoint:
        await connects(endpoint, tmp_path, security=None, auth=SECRET)
    assert users.given == [("genba", "s3cret")]


@pytest.mark.parametrize(
    ("policy", "offers"),
    [
        ("Basic256Sha256", ENCRYPTED),
        ("Aes256Sha256RsaPss", (Kind.Aes256Sha256RsaPss_SignAndEncrypt,)),
        ("None", (Kind.NoSecurity, *ENCRYPTED)),
    ],
)
async def test_a_user_with_a_certificate(
    host: Host, tmp_path: Path, policy: str, offers: Sequence[ua.SecurityPolicyType]
) -> None:
    users, pair = CertificateUserManager(), make()
    good, bad = make(key(7), name="operator", uri=""), make(key(8), name="stranger", uri="")
    certificate, _ = await asyncio.to_thread(good.save, tmp_path / "certs", "user")
    await asyncio.to_thread(bad.save, tmp_path / "certs", "stranger")
    await users.add_user(certificate, "operator")
    await trusting(tmp_path, pair)
    security = {"policy": policy, "trust": "pki"}
    async with host.as_(pair, offers, users=users) as endpoint:
        await connects(endpoint, tmp_path, security=security, auth={"certificate": "certs/user.der", "key": "certs/user.pem"})
        with pytest.raises(ConfigError, match="refuses the user"):
            await opened(
                endpoint, tmp_path, security=security, auth={"certificate": "certs/stranger.der", "key": "certs/stranger.pem"}
            )
        for auth, says in (
            ({"certificate": "certs/user.der", "key": "certs/stranger.pem"}, "does not belong to"),
            ({"certificate": "certs/user.der", "key": "certs/none.pem"}, "cannot read"),
            ({"certificate": "certs/none.der", "key": "certs/user.pem"}, "not a readable certificate"),
            ({"certificate": "certs/user.der", "key": "certs/user.der"}, "not a readable private key"),
        ):
            with pytest.raises(ConfigError, match=says):
                await opened(endpoint, tmp_path, security=security, auth=auth)


async def test_a_user_certificate_without_a_proof_is_not_shown(host: Host, tmp_path: Path) -> None:
    await asyncio.to_thread(make(key(7), name="operator", uri="").save, tmp_path / "certs", "user")
    auth = {"certificate": "certs/user.der", "key": "certs/user.pem"}
    async with host.as_(make(), (Kind.NoSecurity,)) as endpoint:
        with pytest.raises(ConfigError, match="takes no such user: certificate"):
            await opened(endpoint, tmp_path, security=None, auth=auth)


async def test_a_server_that_takes_only_other_users_is_named(host: Host, tmp_path: Path) -> None:
    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair, tokens=[ua.UserNameIdentityToken]) as endpoint:
        with pytest.raises(ConfigError, match="takes no such user: anonymous") as error:
            await opened(endpoint, tmp_path)
        assert "it takes user name" in error.value.hint


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (pack("<qIIBiBBB", 0, 1, 0x80130000, 0, -1, 0, 0, 0), "BadSecurityChecksFailed"),
        (pack("<qIIBiBBB", 0, 1, 0, 0, -1, 0, 0, 0), "not one"),
        (pack("<qI", 0, 1), "losed|lost"),
    ],
)
async def test_a_channel_that_is_refused_or_answered_with_nonsense(tmp_path: Path, answer: bytes, says: str) -> None:
    """`answer` is the header of the response, and what should follow is missing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readexactly(8)
        await reader.readexactly(int.from_bytes(hello[4:], "little") - 8)
        writer.write(b"ACKF" + pack("<6I", 28, 0, 65535, 65535, 0, 0))
        await reader.read(1000)
        policy = b"http://opcfoundation.org/UA/SecurityPolicy#None"
        body = pack("<Ii", 1, len(policy)) + policy + pack("<iiII", -1, -1, 1, 1) + b"\x01\x00" + pack("<H", 449) + answer
        writer.write(b"OPNF" + pack("<I", 8 + len(body)) + body)
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises((NotConnected, ConfigError), match=says):
            await opened(f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path, security=None)


def token(kind: ua.UserTokenType, policy: str, name: str) -> ua.UserTokenPolicy:
    return ua.UserTokenPolicy(PolicyId=name, TokenType=kind, SecurityPolicyUri=POLICIES[policy].uri if policy else None)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (("Basic256Sha256", "Aes256Sha256RsaPss", "None"), "Aes256Sha256RsaPss"),
        (("Basic256", "Basic256Sha256"), "Basic256Sha256"),
        (("", "None"), ""),
    ],
)
async def test_of_several_ways_to_take_a_user_the_safest_is_used(tmp_path: Path, offered: tuple[str, ...], chosen: str) -> None:
    config = asked("opc.tcp://plc-7:4840", security=SECURITY | {"mode": "sign"}, auth=SECRET)
    security = await asyncio.to_thread(secure.Security.load, config, "robot", tmp_path / "state", tmp_path)
    client = connection.new_client(config, "robot")
    tokens = [token(ua.UserTokenType.UserName, policy, policy) for policy in offered]
    policy = users._choose(client, tokens, ua.UserTokenType.UserName, security)
    assert [one.PolicyId for one in client._policy_ids] == [chosen]
    assert client.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri == policy.uri
    assert policy.name == (chosen or "Basic256Sha256")
    with pytest.raises(ConfigError, match="only with Basic256, which is withdrawn"):
        users._choose(client, [token(ua.UserTokenType.UserName, "Basic256", "old")], ua.UserTokenType.UserName, security)
    with pytest.raises(ConfigError, match="without a proof"):
        users._choose(client, [token(ua.UserTokenType.Certificate, "None", "x")], ua.UserTokenType.Certificate, security)


async def test_a_trust_list_that_cannot_be_written_is_told_beside_the_reason(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Trust, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trust, "reject", full)
    async with host.as_() as endpoint:
        with pytest.raises(ServerNotTrusted, match=r"not trusted; and its certificate cannot be kept in .*No space left"):
            await opened(endpoint, tmp_path)
