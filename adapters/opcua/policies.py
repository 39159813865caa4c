"""Security policies by name: which there are, which are deprecated, what they ask of a key. Imports no protocol library.

OPC 10000-7 names more: the policies on elliptic curves (ECC_nistP256 and its family) are in no release of asyncua yet, so a server
that offers nothing else cannot be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

PolicyName = Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", "Basic256", "Basic128Rsa15"]
ModeName = Literal["sign", "sign_and_encrypt"]

_URI: Final = "http://opcfoundation.org/UA/SecurityPolicy#"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the standard says of one policy. `bits` is the shortest and longest RSA key; `strength` orders them, 0 protects nothing."""

    name: PolicyName
    uri: str
    strength: int
    bits: tuple[int, int] = (2048, 4096)

    @property
    def deprecated(self) -> bool:
        """True where the standard has withdrawn it: SHA-1, and RSA keys of 1024 bits."""
        return self.bits[0] < 2048 and self.strength > 0


POLICIES: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy("None", f"{_URI}None", 0, (0, 1 << 16)),
        Policy("Basic128Rsa15", f"{_URI}Basic128Rsa15", 1, (1024, 2048)),
        Policy("Basic256", f"{_URI}Basic256", 2, (1024, 2048)),
        Policy("Aes128Sha256RsaOaep", f"{_URI}Aes128_Sha256_RsaOaep", 3),
        Policy("Basic256Sha256", f"{_URI}Basic256Sha256", 4),
        Policy("Aes256Sha256RsaPss", f"{_URI}Aes256_Sha256_RsaPss", 5),
    )
}
assert set(POLICIES) == set(get_args(PolicyName))


def by_uri(uri: str | None) -> Policy | None:
    """The policy with that URI; None when it is not one that we can speak."""
    return next((policy for policy in POLICIES.values() if policy.uri == uri), None)


def shown(uri: str | None) -> str:
    """A policy's name for people: ours where we know it, what follows the `#` where we do not."""
    policy = by_uri(uri)
    if policy is not None:
        return policy.name
    named = (uri or "").rpartition("#")[2][:60]
    return "".join(one if one.isprintable() else "?" for one in named) or "?"
