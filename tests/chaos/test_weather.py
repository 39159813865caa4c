"""Bad weather on the way to a device costs that device only, for as long as it lasts, and never puts a value in another's place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import services
from tests.chaos.bench import SCAN_S, TIMEOUT_S, Reading, device, reading, secured
from tests.chaos.proxy import CUTS, Proxy, at, before, modbus_tcp
from tests.simulation.loop import in_virtual_time

STORM_S = 6.0
KINDS = ("modbus", "rtu", "s7")
LONGEST_WAIT_S = {
    "modbus": 3 * TIMEOUT_S + SCAN_S,  # three requests in a row without an answer, and the connection is given up
    "rtu": 3 * (2 * TIMEOUT_S) + 4 * TIMEOUT_S,  # the line must have been quiet before each of them
    "s7": TIMEOUT_S + SCAN_S,
}
MARGIN_S = 0.3


def lag(proxy: Proxy) -> None:
    proxy.down.latency_s, proxy.down.jitter_s = 0.05, 0.1
    proxy.up.latency_s = 0.05


def narrow(proxy: Proxy) -> None:
    proxy.down.bytes_per_s = 2_000


def drip(proxy: Proxy) -> None:
    proxy.down.drip_s = 0.0003


def slow_loris(proxy: Proxy) -> None:
    proxy.down.drip_s = 0.2


def noise(proxy: Proxy) -> None:
    proxy.down.garbage = 0.3


def doubled(proxy: Proxy) -> None:
    proxy.down.double = 0.5


def late(proxy: Proxy) -> None:
    proxy.down.late, proxy.down.late_s = 0.3, TIMEOUT_S + 0.15


def half_open(proxy: Proxy) -> None:
    proxy.down.swallow = True


def deaf(proxy: Proxy) -> None:
    proxy.up.swallow = True


def torn(proxy: Proxy) -> None:
    proxy.down.reset = 0.15


def hung_up(proxy: Proxy) -> None:
    proxy.down.close = 0.15


WEATHERS: list[Callable[[Proxy], None]] = [lag, narrow, drip, slow_loris, noise, doubled, late, half_open, deaf, torn, hung_up]
HARMLESS = (lag, drip)
DEADLY = (half_open, deaf)


async def storm(kind: str, weather: Callable[[Proxy], None], directory: Path) -> tuple[Reading, Reading]:
    """Fine weather, a storm before one of two devices, fine weather again."""
    asked: set[int | None] = {None}
    async with device(kind) as sick, device(kind) as well, before(sick, CUTS[kind]) as proxy:
        proxy.heard = lambda message: asked.add(services.OF[kind](message))
        async with reading(kind, at(proxy, sick), directory) as ill, reading(kind, well, directory, name="healthy") as healthy:
            await until_up(ill, healthy)
            await asyncio.sleep(1.0)
            weather(proxy)
            await asyncio.sleep(STORM_S)
            proxy.up.clear()
            proxy.down.clear()
            good = ill.rows["good"]
            await asyncio.sleep(3.0 + 5.0 + TIMEOUT_S)  # the longest back-off, and what was under way
            assert ill.collector.state == "up", "it has not come back"
            assert ill.rows["good"] > good + 24 * 5, "it has come back and gives nothing"
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        assert not proxy.open
    assert asked - {None} <= services.READING[kind], "something else than reading went over the wire"
    return ill, healthy


async def until_up(*readings: Reading) -> None:
    async with asyncio.timeout(20):
        while any(one.collector.state != "up" for one in readings):  # noqa: ASYNC110 (in virtual time)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.__name__)
def test_a_storm_costs_one_device_for_as_long_as_it_lasts(kind: str, weather: Callable[[Proxy], None], tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    ill, healthy = in_virtual_time(lambda: storm(kind, weather, tmp_path))
    assert not ill.wrong, ill.wrong[:5]
    assert ill.longest_connect_s <= TIMEOUT_S + MARGIN_S
    assert ill.longest_wait_s <= LONGEST_WAIT_S[kind] + MARGIN_S
    assert ill.oldest_s <= 2 * TIMEOUT_S + SCAN_S + MARGIN_S, "an answer that came too late was taken"
    if weather in DEADLY:
        assert ill.events["adapter_down"] == 1
        assert ill.rows["gap"] >= 24
    elif weather in HARMLESS and kind != "rtu":  # an RTU frame must not be torn apart
        assert not ill.events["adapter_down"]
        assert not ill.rows["bad"]
    # The other device does not notice.
    assert not healthy.wrong
    assert (healthy.rows["bad"], healthy.events["adapter_down"]) == (0, 0)
    waits = [b - a for a, b in zip(healthy.batches, healthy.batches[1:], strict=False)]
    assert max(waits) < 3 * SCAN_S, "the other device's schedule was held up"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


# OPC UA in real time: asyncua's server keeps time of its own.

OPCUA_STORMS = [noise, torn, half_open]


async def opcua_storms(endpoint: str, directory: Path, **options: object) -> tuple[Reading, Reading, set[int | None]]:
    """One storm after the other before an OPC UA server; beside it a Modbus device that is well."""
    asked: set[int | None] = {None}
    async with device("modbus") as well, before(endpoint, CUTS["opcua"]) as proxy:
        if "security" not in options:
            proxy.heard = lambda message: asked.add(services.OF["opcua"](message))
        ill_at = at(proxy, endpoint)
        async with (
            reading("opcua", ill_at, directory, **options) as ill,
            reading("modbus", well, directory, name="healthy") as healthy,
        ):
            await until_up(ill, healthy)
            for weather in OPCUA_STORMS:
                gaps = ill.rows["gap"]
                weather(proxy)
                await asyncio.sleep(2.5 if weather in DEADLY else 1.0)
                proxy.up.clear()
                proxy.down.clear()
                good = ill.rows["good"]
                async with asyncio.timeout(12):
                    while ill.rows["good"] < good + 24 * 3 or ill.collector.state != "up":  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert weather not in DEADLY or ill.rows["gap"] > gaps
    return ill, healthy, asked - {None}


def check_opcua(ill: Reading, healthy: Reading) -> None:
    assert not ill.wrong, ill.wrong[:5]
    assert ill.longest_wait_s <= 1.5 + TIMEOUT_S + 2.0, "a server that has died is noticed by then, on a slow machine too"
    assert ill.rows["gap"] >= 24
    assert not healthy.wrong
    assert (healthy.rows["bad"], healthy.events["adapter_down"]) == (0, 0)
    waits = sorted(b - a for a, b in zip(healthy.batches, healthy.batches[1:], strict=False))
    assert waits[int(0.95 * len(waits))] < 4 * SCAN_S, "the other device's schedule was held up"


async def test_storms_before_an_opcua_server(tmp_path: Path) -> None:
    async with device("opcua") as endpoint:
        ill, healthy, asked = await opcua_storms(endpoint, tmp_path)
    check_opcua(ill, healthy)
    assert 631 in asked
    assert asked <= services.READING["opcua"]


async def test_storms_before_an_encrypted_opcua_server(tmp_path: Path) -> None:
    async with secured(tmp_path) as endpoint:
        security = {"policy": "Basic256Sha256", "mode": "sign_and_encrypt", "trust": str(tmp_path / "trust")}
        ill, healthy, _ = await opcua_storms(endpoint, tmp_path, security=security)
    check_opcua(ill, healthy)


def test_a_device_that_mixes_its_values_up_is_seen(tmp_path: Path) -> None:
    """The control: a proxy that gives the answer of another request."""

    async def mixed() -> Reading:
        last = b""

        def swapped(buffer: bytearray) -> Iterator[bytes]:
            nonlocal last
            for message in modbus_tcp(buffer):
                answer = len(message) > 12
                yield message[:2] + last[2:] if answer and len(last) == len(message) else message
                last = message if answer else last

        async with device("modbus") as sick, before(sick, swapped) as proxy, reading("modbus", at(proxy, sick), tmp_path) as ill:
            await asyncio.sleep(3.0)
        return ill

    assert in_virtual_time(mixed).wrong
