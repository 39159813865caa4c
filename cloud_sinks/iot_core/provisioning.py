"""The two requests of fleet provisioning, over one connection with a claim certificate. Nothing is stored here.

Service documentation: AWS IoT Core, device provisioning MQTT API (CreateCertificateFromCsr, RegisterThing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import awsiot
from awscrt import mqtt_request_response as request_response
from awsiot import iotidentity

from schemas.errors import Busy, ConfigError, NotConnected

from .connection import Connection, Options

_HINTS: Final = {
    "InvalidTemplate": "correct --template: a provisioning template that is there and enabled",
    "InvalidParameters": "give what the template declares with --parameter NAME=VALUE",
    "AccessDenied": "the template's hook refuses this device, or its provisioning role may not register things",
    "InvalidCsr": "the service takes this kind of key no longer: report it",
}
_POLICY: Final = "allow it in the policy of the claim certificate (deploy/iam/claim.json), and correct --template"


class TokenSpent(Exception):
    """The ownership token of a certificate is used up or too old."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate that does nothing yet: `token` makes it one of a thing, within the hour."""

    certificate_id: str
    certificate: str
    token: str


@dataclass(frozen=True, slots=True)
class Registered:
    """The thing that the template made, and what it says to devices."""

    thing: str
    configuration: Mapping[str, str]


class Provisioning:
    """`open`, then requests, then `close`. Raises NotConnected, Busy, and ConfigError for what a person must allow or correct."""

    def __init__(self, options: Options) -> None:
        self._connection = Connection(options, lambda topic, data, retained: None)
        self._timeout_s = options.timeout_s
        self._client: Any = None

    async def open(self) -> None:
        """Connect with the claim certificate."""
        await self._connection.open()
        options = request_response.ClientOptions(
            max_request_response_subscriptions=8,
            max_streaming_subscriptions=1,
            operation_timeout_in_seconds=max(1, round(self._timeout_s)),
        )
        self._client = iotidentity.IotIdentityClientV2(self._connection.client, options)

    async def certify(self, request: str) -> Certified:
        """Have a certificate signing request (PEM) signed."""
        wanted = iotidentity.CreateCertificateFromCsrRequest(certificate_signing_request=request)
        answer = await self._ask(self._client.create_certificate_from_csr(wanted))
        return Certified(answer.certificate_id, answer.certificate_pem, answer.certificate_ownership_token)

    async def register(self, template: str, token: str, parameters: Mapping[str, str]) -> Registered:
        """Have the template make a thing for the certificate of `token`. Raises TokenSpent too."""
        wanted = iotidentity.RegisterThingRequest(
            template_name=template, certificate_ownership_token=token, parameters=dict(parameters)
        )
        answer = await self._ask(self._client.register_thing(wanted))
        return Registered(answer.thing_name or "", answer.device_configuration or {})

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self._client = None
        await self._connection.close()

    async def _ask(self, operation: Any) -> Any:
        try:
            return await self._connection.settled(operation)
        except NotConnected as error:
            if self._connection.lost.done():
                raise ConfigError("IoT Core hangs up when it is asked to provision this gateway", hint=_POLICY) from error
            raise
        except awsiot.V2ServiceException as error:
            said = error.modeled_error
            if said is None:
                if self._connection.lost.done():
                    raise ConfigError("IoT Core hangs up when it is asked to provision this gateway", hint=_POLICY) from error
                raise NotConnected(f"IoT Core does not answer: {error.inner_error}") from error
            if said.error_code == "InvalidCertificateOwnershipToken":
                raise TokenSpent from error
            status = said.status_code or 0
            if status == 429 or status >= 500:
                raise Busy(5.0, f"IoT Core asks to wait: {said.error_message}") from error
            hint = _HINTS.get(said.error_code or "", "correct the provisioning template")
            raise ConfigError(f"IoT Core refuses: {said.error_message} ({said.error_code})", hint=hint) from error
