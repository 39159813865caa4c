"""A private key in a security module (TPM, smart card, HSM) that signs and never shows it, by PKCS#11."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr

from schemas.errors import ConfigError, NotConnected
from schemas.values import Strict

_REASONS: Final = {
    "SHARED_LIBRARY": ("library", "the library cannot be loaded", "name the module's PKCS#11 library (.so) for this machine"),
    "TOKEN_NOT_FOUND": ("token", "no token, or several, are of this description", "write `token` (its label) or `slot`"),
    "KEY_NOT_FOUND": ("key", "no private key, or several, are of this description", "write `key`, the label of one private key"),
    "KEY_TYPE_UNSUPPORTED": ("key", "this kind of key cannot be used", "an RSA or elliptic curve key is wanted"),
    "CKR_PIN_LOCKED": ("pin", "the PIN is locked", "unlock the token with the security officer's PIN"),
    "CKR_PIN_EXPIRED": ("pin", "the PIN has expired", "set a new one"),
    "CKR_PIN": (
        "pin",
        "the PIN is refused",
        "correct `pin` and start the gateway anew; it does not try again, since that locks the token",
    ),
}


class Pkcs11Config(Strict):
    """A private key in a security module."""

    library: Path = Field(description="The module's PKCS#11 library.", examples=["/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1"])
    token: str | None = Field(None, description="Label of the token, where there are several.")
    slot: int | None = Field(None, ge=0, description="Its slot instead.")
    key: str | None = Field(None, description="Label of the private key, where the token holds several.")
    pin: SecretStr | None = Field(
        None, description="User PIN; none where the token has another way (`{file: secrets/pin}` keeps it out of this file)."
    )


class SecurityModule:
    """One token of one library. A PIN that was refused once is never tried again: some tokens lock after the third time."""

    def __init__(self, config: Pkcs11Config, base: Path, where: str) -> None:
        self._config, self._path, self._where = config, base / config.library, f"{where}.pkcs11"
        self._library: Any = None
        self._refused: ConfigError | None = None

    def arguments(self) -> dict[str, Any]:
        """How the SDK finds the key. Blocking: loads the library, once. Raises ConfigError."""
        from awscrt import io

        if self._refused is not None:
            raise self._refused
        if self._library is None:
            try:
                self._library = io.Pkcs11Lib(file=str(self._path))
            except RuntimeError as error:
                raise self.in_words(error) from error
        config = self._config
        return {
            "pkcs11_lib": self._library,
            "user_pin": None if config.pin is None else config.pin.get_secret_value(),
            "token_label": config.token,
            "slot_id": config.slot,
            "private_key_label": config.key,
        }

    def in_words(self, error: Exception) -> ConfigError | NotConnected:
        """An error of the SDK as one that says who must act."""
        text = str(error)
        for sign, (option, says, hint) in _REASONS.items():
            if sign in text:
                found = ConfigError(f"{self._path.name}: {says}", where=f"{self._where}.{option}", hint=hint)
                if option == "pin":
                    self._refused = found
                return found
        return NotConnected(f"{self._path.name}: {text}")
