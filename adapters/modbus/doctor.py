"""Why a Modbus device cannot be read: network, TLS, framing, unit, line settings, address. Each with the way out.

What is asked of the device: one register or bit, and the addresses that are named with their neighbours. Function codes 1 to 4 only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from adapters.reach import reach
from schemas.errors import ConfigError, NotConnected
from schemas.plugin import Check

from .config import ModbusConfig
from .connection import open_connection
from .diagnosis import EXCEPTIONS, Found, ask, look_at
from .exchange import Connection
from .options import ModbusExamination
from .plan import Span

_BEHIND_GATEWAY: Final = (10, 11)
_UNITS: Final = (1, 255, 0, 2, 3, 4, 5, 10, 247)
_LINES: Final = tuple((baud, parity) for baud in (9600, 19_200, 38_400, 57_600, 115_200) for parity in ("even", "none", "odd"))
_FRAMINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("rtu+tcp", "ascii+tcp"), "rtu+tcp": ("tcp", "ascii+tcp"), "ascii+tcp": ("rtu+tcp", "tcp"),
    "rtu": ("ascii",), "ascii": ("rtu",), "udp": ("tcp",), "tls": (),
}  # fmt: skip
_FOREIGN: Final = "does not speak Modbus"


async def examine(options: ModbusExamination) -> AsyncGenerator[Check, None]:
    """One check after the other, ending where nothing more can be found out."""
    config = options.config
    if config.transport not in ("rtu", "ascii", "udp"):
        network = await reach(config.host, config.port, timeout_s=config.timeout.s)
        yield network
        if network.result == "failure":
            return
    connection: Connection | None = None
    try:
        try:
            connection = await open_connection(config)
        except (NotConnected, ConfigError) as error:
            yield await _why_silent(options, str(error)) if config.transport == "udp" else _not_open(config, error)
            return
        if opened := _opened(config):
            yield opened
        answer = await _first_answer(connection, options.unit)
        if isinstance(answer, str):
            await connection.aclose()  # a port, and many a device, takes one client
            yield await _why_silent(options, answer)
            return
        yield Check("Modbus", "ok", f"the device speaks {_spoken(config.transport)}")
        yield _unit(options.unit, answer)
        if isinstance(answer, int) and answer in _BEHIND_GATEWAY:
            return
        for written in options.address:
            yield await look_at(connection, options.unit, written)
        if not options.address:
            yield Check(
                "addresses", "ok", "none was named", "name what is to be read: --address hr:100, --address hr:100:float32"
            )
    finally:
        if connection is not None:
            await connection.aclose()


def _not_open(config: ModbusConfig, error: NotConnected | ConfigError) -> Check:
    name = {"tls": "TLS", "rtu": "serial port", "ascii": "serial port"}.get(config.transport, "connection")
    message, hint = (error.message, error.hint) if isinstance(error, ConfigError) else (str(error), "")
    why = message.removeprefix(f"{config.endpoint}: ")
    if not hint and config.transport == "tls":
        hint = "compare certificate, authority and host name; a device without TLS is tcp://"
    if not hint and name == "serial port":
        hint = "check the name of the port (ls -l /dev/serial/by-id), and that no other program has it open"
    return Check(name, "failure", why, hint or "check the network of the gateway")


def _opened(config: ModbusConfig) -> Check | None:
    if config.transport == "tls":
        how = "any certificate is accepted" if config.insecure else "the device's certificate is verified"
        return Check("TLS", "warning" if config.insecure else "ok", how, "name the authority: --ca" if config.insecure else "")
    if config.transport in ("rtu", "ascii"):
        return Check("serial port", "ok", f"{config.host} is open, {_line(config)}")
    return None


async def _first_answer(connection: Connection, unit: int) -> Found:
    """To the simplest request that the unit answers at all; an exception is an answer."""
    answer: Found = "no answer in time"
    for function in (3, 4, 1):
        answer = await ask(connection, Span(unit, function, 0, 1))
        if not isinstance(answer, str):
            return answer
        if connection.loss:
            break
    return answer


def _unit(unit: int, answer: bytes | int) -> Check:
    name = f"unit {unit}"
    if isinstance(answer, bytes):
        return Check(name, "ok", "answers")
    meaning, way_out = EXCEPTIONS.get(answer, ("unknown exception", "see the manual of the device"))
    if answer in _BEHIND_GATEWAY:
        return Check(name, "failure", f"exception {answer}: {meaning}", way_out)
    if answer == 4:
        return Check(
            name,
            "warning",
            f"answers with exception 4: {meaning}",
            "some devices say so when the unit id is wrong: try --unit 255 or --unit 0",
        )
    return Check(name, "ok", f"answers (with exception {answer}, {meaning}, to hr:0, which says nothing about other addresses)")


async def _why_silent(options: ModbusExamination, said: str) -> Check:
    """No answer, or none that is Modbus: what would be answered instead."""
    config = options.config
    for transport in _FRAMINGS[config.transport]:
        separator = "://" if transport in ("tcp", "rtu+tcp", "ascii+tcp") else ":"
        rest = config.endpoint.partition(":")[2].removeprefix("//")
        other = f"{transport}{separator}{rest}"
        serial = {"serial": config.serial} if config.serial is not None and transport not in ("tcp",) else {}
        if await _answers({"endpoint": other, **serial}, options, options.unit):
            return Check(
                "Modbus",
                "failure",
                f"no answer to {_spoken(config.transport)}; the device speaks {_spoken(transport)}",
                f"write `endpoint: {other}`",
            )
    if config.transport == "udp" and "refused" in said.lower():
        return Check(
            "network", "failure", f"{config.host} is there and refuses UDP port {config.port}",
            "check the port, and that Modbus over UDP is switched on in the device",
        )  # fmt: skip
    if _FOREIGN in said:
        return Check(
            "Modbus", "failure", f"{said}, and no serial Modbus through the port either",
            "the port belongs to something else: check host and port; Modbus TCP is on 502, with TLS on 802",
        )  # fmt: skip
    if "closed by the other side" in said or "reset" in said.lower():
        return Check(
            "Modbus", "failure", f"the device accepts the connection and hangs up: {said}",
            "look at its list of allowed IP addresses, and at how many clients it takes: close other ones and try again",
        )  # fmt: skip
    if config.transport in ("rtu", "ascii"):
        for baud, parity in _LINES:
            line = {"baud": baud, "parity": parity, "stop_bits": 1}
            if (baud, parity) != (config.line.baud, config.line.parity) and await _answers(
                {"endpoint": config.endpoint, "serial": line}, options, options.unit
            ):
                return Check(
                    "line", "failure", f"unit {options.unit} is silent at {_line(config)} and answers at {baud} baud, parity {parity}",
                    f"write `serial: {{baud: {baud}, parity: {parity}}}`",
                )  # fmt: skip
    others = [unit for unit in _UNITS if unit != options.unit and await _answers(_same(config), options, unit)]
    if others:
        named = ", ".join(map(str, others))
        return Check(
            f"unit {options.unit}",
            "failure",
            f"does not answer ({said}); these units do: {named}",
            f"write `unit_id: {others[0]}`",
        )
    return Check(
        f"unit {options.unit}",
        "failure",
        f"{said}, and the usual other units ({', '.join(map(str, _UNITS))}) are silent, too",
        _silent(config, said),
    )


def _silent(config: ModbusConfig, said: str) -> str:
    if not config.is_line:
        return "check `unit_id`; that Modbus is switched on in the device; and whether another client holds its only connection"
    mangled = "mangled" in said or "not the answer" in said
    wiring = "check `unit_id` and power of the device, and A and B of the RS-485 line (try them swapped), its common wire and termination"
    if mangled:
        return f"something comes, and not right: baud or parity are not those of the device, or two devices have the same unit id; {wiring}"
    where = (
        "the converter's baud, parity and mode (RTU or ASCII) must be those of the device"
        if "tcp" in config.transport
        else "every usual baud and parity was tried"
    )
    return f"{wiring}; {where}"


async def _answers(given: Mapping[str, Any], options: ModbusExamination, unit: int) -> bool:
    """Whether anything that is Modbus comes back over a connection with these options."""
    config = ModbusConfig.model_validate({"kind": "modbus", "timeout": options.timeout, **given})
    try:
        connection = await open_connection(config)
    except (NotConnected, ConfigError):
        return False
    try:
        answer = await ask(connection, Span(unit, 3, 0, 1))
    finally:
        await connection.aclose()
    return not isinstance(answer, str) and answer not in _BEHIND_GATEWAY


def _same(config: ModbusConfig) -> dict[str, Any]:
    names = ("endpoint", "serial", "ca", "certificate", "key", "server_name", "insecure")
    return {name: value for name in names if (value := getattr(config, name))}


def _line(config: ModbusConfig) -> str:
    line = config.line
    return f"{line.baud} baud, parity {line.parity}, {line.stop_bits} stop bit{'s' if line.stop_bits > 1 else ''}"


def _spoken(transport: str) -> str:
    return {
        "tcp": "Modbus TCP",
        "tls": "Modbus TCP with TLS",
        "udp": "Modbus UDP",
        "rtu": "RTU",
        "rtu+tcp": "RTU over TCP",
        "ascii": "ASCII",
        "ascii+tcp": "ASCII over TCP",
    }[transport]
