"""What a person writes about AWS IoT Core, and the service's limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from cloud_sinks.aws import AwsIdentity
from cloud_sinks.base import SinkConfig
from cloud_sinks.topics import checked
from schemas.plugin import Finding
from schemas.values import Duration, Size

from .pkcs11 import Pkcs11Config

MAX_TOPIC_BYTES: Final = 256
MAX_SLASHES: Final = 7
"""AWS IoT Core endpoints and quotas: both without the prefix of Basic Ingest."""
_WEBSOCKET: Final = "wss://"
_PLACES: Final = {"data", "asset", "alarm", "gateway", "site", "enterprise"}
_LONGEST_SLUGS: Final = {"data": "telemetry", "gateway": "g", "site": "s", "enterprise": "e", "alarm": "a", "asset": "e/s/a"}


class IotCoreConfig(SinkConfig):
    """AWS IoT Core. Alerts, events and health go there by default; any other kind of data can be routed there."""

    kind: Literal["iot_core"] = Field("iot_core", description="The service.")
    endpoint: str = Field(
        description="The account's data endpoint (`aws iot describe-endpoint --endpoint-type iot:Data-ATS`); `wss://…` before it: by WebSocket, "
        "with AWS credentials instead of a certificate.",
        examples=["a1b2c3-ats.iot.ap-northeast-1.amazonaws.com"],
    )
    port: int = Field(
        8883, ge=1, le=65535, description="8883, or 443 where a firewall lets nothing else out (ALPN); 443 with `wss://`."
    )
    thing: str = Field(
        description="Name of the thing, and the MQTT client id.",
        pattern=r"^[a-zA-Z0-9:_-]+$",
        max_length=128,
        examples=["stamping-gw-1"],
    )
    certificate: str | None = Field(
        None, description="PEM file of the device certificate, relative to this file; needed unless with `wss://`."
    )
    key: str | None = Field(None, description="PEM file of its private key.")
    pkcs11: Pkcs11Config | None = Field(None, description="The private key is in a security module; instead of `key`.")
    aws: AwsIdentity = Field(
        AwsIdentity(), description="With `wss://`: whose credentials sign the connection; else the default chain."
    )
    ca: str | None = Field(None, description="PEM file of Amazon's root; else the system's authorities.")
    topic: str = Field(
        "genba/{gateway}/{data}",
        description="Topic of a row; places as for `mqtt`: {data}, {asset}, {alarm}, {gateway}, {site}, {enterprise}. At most 7 slashes.",
    )
    rule: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9_]+$",
        max_length=128,
        description="Name of a rule that gets everything by Basic Ingest: `$aws/rules/<rule>/…`, without the price of a message.",
    )
    commands: bool = Field(
        False,
        description="Take commands from `command_topic`. The certificate's policy must allow it: IoT Core hangs up on who may not subscribe.",
    )
    command_topic: str = Field(
        "genba/command/{gateway}", description="Below it the gateway takes commands: …/acknowledge, …/shelve and so on."
    )
    shadow: bool = Field(
        False,
        description="Keep the thing's shadow `genba`: report there how the gateway is, and do what is desired there (log level, scan classes, "
        "pausing a sink). The certificate's policy must allow it.",
    )
    batch: bool = Field(
        True,
        description="Put many readings, scores and gaps into one message (docs/schemas/batch.schema.json). False: a message per row.",
    )
    compression: Literal["none", "zstd"] = Field("none", description="Compress messages; rules must decode them then.")
    max_age: Duration = Field(Duration("1s"), description="Oldest reading that may still wait for company. Alerts never wait.")
    max_payload: Size = Field(Size("128 KiB"), description="Bytes of one message.")
    max_messages: int = Field(100, ge=1, description="Messages a second; the service's quota for a connection.")
    max_bytes: Size = Field(Size("512 KiB"), description="Bytes a second; the service's quota for a connection.")
    max_in_flight: int = Field(100, ge=1, le=65535, description="Messages sent and not yet acknowledged.")
    keep_alive: Duration = Field(Duration("30s"), description="A silent connection is found dead after about this.")
    timeout: Duration = Field(Duration("10s"), description="Deadline for connecting, and for the acknowledgement of a message.")

    @field_validator("endpoint")
    @classmethod
    def _host(cls, endpoint: str) -> str:
        host = endpoint.removeprefix(_WEBSOCKET)
        if "/" in host or ":" in host or not host:
            raise ValueError(
                "a host name alone is wanted, without port, `wss://` before it or nothing: a1b2c3-ats.iot.ap-northeast-1.amazonaws.com"
            )
        return endpoint

    @field_validator("topic", "command_topic")
    @classmethod
    def _topic(cls, topic: str, info: object) -> str:
        places = _PLACES if getattr(info, "field_name", "") == "topic" else {"gateway", "site", "enterprise"}
        return checked(topic, places)

    @field_validator("timeout", "keep_alive")
    @classmethod
    def _long_enough(cls, duration: Duration) -> Duration:
        if duration.s < 2:
            raise ValueError("at least 2s")
        return duration

    @model_validator(mode="after")
    def _one_identity(self) -> IotCoreConfig:
        given = [name for name in ("certificate", "key", "pkcs11") if getattr(self, name) is not None]
        if "key" in given and "pkcs11" in given:
            raise ValueError("key and pkcs11 both say where the private key is; keep one of them")
        if self.websocket and given:
            raise ValueError(f"with `wss://` AWS credentials say who this is; delete {' and '.join(given)}")
        if not self.websocket and len(given) < 2:
            wanted = ("certificate", "pkcs11" if self.pkcs11 is not None else "key")
            missing = " and ".join(name for name in wanted if name not in given)
            raise ValueError(
                f"{missing} must be given: IoT Core knows a gateway by its certificate (or by AWS credentials, with `wss://`)"
            )
        if not self.websocket and "aws" in self.model_fields_set:
            raise ValueError("`aws` is for `wss://` only; delete it")
        return self

    @property
    def websocket(self) -> bool:
        """Whether MQTT goes over a WebSocket."""
        return self.endpoint.startswith(_WEBSOCKET)

    @property
    def host(self) -> str:
        """The endpoint's host name."""
        return self.endpoint.removeprefix(_WEBSOCKET)

    @property
    def host_port(self) -> int:
        """The port that is meant."""
        return 443 if self.websocket and "port" not in self.model_fields_set else self.port

    @property
    def prefix(self) -> str:
        """What stands before every topic."""
        return f"$aws/rules/{self.rule}/" if self.rule else ""


