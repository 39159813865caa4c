"""`browse` against real servers: the simulator of this adapter and an asyncua server with everything that gets in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua

from adapters.opcua import PLUGIN, services
from adapters.opcua.browse import _settings
from adapters.opcua.browsing import BrowseOptions
from adapters.opcua.connection import open_connection
from adapters.opcua.resolve import read_facts
from schemas.errors import ConfigError, NotConnected
from schemas.plugin import Check, Place, Point, Settings
from tests.adapters.opcua.rig import configure, make_simulator, read_some
from tests.adapters.opcua.served import OTHER, PLANT, running, served

SPACE = PLANT.replace(";", "%3B")


@pytest.fixture(scope="module")
def plant() -> Iterator[str]:
    """The endpoint of a server with 50 variables more."""
    with running(many=50) as endpoint:
        yield endpoint


async def walked(endpoint: str, **options: Any) -> tuple[dict[str, Point], list[Check], list[Settings]]:
    assert PLUGIN.browse is not None
    points: dict[str, Point] = {}
    checks: list[Check] = []
    settings: list[Settings] = []
    async with asyncio.timeout(30):
        async for told in PLUGIN.browse.walk(BrowseOptions(endpoint=endpoint, **options)):
            if isinstance(told, Point):
                points[f"{told.asset}/{told.name}"] = told
            elif isinstance(told, Check):
                checks.append(told)
            else:
                settings.append(told)
    return points, checks, settings


def said(checks: Sequence[Check]) -> str:
    return "\n".join(f"{check.result}: {check.found}" for check in checks)


async def test_types_units_states_and_texts_and_what_cannot_be_read_is_named(plant: str) -> None:
    points, checks, _ = await walked(plant, values=True, match=["Robot 3/**"])
    assert set(points) == {
        "robot-3/mode", "robot-3/door", "robot-3/program", "robot-3/cycles",
        "robot-3/axis1/motor_temp", "robot-3/axis1/torque", "robot-3/axis1/odd", "robot-3/profile",
    }  # fmt: skip
    assert points["robot-3/profile"].options["type"] == "array of float64"
    temp = points["robot-3/axis1/motor_temp"]
    assert temp.options == {
        "address": f"nsu={SPACE};s=Robot 3.MotorTemp",
        "type": "float64",
        "unit": "°C",
        "label": "主モータ温度",
        "description": "Winding of the main motor",
    }
    assert (temp.value, temp.note) == ("21.5", "range -20 to 120")
    assert points["robot-3/axis1/torque"].options["unit"] == "Nm"
    assert "unit" not in points["robot-3/axis1/odd"].options
    assert "furlongs" in points["robot-3/axis1/odd"].note
    assert points["robot-3/mode"].options["enum"] == {0: "off", 1: "auto"}
    assert points["robot-3/door"].options == {
        "address": f"nsu={SPACE};s=Robot 3.Door", "type": "bool", "enum": {0: "open", 1: "closed"},
    }  # fmt: skip
    # A numeric id may be handed out anew at a restart of the server: the path is pinned, with the URI of each step.
    assert points["robot-3/cycles"].options["address"] == f"/Objects/nsu={SPACE};Robot 3/nsu={OTHER};Cycles"
    for left_out in ("(structure): Robot 3/Limits", "(access level): Robot 3/Closed"):
        assert left_out in said(checks)
    assert "failure" not in said(checks)


async def test_a_renumbered_namespace_gives_the_same_addresses_and_they_are_read(plant: str, tmp_path: Path) -> None:
    before, _, _ = await walked(plant, match=["Robot 3/**"])
    async with served(extra_namespaces=3) as (endpoint, _):
        after, _, _ = await walked(endpoint)
        assert {name: point.options for name, point in before.items()} == {name: point.options for name, point in after.items()}
        config = configure(
            {"cycles": before["robot-3/cycles"].options["address"], "mode": before["robot-3/mode"].options}, endpoint
        )
        rows = (await read_some(config, tmp_path)).rows
        assert rows["cycles"][0]["value_int"] == 7
        # A control: the number that the namespace had before is another namespace now.
        number = configure({"mode": "ns=2;s=Robot 3.Mode"}, endpoint)
        assert (await read_some(number, tmp_path)).rows["mode"][0]["value"] is None


@pytest.mark.parametrize(("pin", "begins"), [("node", "nsu="), ("path", "/Objects/nsu=")])
async def test_every_address_is_pinned_as_asked(plant: str, pin: str, begins: str) -> None:
    points, _, _ = await walked(plant, pin=pin)
    assert len(points) == 58
    assert all(point.options["address"].startswith(begins) for point in points.values())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"match": ["**/Axis1/*"]}, {"robot-3/axis1/motor_temp", "robot-3/axis1/torque", "robot-3/axis1/odd"}),
        ({"match": ["**/Mo*"]}, {"robot-3/mode", "robot-3/axis1/motor_temp"}),
        ({"match": ["*/Door", "*/Mode"]}, {"robot-3/mode", "robot-3/door"}),
        ({"root": f"nsu={SPACE};s=Robot 3.Axis1", "match": ["*"]}, {"None/motor_temp", "None/torque", "None/odd"}),
        ({"root": f"/Objects/nsu={SPACE};Robot 3", "match": ["Axis1/Odd"]}, {"axis1/odd"}),
        ({"flat": True, "match": ["**/Torque"]}, {"None/robot_3_axis1_torque"}),
        ({"properties": True, "match": ["**/EURange", "**/EngineeringUnits"]}, set()),
    ],
)
async def test_what_is_walked_and_how_it_is_named(plant: str, options: dict[str, Any], names: set[str]) -> None:
    points, _, _ = await walked(plant, **options)
    assert set(points) == names


async def test_below_a_node_the_path_is_found_upwards(plant: str) -> None:
    points, _, _ = await walked(plant, root=f"nsu={SPACE};s=Robot 3.Axis1", pin="path")
    assert points["None/torque"].options["address"] == f"/Objects/nsu={SPACE};Robot 3/nsu={SPACE};Axis1/nsu={SPACE};Torque"


async def test_the_standard_nodes_only_where_asked_for(plant: str) -> None:
    points, _, _ = await walked(plant, standard=True, match=["Server/ServerStatus/*"])
    assert points["server/server-status/state"].options["address"] == "i=2259"
    inside, _, _ = await walked(plant, root="i=2253", match=["ServerStatus/*"])
    assert "server-status/state" in inside


async def test_a_bound_ends_the_walk_and_says_that_there_is_more(plant: str) -> None:
    for options in ({"max_nodes": 20}, {"depth": 1}):
        points, checks, _ = await walked(plant, **options)
        assert len(points) < 57
        assert "failure: the walk ended" in said(checks)
    with pytest.raises(ConfigError, match="the server has no"):
        await walked(plant, root="ns=2;s=nowhere")
    with pytest.raises(ConfigError, match="--root"):
        await walked(plant, root="nonsense")


async def test_requests_follow_the_limits_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with served(many=100) as (endpoint, server):
        limits = ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse
        await server.get_node(ua.NodeId(limits)).write_value(7, ua.VariantType.UInt32)
        reads = ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead
        await server.get_node(ua.NodeId(reads)).write_value(11, ua.VariantType.UInt32)
        largest = {"browse": 0, "read": 0}
        browse, read = services.Batches._browse, services.Batches._in_parts

        async def counted(self: services.Batches, asked: Any) -> Any:
            largest["browse"] = max(largest["browse"], len(asked))
            return await browse(self, asked)

        async def parts(self: services.Batches, asked: Any, send: Any) -> Any:
            async def one(some: Any) -> Any:
                largest["read"] = max(largest["read"], len(some))
                return await send(some)

            return await read(self, asked, one)

        monkeypatch.setattr(services.Batches, "_browse", counted)
        monkeypatch.setattr(services.Batches, "_in_parts", parts)
        points, _, _ = await walked(endpoint)
    assert len(points) == 108
    assert largest == {"browse": 7, "read": 11}


class Scripted:
    """Stands for a session: answers browse requests in pages, refuses requests that are too large, keeps few continuation points."""

    def __init__(self, pages: int, *, most: int = 1000, points: int = 1000) -> None:
        self.pages, self.most, self.points = pages, most, points
        self.asked: list[int] = []
        self.released = 0

    async def browse(self, parameters: Any) -> list[ua.BrowseResult]:
        self.asked.append(len(parameters.NodesToBrowse))
        if len(parameters.NodesToBrowse) > self.most:
            raise ua.UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)
        free = self.points
        made = []
        for _ in parameters.NodesToBrowse:
            if self.pages > 1 and free == 0:
                made.append(ua.BrowseResult())
                made[-1].StatusCode = ua.StatusCode(ua.StatusCodes.BadNoContinuationPoints)
                continue
            free -= 1
            made.append(self._page(1))
        return made

    async def browse_next(self, parameters: Any) -> list[ua.BrowseResult]:
        if parameters.ReleaseContinuationPoints:
            self.released += 1
            return []
        return [self._page(int(parameters.ContinuationPoints[0]) + 1)]

    def _page(self, number: int) -> ua.BrowseResult:
        child = ua.ReferenceDescription(
            ReferenceTypeId=ua.NodeId(ua.ObjectIds.Organizes),
            NodeId=ua.ExpandedNodeId(f"child {number}", 2),
            BrowseName=ua.QualifiedName(f"child {number}", 2),
            NodeClass=ua.NodeClass.Variable,
        )
        more = str(number).encode() if number < self.pages else None
        return ua.BrowseResult(ContinuationPoint=more, References=[child])


def batches(session: Scripted) -> services.Batches:
    class Connected:
        async def read_values(self, nodes: Sequence[ua.NodeId]) -> list[object]:
            return [None for _ in nodes]

    connected: Any = Connected()
    connected.session = session
    from adapters.opcua.resolve import ServerFacts

    return services.Batches(connected, ServerFacts({}))


async def test_continuation_points_are_followed_to_the_end() -> None:
    session = Scripted(pages=5)
    (answer,) = await services.children(batches(session), [ua.NodeId(1, 2)])
    assert [reference.name[1] for reference in answer.references] == [f"child {n}" for n in range(1, 6)]


async def test_a_server_with_few_continuation_points_is_asked_again_one_by_one() -> None:
    session = Scripted(pages=3, points=2)
    answers = await services.children(batches(session), [ua.NodeId(n, 2) for n in range(6)])
    assert [len(answer.references) for answer in answers] == [3] * 6
    assert session.asked == [6, 1, 1, 1, 1]


async def test_a_request_that_is_too_large_is_halved_from_then_on() -> None:
    session = Scripted(pages=1, most=30)
    answers = await services.children(batches(session), [ua.NodeId(n, 2) for n in range(200)])
    assert len(answers) == 200
    assert max(session.asked[3:]) <= 30
    hopeless = Scripted(pages=1, most=0)
    with pytest.raises(ua.UaStatusCodeError):
        await services.children(batches(hopeless), [ua.NodeId(1, 2)])


async def test_endless_references_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MOST_REFERENCES", 10)
    session = Scripted(pages=1_000_000)
    (answer,) = await services.children(batches(session), [ua.NodeId(1, 2)])
    assert (len(answer.references), answer.status, session.released) == (10, "BadTooManyMatches", 1)


async def test_what_the_simulator_serves_is_found(tmp_path: Path) -> None:
    tags = {"temp": {"address": "nsu=urn:acme:plant;s=Line.Temp", "type": "float64"}, "deep": "/Objects/2:Plant/2:Robot/2:Speed"}
    config = configure(tags)
    simulator = make_simulator(config)
    try:
        points, _, _ = await walked(await simulator.start())
    finally:
        await simulator.aclose()
    assert points["None/line_temp"].options == {"address": "nsu=urn:acme:plant;s=Line.Temp", "type": "float64"}
    assert points["plant/robot/speed"].options["type"] == "float64"


async def test_an_entry_gives_its_own_connection_and_settings_never_hold_a_password(plant: str) -> None:
    config = configure({}, "opc.tcp://127.0.0.1:4841", auth={"username": "genba", "password": "geheim"})
    place = Place("robot", Path("spool/adapters/robot"), Path())
    options = BrowseOptions.of(config, place)
    assert (options.config(), options.place()) == (config, place)
    assert options.model_copy(update={"match": ["**"]}).config() == config
    at_server = BrowseOptions.of(config.model_copy(update={"endpoint": plant, "auth": None}), place)
    assert PLUGIN.browse is not None
    told = [one async for one in PLUGIN.browse.walk(at_server)]
    assert any(isinstance(one, Point) for one in told)
    assert "geheim" not in repr(options)
    assert _settings(config).options == {"auth": {"username": "genba", "password": {"file": "secrets/opcua"}}}


async def test_options_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for options in ({"policy": "Nonsense"}, {"username": "a", "password_file": tmp_path / "nothing"}):
        with pytest.raises((ConfigError, ValueError)):
            await walked("opc.tcp://127.0.0.1:1/x", **options)


async def test_nobody_there() -> None:
    with pytest.raises(NotConnected):
        await walked("opc.tcp://127.0.0.1:1/nothing")


async def test_the_services_read_from_a_real_server(plant: str, tmp_path: Path) -> None:
    connection = await open_connection(configure({}, plant), "test", tmp_path, tmp_path)
    try:
        made = services.Batches(connection, await read_facts(connection))
        name, parent = await services.parent_of(made, ua.NodeId("Robot 3.Axis1", 2))
        assert (name, parent) == ((2, "Axis1"), ua.NodeId("Robot 3", 2))
    finally:
        await connection.aclose()
