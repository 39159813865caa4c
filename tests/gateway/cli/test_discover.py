"""`genba browse` and `genba probe`: any adapter's walk behind one command, and the tag file that `genba check` accepts."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from adapters.opcua.config import OpcuaConfig
from gateway import catalogue
from gateway.catalogue import Catalogue
from gateway.cli import _discover
from gateway.config import examine as _examine  # noqa: F401 (bound to the real catalogue before a test replaces it)
from schemas.errors import NotConnected
from schemas.plugin import Check, Discovery, Doctor, Place, Plugin, Point, Settings
from tests.adapters.opcua.served import running

Genba = Callable[..., Any]


class Options(BaseModel):
    endpoint: str
    root: str = Field("all", description="Where to begin.")
    fail: bool = Field(False, description="Break off.")
    timeout: str = Field("2s", description="Deadline.")


SEEN: list[tuple[Any, Place]] = []
POINTS = [
    Point(
        "motor_temp",
        {"address": "nsu=urn:a;s=T", "type": "float64", "unit": "°C"},
        "press/main",
        value="21.5",
        note="range 0 to 9",
    ),
    Point("mode", {"address": "nsu=urn:a;s=M", "type": "int32", "enum": {0: "off", 1: "${HOME}"}}),
]


async def walk(options: Options) -> AsyncGenerator[Check | Point | Settings, None]:
    if options.endpoint == "nobody":
        raise NotConnected("nobody is there")
    yield Check("limit", "warning", "slow device", "be patient")
    yield Settings({"queue_size": 7})
    for point in POINTS[:1] if options.root == "narrow" else POINTS:
        yield point
    if options.fail:
        yield Check("walk", "failure", "it broke off")


def of(config: OpcuaConfig, place: Place) -> Options:
    SEEN.append((config, place))
    return Options(endpoint=config.endpoint)


async def examine(options: Options) -> AsyncGenerator[Check, None]:
    yield Check("endpoint", "ok", options.endpoint)


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hook = Discovery(Options, walk, of=of)
    full: Plugin[Any, Any] = Plugin(
        OpcuaConfig, lambda config, context: None, browse=hook, probe=hook, doctor=Doctor(Options, examine, of=of)
    )
    mute: Plugin[Any, Any] = Plugin(OpcuaConfig, lambda config, context: None, probe=hook)
    given = {"opcua": full, "mute": mute}
    monkeypatch.setattr(catalogue, "installed", lambda: Catalogue(given={"adapters": given}))
    monkeypatch.chdir(tmp_path)
    SEEN.clear()


PLANT = """\
enterprise: acme
site: osaka
gateway: gw
spool: {{directory: state}}
adapters:
  robot:
    kind: {kind}
    endpoint: opc.tcp://10.0.0.5:4840
    auth: {{username: genba, password: "${{ROBOT_PASSWORD}}"}}
    security: {{policy: Basic256Sha256}}
    tags: {{file: tags/robot.yaml}}
  broken: {{kind: opcua, endpoint: nonsense}}
sinks:
  lake: {{kind: parquet, location: lake}}
