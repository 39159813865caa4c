"""What the IoT Core sink decides without a broker: options, topics, pace."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import awsiot
import pytest
import structlog
from awsiot import iotshadow
from pydantic import ValidationError

from cloud_sinks.commands import Inbox
from cloud_sinks.iot_core.config import IotCoreConfig, check, topic_problem
from cloud_sinks.iot_core.handshake import context_of, examine
from cloud_sinks.iot_core.pacing import Pace
from cloud_sinks.iot_core.shadow import Shadow, difference, patched
from cloud_sinks.topics import Topics
from schemas.errors import Busy, ConfigError, NotConnected
from tests.authority import Authority
from tests.conformance.sink import context_of as context_of_plant
from tests.conftest import ManualClock

SHADOW = "$aws/things/gw-1/shadow/name/genba"
LISTENED = ("get/+", "update/accepted", "update/rejected", "update/documents")
"""What the SDK's shadow client subscribes to; tests/interop/test_shadow.py holds the policy against the real calls."""
GIVEN = {"endpoint": "a1-ats.iot.ap-northeast-1.amazonaws.com", "thing": "gw-1", "certificate": "gw.pem", "key": "gw.key"}


def config(**options: Any) -> IotCoreConfig:
    return IotCoreConfig.model_validate({**GIVEN, **options})


def test_the_usual_options_have_no_findings() -> None:
    assert list(check(config(rule="genba_lake", port=443))) == []
    assert config(rule="genba_lake").prefix == "$aws/rules/genba_lake/"


@pytest.mark.parametrize(
    ("options", "level", "says"),
    [
        ({"topic": "a/b/c/d/e/f/g/h/{data}"}, "error", "8 slashes at least"),
        ({"topic": "a/b/c/d/e/f/{asset}"}, "error", "8 slashes at least"),
        ({"topic": "genba/{data}/{asset}"}, "warning", "more than 6 parts"),
        ({"max_payload": "1 MB"}, "warning", "takes 128 KiB"),
    ],
)
def test_check_counts_slashes_and_bytes(options: dict[str, Any], level: str, says: str) -> None:
    (finding,) = check(config(**options))
    assert finding.level == level
    assert says in finding.message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"endpoint": "mqtts://a1-ats.iot.amazonaws.com"}, "host name alone"),
        ({"endpoint": "wss://a1-ats.iot.amazonaws.com:443"}, "host name alone"),
        ({"endpoint": "wss://a1-ats.iot.amazonaws.com"}, "delete certificate and key"),
        ({"certificate": None, "key": None}, "certificate and key must be given"),
        ({"key": None}, "key must be given"),
        ({"pkcs11": {"library": "x.so"}}, "keep one of them"),
        ({"pkcs11": {"library": "x.so"}, "key": None, "certificate": None}, "certificate must be given"),
        ({"pkcs11": {"library": "x.so"}, "certificate": None, "key": None, "endpoint": "wss://a.example"}, "delete pkcs11"),
        ({"aws": {"region": "eu-west-1"}}, "`aws` is for `wss://` only"),
        ({"thing": "no good"}, "pattern"),
        ({"topic": "genba/+/x"}, "no # or +"),
        ({"topic": "genba/{tag}"}, "unknown place"),
        ({"rule": "my rule"}, "pattern"),
        ({"timeout": "500ms"}, "at least 2s"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**options)


def test_by_websocket_the_port_is_443_unless_one_is_written() -> None:
    given = {"certificate": None, "key": None, "endpoint": "wss://a1-ats.iot.eu-west-1.amazonaws.com"}
    made = config(**given)
    assert (made.websocket, made.host, made.host_port) == (True, "a1-ats.iot.eu-west-1.amazonaws.com", 443)
    assert config(**given, port=8443).host_port == 8443
    assert (config().websocket, config().host_port) == (False, 8883)


@pytest.mark.parametrize(
    ("topic", "fits"),
    [("a/b/c/d/e/f/g/h", True), ("a/b/c/d/e/f/g/h/i", False), ("x" * 256, True), ("x" * 257, False), ("ü" * 129, False)],
)
def test_the_limits_of_a_topic(topic: str, fits: bool) -> None:
    assert (topic_problem(topic) == "") is fits


