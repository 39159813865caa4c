"""What the AWS sinks share: options of a connection, clients with the right credentials, and errors that say who must act.

Clients never retry by themselves: delivery does, with back-off, from the spool. Credentials come from the default chain
(environment, profile, container, instance), from an assumed role, or for an X.509 certificate from an IoT role alias; all but
those written down are renewed by botocore before they end. Blocking; call in the sink's thread.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import Field, model_validator

from schemas.errors import Busy, ConfigError, GenbaError, NotConnected
from schemas.values import Duration, Strict

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

T = TypeVar("T")
_SIGNATURES: Final = ("v4", "s3v4")
_THROTTLED: Final = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "ServiceUnavailable",
}
_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_SKEWED: Final = {"RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch"}
_REFUSED: Final = {
    "AccessDenied": "allow it in the policy of these credentials; docs/aws.md lists what the gateway calls",
    "AccessDeniedException": "allow it in the policy of these credentials; docs/aws.md lists what the gateway calls",
    "403": "allow it in the policy of these credentials; docs/aws.md lists what the gateway calls",
    "InvalidAccessKeyId": "these credentials do not exist (any more): check the environment or the profile",
    "UnrecognizedClientException": "these credentials do not exist (any more): check the environment or the profile",
    "InvalidClientTokenId": "these credentials do not exist (any more): check the environment or the profile",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "NoSuchBucket": "make the bucket, or correct `location`",
    "ResourceNotFoundException": "make it, or correct its name and `region`",
    "PermanentRedirect": "correct `region`",
    "AuthorizationHeaderMalformed": "correct `region`",
    "IllegalLocationConstraintException": "correct `region`",
    "KMS.NotFoundException": "correct `kms_key`",
    "KMS.DisabledException": "enable the KMS key, or correct `kms_key`",
    "KMS.AccessDeniedException": "allow the KMS key to these credentials",
    "KMSNotFoundException": "correct the KMS key of the stream",
    "KMSDisabledException": "enable the KMS key of the stream",
    "KMSInvalidStateException": "enable the KMS key of the stream",
    "KMSAccessDeniedException": "allow the KMS key of the stream to these credentials",
    "InvalidSignatureException": "the secret key does not belong to the access key",
    "ValidationException": "lower `max_record` or `max_request` to what the service takes, or name the stream as it wants it",
    "InvalidArgumentException": "lower `max_record` or `max_request` to what the service takes, or name the stream as it wants it",
    "413": "lower `max_record` or `max_request` to what the service takes",
}


class AssumeRole(Strict):
    """A role that the found credentials are exchanged for."""

    arn: str = Field(pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/.+$", description="ARN of the role.")
    external_id: str = Field(
        "", pattern=r"^$|^[a-zA-Z0-9_+=,.@:/-]{2,}$", description="External ID that the role's trust policy asks for."
    )
    session: str = Field("genba", pattern=r"^[a-zA-Z0-9_+=,.@-]{2,64}$", description="Name of the session in the audit log.")


class RoleAlias(Strict):
    """Temporary credentials for a device certificate: the credential provider of AWS IoT."""

    endpoint: str = Field(
        description="The account's credential endpoint.", examples=["c1abc.credentials.iot.ap-northeast-1.amazonaws.com"]
    )
    alias: str = Field(pattern=r"^[a-zA-Z0-9_=,@-]{1,128}$", description="Name of the role alias.")
    thing: str = Field(description="Name of the thing that the certificate belongs to.")
    certificate: Path = Field(description="PEM file of the device certificate, relative to this file.")
    key: Path = Field(description="PEM file of its private key.")
    ca: Path | None = Field(None, description="PEM file of the authority of the endpoint; else the system's.")


class AwsIdentity(Strict):
    """Whose credentials are used, and for which region."""

    region: str | None = Field(None, description="Region; else what the environment or the profile says.")
    profile: str | None = Field(None, description="Profile of the shared AWS configuration files.")
    assume_role: AssumeRole | None = Field(None, description="Role to take on with the credentials that were found.")
    role_alias: RoleAlias | None = Field(None, description="IoT role alias that gives credentials for a device certificate.")

    @model_validator(mode="after")
    def _one_source(self) -> AwsIdentity:
        if self.role_alias is not None and self.profile is not None:
            raise ValueError("role_alias and profile both say where credentials come from; keep one of them")
        return self


class AwsConfig(AwsIdentity):
    """How a service of AWS (or one that speaks like it) is reached."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL of a service that speaks like AWS; else AWS itself.",
        examples=["http://nas:9000"],
    )
    timeout: Duration = Field(Duration("10s"), description="Deadline for one answer.")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Access key, secret key, session token, and the region that was configured with them."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    region: str | None