def check(config: IotCoreConfig) -> Iterable[Finding]:
    """Topics that the service does not take, as far as they are known before there is a row."""
    least = config.topic.format(**_LONGEST_SLUGS)
    slashes = least.count("/")
    if slashes > MAX_SLASHES:
        yield Finding(
            "error", ("topic",), f"a topic has {slashes} slashes at least and IoT Core takes {MAX_SLASHES}", "shorten it"
        )
    elif "{asset}" in config.topic:
        left = MAX_SLASHES - config.topic.count("/")
        yield Finding(
            "warning",
            ("topic",),
            f"rows of an asset whose path has more than {left + 1} parts, enterprise and site among them, are refused",
            "leave {asset} out: each message says it",
        )
    if config.max_payload > 128 * 1024:
        yield Finding("warning", ("max_payload",), "IoT Core takes 128 KiB", "lower it")


def topic_problem(topic: str) -> str:
    """Why the service does not take this topic (without its prefix), or nothing."""
    if topic.count("/") > MAX_SLASHES:
        return f"its topic has {topic.count('/')} slashes and IoT Core takes {MAX_SLASHES}: leave {{asset}} out of `topic`"
    if len(topic.encode()) > MAX_TOPIC_BYTES:
        return f"its topic has {len(topic.encode())} bytes and IoT Core takes {MAX_TOPIC_BYTES}: leave {{asset}} out of `topic`"
    return ""
