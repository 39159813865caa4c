"""Who the session is for: anonymous, a user name, or a user's certificate. A password goes only where nobody else can read it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from asyncua import Client, ua
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from schemas.errors import ConfigError

from .config import AuthConfig
from .pki import read_certificate
from .policies import Policy, by_uri
from .secure import Security

_NAMES: Final = {
    ua.UserTokenType.Anonymous: "anonymous",
    ua.UserTokenType.UserName: "user name",
    ua.UserTokenType.Certificate: "certificate",
    ua.UserTokenType.IssuedToken: "issued token",
}


def token_names(tokens: Sequence[ua.UserTokenPolicy] | None) -> str:
    """`anonymous, user name`: which users an endpoint takes."""
    return ", ".join(dict.fromkeys(_NAMES.get(token.TokenType, "?") for token in tokens or ())) or "none named"


async def activate(client: Client, session: ua.CreateSessionResult, security: Security, base: Path) -> None:
    """Activate the session for the configured user. Raises ConfigError where that user cannot be told safely, or not at all."""
    auth = security.config.auth
    offered = _offered(session, security)
    if auth is None:
        _choose(client, offered, ua.UserTokenType.Anonymous, security)
        await client.activate_session()
    elif auth.certificate is not None:
        certificate, key = await asyncio.to_thread(_read, auth, base)
        _choose(client, offered, ua.UserTokenType.Certificate, security)
        client.user_private_key = key
        await client.activate_session(certificate=certificate)
    else:
        policy = _choose(client, offered, ua.UserTokenType.UserName, security)
        await _protect(policy, auth, session, security)
        assert auth.password is not None
        await client.activate_session(username=auth.username, password=auth.password.get_secret_value())


def _offered(session: ua.CreateSessionResult, security: Security) -> Sequence[ua.UserTokenPolicy]:
    for one in session.ServerEndpoints or ():
        if one.SecurityPolicyUri == security.policy.uri and one.SecurityMode == security.mode:
            return one.UserIdentityTokens or ()
    return ()


def _choose(client: Client, offered: Sequence[ua.UserTokenPolicy], kind: ua.UserTokenType, security: Security) -> Policy:
    """Of the ways in which the server takes such a user the safest that we can speak. Tells asyncua, returns its policy."""
    if not offered and kind == ua.UserTokenType.Anonymous:
        return security.policy
    of_kind = [token for token in offered if token.TokenType == kind]
    if not of_kind:
        raise ConfigError(
            f"{security.config.endpoint} takes no such user: {_NAMES[kind]}",
            hint=f"it takes {token_names(offered)}; see `auth`",
        )
    # An empty URI means the policy of the channel (OPC 10000-4, 7.41).
    spoken = [(by_uri(token.SecurityPolicyUri or security.policy.uri), token) for token in of_kind]
    usable = [(policy, token) for policy, token in spoken if policy is not None]
    if not usable:
        raise ConfigError(
            f"{security.config.endpoint} takes a {_NAMES[kind]} only with {of_kind[0].SecurityPolicyUri}",
            hint="choose another policy for its users in the server",
        )
    policy, token = max(usable, key=lambda pair: pair[0].strength)
    allowed = security.config.security is not None and security.config.security.allow_deprecated
    encrypted = security.mode == ua.MessageSecurityMode.SignAndEncrypt
    if policy.deprecated and not allowed and not encrypted and kind != ua.UserTokenType.Anonymous and not security.local:
        raise ConfigError(
            f"{security.config.endpoint} protects a {_NAMES[kind]} only with {policy.name}, which is withdrawn from the standard",
            hint="use `mode: sign_and_encrypt`, or add `allow_deprecated: true` to `security`",
        )
    if kind == ua.UserTokenType.Certificate and not policy.strength:
        raise ConfigError(
            f"{security.config.endpoint} takes a certificate without a proof that it is ours",
            hint="add `security: {policy: Basic256Sha256}`, or set a policy for certificate users in the server",
        )
    client._policy_ids = [replace(token, SecurityPolicyUri=policy.uri)]  # asyncua would take the first of its kind
    return policy


async def _protect(policy: Policy, auth: AuthConfig, session: ua.CreateSessionResult, security: Security) -> None:
    """Raises ConfigError where somebody on the way could read the password."""
    if security.mode == ua.MessageSecurityMode.SignAndEncrypt or security.local or auth.allow_cleartext:
        return
    if not policy.strength:
        raise ConfigError(
            f"{security.config.endpoint} takes the password only in the clear, so it is not sent",
            hint="add `security: {policy: Basic256Sha256, mode: sign_and_encrypt}`, or `allow_cleartext: true` to `auth` where nobody "
            "else is on that network",
        )
    if security.mode == ua.MessageSecurityMode.None_:
        # Encrypted for whoever has that certificate: it must be the server's.
        server = next((one.Server for one in session.ServerEndpoints or ()), ua.ApplicationDescription())
        await security.accept(session.ServerCertificate or b"", server)


def _read(auth: AuthConfig, base: Path) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    assert auth.certificate is not None
    assert auth.key is not None
    certificate, file = read_certificate(base / auth.certificate), base / auth.key
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", hint="see `auth.key`") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is not a readable private key", hint="PEM without a password is expected") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError(f"{file} is not an RSA key", hint="the policies that can be spoken need RSA")
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{file} does not belong to {base / auth.certificate}", hint="see `auth.certificate` and `auth.key`")
    return certificate, key
