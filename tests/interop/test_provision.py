"""`genba provision`: a whole fleet's template on ministack, and every step cut short against a scripted service behind mosquitto."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from cloud_sinks.iot_core.config import IotCoreConfig
from gateway.cli.provision import command
from gateway.deploy import provision
from gateway.deploy.provision import Claim, Fleet, Provisioned
from schemas.errors import ConfigError, GenbaError, NotConnected
from tests.cloud_sinks.ministack import Ministack
from tests.interop.test_iot_core import start_broker

pytestmark = pytest.mark.interop
POLICIES = Path(__file__).parents[2] / "deploy/iam"
CSR, REGISTER = "$aws/certificates/create-from-csr/json", "$aws/provisioning-templates/line/provision/json"


class Service:
    """IoT Core's side of provisioning behind mosquitto: signs requests with the broker's authority, and does what `plan` says first.

    A step of the plan is None (answer), an error code (refuse), or a function that is called instead of an answer.
    """

    def __init__(self, broker: Any) -> None:
        self.plan: list[str | Callable[[], object] | None] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.tokens: dict[str, str] = {}
        self.thing = "gw-1"
        self._key = serialization.load_pem_private_key((broker.folder / "ca.key").read_bytes(), None)
        self._authority = x509.load_pem_x509_certificate(broker.ca.read_bytes())
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._on_message
        listens = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(topic, paho.SubscribeOptions(1)) for topic in (CSR, REGISTER)]
        )
        self._client.on_subscribe = lambda *_: listens.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert listens.wait(20)

    def asked(self, topic: str) -> list[dict[str, Any]]:
        return [request for one, request in self.requests if one == topic]

    def _on_message(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        request = json.loads(message.payload)
        self.requests.append((message.topic, request))
        step = self.plan.pop(0) if self.plan else None
        if callable(step):
            step()
            return
        if step is None and message.topic == REGISTER and request["certificateOwnershipToken"] not in self.tokens:
            step = "InvalidCertificateOwnershipToken"
        if step is not None:
            refusal = {
                "statusCode": 500 if step == "InternalFailure" else 400,
                "errorCode": step,
                "errorMessage": f"it is {step}",
            }
            client.publish(f"{message.topic}/rejected", json.dumps(refusal), qos=1)
            return
        client.publish(f"{message.topic}/accepted", json.dumps(self.answer(message.topic, request)), qos=1)

    def answer(self, topic: str, request: dict[str, Any]) -> dict[str, Any]:
        if topic == REGISTER:
            del self.tokens[request["certificateOwnershipToken"]]
            return {"thingName": self.thing, "deviceConfiguration": {"region": "osaka"}}
        token = f"token-{len(self.requests)}"
        self.tokens[token] = self.signed(request["certificateSigningRequest"])
        return {"certificateId": f"id-{token}", "certificatePem": self.tokens[token], "certificateOwnershipToken": token}

    def signed(self, request: str) -> str:
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder().subject_name(asked.subject).issuer_name(self._authority.subject).public_key(asked.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        )  # fmt: skip
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(mosquitto: Callable[..., Any]) -> Any:
    return start_broker(mosquitto)


@pytest.fixture
def service(broker: Any) -> Iterator[Service]:
    made = Service(broker)
    yield made
    made.close()


def options(broker: Any, **given: Any) -> dict[str, Any]:
    return {
        "kind": "iot_core", "endpoint": "localhost", "port": broker.tls_port, "thing": "gw-1", "certificate": "certs/gw.pem",
        "key": "certs/gw.key", "ca": str(broker.ca), "timeout": "20s", **given,
    }  # fmt: skip


def fleet(broker: Any, base: Path, **given: Any) -> Fleet:
    claim = Claim(broker.certificate, broker.key, "line", {"Serial": "7"})
    return Fleet(IotCoreConfig.model_validate(options(broker, **given)), base, claim, lambda line: None)


async def provisioned(broker: Any, base: Path) -> Provisioned:
    made = fleet(broker, base)
    found = await made.run()
    await made.verify(found.thing)
    return found


def files(base: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in sorted((base / "certs").iterdir())}


DONE = {"gw.key": 0o600, "gw.pem": 0o600}


async def test_the_key_is_made_here_and_only_a_request_for_it_goes_out(broker: Any, service: Service, tmp_path: Path) -> None:
    found = await provisioned(broker, tmp_path)
    assert (found.thing, found.configuration, found.fresh) == ("gw-1", {"region": "osaka"}, True)
    assert files(tmp_path) == DONE
    assert [topic for topic, _ in service.requests] == [CSR, REGISTER]
    assert service.asked(REGISTER)[0]["parameters"] == {"Serial": "7"}
    secret = (tmp_path / "certs" / "gw.key").read_text().splitlines()[1]
    assert secret not in json.dumps(service.requests)
    again = await provisioned(broker, tmp_path)
    assert not again.fresh
    assert len(service.requests) == 2  # nobody was asked again


@pytest.mark.parametrize(
    ("plan", "requests"),
    [
        (["InternalFailure"], [CSR, CSR, REGISTER]),
        ([None, "InternalFailure"], [CSR, REGISTER, REGISTER]),
        ([lambda: None], [CSR, CSR, REGISTER]),
        ([None, lambda: None], [CSR, REGISTER, REGISTER]),
        ([None, "InvalidCertificateOwnershipToken", "InternalFailure"], [CSR, REGISTER, REGISTER]),
    ],
    ids=["not signed", "not registered", "silent when it should sign", "silent when it should register", "token spent"],
)
async def test_a_step_that_fails_is_the_first_of_the_next_run(
    broker: Any, service: Service, tmp_path: Path, plan: list[Any], requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plan = plan
    if len(plan) == 3:  # the certificate works by itself, as one does that was registered by a run that ended before it knew
        assert (await provisioned(broker, tmp_path)).thing == "gw-1"
        assert [topic for topic, _ in service.requests] == [CSR, REGISTER]
        return
    with pytest.raises(GenbaError):
        await fleet(broker, tmp_path, timeout="2s").run()
    key = (tmp_path / "certs" / "gw.key").read_bytes()
    assert "gw.pem" not in files(tmp_path)
    assert (await provisioned(broker, tmp_path)).fresh
    assert [topic for topic, _ in service.requests] == requests
    assert (tmp_path / "certs" / "gw.key").read_bytes() == key
    assert files(tmp_path) == DONE


async def test_a_token_that_is_spent_and_a_certificate_that_does_nothing_begin_anew(
    broker: Any, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plan = [None, "InternalFailure"]
    with pytest.raises(GenbaError):
        await fleet(broker, tmp_path).run()
    service.tokens.clear()

    async def refused(self: Fleet, thing: str, certificate: Path) -> None:
        raise ConfigError("not active")

    with monkeypatch.context() as patched:
        patched.setattr(Fleet, "_connects", refused)
        assert (await fleet(broker, tmp_path).run()).fresh
    assert [topic for topic, _ in service.requests] == [CSR, REGISTER, REGISTER, CSR, REGISTER]
    assert len({request["certificateSigningRequest"] for request in service.asked(CSR)}) <= 2
    assert files(tmp_path) == DONE


async def test_an_old_token_is_not_tried(broker: Any, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service.plan = [None, "InternalFailure"]
    with pytest.raises(GenbaError):
        await fleet(broker, tmp_path).run()
    monkeypatch.setattr(provision, "_TOKEN_S", -1.0)
    assert (await fleet(broker, tmp_path).run()).fresh
    assert [topic for topic, _ in service.requests] == [CSR, REGISTER, CSR, REGISTER]


@pytest.mark.parametrize(
    ("plan", "says", "hint"),
    [
        (["InvalidCsr"], "it is InvalidCsr", ""),
        ([None, "InvalidTemplate"], "it is InvalidTemplate", "--template"),
        ([None, "InvalidParameters"], "it is InvalidParameters", "--parameter"),
        ([None, "AccessDenied"], "it is AccessDenied", "hook"),
    ],
)
async def test_a_refusal_says_what_to_correct(
    broker: Any, service: Service, tmp_path: Path, plan: list[Any], says: str, hint: str
) -> None:
    service.plan = plan
    with pytest.raises(ConfigError, match=says) as caught:
        await fleet(broker, tmp_path).run()
    assert hint in caught.value.hint


async def test_a_certificate_of_another_key_is_not_taken(
    broker: Any, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = provision._request(ec.generate_private_key(ec.SECP256R1()), "gw-1")
    signed = service.signed
    monkeypatch.setattr(service, "signed", lambda request: signed(foreign))
    with pytest.raises(ConfigError, match="has signed another key"):
        await fleet(broker, tmp_path).run()
    assert files(tmp_path) == {"gw.key": 0o600}


async def test_what_is_there_and_does_not_fit_is_left_alone(broker: Any, service: Service, tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "gw.pem").write_bytes(broker.certificate.read_bytes())
    with pytest.raises(ConfigError, match="is not the certificate of"):
        await fleet(broker, tmp_path).run()
    (tmp_path / "certs" / "gw.key").write_text("nonsense")
    with pytest.raises(ConfigError, match="is no private key"):
        await fleet(broker, tmp_path).run()
    assert service.requests == []
    assert (tmp_path / "certs" / "gw.key").read_text() == "nonsense"


async def test_a_broker_that_is_away(broker: Any, service: Service, tmp_path: Path) -> None:
    await asyncio.to_thread(broker.kill)
    with pytest.raises(NotConnected):
        await fleet(broker, tmp_path).run()
    assert files(tmp_path) == {"gw.key": 0o600}


PLANT = """
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  press: {{kind: modbus, endpoint: "tcp://127.0.0.1:1", tags: {{temp: {{address: "hr:0", type: float32}}}}}}
sinks:
  lake: {{kind: parquet, location: ./lake}}
  core: {0}
