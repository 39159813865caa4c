"""Trust between the gateway and node-opcua, both ways: untrusted, accepted, expired, another host, our certificate, a user's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.opcua import certificates, secure
from adapters.opcua.access import OpcuaAccess
from adapters.opcua.certificates import fingerprint, thumbprint
from adapters.opcua.doctor import examine
from adapters.opcua.identity import Identities
from adapters.opcua.store import Store
from schemas.errors import ConfigError
from schemas.plugin import Check, Place
from tests.adapters.opcua.certs import Pair, authority, key, make
from tests.adapters.opcua.rig import configure, make_adapter, read_some
from tests.adapters.opcua.secured import trusting

pytestmark = pytest.mark.interop
TAGS = {"temperature": "ns=1;s=temperature"}
SECURITY = {"policy": "Basic256Sha256", "mode": "sign_and_encrypt", "trust": "pki"}
NODE = "urn:genba:interop"


class Started(Protocol):
    port: int
    folder: Path

    def restart(self) -> None: ...


Start = Callable[..., Started]


def endpoint(server: Started) -> str:
    return f"opc.tcp://127.0.0.1:{server.port}"


def shown(folder: Path, pair: Pair) -> dict[str, str]:
    """The settings of a server that shows that certificate."""
    certificate, private = pair.save(folder, "server")
    pem = certificate.with_suffix(".crt")
    pem.write_bytes(pair.certificate.public_bytes(Encoding.PEM))
    return {"certificate": str(pem), "key": str(private)}


async def doctor(server: Started, folder: Path, **more: Any) -> list[Check]:
    config = configure(TAGS, endpoint(server), **({"security": SECURITY} | more))
    options = OpcuaAccess.of(config, Place("robot", folder, folder))
    return [check async for check in examine(options)]


def failures(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.result == "failure"]


async def test_untrusted_then_accepted_then_read_and_the_doctor_agrees(opcua_node_server: Start, tmp_path: Path) -> None:
    server = await asyncio.to_thread(lambda: opcua_node_server(**shown(tmp_path / "server", make(uri=NODE))))
    config = configure(TAGS, endpoint(server), security=SECURITY)
    assert failures(await doctor(server, tmp_path)) == ["trust"]
    with pytest.raises(ConfigError, match="BadCertificateUntrusted") as error:
        await make_adapter(config, tmp_path).connect()
    (refused,) = await asyncio.to_thread(Store(tmp_path / "pki").entries)
    assert refused.uri == NODE
    assert refused.sha256[:12] in error.value.hint
    await asyncio.to_thread(Store(tmp_path / "pki").accept, refused.sha1)
    seen = await read_some(config, tmp_path)
    assert seen.rows["temperature"][0]["value"] == 21.5
    checks = await doctor(server, tmp_path)
    assert failures(checks) == []
    assert [check.result for check in checks if check.name in ("server", "clock")] == ["ok", "ok"]


async def test_an_expired_server(opcua_node_server: Start, tmp_path: Path) -> None:
    pair = make(uri=NODE, days=(-400, -2))
    server = await asyncio.to_thread(lambda: opcua_node_server(**shown(tmp_path / "server", pair)))
    await trusting(tmp_path, pair)
    with pytest.raises(ConfigError, match="BadCertificateTimeInvalid: expired on"):
        await make_adapter(configure(TAGS, endpoint(server), security=SECURITY), tmp_path).connect()
    assert failures(await doctor(server, tmp_path)) == ["validity"]


async def test_a_certificate_of_the_authority_for_another_host(
    opcua_node_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = authority()
    pair = make(key(2), uri=NODE, hosts=("plc-8",), signer=plant)
    server = await asyncio.to_thread(lambda: opcua_node_server(**shown(tmp_path / "server", pair)))
    await trusting(tmp_path, plant)
    for module in (certificates, secure):  # 127.0.0.1 counts as a host somewhere in the plant
        monkeypatch.setattr(module, "LOOPBACK", frozenset())
    with pytest.raises(ConfigError, match=r"BadCertificateHostNameInvalid: .*127\.0\.0\.1.*plc-8"):
        await make_adapter(configure(TAGS, endpoint(server), security=SECURITY), tmp_path).connect()
    assert failures(await doctor(server, tmp_path)) == ["host name"]
    allowed = configure(TAGS, endpoint(server), security=SECURITY | {"allow_other_host": True})
    seen = await read_some(allowed, tmp_path)
    assert seen.rows["temperature"][0]["value"] == 21.5


async def test_a_server_that_does_not_trust_us_until_it_does(opcua_node_server: Start, tmp_path: Path) -> None:
    pair = make(uri=NODE)
    server = await asyncio.to_thread(lambda: opcua_node_server(strict=["pki"], **shown(tmp_path / "server", pair)))
    await trusting(tmp_path, pair)
    config = configure(TAGS, endpoint(server), security=SECURITY)
    ours = (await asyncio.to_thread(Identities.load_or_make, tmp_path / "pki", "genba robot")).current
    with pytest.raises(ConfigError, match="refuses the certificate of this gateway") as error:
        await make_adapter(config, tmp_path).connect()
    assert fingerprint(ours.parsed) in error.value.hint
    checks = await doctor(server, tmp_path)
    assert failures(checks) == ["our certificate"]
    assert thumbprint(ours.parsed) in checks[-1].way_out
    await asyncio.to_thread(trust_there, server, "pki", ours.certificate)
    seen = await read_some(config, tmp_path)
    assert seen.rows["temperature"][0]["value"] == 21.5


def trust_there(server: Started, store: str, certificate: Path) -> None:
    """What the server's administrator does."""
    (server.folder / store / "trusted" / "certs" / certificate.name).write_bytes(certificate.read_bytes())
    for refused in (server.folder / store / "rejected").iterdir():
        refused.unlink()
    server.restart()


