"""ministack on loopback, with its MQTT listener: IoT Core's shadows, jobs and fleet provisioning, as a process of its own."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from tests.cloud_sinks.aws_rig import free_port, listens

REGION: Final = "ap-northeast-1"
# Its MQTT listener binds to every address whatever BIND_HOST says: here nothing but loopback is bound.
_PROGRAM: Final = """
import asyncio
plain = asyncio.BaseEventLoop.create_server
async def on_loopback(loop, protocol, host=None, port=None, **options):
    return await plain(loop, protocol, "127.0.0.1" if port is not None else None, port, **options)
asyncio.BaseEventLoop.create_server = on_loopback

# Of fleet provisioning it knows over MQTT only the request in which the service makes the private key. This is the other one.
import json, secrets, sys, time
import ministack.services.iot as iot
parse, answer = iot._parse_fleet_provisioning_topic, iot._fleet_provisioning_reply
def parsed(topic):
    return ("csr", None) if topic == "$aws/certificates/create-from-csr/json" else parse(topic)
async def answered(account_id, region, operation, template, payload, connection):
    if operation != "csr":
        return await answer(account_id, region, operation, template, payload, connection)
    pem = iot.sign_certificate_request(*iot._ensure_ca(), json.loads(payload)["certificateSigningRequest"])
    cert_id, token = iot.get_certificate_id(pem), secrets.token_urlsafe(48)
    with iot.request_scope(account_id, region):
        iot._certificates[cert_id] = iot._certificate_record(cert_id, pem, "PENDING_ACTIVATION")
        iot._ownership_tokens[token] = {"certificateId": cert_id, "expiration": time.time() + 3600}
    return "accepted", {"certificateId": cert_id, "certificatePem": pem, "certificateOwnershipToken": token}
iot._parse_fleet_provisioning_topic, iot._fleet_provisioning_reply = parsed, answered

sys.argv = ["ministack"]
from ministack.app import main
main()
"""


@dataclass
class Ministack:
    """One running server; state survives `restart` on the same ports."""

    folder: Path
    port: int = 0
    mqtt_port: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers and takes MQTT connections."""
        self.port, self.mqtt_port = self.port or free_port(), self.mqtt_port or free_port()
        environment = {
            **os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.port), "IOT_MTLS_PORT": str(self.mqtt_port),
            "PERSIST_STATE": "1", "STATE_DIR": str(self.folder / "state"), "MINISTACK_HOST": "localhost",
            "MINISTACK_REGION": REGION, "AWS_DEFAULT_REGION": REGION, **self.environment,
        }  # fmt: skip
        with (self.folder / "ministack.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _PROGRAM], env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + 60
        while not (listens(self.mqtt_port) and self._healthy()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ministack does not start:\n{(self.folder / 'ministack.log').read_text()}")
            time.sleep(0.05)

    def _healthy(self) -> bool:
        try:
            return bool(self.get("/_ministack/health"))
        except OSError:
            return False

    def get(self, path: str) -> bytes:
        """What its own pages hold."""
        request = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            request.request("GET", path)
            answer = request.getresponse()
            data = answer.read()
            return data if answer.status == 200 else b""
        finally:
            request.close()

    def client(self, service: str) -> Any:
        """A boto3 client of a service: the cloud's side."""
        return boto3.client(
            service, region_name=REGION, endpoint_url=f"http://127.0.0.1:{self.port}", aws_access_key_id="000000000000",
            aws_secret_access_key="x", config=Config(retries={"max_attempts": 0}),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: connections break."""
        self._end("kill")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 10 s."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        getattr(process, how)()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def thing(self, name: str, folder: Path, policy: str = "") -> None:
        """Register a thing with a certificate: `{name}.pem`, `{name}.key` and the authority `ca.pem` in `folder`."""
        iot = self.client("iot")
        iot.create_thing(thingName=name)
        made = iot.create_keys_and_certificate(setAsActive=True)
        if policy:
            iot.create_policy(policyName=f"policy-{name}", policyDocument=policy)
            iot.attach_policy(policyName=f"policy-{name}", target=made["certificateArn"])
        iot.attach_thing_principal(thingName=name, principal=made["certificateArn"])
        (folder / f"{name}.pem").write_text(made["certificatePem"])
        (folder / f"{name}.key").write_text(made["keyPair"]["PrivateKey"])
        (folder / "ca.pem").write_bytes(self.get("/_ministack/iot/ca.pem"))
