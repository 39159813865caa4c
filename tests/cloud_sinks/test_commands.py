"""Commands that wait: in order, so many and no more, and an end behind them."""

from __future__ import annotations

import asyncio

import structlog
from structlog.testing import capture_logs

from cloud_sinks.commands import MAX_WAITING, Inbox
from schemas.span import Command


def inbox() -> Inbox:
    return Inbox("genba/command/gw-1", "mqtt sink plant", structlog.get_logger())


async def test_messages_below_the_topic_are_commands_and_anything_else_is_said_or_passed_over() -> None:
    box = inbox()
    with capture_logs() as logged:
        box.message("genba/command/gw-1/acknowledge", b'{"id": "a1"}', False)
        box.message("genba/command/gw-1/shelve", b"{", False)
        box.message("genba/command/gw-1/unshelve", b"{}", True)
        box.message("genba/command/gw-1/desired", b'{"document": "{}"}', False)
        box.message("genba/command/gw-10/acknowledge", b"{}", False)
    box.close()
    assert [one async for one in box.commands()] == [Command("acknowledge", "mqtt sink plant", {"id": "a1"})]
    assert [entry["error"][:12] for entry in logged] == ["not JSON: Ex", "it is retain", "unknown comm"]


async def test_more_than_fit_are_passed_over_and_the_end_always_fits() -> None:
    box = inbox()
    with capture_logs() as logged:
        for number in range(MAX_WAITING + 5):
            box.message("genba/command/gw-1/acknowledge", b'{"id": "a%d"}' % number, False)
    assert [entry["error"] for entry in logged] == ["too many are waiting"] * 5
    box.close()
    box.close()
    assert not box.put(Command("acknowledge", "late"))
    assert len([one async for one in box.commands()]) == MAX_WAITING


async def test_a_listener_gets_what_comes_and_ends_when_it_is_closed() -> None:
    box = inbox()
    got: list[str] = []

    async def listen() -> None:
        async for command in box.commands():
            got.append(command.name)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    assert box.put(Command("shelve", "test"))
    await asyncio.sleep(0.01)
    box.close()
    await asyncio.wait_for(listening, 5)
    assert got == ["shelve"]