class Account:
    """One set of credentials and what was learnt about the other side's clock. Makes clients; one thread uses it.

    `call(client_of, work)` runs a request and heals what can be healed at once: an expired token is fetched anew, a clock that the
    service finds wrong is corrected by the service's own, each once per call. Whatever else goes wrong is raised as an error
    that says who must act.
    """

    def __init__(self, config: AwsConfig, base: Path, where: str) -> None:
        """`base` is what relative paths are relative to, `where` the key path of the entry, for errors."""
        self._config, self._base, self._where = config, base, where
        self._clients: dict[str, BaseClient] = {}
        self.skew = timedelta()
        """The service's clock minus ours, as last learnt."""

    def client(self, service: str, **config: Any) -> BaseClient:
        """The client of a service, made at first use. Raises ConfigError when there is no region or no such profile."""
        if service not in self._clients:
            self._clients[service] = self._made(service, config)
        return self._clients[service]

    def call(self, service: str, what: str, work: Callable[[BaseClient], T]) -> T:
        """`work(client)`; `what` names it for people (`write to s3://lake`). Raises NotConnected, Busy, ConfigError."""
        from botocore.exceptions import BotoCoreError, ClientError

        healed: set[str] = set()
        while True:
            try:
                return work(self.client(service))
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code in _EXPIRED and "token" not in healed:
                    healed.add("token")
                    self.close()  # a new session reads the whole chain again
                elif code in _SKEWED and "clock" not in healed and self._learn_skew(error):
                    healed.add("clock")
                else:
                    raise self.in_words(error, what) from error
            except BotoCoreError as error:
                raise self.in_words(error, what) from error

    def credentials(self) -> Credentials:
        """The credentials of this moment, for what is signed by others. Raises NotConnected and ConfigError."""
        from botocore.exceptions import BotoCoreError

        try:
            core = self._core_session()
            found = core.get_credentials()
            if found is None:
                raise self._no_credentials()
            frozen = found.get_frozen_credentials()
            region = core.get_config_variable("region")
        except BotoCoreError as error:
            raise self._without_answer(error, "get credentials") from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, region)

    def in_words(self, error: Exception, what: str) -> GenbaError:
        """An error of botocore as one that says who must act; `what` completes "cannot …"."""
        from botocore.exceptions import ClientError

        if isinstance(error, ClientError):
            return self._refused(error, error.response.get("Error", {}).get("Code", ""), what)
        return self._without_answer(error, what)

    def close(self) -> None:
        """Close every connection. Clients are made anew when they are asked for again."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _made(self, service: str, options: Mapping[str, Any]) -> BaseClient:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        try:
            timeout_s = self._config.timeout.s
            merged: dict[str, Any] = {"s3": {"addressing_style": "path" if self._config.endpoint else "auto"}, **options}
            client = self._core_session().create_client(
                service,
                endpoint_url=self._config.endpoint,
                config=Config(
                    retries={"total_max_attempts": 1},
                    connect_timeout=timeout_s,
                    read_timeout=timeout_s,
                    user_agent_extra="genba",
                    response_checksum_validation="when_required",  # some servers send a range with the checksum of the whole
                    **merged,
                ),
            )
            client.meta.events.register_first("choose-signer", self._choose_signer)
            return client
        except BotoCoreError as error:
            raise self._without_answer(error, f"reach {service}") from error

    def _core_session(self) -> Any:
        import botocore.session
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials, RefreshableCredentials

        core = botocore.session.Session(profile=self._config.profile)
        core.register_component("data_loader", _descriptions())
        if self._config.region:
            core.set_config_variable("region", self._config.region)
        alias, role = self._config.role_alias, self._config.assume_role
        if alias is not None:

            def fetch() -> dict[str, str]:
                return fetch_role_alias(alias, self._base, self._config.timeout.s)

            core._credentials = RefreshableCredentials.create_from_metadata(fetch(), fetch, "iot-role-alias")
        if role is not None:
            source = core.get_credentials()
            if source is None:
                raise self._no_credentials()
            extra = {"RoleSessionName": role.session, **({"ExternalId": role.external_id} if role.external_id else {})}
            fetcher = AssumeRoleCredentialFetcher(core.create_client, source, role.arn, extra_args=extra)
            core._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
        return core

    def _choose_signer(self, signing_name: object, signature_version: object, **_: object) -> object:
        """Requests are signed for the time that the service has, once it is known to differ from ours."""
        if not self.skew or signature_version not in _SIGNATURES:
            return None
        return _shifted_signature(self, s3=signing_name == "s3")

    def _learn_skew(self, error: ClientError) -> bool:
        """Take over the service's clock; False when its answer does not say it, or says what we knew."""
        from email.utils import parsedate_to_datetime

        text = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            theirs = parsedate_to_datetime(text)
        except ValueError:
            return False
        skew = theirs.astimezone(UTC) - datetime.now(UTC)
        if abs(skew - self.skew) < timedelta(minutes=4):
            return False
        self.skew = skew
        return True

    def _refused(self, error: ClientError, code: str, what: str) -> GenbaError:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = error.response.get("Error", {}).get("Message") or code
        if code in _THROTTLED or status in (429, 503):
            return Busy(random.uniform(0.5, 3.0), f"cannot {what}: {code or status}")
        if code in _REFUSED:
            return ConfigError(f"cannot {what}: {code}: {said}", where=self._where, hint=_REFUSED[code])
        if code in _EXPIRED:
            return NotConnected(f"cannot {what}: the credentials have ended and no newer ones are there ({code})")
        if code == "RequestTimeTooSkewed":
            return NotConnected(f"cannot {what}: {code}: {said} (set the clock of this machine)")
        return NotConnected(f"cannot {what}: {code or status}: {said}")

    def _without_answer(self, error: Exception, what: str) -> GenbaError:
        from botocore import exceptions as e

        if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError)):
            return self._no_credentials()
        if isinstance(error, e.ProfileNotFound):
            return ConfigError(str(error), where=self._where, hint="correct `profile`")
        if isinstance(error, e.NoRegionError):
            return ConfigError("no region is known", where=self._where, hint="add `region`, for instance ap-northeast-1")
        if isinstance(error, e.ParamValidationError):
            return ConfigError(f"cannot {what}: {error}", where=self._where)
        return NotConnected(f"cannot {what}: {error}")

    def _no_credentials(self) -> ConfigError:
        return ConfigError(
            "no AWS credentials were found",
            where=self._where,
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the service, or write `profile` or `role_alias`",
        )