async def test_a_user_with_a_certificate(opcua_node_server: Start, tmp_path: Path) -> None:
    pair = make(uri=NODE)
    server = await asyncio.to_thread(lambda: opcua_node_server(strict=["users"], **shown(tmp_path / "server", pair)))
    await trusting(tmp_path, pair)
    operator = make(key(7), name="operator", uri="urn:acme:operator", purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    user, _ = await asyncio.to_thread(operator.save, tmp_path / "certs", "user")
    auth = {"certificate": "certs/user.der", "key": "certs/user.pem"}
    with pytest.raises(ConfigError, match="refuses the user"):
        await make_adapter(configure(TAGS, endpoint(server), security=SECURITY, auth=auth), tmp_path).connect()
    await asyncio.to_thread(trust_there, server, "users", user)
    for policy in ("Basic256Sha256", "Aes256Sha256RsaPss"):
        config = configure(TAGS, endpoint(server), security=SECURITY | {"policy": policy}, auth=auth)
        seen = await read_some(config, tmp_path)
        assert seen.rows["temperature"][0]["value"] == 21.5


async def test_nothing_but_none_is_no_connection(opcua_node_server: Start, tmp_path: Path) -> None:
    server = await asyncio.to_thread(lambda: opcua_node_server(policies=["None"], **shown(tmp_path / "server", make(uri=NODE))))
    with pytest.raises(ConfigError, match="no endpoint with Basic256Sha256, sign_and_encrypt"):
        await make_adapter(configure(TAGS, endpoint(server), security=SECURITY), tmp_path).connect()
    seen = await read_some(configure(TAGS, endpoint(server)), tmp_path)  # the control
    assert seen.rows["temperature"][0]["value"] == 21.5


async def test_a_withdrawn_policy_where_it_is_asked_for(opcua_node_server: Start, tmp_path: Path) -> None:
    policy = "Basic256"  # Node.js itself refuses the RSA 1.5 padding of Basic128Rsa15 (CVE-2023-46809)
    server = await asyncio.to_thread(
        lambda: opcua_node_server(policies=["None", policy], **shown(tmp_path / "server", make(uri=NODE)))
    )
    security = {"policy": policy, "trust": "pki"}
    with pytest.raises(ConfigError, match="withdrawn from the standard"):
        await make_adapter(configure(TAGS, endpoint(server), security=security), tmp_path).connect()
    config = configure(TAGS, endpoint(server), security=security | {"allow_deprecated": True})
    with pytest.raises(ConfigError, match="BadCertificateUntrusted"):
        await make_adapter(config, tmp_path).connect()
    (refused,) = await asyncio.to_thread(Store(tmp_path / "pki").entries)
    await asyncio.to_thread(Store(tmp_path / "pki").accept, refused.sha1)
    seen = await read_some(config, tmp_path)
    assert seen.rows["temperature"][0]["value"] == 21.5
