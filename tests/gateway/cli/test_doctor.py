"""`genba doctor KIND ENDPOINT`: any adapter's doctor behind one command, beside `genba doctor [FILE]`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from gateway import catalogue
from gateway.catalogue import Catalogue
from schemas.plugin import Check, Doctor, Plugin

Genba = Callable[..., Any]


class Options(BaseModel):
    endpoint: str
    unit: int = Field(1, description="Unit id.")
    local_port: int | None = Field(None, description="Port to ask from.")
    tag: list[str] = Field(default_factory=list, description="A tag.")
    gently: bool = Field(False, description="Wait between requests.")


async def examine(options: Options) -> AsyncGenerator[Check, None]:
    yield Check("options", "ok", options.model_dump_json())
    if options.unit == 2:
        yield Check("unit", "warning", "slow", "one line")
    if options.unit == 4:
        yield Check("unit", "ok", "first\nsecond")
    if options.unit == 3:
        yield Check("unit", "failure", "not there", "first line\nsecond line")


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    with_doctor: Plugin[Any, Any] = Plugin(Options, lambda config, context: None, doctor=Doctor(Options, examine))
    without: Plugin[Any, Any] = Plugin(Options, lambda config, context: None)
    monkeypatch.setattr(catalogue, "installed", lambda: Catalogue(given={"adapters": {"fieldbus": with_doctor, "mute": without}}))


def test_the_options_of_the_kind_reach_its_doctor(genba: Genba) -> None:
    done = genba("doctor", "fieldbus", "10.0.0.1", "--local-port", 7, "--tag", "a", "--tag", "b", "--gently")
    assert done.status == 0
    given = json.loads(done.out.partition("{")[1] + done.out.partition("{")[2])
    assert given == {"endpoint": "10.0.0.1", "unit": 1, "local_port": 7, "tag": ["a", "b"], "gently": True}


def test_a_failure_ends_with_3_and_shows_every_line_of_the_way_out(genba: Genba) -> None:
    done = genba("doctor", "fieldbus", "10.0.0.1", "--unit", 3)
    assert done.status == 3
    assert done.out.splitlines()[1:] == [
        "FAIL unit             not there",
        "                      -> first line",
        "                         second line",
    ]
    assert genba("doctor", "fieldbus", "10.0.0.1", "--unit", 2).status == 0


def test_what_was_found_may_take_several_lines(genba: Genba) -> None:
    assert genba("doctor", "fieldbus", "10.0.0.1", "--unit", 4).out.splitlines()[1:] == [
        "ok   unit             first",
        "                      second",
    ]


@pytest.mark.parametrize("arguments", [("--json", "fieldbus", "plc"), ("fieldbus", "plc", "--json")])
def test_checks_as_json(genba: Genba, arguments: tuple[str, ...]) -> None:
    checks = json.loads(genba("doctor", *arguments).out)
    assert [(check["name"], check["result"], check["way_out"]) for check in checks] == [("options", "ok", "")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fieldbus",), "Missing argument 'ENDPOINT'"),
        (("fieldbus", "plc", "--unit", "x"), "--unit: "),
        (("fieldbus", "plc", "--local-port", "x"), "--local-port: "),
        (("fieldbus", "plc", "--db", "1"), "No such option"),
        (("mute", "plc"), "'mute' has no doctor"),
        (("plant.yaml", "--unit", "1"), "No such option"),
        (("profinet", "plc"), "'profinet' is neither a kind of adapter (kinds: "),
    ],
)
def test_a_wrong_call_ends_with_2(genba: Genba, arguments: tuple[str, ...], says: str) -> None:
    done = genba("doctor", *arguments)
    assert done.status == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_help_of_a_kind_lists_its_options(genba: Genba) -> None:
    done = genba("doctor", "fieldbus", "--help")
    assert done.status == 0
    for said in ("--unit", "Unit id; 1 by default.", "--local-port", "A tag; may be repeated.", "--gently"):
        assert said in done.out
    assert "KIND ENDPOINT" in genba("doctor", "--help").out


def test_without_a_kind_the_machine_is_looked_at(genba: Genba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = genba("doctor", "--json")
    assert [check["name"] for check in json.loads(done.out)] == ["python", "packages", "clock", "disk", "flush"]


def test_a_plant_file_is_still_a_file(genba: Genba, tmp_path: Path) -> None:
    plant = tmp_path / "plant.yaml"
    plant.write_text("enterprise: acme\nsite: osaka\ngateway: gw\nadapters: {}\nsinks: {}\n")
    assert "python" in genba("doctor", plant).out
