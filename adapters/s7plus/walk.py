"""What `genba doctor s7plus` and `genba browse s7plus` do: a session of their own, one look after the other, reading only."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from adapters.reach import reach
from schemas.errors import ConfigError, NotConnected
from schemas.plugin import Check, Point, Settings

from .access import S7PlusAccess, S7PlusExamination
from .address import parse
from .config import INSTALL, LIBRARY, S7PlusConfig, installed
from .session import Session, Symbol
from .worker import Worker

ABOUT: Final = """What decides is the firmware and the project, not the CPU alone:
- S7-1200 from V4.3 and S7-1500 from V2.9, project of TIA Portal V17 or newer: secure communication is on; write tls://HOST.
- Older, or secure PG/PC communication switched off in the project: s7://HOST, in the clear.
The package has been seen to read few firmwares (docs/adapters/s7plus.md); where yours is not among them, say so to its authors.
The other way is `kind: s7` with "Optimized block access" taken off and PUT/GET allowed, or OPC UA, which the PLC has built in."""
_LEVEL: Final = """In TIA Portal: the CPU -> Properties -> Protection & Security -> Access level: at least "HMI access" without a password,
or write the password of that level (`password: {file: …}`; doctor and browse: --password-file)."""
_WORDS: Final = re.compile(r"\w+")
_NAMED: Final = 20  # addresses that are told one by one when they are fine
_LEVELS: Final = {1: "full access", 2: "read access", 3: "HMI access", 4: "no access"}


@asynccontextmanager
async def session_of(config: S7PlusConfig) -> AsyncIterator[tuple[Worker, Session]]:
    """An open session; ended with the block. Raises NotConnected, ConfigError."""
    if not installed():
        raise ConfigError(f"s7plus needs the package {LIBRARY}, which is not installed", hint=INSTALL)
    session = Session(config, Path())
    worker = Worker("s7plus", session.abort)
    try:
        await worker.run(session.open, timeout_s=config.timeout.s)
        yield worker, session
    finally:
        with suppress(NotConnected):
            await worker.run(session.close, timeout_s=0.5)
        await worker.aclose()


async def browse(options: S7PlusAccess) -> AsyncGenerator[Check | Point | Settings, None]:
    """Every variable of the PLC that can be read. Raises NotConnected, ConfigError."""
    config = options.config()
    async with session_of(config) as (worker, session):
        yield _security(session, config)
        symbols = await worker.run(session.symbols, timeout_s=config.browse_timeout.s)
    for name, symbol in symbols.items():
        if symbol.type:
            yield Point("_".join(_WORDS.findall(name)).lower(), {"address": name, "type": symbol.type})
    yield _told(symbols)


def _told(symbols: Mapping[str, Symbol]) -> Check:
    odd = sum(not symbol.type for symbol in symbols.values())
    if not symbols:
        return Check("variables", "failure", "the PLC shows no variable", ABOUT)
    return Check(
        "variables", "ok", f"{len(symbols) - odd} can be read" + (f", {odd} have a type that is not read" if odd else "")
    )


async def examine(options: S7PlusExamination) -> AsyncGenerator[Check, None]:
    """One check after the other, ending where nothing more can be found out."""
    config = options.config()
    network = await reach(config.host, config.port, timeout_s=config.timeout.s)
    yield network
    if network.result == "failure":
        return
    try:
        async with session_of(config) as (worker, session):
            yield _security(session, config)
            yield _protection(session.protection_level)
            symbols = await worker.run(session.symbols, timeout_s=config.browse_timeout.s)
            yield _told(symbols)
            fine = 0
            for written in options.address:
                check = await _readable(written, symbols, worker, session, config.timeout.s)
                fine += check.result == "ok"
                if check.result != "ok" or len(options.address) <= _NAMED:
                    yield check
            if fine and len(options.address) > _NAMED:
                yield Check("addresses", "ok", f"{fine} of {len(options.address)} can be read")
    except ConfigError as error:
        yield Check("session", "failure", error.message, error.hint)
    except NotConnected as error:
        yield Check("session", "failure", str(error).removeprefix(f"{config.endpoint}: "), ABOUT)


def _security(session: Session, config: S7PlusConfig) -> Check:
    if not config.tls:
        return Check(
            "encryption", "warning", "the PLC accepts a session in the clear", "anybody may pass for it: encrypt where it can"
        )
    shown = session.fingerprint
    if config.ca is not None or config.fingerprint is not None:
        return Check("encryption", "ok", f"TLS, and the certificate is the expected one (SHA-256 {shown})")
    way_out = f"compare it with that in TIA Portal (CPU -> Properties -> Certificate manager), then write\nfingerprint: {shown}"
    return Check("encryption", "warning", f"TLS; nothing says which certificate is right (SHA-256 {shown})", way_out)


def _protection(level: int | None) -> Check:
    if level is None:
        return Check("access level", "ok", "the PLC does not say what it lets this session do")
    if level >= 4:
        return Check("access level", "failure", "the PLC lets this session read nothing", _LEVEL)
    return Check("access level", "ok", _LEVELS.get(level, f"level {level}"))


async def _readable(written: str, symbols: Mapping[str, Symbol], worker: Worker, session: Session, timeout_s: float) -> Check:
    try:
        place = parse(written)
    except ValueError as error:
        return Check(written, "failure", str(error), "see docs/adapters/s7plus.md for spellings")
    symbol = symbols.get(place.name)
    if place.name and symbol is None:
        close = [name for name in symbols if name.casefold() == place.name.casefold()]
        way_out = (
            f"did you mean {close[0]}?" if close else "genba browse s7plus shows every name; load the newest program into the PLC"
        )
        return Check(written, "failure", "the PLC has no variable of this name", way_out)
    access = symbol.access if symbol is not None else place.access
    (raw,) = await worker.run(lambda: session.read([access], timeout_s), timeout_s=timeout_s)
    if raw is None:
        return Check(written, "failure", "the PLC does not give the value", _LEVEL)
    return Check(written, "ok", f"can be read, {symbol.type}" if symbol is not None else f"can be read, {len(raw)} bytes")
