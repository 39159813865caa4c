"""What people and other programs write, as targets: configuration, tag files, recordings, options with units, commands, small files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import structlog
from pydantic_core import PydanticCustomError

from adapters.quarantine import Quarantine, Refusal
from adapters.recording import parse_replay, read_recording
from cloud_sinks.commands import parse as parse_command
from edge_models.alarm_book import Book, Entry
from gateway.config import tagfile
from gateway.config.loading import examine
from gateway.config.report import Report
from gateway.config.source import Unreadable, read
from gateway.taglists import reading
from schemas import units
from schemas.asset import from_topic, to_topic
from schemas.errors import ConfigError
from schemas.span import Command
from schemas.values import Duration, Rate, Size
from tests.fuzz.harness import Target, Violation

NOW_US = 1_767_225_600_000_000
ROOT = Path(__file__).parents[2]


@cache
def _folder() -> Path:
    """A directory in memory, where there is one: nothing here is about disks."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="genba-fuzz-", dir=memory if memory.is_dir() else None))
    (made / "tags").mkdir()
    (made / "tags" / "drive.csv").write_text("name,address,type\nspeed,hr:0,uint16\n")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _written(name: str, data: bytes) -> Path:
    file = _folder() / name
    file.write_bytes(data)
    return file


def configuration(data: bytes) -> None:
    """A plant file: findings that can be shown, never an exception."""
    configured, diagnostics = examine(_written("plant.yaml", data), env={"HOME": "/root"})
    if configured is None and not any(finding.level == "error" for finding in diagnostics) and b"${" not in data:
        raise Violation("refused without an error")
    for finding in diagnostics:
        if not finding.message or str(_folder()) in finding.message:
            raise Violation(f"a finding that says too little or too much: {finding}")
        str(finding).encode()


def tags(data: bytes) -> None:
    """A tag file, CSV or (first byte odd) YAML."""
    name = "tags.yaml" if data[:1] and data[0] & 1 else "tags.csv"
    source = read(_written(name, data[1:]), name)
    report = Report()
    report.begin(source)
    made = tagfile.parse(source, report)
    found = report.finished()
    if made is None and not found and name.endswith("csv"):
        raise Violation("refused without a finding")
    for finding in found:
        str(finding).encode()


def tag_lists(data: bytes) -> None:
    """An export of another program: the first byte says the ending of its name, the second for which adapter it is."""
    ending = ("csv", "xml", "db", "sdf", "xlsx", "udt")[(data[0] if data else 0) % 6]
    kind = (None, "s7", "modbus", "opcua")[(data[1] if len(data) > 1 else 0) % 4]
    made = reading.read(_written(f"export.{ending}", data[2:]), reading.Wanted(kind=kind, number=7))
    repr(made).encode("utf-8", "surrogatepass")


def recordings(data: bytes) -> None:
    """A recorded CSV file, its column named or not."""
    found = read_recording(_written("recording.csv", data[1:]), "value" if data[:1] and data[0] & 1 else None)
    if len(found.values) != len(found.times_s) or any(b < a for a, b in zip(found.times_s, found.times_s[1:], strict=False)):
        raise Violation("a time that runs back, or is missing")
    found.real(found.row_at(1.5))


def options(data: bytes) -> None:
    """Durations, sizes, rates, units, asset paths and replays: one text each, by the first byte."""
    text = data[1:].decode("utf-8", "replace")
    match (data[0] if data else 0) % 6:
        case 0:
            found: int = Duration(text)
            if Duration(str(found)) != found or found >= 2**63:
                raise Violation(f"{text!r} is {found}")
        case 1:
            found = Size(text)
            if Size(str(found)) != found or found >= 2**63:
                raise Violation(f"{text!r} is {found}")
        case 2:
            Rate(text)
        case 3:
            code = units.normalise(text)
            if units.normalise(code) != code:
                raise Violation(f"{text!r} is {code!r} and that is {units.normalise(code)!r}")
            units.display(code)
        case 4:
            if from_topic(to_topic(text)) != text:
                raise Violation(f"{text!r} comes back as {from_topic(to_topic(text))!r}")
        case _:
            parse_replay(text)


def commands(data: bytes) -> None:
    """What a broker delivers as a command, up to the alarm list."""
    names = ("acknowledge", "shelve", "unshelve", "out_of_service", "in_service", "other")
    name = names[(data[0] if data else 0) % len(names)]
    command = parse_command(name, data[1:], "fuzz")
    if not isinstance(command, Command):
        return
    book = Book()
    entry = Entry("abc", "wear", "wear", 1, "acme/osaka/press", "Bearing", "warning", "is hot", "Let it cool", NOW_US, 7, "mm/s")
    book.enter(("wear", "wear", "x"), entry, NOW_US)
    book.command(command, NOW_US)
    book.expired(NOW_US + 1)
    if any(hold.until_us is not None and not 0 <= hold.until_us < 2**63 for _, hold in book.shelf):
        raise Violation("shelved until a time that no row can hold")


