"""How a command reaches an OPC UA server without a configuration file: the options that `browse` and `doctor` share."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from schemas.plugin import Place
from schemas.values import Duration, Strict

from .config import AuthConfig, OpcuaConfig, SecurityConfig


class OpcuaAccess(Strict):
    """A server and how to speak to it. Nothing is read here; `config` gives what `open_connection` takes."""

    endpoint: str = Field(description="`opc.tcp://host:4840/path`.")
    policy: str = Field("None", description="Security policy, such as `Basic256Sha256`; `None`: in the clear.")
    mode: str = Field("sign_and_encrypt", description="`sign`, or `sign_and_encrypt`.")
    trust: Path | None = Field(None, description="Directory of certificates, as `security.trust` in the file.")
    username: str = Field("", description="User name; none: anonymous.")
    password_file: Path | None = Field(None, description="File whose first line is the password.")
    timeout: str = Field("4s", description="Deadline for one request.")

    def config(self) -> OpcuaConfig:
        """The connection as a file would describe it. Raises pydantic's ValidationError, and OSError for the password file."""
        auth = None
        if self.username:
            text = self.password_file.read_text(encoding="utf-8").splitlines()[0] if self.password_file else ""
            auth = AuthConfig(username=self.username, password=SecretStr(text))
        security = SecurityConfig.model_validate({"policy": self.policy, "mode": self.mode, "trust": self.trust})
        return OpcuaConfig(kind="opcua", endpoint=self.endpoint, security=security, auth=auth, timeout=Duration(self.timeout))

    def place(self) -> Place:
        """Where its certificates are: below the trust directory, else below `.genba` where the command is run."""
        return Place("command", Path(".genba"), Path())
