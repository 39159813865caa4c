"""Credentials that are found, exchanged and renewed, and what is said when there are none."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cloud_sinks.aws import Account, AwsConfig, RoleAlias, fetch_role_alias
from schemas.errors import ConfigError, NotConnected
from tests.authority import Authority
from tests.cloud_sinks.aws_rig import Proxy

PATH = "/role-aliases/genba-lake/credentials"


@pytest.fixture(autouse=True)
def _no_credentials_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class Provider:
    """AWS IoT's credential provider: TLS with a client certificate, one alias, credentials for `lifetime`."""

    def __init__(self, folder: Path, lifetime: timedelta) -> None:
        self.lifetime, self.given, self.broken = lifetime, 0, b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                connection = self.connection
                assert isinstance(connection, ssl.SSLSocket)
                names = dict(pair[0] for pair in (connection.getpeercert() or {}).get("subject", ()))  # type: ignore[misc]
                known = self.path == PATH and self.headers["x-amzn-iot-thingname"] == "gw-1" and names["commonName"] == "gw-1"
                body = outer.broken or outer.body() if known else b'{"message": "Access Denied"}'
                self.send_response(200 if known else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "aws.pem", folder / "aws.key")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]

    def body(self) -> bytes:
        self.given += 1
        ends = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = {"accessKeyId": f"KEY{self.given}", "secretAccessKey": "s", "sessionToken": "t", "expiration": ends}
        return json.dumps({"credentials": found}).encode()


@contextmanager
def provider(folder: Path, lifetime: timedelta = timedelta(hours=1)) -> Iterator[Provider]:
    authority = Authority(folder, "ca")
    authority.issue("aws", ["127.0.0.1"])
    authority.issue("gw-1", [])
    authority.issue("gw-2", [])
    made = Provider(folder, lifetime)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def alias(port: int, **changes: Any) -> RoleAlias:
    given = {
        "endpoint": f"127.0.0.1:{port}",
        "alias": "genba-lake",
        "thing": "gw-1",
        "certificate": "gw-1.pem",
        "key": "gw-1.key",
        "ca": "ca.pem",
    }
    return RoleAlias.model_validate({**given, **changes})


def test_a_device_certificate_gives_credentials(tmp_path: Path) -> None:
    with provider(tmp_path) as made:
        found = fetch_role_alias(alias(made.port), tmp_path, 2.0)
    assert (found["access_key"], found["secret_key"], found["token"]) == ("KEY1", "s", "t")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"thing": "gw-2"}, ConfigError, "iot:AssumeRoleWithCertificate"),
        ({"alias": "other"}, ConfigError, "no credentials|gives no credentials"),
        ({"certificate": "gw-2.pem", "key": "gw-2.key"}, ConfigError, "HTTP 403"),
        ({"certificate": "missing.pem"}, ConfigError, "cannot use missing.pem"),
        ({"key": "gw-2.key"}, ConfigError, "belong together"),
        ({"ca": None}, NotConnected, "certificate verify failed"),
    ],
    ids=["thing", "alias", "certificate of another thing", "no certificate", "another key", "unknown authority"],
)
def test_what_goes_wrong_says_who_must_act(tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str) -> None:
    with provider(tmp_path) as made, pytest.raises(error, match=says):
        fetch_role_alias(alias(made.port, **changes), tmp_path, 2.0)


def test_nobody_there_is_not_connected(tmp_path: Path) -> None:
    with provider(tmp_path) as made:
        port = made.port
    with pytest.raises(NotConnected, match="no credentials from"):
        fetch_role_alias(alias(port), tmp_path, 2.0)


def test_an_answer_that_is_none_is_not_connected(tmp_path: Path) -> None:
    with provider(tmp_path) as made:
        made.broken = b"[]"
        with pytest.raises(NotConnected, match="no credentials"):
            fetch_role_alias(alias(made.port), tmp_path, 2.0)


@pytest.mark.parametrize(("lifetime", "fetches"), [(timedelta(hours=1), 1), (timedelta(minutes=5), 3)], ids=["long", "short"])
def test_credentials_are_renewed_before_they_end(tmp_path: Path, moto_server: str, lifetime: timedelta, fetches: int) -> None:
    """botocore asks again when less than a quarter of an hour is left: the short ones at each request."""
    with provider(tmp_path, lifetime) as made:
        given = {"endpoint": moto_server, "region": "ap-northeast-1", "role_alias": alias(made.port).model_dump()}
        account = Account(AwsConfig.model_validate(given), tmp_path, "sinks.out")
        for _ in range(2):
            account.call("s3", "list", lambda s3: s3.list_buckets())
        account.close()
        assert made.given == fetches


def test_a_role_is_taken_on(tmp_path: Path, moto_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "genba-test-key-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    proxy = Proxy(moto_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.endpoint)
    role = {"arn": "arn:aws:iam::123456789012:role/lake", "external_id": "plant"}
    given = {"endpoint": proxy.endpoint, "region": "ap-northeast-1", "assume_role": role}
    account = Account(AwsConfig.model_validate(given), tmp_path, "sinks.out")
    account.call("s3", "list", lambda s3: s3.list_buckets())
    account.call("s3", "list", lambda s3: s3.list_buckets())
    account.close()
    proxy.close()
    assert [method for method, _ in proxy.seen] == ["POST", "GET", "GET"]


def test_a_region_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "genba-test-key-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(ConfigError, match=r"no region is known.*ap-northeast-1"):
        Account(AwsConfig(), tmp_path, "sinks.out").client("kinesis")


def test_a_profile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plant-x"):
        Account(AwsConfig(profile="plant-x"), tmp_path, "sinks.out").client("s3")


def test_one_source_of_credentials_is_enough() -> None:
    with pytest.raises(ValidationError, match="keep one of them"):
        AwsConfig.model_validate({"profile": "x", "role_alias": alias(1).model_dump()})