@contextmanager
def server(folder: Path, names: list[str], *, days: tuple[int, int] = (-2, 2)) -> Iterator[int]:
    """Shakes hands with whoever comes; its port."""
    authority = Authority(folder, "ca")
    authority.issue("server", names, days=days)
    authority.issue("gw", [])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError), listening.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(
    ("names", "days", "error", "says"),
    [
        (["aws.example"], (-2, 2), ConfigError, "correct `endpoint`"),
        (["localhost"], (-3, -1), NotConnected, "is the clock of this machine right"),
        (["localhost"], (1, 2), NotConnected, "is the clock of this machine right"),
    ],
    ids=["another name", "expired", "not yet valid"],
)
def test_a_server_certificate_that_is_wrong_is_explained(
    tmp_path: Path, names: list[str], days: tuple[int, int], error: type[Exception], says: str
) -> None:
    with server(tmp_path, names, days=days) as port, pytest.raises(error, match=says):
        examine(
            "localhost", port, context_of(tmp_path / "gw.pem", tmp_path / "gw.key", tmp_path / "ca.pem", "sinks.x"), "sinks.x"
        )


def test_a_right_one_passes(tmp_path: Path) -> None:
    with server(tmp_path, ["localhost"]) as port:
        examine(
            "localhost", port, context_of(tmp_path / "gw.pem", tmp_path / "gw.key", tmp_path / "ca.pem", "sinks.x"), "sinks.x"
        )


def test_one_that_never_answers_is_given_up(tmp_path: Path) -> None:
    Authority(tmp_path, "ca").issue("gw", [])
    began = time.monotonic()
    context = context_of(tmp_path / "gw.pem", tmp_path / "gw.key", None, "sinks.x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotConnected, match="does not answer"):
            examine("localhost", port, context, "sinks.x")
    assert time.monotonic() - began < 8


def test_the_policy_that_is_shipped_allows_the_default_topics(tmp_path: Path) -> None:
    """What a certificate with this policy may do holds each topic that the sink uses, and the rule's prefix."""
    text = (Path(__file__).parents[2] / "deploy/iam/iot.json").read_text()
    allowed: dict[str, list[str]] = {}
    for statement in json.loads(text.replace("THING", "gw-1").replace("GATEWAY", "gw-1").replace("RULE", "lake"))["Statement"]:
        for action in _several(statement["Action"]):
            resources = [resource.partition(":ACCOUNT:")[2] for resource in _several(statement["Resource"])]
            allowed.setdefault(action, []).extend(resources)
    topics = Topics(config().topic, context_of_plant(tmp_path, ManualClock()))
    for kind in ("alert", "telemetry"):
        topic = topics.of({"tag": 0, "alarm": "x", "asset": None}, kind)  # type: ignore[arg-type]
        assert any(fnmatch(f"topic/{topic}", pattern) for pattern in allowed["iot:Publish"])
        assert any(fnmatch(f"topic/{config(rule='lake').prefix}{topic}", pattern) for pattern in allowed["iot:Publish"])
        assert not any(fnmatch(f"topic/other/{kind}", pattern) for pattern in allowed["iot:Publish"])
    commands = topics.of_plant(config().command_topic)
    assert allowed["iot:Connect"] == ["client/gw-1"]
    assert allowed["iot:Subscribe"] == [f"topicfilter/{commands}/#", *(f"topicfilter/{SHADOW}/{end}" for end in LISTENED)]
    assert allowed["iot:Receive"] == [
        f"topic/{commands}/*",
        *(f"topic/{SHADOW}/{end}" for listened in LISTENED for end in _ends(listened)),
    ]
    assert {f"topic/{SHADOW}/{end}" for end in ("get", "update")} <= set(allowed["iot:Publish"])


def _ends(listened: str) -> list[str]:
    """A filter of a shadow as the topics that come through it."""
    return [listened.replace("+", end) for end in ("accepted", "rejected")] if "+" in listened else [listened]


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only where somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *args: Any, **kwargs: Any) -> Any:
        def then(*given: Any) -> None:
            self.now = max(self.now, when)
            callback(*given)

        return self.call_soon(then, *args, **kwargs)