@cache
def _descriptions() -> Any:
    """What botocore knows of the services, read once in a process. They take megabytes, otherwise again for each new session."""
    import botocore.session

    return botocore.session.Session().get_component("data_loader")


def _shifted_signature(account: Account, *, s3: bool) -> str:
    """The name of a version 4 signature for the account's idea of the time. botocore finds signatures by name."""
    from botocore.auth import AUTH_TYPE_MAPS, SIGV4_TIMESTAMP, S3SigV4Auth, SigV4Auth

    class Shifted(S3SigV4Auth if s3 else SigV4Auth):  # type: ignore[misc]
        def _modify_request_before_signing(self, request: Any) -> None:
            request.context["timestamp"] = (datetime.now(UTC) + account.skew).strftime(SIGV4_TIMESTAMP)
            super()._modify_request_before_signing(request)

    name = f"genba-{id(account)}-{'s3' if s3 else 'v4'}"
    AUTH_TYPE_MAPS[name] = Shifted
    return name


def fetch_role_alias(alias: RoleAlias, base: Path, timeout_s: float) -> dict[str, str]:
    """Credentials for the device certificate, as botocore's refresher takes them. Raises NotConnected and ConfigError.

    Source: AWS IoT Core Developer Guide, "Authorizing direct calls to AWS services using AWS IoT Core credential provider".
    """
    import http.client  # reading a configuration stays light
    import ssl

    context = ssl.create_default_context(cafile=str(base / alias.ca) if alias.ca else None)
    try:
        context.load_cert_chain(base / alias.certificate, base / alias.key)
    except OSError as error:
        raise ConfigError(
            f"cannot use {alias.certificate} with {alias.key}: {error}", hint="PEM files that belong together"
        ) from error
    host, _, port = alias.endpoint.removeprefix("https://").rstrip("/").partition(":")
    connection = http.client.HTTPSConnection(host, int(port or 443), context=context, timeout=timeout_s)
    try:
        connection.request("GET", f"/role-aliases/{alias.alias}/credentials", headers={"x-amzn-iot-thingname": alias.thing})
        answer = connection.getresponse()
        body = answer.read(65_536)
    except (OSError, http.client.HTTPException) as error:
        raise NotConnected(f"no credentials from {alias.endpoint}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        said = f"{alias.endpoint} gives no credentials to {alias.thing} for role alias {alias.alias} (HTTP {answer.status})"
        if answer.status in (403, 404):
            raise ConfigError(
                said, hint="the certificate's policy allows iot:AssumeRoleWithCertificate, and the role trusts the alias"
            )
        raise NotConnected(said)
    try:
        found = json.loads(body)["credentials"]
        return {
            "access_key": found["accessKeyId"],
            "secret_key": found["secretAccessKey"],
            "token": found["sessionToken"],
            "expiry_time": found["expiration"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise NotConnected(f"{alias.endpoint} answers something that is no credentials") from error
