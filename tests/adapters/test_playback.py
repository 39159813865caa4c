"""The format of captures: what is written is read, whatever is not is left out, and nothing in a file does harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.capture import HEADER, VERSION, Record, What, encode
from adapters.modbus import taped as modbus_taped
from adapters.modbus.exchange import NoAnswer, Refused, WrongAnswer
from adapters.modbus.plan import Span
from adapters.modbus.taped import AHEAD, PlayedConnection, RecordedAhead
from adapters.playback import PlayedSchedule, Player, read_capture
from adapters.s7 import taped as s7_taped
from schemas.errors import ConfigError, EndOfStream, NotConnected

HEAD = Record(What.HEAD, 0, VERSION, 1_000, b'{"entry": {}}')


def written(folder: Path, *records: Record) -> Path:
    file = folder / "it.capture"
    file.write_bytes(b"".join(map(encode, records)))
    return file


def failed(number: int, kind: str, why: str) -> Record:
    return Record(What.FAILED, 0, number, 9_000, json.dumps({"is": kind, "why": why}).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=500))
def test_any_bytes_behind_the_head_are_left_out_and_told(tmp_path, data):
    file = tmp_path / "it.capture"
    file.write_bytes(encode(HEAD) + data)
    capture = read_capture(file)
    assert capture.sessions == []
    assert bool(capture.torn) == bool(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.builds(Record, st.integers(0, 255), st.integers(0, 255), st.integers(0, 3), st.just(5), st.binary(max_size=20)))
)
def test_sound_records_of_any_content_are_read_or_a_clear_error(tmp_path, records):
    file = written(tmp_path, HEAD, *records)
    with contextlib.suppress(ConfigError):  # a payload that is no JSON where it must be
        read_capture(file)


def test_the_header_is_as_it_is_described():
    record = encode(Record(What.REQUEST, 7, 3, 12, b"ab"))
    assert HEADER.size == 26
    assert record[:4] == b"gnbc"
    assert struct.unpack_from("<I", record, 4) == (2,)
    assert record[12:14] == bytes((What.REQUEST, 7))
    assert record.endswith(b"ab")


def test_another_version_and_a_length_out_of_reach_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="version 9"):
        read_capture(written(tmp_path, HEAD._replace(number=9)))
    file = written(tmp_path, HEAD)
    file.write_bytes(file.read_bytes() + b"gnbc" + b"\xff" * 22)
    assert "no record" in read_capture(file).torn
    with pytest.raises(ConfigError, match="cannot read"):
        read_capture(tmp_path / "absent")


class Ahead:
    """A connection that answers spans ahead: the first well, the second not at all, the third not asked."""

    loss = ""

    async def read(self, span):
        return bytes(span.answer_bytes)

    async def read_ahead(self, spans, window, take):
        take(0, b"\x12\x34")
        return {1: NoAnswer("no answer in time")}

    def on_loss(self, callback):
        pass

    async def aclose(self):
        pass


class Tape(list):
    """A recorder that keeps its records."""

    def request(self, body, mark=0):
        self.append(Record(What.REQUEST, mark, len(self), 2_000, body))
        return len(self) - 1

    def answer(self, number, body, mark=0):
        self.append(Record(What.ANSWER, mark, number, 3_000, body))

    def failed(self, number, kind, why):
        self.append(failed(number, kind, why))


async def test_what_was_read_ahead_is_played_ahead_and_what_was_asked_again_alone_is_asked_alone(tmp_path):
    spans = [Span(1, 3, 10 * n, 1) for n in range(3)]
    tape = Tape()
    connection = RecordedAhead(Ahead(), tape)
    seen = []
    troubles = await connection.read_ahead(spans, 8, lambda at, data: seen.append((at, data)))
    assert await connection.read(spans[1]) == b"\0\0"
    opened = Record(What.OPENED, 0, 0, 1_500, b"{}")
    poll = Record(What.POLL, 0, 4, 1_600, b"")
    closed = Record(What.CLOSED, 0, 0, 9_999, b"gone")
    file = written(tmp_path, HEAD, opened, poll, *tape, closed)
    player = Player(await asyncio.to_thread(read_capture, file))
    player.open()
    schedule = PlayedSchedule([1_000_000], player)
    assert await schedule.next() == 4
    played = PlayedConnection(player)
    again = []
    repeated = await played.read_ahead(spans, 8, lambda at, data: again.append((at, data)))
    assert again == seen == [(0, b"\x12\x34")]
    assert {at: (type(error), str(error)) for at, error in repeated.items()} == {
        at: (type(error), str(error)) for at, error in troubles.items()
    }
    assert await played.read(spans[1]) == b"\0\0"
    assert {one.mark for one in player.capture.sessions[0].polls[0].exchanges} == {0, AHEAD}
    with pytest.raises(NotConnected, match="gone"):
        await schedule.next()
    assert player.now_us() == 9_999
    with pytest.raises(EndOfStream):
        player.open()


async def test_each_way_to_fail_is_played(tmp_path):
    request = struct.pack(">BBHH", 1, 3, 0, 1)
    records = [HEAD, Record(What.OPENED, 0, 0, 1_500, b"{}")]
    ends = [
        (Record(What.ANSWER, 0, 1, 3_000, b"\x83\x02"), Refused, "exception 2"),
        (failed(2, "NoAnswer", "late"), NoAnswer, "late"),
        (failed(3, "WrongAnswer", "odd"), WrongAnswer, "odd"),
        (failed(4, "NotConnected", "lost"), NotConnected, "lost"),
        (Record(What.ANSWER, 0, 5, 3_000, b"\x03\x04\0\0\0\0"), WrongAnswer, "not the answer to this request"),
        (Record(What.ANSWER, 0, 6, 3_000, b""), WrongAnswer, "not the answer to this request"),
    ]
    for number, (end, _, _) in enumerate(ends, 1):
        records += [Record(What.REQUEST, 0, number, 2_000, request), end]
    player = Player(await asyncio.to_thread(read_capture, written(tmp_path, *records)))
    player.open()
    connection = PlayedConnection(player)
    for _, kind, why in ends:
        with pytest.raises(kind, match=why):
            await connection.read(Span(1, 3, 0, 1))
    with pytest.raises(NoAnswer, match="no such request"):
        await connection.read(Span(1, 3, 0, 1))
    assert len(player.troubles) == 6, "a refusal is an answer"


class Hanging:
    """A recorder whose disk does not answer."""

    async def opened(self, directory: Path, **facts: object) -> None:
        await asyncio.sleep(3600)


@pytest.mark.parametrize("protocol", [modbus_taped, s7_taped])
async def test_a_connection_that_is_given_up_while_its_record_begins_is_closed(tmp_path, monkeypatch, protocol):
    closed = []

    async def aclose(self):
        closed.append(self)

    if protocol is s7_taped:
        monkeypatch.setattr(s7_taped.RecordedConnection, "aclose", aclose)

        async def make(cls):
            return cls("s7://h:102")
    else:

        async def make():
            return type("Line", (), {"aclose": aclose})()

    opening = asyncio.create_task(protocol.connection_of(Hanging(), tmp_path, make))
    await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert len(closed) == 1
