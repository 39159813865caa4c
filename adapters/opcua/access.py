"""How a command reaches an OPC UA server without a configuration file: the options that `browse` and `doctor` share."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, PrivateAttr, SecretStr

from schemas.plugin import Place
from schemas.values import Duration, Strict

from .config import AuthConfig, OpcuaConfig, SecurityConfig
from .policies import ModeName, PolicyName


class OpcuaAccess(Strict):
    """A server and how to speak to it. Nothing is read here; `config` gives what `open_connection` takes."""

    endpoint: str = Field(description="`opc.tcp://host:4840/path`.")
    policy: PolicyName = Field("None", description="Security policy, such as `Basic256Sha256`; `None`: in the clear.")
    mode: ModeName = Field("sign_and_encrypt", description="`sign`, or `sign_and_encrypt`.")
    trust: Path | None = Field(None, description="Directory of certificates, as `security.trust` in the file.")
    allow_deprecated: bool = Field(False, description="Use a policy that is withdrawn from the standard.")
    allow_other_host: bool = Field(False, description="Accept a certificate of a trusted authority for another host name.")
    username: str = Field("", description="User name; none: anonymous.")
    password_file: Path | None = Field(None, description="File whose first line is the password.")
    user_certificate: Path | None = Field(None, description="The user's certificate, DER or PEM, instead of a user name.")
    user_key: Path | None = Field(None, description="The key of the user's certificate, PEM without a password.")
    allow_cleartext: bool = Field(False, description="Send the password even where somebody on the network may read it.")
    timeout: Duration = Field(Duration("4s"), description="Deadline for one request.")

    _entry: tuple[OpcuaConfig, Place] | None = PrivateAttr(None)

    @classmethod
    def of(cls, config: OpcuaConfig, place: Place) -> Self:
        """The same access as an entry of a file has, with its certificates and its user. What is changed afterwards counts instead."""
        written = config.security.model_dump() if config.security is not None else {}
        access = cls(endpoint=config.endpoint, timeout=config.timeout, **written)
        access._entry = (config, place)
        return access

    def config(self) -> OpcuaConfig:
        """The connection as a file would describe it. Raises pydantic's ValidationError, and OSError for the password file."""
        security = SecurityConfig(
            policy=self.policy,
            mode=self.mode,
            trust=self.trust,
            allow_deprecated=self.allow_deprecated,
            allow_other_host=self.allow_other_host,
        )
        if self._entry is None:
            return OpcuaConfig(
                kind="opcua", endpoint=self.endpoint, security=security, auth=self._auth(None), timeout=self.timeout
            )
        entry = self._entry[0]
        before = entry.security or SecurityConfig(policy="None")
        if self.trust is not None and self.trust != before.trust:
            security = security.model_copy(
                update={"trust": self.trust.absolute()}
            )  # named where the command runs, not in the file
        changed = {"security": entry.security if security == before else security, "auth": self._auth(entry.auth)}
        return entry.model_copy(update={"endpoint": self.endpoint, "timeout": self.timeout} | changed)

    def _auth(self, otherwise: AuthConfig | None) -> AuthConfig | None:
        if self.username:
            text = self.password_file.read_text(encoding="utf-8") if self.password_file else ""
            password = SecretStr((text.splitlines() or [""])[0])
            return AuthConfig(username=self.username, password=password, allow_cleartext=self.allow_cleartext)
        if self.user_certificate is not None or self.user_key is not None:
            return AuthConfig(certificate=_here(self.user_certificate), key=_here(self.user_key))
        if otherwise is not None and self.allow_cleartext:
            return otherwise.model_copy(update={"allow_cleartext": True})
        return otherwise

    def place(self) -> Place:
        """Where its certificates are: the entry's, else below `.genba` where the command is run (`trust` names only whom it trusts)."""
        return self._entry[1] if self._entry is not None else Place("command", Path(".genba"), Path())


def _here(path: Path | None) -> Path | None:
    """A path of the command line: where the command runs, whatever an entry's own paths are relative to."""
    return None if path is None else path.absolute()
