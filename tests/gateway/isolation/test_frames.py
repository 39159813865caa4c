"""Frames, batches and configurations over the pipe: they come out as they went in, and nonsense is nothing but `Garbled`."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import config, handover
from gateway.handover import HIDDEN, Entry, from_plain, to_plain
from gateway.isolation.batches import pack, unpack
from gateway.isolation.frames import MAX_PAYLOAD, Frame, Frames, Garbled, Say, encode
from gateway.isolation.process import _environment
from schemas.kinds import KINDS, make_batch, telemetry

PLANT = Path(__file__).parents[3] / "examples" / "plant.yaml"


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=200), st.integers(0, 255), st.integers(0, 2**32 - 1))), st.data()
)
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(frames, data):
    frames = [Frame(*frame) for frame in frames]
    stream = b"".join(map(encode, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, found = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == frames


@given(st.binary(min_size=20, max_size=300))
def test_nonsense_is_garbled(data):
    with pytest.raises(Garbled):
        list(Frames().feed(b"x" + data))


def test_a_flipped_bit_and_an_impossible_length_are_garbled():
    good = encode(Frame(Say.BATCH, b"payload"))
    for bad in (good[:-1] + b"?", good[:12] + (MAX_PAYLOAD + 1).to_bytes(4, "little") + good[16:]):
        with pytest.raises(Garbled):
            list(Frames().feed(bad))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_every_kind_come_out_as_they_went_in(kind):
    for rows in (1, 7, 70_000):
        batch = make_batch(kind, rows, time=5)
        assert unpack(pack(batch)).equals(batch, check_metadata=True)


def test_a_reading_with_every_column():
    batch = telemetry(
        time_us=np.arange(3), tag=np.array([1, 2, 3], np.int32), value=pa.array([1.5, None, float("inf")]),
        text=["ア", None, ""], samples=pa.array([[1.0, 2.0], None, []], pa.list_(pa.float32())), value_int=[2**62, None, -1],
    )  # fmt: skip
    again = unpack(pack(batch))
    again.validate(full=True)
    assert again.equals(batch, check_metadata=True)


def test_a_batch_of_another_schema_is_refused_where_it_is_made():
    batch = telemetry(time_us=0, tag=np.array([1], np.int32))
    with pytest.raises(ValueError, match="another schema"):
        pack(batch.drop_columns(["value"]))


@given(st.binary(max_size=400), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_nonsense_in_a_sound_frame_is_garbled(payload, kind, columns):
    with pytest.raises(Garbled):
        unpack(Frame(Say.BATCH, payload, kind, columns))


@given(st.data())
def test_a_damaged_batch_is_garbled_or_a_valid_batch(data):
    frame = pack(telemetry(time_us=np.arange(50), tag=np.arange(50, dtype=np.int32), text=["x" * n for n in range(50)]))
    damaged = bytearray(frame.payload)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Garbled):
        unpack(frame._replace(payload=bytes(damaged))).validate(full=True)


def entries(monkeypatch):
    monkeypatch.setenv("KEPSERVER_PASSWORD", "s3cret")
    configuration = config.load(PLANT)
    for name, entry in configuration.plant.adapters.items():
        yield Entry(name, entry, configuration.bound[name], "Asia/Tokyo", Path("base"), Path("state"))


def test_a_configuration_comes_out_as_it_went_in(monkeypatch):
    for entry in entries(monkeypatch):
        again = from_plain(json.loads(handover.to_json(entry, secrets=True)))
        assert again.config == entry.config
        assert again.config.model_fields_set == entry.config.model_fields_set, "inheritance looks at what was written"
        assert list(again.tags) == list(entry.tags)
        assert again.base == entry.base


def test_without_secrets_there_are_none_and_no_paths(monkeypatch):
    said = [handover.to_json(entry, secrets=False) for entry in entries(monkeypatch)]
    assert not [one for one in said if b"s3cret" in one or b'"directory"' in one]
    assert any(HIDDEN.encode() in one for one in said)
    assert any(b"s3cret" in handover.to_json(entry, secrets=True) for entry in entries(monkeypatch)), "the control"
    for entry in entries(monkeypatch):
        assert list(from_plain(to_plain(entry, secrets=False)).tags) == list(entry.tags)


def test_the_child_gets_no_environment_but_what_an_interpreter_needs():
    given_ = {"PATH": "/bin", "LC_ALL": "C.UTF-8", "KEPSERVER_PASSWORD": "x", "AWS_SECRET_ACCESS_KEY": "y", "PYTHONPATH": "here"}
    kept = _environment(given_)
    assert {"PATH", "LC_ALL"} <= kept.keys()
    assert not {"KEPSERVER_PASSWORD", "AWS_SECRET_ACCESS_KEY"} & kept.keys()
    assert kept["PYTHONPATH"].endswith("here")


def test_the_checksum_is_the_common_one():
    assert encode(Frame(Say.BEAT, b"abc"))[16:20] == zlib.crc32(b"abc").to_bytes(4, "little")


def test_a_configuration_whose_tags_were_multiplied_comes_out_as_it_went_in(tmp_path):
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        "enterprise: acme\nsite: osaka\ngateway: gw-1\nsinks: {lake: {kind: parquet, location: ./lake}}\n"
        "adapters:\n"
        "  kiln:\n    kind: opcua\n    endpoint: opc.tcp://127.0.0.1:4840\n    scan: 100ms\n    tags:\n"
        '      zone: {address: "ns=2;s=Zones", elements: 3, label: Zone}\n'
        "  line:\n    kind: modbus\n    endpoint: tcp://127.0.0.1:502\n    order: CDAB\n    devices:\n"
        "      a: {unit_id: 1, tags: {x: {address: 'hr:0', type: float32}}}\n"
        "      b: {unit_id: 2, order: ABCD, tags: {x: {address: 'hr:0', type: float32, enum: {1: one}}}}\n",
        encoding="utf-8",
    )
    configuration = config.load(plant)
    assert [bound.tag.name for bound in configuration.bound["kiln"]] == ["zone_0", "zone_1", "zone_2"]
    for name, adapter in configuration.plant.adapters.items():
        entry = Entry(name, adapter, configuration.bound[name], "UTC", Path(), Path())
        again = from_plain(json.loads(handover.to_json(entry, secrets=True)))
        assert again.config == adapter
        assert list(again.tags) == list(entry.tags)
