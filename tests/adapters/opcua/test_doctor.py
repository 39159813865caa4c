"""The doctor names the check that fails: network, protocol, policy, either certificate, the user, the number of sessions."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.opcua import PLUGIN, certificates, connection, secure
from adapters.opcua.access import OpcuaAccess
from adapters.opcua.certificates import fingerprint, thumbprint
from adapters.opcua.doctor import examine
from adapters.opcua.identity import Identities
from adapters.opcua.store import Store
from schemas.plugin import Check, Place
from schemas.values import Duration
from tests.adapters.opcua import secured
from tests.adapters.opcua.certs import Pair, authority, key, make, revoking
from tests.adapters.opcua.secured import ENCRYPTED, Host, Kind, asked, trusting
from tests.adapters.opcua.test_secure import Passwords, old_certificate

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host() -> AsyncIterator[Host]:
    async with secured.host() as one:
        yield one


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def seen(endpoint: str, **options: Any) -> list[Check]:
    """What the doctor says, with Basic256Sha256 unless told otherwise."""
    given = {"endpoint": endpoint, "policy": "Basic256Sha256", "trust": Path("pki"), "timeout": "2s"} | options
    return [check async for check in examine(OpcuaAccess.model_validate(given))]


def named(checks: list[Check]) -> list[str]:
    return [f"{check.result} {check.name}" for check in checks]


def the(checks: list[Check], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def failed(checks: list[Check]) -> list[str]:
    assert all(check.way_out for check in checks if check.result != "ok")
    return [check.name for check in checks if check.result == "failure"]


async def test_all_is_well(host: Host, tmp_path: Path) -> None:
    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair, (Kind.NoSecurity, *ENCRYPTED)) as endpoint:
        checks = await seen(endpoint)
    assert named(checks) == [
        "ok network",
        "ok OPC UA",
        "ok offers",
        "ok offers",
        "ok policy",
        "ok certificates",
        "ok its certificate",
        "ok our certificate",
        "ok user",
        "ok server",
        "ok clock",
    ]
    assert [check.found for check in checks if check.name == "offers"] == [
        "Basic256Sha256, sign_and_encrypt; users: anonymous, certificate, user name",
        "None, none; users: anonymous, certificate, user name",
    ]
    table = the(checks, "certificates").found
    ours = (await asyncio.to_thread(Identities.load_or_make, tmp_path / ".genba" / "pki", "genba command")).current.parsed
    for one in (pair.certificate, ours):
        assert thumbprint(one) in table
        assert fingerprint(one)[:40] in table
        assert certificates.application_uri(one) in table
    assert "FreeOpcUa" in the(checks, "server").found
    assert "Running" in the(checks, "server").found
    assert re.fullmatch(
        r"the server's is [+-][01]\.\d s against ours", the(checks, "clock").found
    )  # it sets its time once a second


async def test_without_security_it_works_and_says_what_would_be_better(host: Host, tmp_path: Path) -> None:
    async with host.as_(make(), (Kind.NoSecurity, *ENCRYPTED)) as endpoint:
        checks = await seen(endpoint, policy="None")
    policy = the(checks, "policy")
    assert policy.result == "warning"
    assert policy.way_out == (
        "write `security: {policy: Basic256Sha256, mode: sign_and_encrypt}` (here: --policy Basic256Sha256 --mode sign_and_encrypt)"
    )
    assert named(checks)[-3:] == ["ok user", "ok server", "ok clock"]
    assert not (tmp_path / ".genba").exists(), "nothing is made where nothing is secured"


@pytest.mark.parametrize(
    ("policy", "offers", "found", "way_out"),
    [
        ("Basic256Sha256", (Kind.NoSecurity,), "it offers None, none", "the server has no security"),
        ("None", ENCRYPTED, "no endpoint without security", "policy: Basic256Sha256, mode: sign_and_encrypt"),
        ("Basic256Sha256", (Kind.Basic256_Sign,), "it offers Basic256, sign", "`allow_deprecated: true`"),
        ("Basic256", (Kind.Basic256_Sign,), "withdrawn from the standard", "allow_deprecated"),
    ],
)
async def test_a_policy_that_is_not_offered(
    host: Host, policy: str, offers: tuple[ua.SecurityPolicyType, ...], found: str, way_out: str
) -> None:
    async with host.as_(make(), offers) as endpoint:
        checks = await seen(endpoint, policy=policy)
    assert failed(checks) == ["policy"]
    assert checks[-1].name == "policy"
    assert found in checks[-1].found
    assert way_out in checks[-1].way_out


async def test_an_untrusted_server_is_kept_for_genba_trust_accept(host: Host, tmp_path: Path) -> None:
    pair = make()
    async with host.as_(pair) as endpoint:
        checks = await seen(endpoint)
        assert failed(checks) == ["trust"]
        assert the(checks, "trust").way_out.endswith(f"genba trust accept --directory pki {fingerprint(pair.certificate)[:12]}")
        assert checks[-1].name == "our certificate", "the server's opinion of ours is told all the same, and that is all"
        await asyncio.to_thread(Store(tmp_path / "pki").accept, fingerprint(pair.certificate)[:12])
        assert failed(await seen(endpoint)) == []


@pytest.mark.parametrize(
    ("made", "name", "says"),
    [
        ({"days": (-20, -2)}, "validity", "expired on"),
        ({"days": (2, 20)}, "validity", "not valid before"),
        ({"uri": "urn:acme:other"}, "application URI", "urn:acme:other"),
        ({"lacking": ("digital_signature",)}, "key usage", "digital signature"),
        ({"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, "key usage", "extended key usage"),
        ({"own": key(0, 1024)}, "algorithm", "1024 bits"),
    ],
)
async def test_each_check_of_the_servers_certificate(
    host: Host, tmp_path: Path, made: dict[str, Any], name: str, says: str
) -> None:
    pair = make(**made)
    await trusting(tmp_path, pair)
    async with host.as_(pair) as endpoint:
        checks = await seen(endpoint)
    assert failed(checks) == [name]
    assert says in the(checks, name).found


async def test_authorities_hosts_and_revocation(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (certificates, secure):
        monkeypatch.setattr(module, "LOOPBACK", frozenset())
    plant = authority()
    leaf = make(key(2), signer=plant, hosts=("plc-8",))
    async with host.as_(leaf) as endpoint:
        checks = await seen(endpoint)
        assert failed(checks) == ["trust", "host name"]
        assert "the authority CN=Plant CA that signed it is not known here" in the(checks, "trust").found
        await trusting(tmp_path, plant)
        checks = await seen(endpoint)
        assert failed(checks) == ["host name"]
        assert the(checks, "revocation").result == "warning"
        assert failed(await seen(endpoint, allow_other_host=True)) == []
        listed = tmp_path / "pki" / "revoked" / "list.pem"
        await asyncio.to_thread(listed.write_bytes, revoking(plant, leaf))
        assert failed(await seen(endpoint, allow_other_host=True)) == ["revocation"]
        # A pinned certificate may be of another host; the doctor says so all the same.
        await asyncio.to_thread(listed.write_bytes, revoking(plant))
        await trusting(tmp_path, leaf)
        checks = await seen(endpoint)
        assert failed(checks) == []
        assert the(checks, "host name").result == "warning"


async def test_a_server_with_another_clock_is_hinted_at(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make(days=(2, 20))
    await trusting(tmp_path, pair)
    true = connection.discover

    async def ahead(client: Any) -> secure.Offer:
        return secure.Offer((await true(client)).endpoints, timedelta(days=3))

    monkeypatch.setattr(connection, "discover", ahead)
    async with host.as_(pair) as endpoint:
        checks = await seen(endpoint)
    assert f"the server's {datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}" in the(checks, "validity").way_out


@pytest.mark.parametrize("how", ["says", "hangs up"])
async def test_a_server_that_does_not_trust_us(host: Host, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    pair = make()
    await trusting(tmp_path, pair)
    if how == "hangs up":
        from asyncua.server.uaprocessor import UaProcessor

        plain = UaProcessor.open_secure_channel

        def close(self: Any, algorithm: Any, seq: Any, body: Any) -> None:
            if algorithm.SenderCertificate:
                raise RuntimeError("not with me")
            plain(self, algorithm, seq, body)

        monkeypatch.setattr(UaProcessor, "open_secure_channel", close)
    async with host.as_(pair, takes=nobody if how == "says" else None) as endpoint:
        checks = await seen(endpoint)
    assert failed(checks) == ["our certificate"]
    ours = (await asyncio.to_thread(Identities.load_or_make, tmp_path / ".genba" / "pki", "genba command")).current
    check = the(checks, "our certificate")
    assert ("BadCertificateUntrusted" if how == "says" else "hangs up") in check.found
    for said in (
        thumbprint(ours.parsed),
        str(ours.certificate.relative_to(tmp_path)),
        "TIA Portal",
        "KEPServerEX",
        "Ignition",
        "Prosys",
    ):
        assert said in check.way_out


async def test_users(host: Host, tmp_path: Path) -> None:
    class Nobody:
        def get_user(self, *_: object, **__: object) -> None:
            return None

    pair = make()
    await trusting(tmp_path, pair)
    await asyncio.to_thread((tmp_path / "password").write_text, "s3cret\n")
    user = {"username": "genba", "password_file": Path("password")}
    users = Passwords()
    async with host.as_(pair, users=users) as endpoint:
        checks = await seen(endpoint, **user)
        assert the(checks, "user").found == "genba is let in"
        assert users.given == [("genba", "s3cret")]
    async with host.as_(pair, users=Nobody()) as endpoint:
        checks = await seen(endpoint, **user)
        assert failed(checks) == ["user"]
        assert "refuses the user (BadUserAccessDenied)" in the(checks, "user").found
    async with host.as_(pair, tokens=[ua.UserNameIdentityToken]) as endpoint:
        checks = await seen(endpoint)
        assert failed(checks) == ["user"]
        assert "it takes user name" in the(checks, "user").way_out
    assert all("s3cret" not in f"{check.found} {check.way_out}" for check in checks)


async def test_a_full_server(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make()
    await trusting(tmp_path, pair)
    monkeypatch.setattr(InternalSession, "max_connections", 0)
    async with host.as_(pair) as endpoint:
        checks = await seen(endpoint)
    assert failed(checks) == ["session"]
    assert "BadMaxConnectionsReached" in the(checks, "session").found
    assert "close other clients" in the(checks, "session").way_out


async def test_somebody_in_between(host: Host, tmp_path: Path) -> None:
    pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair) as endpoint:
        inner = host.server.iserver
        true, answers = inner.get_endpoints, 0

        async def forged(*given: Any, **more: Any) -> list[ua.EndpointDescription]:
            nonlocal answers
            answers += 1
            found = copy.deepcopy(await true(*given, **more))
            return [*found, ua.EndpointDescription(SecurityPolicyUri="urn:stronger")] if answers == 1 else found

        inner.get_endpoints = forged
        checks = await seen(endpoint)
    assert failed(checks) == ["session"]
    assert "something else inside the secured session" in the(checks, "session").found


async def test_a_renewed_certificate_that_the_server_does_not_know_is_a_warning(host: Host, tmp_path: Path) -> None:
    old = await asyncio.to_thread(old_certificate, tmp_path / ".genba")
    pair = make()
    await trusting(tmp_path, pair)

    async def only_old(certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        if certificate != old:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    async with host.as_(pair, takes=only_old) as endpoint:
        checks = await seen(endpoint)
    assert failed(checks) == []
    ours = [check for check in checks if check.name == "our certificate"]
    assert [check.result for check in ours] == ["warning", "warning", "ok"]
    assert "expires in 19 days" in ours[0].found
    assert ours[1].found.startswith("the renewed one: the server refuses it")


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answers_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"ERRF" + (16).to_bytes(4, "little") + (0x80830000).to_bytes(4, "little") + (0xFFFFFFFF).to_bytes(4, "little"))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (answers_http, "does not speak OPC UA"),
        (hangs_up, "does not speak OPC UA"),
        (is_silent, "does not answer in 0.3 s"),
        (refuses, "refuses opc.tcp://127.0.0.1"),
    ],
)
async def test_something_else_on_the_port(handler: Handler, says: str) -> None:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        checks = await seen(f"opc.tcp://127.0.0.1:{port}", timeout="300ms")
    assert named(checks) == ["ok network", "failure OPC UA"]
    assert says in checks[-1].found
    assert checks[-1].way_out


async def test_nobody_there_and_wrong_options() -> None:
    server = await asyncio.start_server(hangs_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    assert failed(await seen(f"opc.tcp://127.0.0.1:{port}")) == ["network"]
    for options, says in (
        ({"endpoint": "opc.tcp://plc"}, "needs its port"),
        ({"username": "x", "password_file": Path("nowhere")}, "cannot read nowhere"),
        ({"user_certificate": Path("user.der")}, "`certificate` and `key`"),
    ):
        checks = await seen(**({"endpoint": "opc.tcp://plc:4840"} | options))
        assert failed(checks) == ["options"]
        assert says in checks[0].found


async def test_an_entry_of_a_file_is_examined_with_its_own_certificate(host: Host, tmp_path: Path) -> None:
    assert PLUGIN.doctor is not None
    assert PLUGIN.doctor.of is not None
    pair: Pair = make()
    await trusting(tmp_path, pair)
    async with host.as_(pair) as endpoint:
        config = asked(endpoint)
        options = PLUGIN.doctor.of(config, Place("kep", tmp_path / "state", tmp_path))
        assert options.config() == config
        changed = options.model_copy(update={"timeout": Duration("9s"), "policy": "Aes256Sha256RsaPss", "username": "joe"})
        assert (changed.config().timeout, changed.config().tags) == (Duration("9s"), config.tags)
        assert changed.config().security == config.security.model_copy(update={"policy": "Aes256Sha256RsaPss"})
        assert changed.config().auth.username == "joe"
        assert changed.place() == options.place()
        checks = [check async for check in PLUGIN.doctor.examine(options)]
    assert failed(checks) == []
    own = (await asyncio.to_thread(Identities.load_or_make, tmp_path / "state" / "pki", "genba kep")).current
    assert thumbprint(own.parsed) in the(checks, "certificates").found
