"""A running gateway and a server that it does not trust yet: `genba trust accept`, and it connects without a restart."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
import structlog
from cryptography import x509

from adapters.opcua.certificates import expires_us, fingerprint
from gateway import collector, service
from gateway.cli import main
from gateway.metrics import registry_for
from tests.adapters.opcua import secured
from tests.adapters.opcua.certs import make
from tests.e2e import plant
from tests.gateway.samples import until

pytestmark = pytest.mark.e2e

KEPSERVER = """
adapters:
  kepserver:
    kind: opcua
    endpoint: opc.tcp://127.0.0.1:4840
    security: {policy: Basic256Sha256, trust: pki}
    scan: 50ms
    tags:
      time: {address: "i=2258", type: datetime}
sinks:
"""


DEFAULT = KEPSERVER.replace(", trust: pki", "")


def genba(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


async def test_accept_is_taken_up_by_a_running_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MISCONFIGURED_S", 0.2)
    pair = make(days=(-1, 20))
    file = plant.write(tmp_path, plant.HEAD + KEPSERVER + plant.LAKE)
    configuration = await plant.load(file)
    async with secured.host() as host, host.as_(pair) as endpoint:
        running = service.running(configuration, log=structlog.get_logger(), endpoints={"kepserver": endpoint})
        async with running as (pipeline, _):
            (kepserver,) = pipeline.collectors
            await until(lambda: kepserver.state == "misconfigured", 10)
            assert "BadCertificateUntrusted" in kepserver.error
            assert f"genba trust accept --directory {tmp_path / 'pki'}" in kepserver.error
            assert kepserver.certificates == ()
            assert await asyncio.to_thread(genba, "trust", "accept", file, fingerprint(pair.certificate)[:8]) == 0
            await until(lambda: kepserver.state == "up", 10)
            own, server = kepserver.certificates
            shown = registry_for(pipeline).get_sample_value(
                "genba_certificate_expiry_timestamp_seconds", {"adapter": "kepserver", "owner": "server"}
            )
            assert shown == expires_us(pair.certificate) / 1e6
            assert own.expires_us > server.expires_us
            alarm = "certificate_expiring.kepserver.server"
            await until(lambda: alarm in [entry.alarm for entry in pipeline.alarms.active()], 10)
            (entry,) = [entry for entry in pipeline.alarms.active() if entry.alarm == alarm]
            assert entry.severity == "warning"
            assert "expires in 19 days" in entry.problem


async def test_genba_test_shows_the_certificate_of_the_gateway_and_keeps_whom_it_refuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pair, guests = make(), list[str]()

    async def note(certificate: x509.Certificate, _: object) -> None:
        guests.append(fingerprint(certificate))

    async with secured.host() as host, host.as_(pair, takes=note) as endpoint:
        file = plant.write(tmp_path, plant.HEAD + DEFAULT.replace("opc.tcp://127.0.0.1:4840", endpoint) + plant.LAKE)
        process = await run("test", file, "--duration", "2s")
        assert "BadCertificateUntrusted" in process[1]
        assert f"genba trust accept --directory {tmp_path / 'spool/adapters/kepserver/pki'}" in process[1]
        assert await asyncio.to_thread(genba, "trust", "accept", file, fingerprint(pair.certificate)[:8]) == 0
        await run("test", file, "--duration", "2s")
        capfd.readouterr()
        assert await asyncio.to_thread(genba, "trust", "own", file, "--json") == 0
        (own,) = json.loads(capfd.readouterr().out)["kepserver"]
        assert set(guests) == {own["sha256"]}


async def run(*arguments: object) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return out.decode(), err.decode()