"""


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBOT_PASSWORD", "geheim")
    file = tmp_path / "plant.yaml"
    file.write_text(PLANT.format(kind="opcua"))
    return file


def test_without_out_stdout_is_yaml_and_nothing_else(genba: Genba) -> None:
    done = genba("browse", "opcua", "opc.tcp://x:1", "--root", "some where")
    assert done.status == 0
    assert done.out.splitlines()[0] == "# Tags of opc.tcp://x:1, by: genba browse opcua opc.tcp://x:1 --root 'some where'"
    assert done.out.splitlines()[3:] == [
        'mode: {address: "nsu=urn:a;s=M", type: int32, enum: {0: "off", 1: "$${HOME}"}}',
        "",
        "# press/main",
        'press/main/motor_temp: {name: motor_temp, asset: press/main, address: "nsu=urn:a;s=T", type: float64, unit: °C}  # range 0 to 9',
    ]
    assert "warn limit" in done.err
    assert "-> be patient" in done.err
    assert "2 points in" in done.err
    assert "queue_size: 7" in done.err
    assert "\r" not in done.err


def test_what_was_written_is_accepted_by_check(genba: Genba, tmp_path: Path) -> None:
    done = genba("probe", "opcua", "opc.tcp://127.0.0.1:1", "--out", "tags/robot.yaml")
    assert done.status == 0
    entry = done.out.partition("adapters:\n")[2]
    (tmp_path / "plant.yaml").write_text(
        f"enterprise: acme\nsite: osaka\ngateway: gw\nadapters:\n{entry}sinks: {{lake: {{kind: parquet, location: lake}}}}\n"
    )
    checked = genba("check", "plant.yaml", "--tags")
    assert checked.status == 0, checked.out
    assert "press/main/motor_temp" in checked.out
    assert "queue_size: 7" in entry
    assert "file: tags/robot.yaml" in entry
    assert (tmp_path / "tags/robot.yaml.found.json").is_file()


def test_diff_shows_and_exits_with_1_and_writes_nothing(genba: Genba, tmp_path: Path) -> None:
    command = ("browse", "opcua", "opc.tcp://x:1", "--out", "robot.yaml")
    assert genba(*command, "--diff").status == 1
    assert not (tmp_path / "robot.yaml").exists()
    assert genba(*command).status == 0
    same = genba(*command, "--diff")
    assert (same.status, same.out) == (0, "robot.yaml: 2 as before\n")
    file = tmp_path / "robot.yaml"
    file.write_text(file.read_text().replace("int32", "uint8"))
    assert genba(*command, "--diff").status == 0, "an edit is no difference"
    (tmp_path / "robot.yaml.found.json").unlink()
    before = file.read_text()
    done = genba(*command, "--diff")
    assert (done.status, file.read_text()) == (1, before)
    assert "! mode  type: the file says uint8, found was int32 (the file differs)" in done.out


def test_a_walk_that_breaks_off_ends_with_3_and_marks_nothing(genba: Genba, tmp_path: Path) -> None:
    command = ("browse", "opcua", "opc.tcp://x:1", "--out", "robot.yaml")
    genba(*command)
    before = (tmp_path / "robot.yaml").read_text()
    narrow = genba(*command, "--root", "narrow")
    assert (narrow.status, "1 not looked for" in narrow.out) == (0, True)
    broken = genba(*command, "--fail")
    assert broken.status == 3
    assert (tmp_path / "robot.yaml").read_text() == before
    assert genba("browse", "opcua", "nobody").status == 3
    assert "nobody is there" in genba("browse", "opcua", "nobody").err


def test_json_holds_everything(genba: Genba) -> None:
    told = json.loads(genba("browse", "opcua", "opc.tcp://x:1", "--json").out)
    assert told["points"][0] == {
        "name": "motor_temp", "asset": "press/main", "options": {"address": "nsu=urn:a;s=T", "type": "float64", "unit": "°C"},
        "value": "21.5", "note": "range 0 to 9",
    }  # fmt: skip
    assert (told["settings"], told["difference"], told["written"]) == ({"queue_size": 7}, None, False)
    assert [check["name"] for check in told["checks"]] == ["limit"]
    written = json.loads(genba("browse", "opcua", "opc.tcp://x:1", "--json", "--out", "a.csv").out)
    assert [(change["change"], change["tag"]) for change in written["difference"]] == [
        ("added", "mode"),
        ("added", "press/main/motor_temp"),
    ]
    assert written["written"] is True


def test_an_entry_of_a_file_gives_its_own_connection_before_its_tags_are_there(genba: Genba, plant: Path, tmp_path: Path) -> None:
    done = genba("browse", plant, "robot", "--out", "tags/robot.yaml", "--root", "narrow")
    assert done.status == 0, done.err
    config, place = SEEN[0]
    assert (config.endpoint, config.auth.password.get_secret_value()) == ("opc.tcp://10.0.0.5:4840", "geheim")
    # Where `gateway.pipeline` puts the directory of an adapter, so that both use one trust list.
    assert place == Place("robot", tmp_path / "state" / "adapters" / "robot", tmp_path)
    assert "geheim" not in done.out + done.err + (tmp_path / "tags/robot.yaml").read_text()
    assert shlex.join(["genba", "browse", str(plant), "robot", "--root", "narrow"]) in (tmp_path / "tags/robot.yaml").read_text()
    assert done.out.splitlines()[-2:] == ["robot:", "  queue_size: 7"]
    assert genba("doctor", plant, "robot").out == "ok   endpoint         opc.tcp://10.0.0.5:4840\n"


def test_diff_of_an_entry_speaks_of_its_own_tag_file(genba: Genba, plant: Path, tmp_path: Path) -> None:
    first = genba("browse", "plant.yaml", "robot", "--diff")
    assert (first.status, first.out) == (1, "tags/robot.yaml (new): 2 added\n")
    genba("browse", "plant.yaml", "robot", "--out", "tags/robot.yaml")
    again = genba("browse", "plant.yaml", "robot", "--diff")
    assert (again.status, again.out) == (0, "tags/robot.yaml: 2 as before\n")
    plant.write_text(plant.read_text().replace("{file: tags/robot.yaml}", "{a: {address: i=1}}"))
    assert genba("browse", "plant.yaml", "robot", "--diff").status == 2


def test_of_an_entry_only_its_own_mistakes_count(genba: Genba, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = genba("browse", plant, "broken")
    assert done.status == 2
    assert "plant.yaml:12:" in done.err
    assert "not an OPC UA endpoint" in done.err
    monkeypatch.delenv("ROBOT_PASSWORD")
    assert "ROBOT_PASSWORD" in genba("browse", plant, "robot").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "genba browse KIND ENDPOINT"),
        (("opuca", "x"), "did you mean 'opcua'"),
        (("plant.yaml",), "name the entry of plant.yaml too"),
        (("plant.yaml", "robbot"), "did you mean 'robot'"),
        (("nothing.yaml", "robot"), "no such file"),
        (("mute", "x"), "cannot browse; `genba probe mute` can"),
        (("opcua",), "Missing argument"),
        (("opcua", "x", "--diff"), "speak of the file of --out"),
        (("opcua", "x", "--out", "tags.txt"), "neither .yaml nor .csv"),
        (("opcua", "x", "--depth", "1"), "No such option"),
    ],
)
def test_a_wrong_call_ends_with_2(genba: Genba, plant: Path, arguments: tuple[str, ...], says: str) -> None:
    done = genba("browse", *arguments)
    assert done.status == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_walk_that_takes_no_entry_says_what_to_call(genba: Genba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOT_PASSWORD", "x")
    file = tmp_path / "other.yaml"
    file.write_text(PLANT.format(kind="opcua"))
    without: Plugin[Any, Any] = Plugin(OpcuaConfig, lambda config, context: None, browse=Discovery(Options, walk))
    monkeypatch.setattr(catalogue, "installed", lambda: Catalogue(given={"adapters": {"opcua": without}}))
    done = genba("browse", file, "robot")
    assert done.status == 2
    assert "name the device: opcua opc.tcp://10.0.0.5:4840" in done.err


def test_options_of_the_output_may_stand_anywhere(genba: Genba, tmp_path: Path) -> None:
    assert genba("browse", "--out", "x.yaml", "opcua", "opc.tcp://x:1").status == 0
    assert (tmp_path / "x.yaml").is_file()
    assert genba("browse", "--json", "opcua", "opc.tcp://x:1").status == 0
    assert "--root" in genba("browse", "opcua", "--help").out


def test_progress_is_a_count_a_rate_and_a_time_on_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    progress = _discover.Progress("points", lambda: now[0])
    for count in range(1, 1201):
        now[0] += 0.01
        progress.at(count)
    progress.clear()
    assert capsys.readouterr().err.splitlines() == ["500 points, 100/s, 5 s", "1,000 points, 100/s, 10 s"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running(many=2) as endpoint:
        yield endpoint


def test_a_real_server_from_the_command_line_to_check(
    genba: Genba, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = genba("browse", "opcua", server, "--match", "Robot 3/**", "--out", "tags.yaml")
    assert done.status == 0, done.err
    (tmp_path / "plant.yaml").write_text(
        "enterprise: acme\nsite: osaka\ngateway: gw\nadapters:\n"
        f"  robot: {{kind: opcua, endpoint: '{server}', tags: {{file: tags.yaml}}}}\nsinks: {{lake: {{kind: parquet, location: lake}}}}\n"
    )
    checked = genba("check", "plant.yaml", "--tags")
    assert checked.status == 0, checked.out
    assert "acme/osaka/robot-3/axis1/motor_temp" in checked.out
    entry = genba("browse", "plant.yaml", "robot", "--match", "Robot 3/**", "--out", "tags.yaml", "--diff")
    assert (entry.status, entry.out) == (0, "tags.yaml: 7 as before\n")
