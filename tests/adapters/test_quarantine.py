"""What a device refused survives a restart, and nothing that is wrong with the file does any harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from adapters.quarantine import Quarantine, Refusal

FIRST, SECOND = Refusal(10, 1_800_000_000_000_000, 600.0), Refusal(3, 1_800_000_060_000_000, 1200.0)


class Rig:
    def __init__(self, file: Path) -> None:
        self.file, self.capture = file, structlog.testing.LogCapture()

    def open(self, device: str = "s7://plc 0201") -> Quarantine:
        log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
            None, processors=[self.capture], wrapper_class=structlog.stdlib.BoundLogger
        )
        return Quarantine(self.file, device, log=log)

    @property
    def told(self) -> list[str]:
        return [entry["event"] for entry in self.capture.entries]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "adapters" / "furnace" / "refused.json")


def test_what_is_put_is_there_after_a_restart_and_addresses_nobody_wants_any_more_are_not(rig: Rig) -> None:
    first = rig.open()
    assert first.load(["a", "b"]) == {}
    first.put(["a", "b"], {"a": FIRST, "b": SECOND})
    assert rig.open().load(["a", "b", "c"]) == {"a": FIRST, "b": SECOND}
    assert rig.open().load(["b"]) == {"b": SECOND}
    assert rig.open("s7://plc 0202").load(["a", "b"]) == {}
    assert rig.told == []


def test_each_group_replaces_only_its_own(rig: Rig) -> None:
    kept = rig.open()
    kept.load(["a", "b"])
    kept.put(["a"], {"a": FIRST})
    kept.put(["b"], {"b": SECOND})
    kept.put(["a"], {})
    assert rig.open().load(["a", "b"]) == {"b": SECOND}


def test_nothing_new_writes_nothing(rig: Rig) -> None:
    kept = rig.open()
    kept.load(["a"])
    kept.put(["a"], {})
    assert not rig.file.exists()
    kept.put(["a"], {"a": FIRST})
    rig.file.unlink()
    kept.put(["a"], {"a": FIRST})
    assert not rig.file.exists()


HEAD = '{"version": 1, "device": "d", "refused": '
DAMAGED = [
    HEAD,
    HEAD + "[]}",
    HEAD + '{"a": 1}}',
    HEAD + '{"a": {"code": 1e999, "retry_us": 0, "pause_s": 0}}}',
    "[]",
    "null",
    "{}",
    "[" * 9999,
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_as_good_as_none_and_is_told(rig: Rig, content: str) -> None:
    rig.file.parent.mkdir(parents=True)
    rig.file.write_text(content)
    assert rig.open("d").load(["a"]) == {}
    assert rig.told == ["remembered refusals cannot be read"]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_file_of_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    rig = Rig(tmp_path_factory.getbasetemp() / "bytes.json")
    rig.file.write_bytes(content)
    assert rig.open().load(["a"]) == {}


def test_a_torn_write_leaves_the_former_file(rig: Rig) -> None:
    kept = rig.open()
    kept.put(["a"], {"a": FIRST})
    rig.file.with_name("refused.json.new").write_bytes(b'{"version"')
    assert rig.open().load(["a"]) == {"a": FIRST}


def test_a_disk_that_cannot_be_written_is_told_once_and_tried_again(rig: Rig) -> None:
    rig.file.parent.parent.mkdir()
    rig.file.parent.write_text("a file where the directory should be")
    kept = rig.open()
    kept.put(["a"], {"a": FIRST})
    kept.put(["a"], {"a": FIRST})
    assert rig.told == ["refusals cannot be remembered"]
    rig.file.parent.unlink()
    kept.put(["a"], {"a": FIRST})
    assert rig.open().load(["a"]) == {"a": FIRST}
