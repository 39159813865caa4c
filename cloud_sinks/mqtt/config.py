"""What a person writes about an MQTT broker."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from cloud_sinks.base import SinkConfig
from cloud_sinks.topics import checked
from schemas.plugin import Finding
from schemas.values import Duration

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_PLACES: Final = {
    "topic": {"data", "asset", "alarm", "gateway", "site", "enterprise"},
    "status_topic": {"gateway", "site", "enterprise"},
    "command_topic": {"gateway", "site", "enterprise"},
}
Protocol = Annotated[Literal["auto", "5", "3.1.1"], BeforeValidator(lambda value: str(value) if value == 5 else value)]


class MqttConfig(SinkConfig):
    """An MQTT broker, version 5 or 3.1.1. Alerts go there by default; any other kind of data can be routed there."""

    kind: Literal["mqtt"] = Field("mqtt", description="The service.")
    endpoint: str = Field(
        description="`mqtt://host:1883`, or `mqtts://host:8883` for TLS.",
        examples=["mqtt://localhost:1883", "mqtts://broker.plant.example"],
    )
    topic: str = Field(
        "genba/{data}/{asset}/{alarm}",
        description="Topic of a row. {data} is its kind, {asset} the asset's full path, {alarm} the alarm's name, or for other kinds "
        "than alert the tag's; {gateway}, {site} and {enterprise} may be used too.",
    )
    status_topic: str = Field(
        "genba/status/{gateway}", description="Retained state of the gateway: online, stopped, or offline (last will)."
    )
    command_topic: str = Field(
        "genba/command/{gateway}", description="Below it the gateway takes commands: …/acknowledge, …/shelve and so on."
    )
    commands: bool = Field(
        True, description="Take commands from the broker. Who may send them is up to the broker's access list."
    )
    retain: bool = Field(True, description="The broker keeps the last transition of each alarm for those who subscribe later.")
    username: str | None = Field(None, description="User name at the broker.")
    password: SecretStr | None = Field(None, description="Its password.")
    ca: str | None = Field(None, description="PEM file of the authority that signed the broker's certificate; else the system's.")
    certificate: str | None = Field(None, description="PEM file of this gateway's certificate.")
    key: str | None = Field(None, description="PEM file of its private key.")
    insecure: bool = Field(False, description="Accept any certificate of the broker. For tests only.")
    protocol: Protocol = Field("auto", description="auto: version 5, and 3.1.1 with brokers that do not speak it.")
    client_id: str | None = Field(None, description="MQTT client id; `genba-<gateway>-<sink>` unless given.")
    keep_alive: Duration = Field(Duration("30s"), description="A silent connection is found dead after about twice this.")
    timeout: Duration = Field(Duration("10s"), description="Deadline for connecting, and for the acknowledgement of a message.")
    max_in_flight: int = Field(100, ge=1, le=65535, description="Messages sent and not yet acknowledged.")

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str) -> str:
        address(endpoint)
        return endpoint

    @field_validator("topic", "status_topic", "command_topic")
    @classmethod
    def _topic(cls, topic: str, info: object) -> str:
        return checked(topic, _PLACES[getattr(info, "field_name", "topic")])

    @field_validator("timeout", "keep_alive")
    @classmethod
    def _positive(cls, duration: Duration) -> Duration:
        if duration.s < 1:
            raise ValueError("at least 1s")
        return duration


def address(endpoint: str) -> tuple[str, int, bool]:
    """(host, port, TLS) of an endpoint. Raises ValueError with the way to write it."""
    example = "write mqtt://host:1883, or mqtts://host:8883 for TLS"
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError:
        raise ValueError(f"not a port number; {example}") from None
    if url.scheme not in PORTS or not url.hostname:
        raise ValueError(f"not an MQTT endpoint; {example}")
    if url.username is not None or url.password is not None:
        raise ValueError("user and password are options of their own: username, password")
    if url.path not in ("", "/") or url.query or url.fragment:
        raise ValueError(f"nothing follows the port; {example}")
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", url.hostname):
        raise ValueError(f"not a host name; {example}")
    return url.hostname, port or PORTS[url.scheme], url.scheme == "mqtts"


def check(config: MqttConfig) -> Iterable[Finding]:
    """What needs several options at once: files for TLS without TLS, half a key pair, secrets in the clear."""
    host, _, tls = address(config.endpoint)
    for name in ("ca", "certificate", "key"):
        if getattr(config, name) is not None and not tls:
            yield Finding("error", (name,), f"{name} has no effect without TLS", "write the endpoint as mqtts://")
    if (config.certificate is None) != (config.key is None):
        there, missing = ("certificate", "key") if config.key is None else ("key", "certificate")
        yield Finding("error", (there,), f"{there} is given without {missing}", "both or neither")
    if config.password is not None and config.username is None:
        yield Finding("error", ("password",), "password is given without username")
    if config.insecure:
        yield Finding("warning", ("insecure",), "any broker is believed", "give the authority's certificate as ca instead")
    if config.password is not None and not tls and not _is_loopback(host):
        yield Finding("warning", ("endpoint",), "the password crosses the network in the clear", "use mqtts://")
    if "{alarm}" not in config.topic or "{asset}" not in config.topic:
        yield Finding(
            "warning",
            ("topic",),
            "several alarms share one topic, where the last one hides the others",
            "use {asset} and {alarm}",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