"""


def arguments(broker: Any, plant: Path, *more: str) -> list[str]:
    return [
        str(plant), "--template", "line", "--claim-certificate", str(broker.certificate), "--claim-key", str(broker.key), *more
    ]  # fmt: skip


@pytest.mark.parametrize("topic", [CSR, REGISTER], ids=["before it is signed", "after it was registered"])
def test_killed_in_the_middle_it_goes_on(broker: Any, service: Service, tmp_path: Path, topic: str) -> None:
    """SIGKILL while the answer is on its way: of the second request the service has done its part already."""
    (tmp_path / "plant.yaml").write_text(PLANT.format(json.dumps(options(broker))))
    process: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        service.answer(topic, service.requests[-1][1])
        os.kill(process[0].pid, signal.SIGKILL)

    service.plan = [kill] if topic == CSR else [None, kill]
    command_line = [sys.executable, "-m", "gateway", "provision", *arguments(broker, tmp_path / "plant.yaml", "--json")]
    process.append(subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert process[0].wait(30) == -signal.SIGKILL
    key = (tmp_path / "certs" / "gw.key").read_bytes()
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["thing"] == "gw-1"
    assert (tmp_path / "certs" / "gw.key").read_bytes() == key
    assert files(tmp_path) == DONE


def test_the_command(broker: Any, service: Service, tmp_path: Path) -> None:
    plant = tmp_path / "plant.yaml"
    plant.write_text(PLANT.format(json.dumps(options(broker))))
    service.thing = "press-line-7"
    done = CliRunner().invoke(command, arguments(broker, plant, "--parameter", "Serial=7"))
    assert isinstance(done.exception, ConfigError)
    assert done.exception.hint == "write thing: press-line-7"
    assert "stays on this machine" in done.output
    assert service.asked(REGISTER)[0]["parameters"] == {"Serial": "7"}
    plant.write_text(PLANT.format(json.dumps(options(broker, thing="press-line-7"))))
    done = CliRunner().invoke(command, arguments(broker, plant))
    assert done.exit_code == 0
    assert "is there already" in done.output
    assert CliRunner().invoke(command, arguments(broker, plant, "--parameter", "Serial")).exit_code == 2
    done = CliRunner().invoke(command, [str(plant), "lake", *arguments(broker, plant)[1:]])
    assert isinstance(done.exception, ConfigError)
    assert "core" in done.exception.hint


TEMPLATE = {
    "Parameters": {"Serial": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
    "Resources": {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Join": ["", ["press-", {"Ref": "Serial"}]]}}},
        "certificate": {
            "Type": "AWS::IoT::Certificate",
            "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"},
        },
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "gateway"}},
    },
    "DeviceConfiguration": {"site": "osaka"},
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    server = Ministack(tmp_path_factory.mktemp("ministack"), environment={"AUTH": "true"})
    server.start()
    yield server
    server.kill()


def policy(name: str, **places: str) -> str:
    text = (POLICIES / name).read_text().replace("REGION", "ap-northeast-1").replace("ACCOUNT", "000000000000")
    for place, value in places.items():
        text = text.replace(place, value)
    return text


async def test_a_template_makes_the_thing_and_its_certificate_works(cloud: Ministack, tmp_path: Path) -> None:
    """Policies are enforced: that of the claim certificate allows provisioning and no more, that of the template the gateway's work."""
    iot = cloud.client("iot")
    iot.create_policy(policyName="gateway", policyDocument=policy("iot.json", THING="press-7", GATEWAY="gw-1", RULE="lake"))
    trusts = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "iot.amazonaws.com"}}]}  # fmt: skip
    role = cloud.client("iam").create_role(RoleName="provisioning", AssumeRolePolicyDocument=json.dumps(trusts))["Role"]["Arn"]
    may = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
    cloud.client("iam").put_role_policy(RoleName="provisioning", PolicyName="things", PolicyDocument=json.dumps(may))
    iot.create_provisioning_template(
        templateName="line", templateBody=json.dumps(TEMPLATE), enabled=True, provisioningRoleArn=role
    )
    cloud.thing("claim", tmp_path, policy("claim.json", TEMPLATE="line"))
    claim = Claim(tmp_path / "claim.pem", tmp_path / "claim.key", "line", {"Serial": "7"})
    config = IotCoreConfig.model_validate(
        {
            "endpoint": "localhost", "port": cloud.mqtt_port, "thing": "press-7", "certificate": "own/gw.pem", "key": "own/gw.key",
            "ca": "ca.pem", "timeout": "20s",
        }
    )  # fmt: skip
    made = Fleet(config, tmp_path, claim, lambda line: None)
    found = await made.run()
    assert (found.thing, found.configuration) == ("press-7", {"site": "osaka"})
    await made.verify("press-7")
    (principal,) = iot.list_thing_principals(thingName="press-7")["principals"]
    signed = iot.describe_certificate(certificateId=principal.rpartition("/")[2])["certificateDescription"]
    assert signed["status"] == "ACTIVE"
    assert signed["certificatePem"].strip() == (tmp_path / "own" / "gw.pem").read_text().strip()

    other = Fleet(config.model_copy(update={"certificate": "b.pem", "key": "b.key"}), tmp_path, Claim(claim.certificate, claim.key, "other", {}), print)  # fmt: skip
    with pytest.raises((ConfigError, NotConnected)) as caught:  # the control: a template that the claim's policy does not name
        await other.run()
    assert "claim.json" in str(getattr(caught.value, "hint", "")) or isinstance(caught.value, NotConnected)