@pytest.mark.parametrize(("messages", "size", "seconds"), [(1000, 10, 9.0), (100, 100_000, 9.0), (100, 10, 0.0)])
def test_the_pace_is_kept_in_messages_and_in_bytes(messages: int, size: int, seconds: float) -> None:
    """100 messages and 1 MB a second, a second's worth at once."""

    async def send() -> float:
        pace = Pace(100, 1_000_000)
        for _ in range(messages):
            await pace.take(size)
        return asyncio.get_running_loop().time()

    loop = VirtualLoop()
    try:
        assert loop.run_until_complete(send()) == pytest.approx(seconds, abs=0.02)
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("there", "wanted", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"c": 1}}, {"a": None, "b": {"d": None}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": True}, {"a": 1}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [2]}, {"a": [2]}),
    ],
)
def test_the_least_update(there: dict[str, Any], wanted: dict[str, Any], patch: dict[str, Any]) -> None:
    assert difference(there, wanted) == patch
    assert patched(there, patch) == wanted


@pytest.mark.parametrize(
    ("code", "error"),
    [(429, Busy), (500, Busy), (403, ConfigError), (413, ConfigError), (400, ConfigError), (None, NotConnected)],
)
async def test_what_the_shadow_service_answers(code: int | None, error: type[Exception]) -> None:
    """ministack refuses none of it."""
    said = None if code is None else iotshadow.V2ErrorResponse(code=code, message="no")

    class Refusing:
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def settled(self, operation: object) -> object:
            raise awsiot.V2ServiceException("get_named_shadow failure", TimeoutError("late"), said)

    log = structlog.get_logger()
    shadow = Shadow("gw-1", Inbox("c", "s", log), Pace(1, 1), source="s", where="sinks.x.shadow", timeout_s=1, log=log)
    with pytest.raises(error):
        await shadow._ask(Refusing(), object())  # type: ignore[arg-type]


class Standing:
    """A connection whose operations are all answered with `answer`."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def settled(self, operation: object) -> object:
        await asyncio.sleep(0)
        return operation


def document(version: int, desired: dict[str, Any], reported: dict[str, Any] | None = None) -> Any:
    state = iotshadow.ShadowStateWithDelta(desired=desired, reported=reported)
    return iotshadow.GetShadowResponse(version=version, state=state)


async def test_a_document_that_is_older_than_what_was_seen_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages may come in any order, and the answer to a report may overtake a wish that was there before it."""
    log = structlog.get_logger()
    box = Inbox("c", "s", log)
    shadow, connection = Shadow("gw-1", box, Pace(9, 1e6), source="s", where="w", timeout_s=1, log=log), Standing()

    class Client:
        def get_named_shadow(self, request: object) -> object:
            return document(3, {"a": 1})

        def update_named_shadow(self, request: object) -> object:
            return iotshadow.UpdateShadowResponse(version=7)

    async def begin(given: object) -> None:
        shadow._connection, shadow._client, shadow._follows = connection, Client(), True  # type: ignore[assignment]
        await shadow._read(connection)  # type: ignore[arg-type]

    monkeypatch.setattr(shadow, "_begin", begin)
    await shadow.exchange(connection, {"version": "1"})  # type: ignore[arg-type]
    for version, desired in ((5, {"a": 2}), (4, {"a": 3}), (5, {"a": 4}), (6, {"a": 5}), (7, {"a": 5}), (9, {}), (8, {"a": 6})):
        shadow._seen(connection, document(version, desired, {"version": "1"}))  # type: ignore[arg-type]
    shadow._seen(Standing(), document(99, {"a": 7}))  # type: ignore[arg-type]  # of a connection that is gone
    box.close()
    told = [(json.loads(str(one.arguments["document"])), one.arguments["version"]) async for one in box.commands()]
    assert told == [({"a": 1}, 3), ({"a": 2}, 5), ({"a": 5}, 6), ({}, 9)]