def refusals(data: bytes) -> None:
    """The file in which an adapter keeps what a device refused: damaged or not, it is never an error."""
    file = _written("refused.json", data)
    log = structlog.wrap_logger(None, processors=[lambda _, __, entry: (_ for _ in ()).throw(structlog.DropEvent())])
    found = Quarantine(file, "tcp://10.0.0.7:502", log=log).load({"hr:1 int16", "hr:2 int16"})
    for known in found.values():
        if not isinstance(known, Refusal) or isinstance(known.retry_us, float):
            raise Violation(f"{known}")


def _configuration_seeds() -> Sequence[bytes]:
    golden = sorted((ROOT / "tests/gateway/config/golden").glob("*.txt"))
    broken = [file.read_bytes().partition(b"\n")[2].partition(b"=== printed")[0] for file in golden]
    small = [text for text in broken if len(text) < 1500 and b"*a, *a" not in text]  # a bomb is bounded, and slow
    minimal = b"""enterprise: acme
site: osaka
gateway: gw-1
templates: {drive: {kind: modbus, tags: {file: tags/drive.csv}}}
adapters:
  press: {kind: modbus, endpoint: "tcp://10.0.0.7:502", scan: 1s, tags: {a: {address: hr:0, type: float32, unit: mm/s, limits: {high: 9}}}}
  furnace: {kind: s7, endpoint: "s7://10.0.0.20", cpu: s7-1200, tags: {b: {address: DB10.DBD4, type: real}}}
  robot: {kind: opcua, endpoint: "opc.tcp://10.0.0.9:4840", tags: {c: {address: "ns=2;s=C"}}}
  fan: {template: drive, endpoint: "tcp://10.0.0.8:502"}
routes: [{kinds: [telemetry], to: []}]
"""
    return [minimal, *small]


def _tag_seeds() -> Sequence[bytes]:
    rows = (
        'name,address,type,unit,enum,high,scan\nspeed,hr:0,uint16,1/min,0: off; 1: on,9,1s\n"a""b",hr:1,int16,°C,,,\n# not this\n'
    )
    return [
        b"\0" + rows.encode(),
        b"\0" + rows.replace(",", ";").encode(),
        b"\1speed: {address: hr:0, type: uint16}\n",
        b'\0name\n"open',
    ]


def _tag_list_seeds() -> Sequence[bytes]:
    endings = {".csv": 0, ".xml": 1, ".db": 2, ".sdf": 3}
    samples = sorted((ROOT / "tests/gateway/taglists/samples").iterdir())
    return [bytes((endings[file.suffix], 0)) + file.read_bytes()[:5000] for file in samples if file.suffix in endings]


def _recording_seeds() -> Sequence[bytes]:
    texts = [
        "time,value\n2026-01-01T00:00:00Z,1\n2026-01-01T00:00:01Z,nan\n",
        "t;value\n0;1,5\n1;-\n",
        "value\n1\ntrue\n1e400\n",
        "a\tvalue\nx\t7\n",
    ]
    return [b"\1" + text.encode() for text in texts] + [b"\0" + texts[0].encode()]


def _option_seeds() -> Sequence[bytes]:
    texts = [
        "250ms",
        "1.5h",
        "99999999999999999999d",
        "20 GB",
        "16 MiB",
        "4/day",
        "1/h",
        "mm/s",
        "m3/h",
        "°C",
        "kg.m/s2",
        "acme/osaka/press 7/+",
        "a/b=rec.csv:temp",
        "**/x=C:\\r.csv",
    ]
    kinds = [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 5, 5]
    return [bytes((kind,)) + text.encode() for kind, text in zip(kinds, texts, strict=True)]


def _command_seeds() -> Sequence[bytes]:
    return [
        b'\0{"id": "abc"}',
        b'\1{"id": "abc", "for": "8h"}',
        b'\2{"id": "abc"}',
        b'\1{"id": "abc", "for": 1e400}',
        b'\1{"id": "abc", "for": "99999999999999999999d"}',
        b"\3{}",
        b'\0{"id": {"a": []}}',
    ]


def _refusal_seeds() -> Sequence[bytes]:
    return [
        b'{"version": 1, "device": "tcp://10.0.0.7:502", "refused": {"hr:1 int16": {"code": 2, "retry_us": 5, "pause_s": 86400.0}}}',
        b"[]",
        b"{",
    ]


TARGETS = [
    Target(
        "configuration",
        configuration,
        _configuration_seeds,
        fixed_bytes=16 << 20,
        bytes_per_byte=4096,
        longest_s=1.0,
        longest=3000,
    ),
    Target("tag-files", tags, _tag_seeds, errors=(Unreadable,), bytes_per_byte=4096),
    Target(
        "tag-lists",
        tag_lists,
        _tag_list_seeds,
        errors=(ConfigError,),
        fixed_bytes=8 << 20,
        bytes_per_byte=4096,
        longest_s=1.0,
        longest=6000,
    ),
    Target("recordings", recordings, _recording_seeds, errors=(ConfigError,)),
    Target("options", options, _option_seeds, errors=(ValueError, ConfigError, PydanticCustomError), longest=300),
    Target("commands", commands, _command_seeds, errors=(ValueError, KeyError), longest=6000),
    Target("refusals", refusals, _refusal_seeds),
]
