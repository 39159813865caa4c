"""What people ask of the alarms of a running gateway: carried out, answered page by page, refused in words."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edge_models.alarms import AlarmLayer
from edge_models.base import AlarmConfig, SiteAlarms
from gateway import commands
from schemas.errors import ConfigError
from schemas.span import Command
from tests.conformance.model import T0, make_tag
from tests.edge_models.test_alarms import run


class Rig:
    """As much of a pipeline as commands touch."""

    def __init__(self, tags: int) -> None:
        self.registry = [make_tag(n, asset=f"acme/osaka/press-{n}") for n in range(tags)]
        self.alarms = AlarmLayer(self.registry, SiteAlarms(flood=0))
        self.alarms.add("wear", AlarmConfig())
        self.clock = SimpleNamespace(now_us=lambda: T0)
        self.runner = SimpleNamespace(store_soon=self._store)
        self.spool = SimpleNamespace(flush=self._flush)
        self.done: list[str] = []
        run(self.alarms, *[(n, 0, 0.95) for n in range(tags)])

    def _store(self) -> None:
        self.done.append("store")

    async def _flush(self) -> None:
        self.done.append("flush")

    async def put(self, kind: str, batch: Any) -> None:
        self.done.append(f"{kind} {batch.num_rows}")

    async def ask(self, **request: Any) -> Any:
        return await commands.answers(self)[request["do"]](request)  # type: ignore[arg-type]


async def test_what_is_done_is_written_down_and_stored_before_it_is_answered() -> None:
    rig = Rig(1)
    (entry,) = rig.alarms.active()
    answer = await rig.ask(do="alarm", name="shelve", id=entry.id, by="Sato", **{"for": "1h"})
    assert answer["message"].endswith("by Sato")
    assert rig.done == ["event 1", "alert 1", "store", "flush"]
    rig.done.clear()
    answer = await rig.ask(do="alarm", name="in_service", id=entry.id)  # it is not out of service
    assert (answer["changed"], answer["message"], rig.done) == (0, "", ["flush"])


async def test_a_hundred_alarms_come_in_pages() -> None:
    rig = Rig(100)
    for number in range(50):
        await commands.obey(rig, Command("shelve", "test", {"asset": f"acme/osaka/press-{number}"}))  # type: ignore[arg-type]
    pages = [await rig.ask(do="alarms", first=first) for first in (0, 40, 80, 120)]
    found = [one["alarm"] for page in pages for one in json.loads(page["alarms"])]
    assert [len(json.loads(page["alarms"])) for page in pages] == [40, 40, 20, 0]
    assert [len(json.loads(page["aside"])) for page in pages] == [40, 10, 0, 0]
    assert len(set(found)) == pages[0]["total"] == 100
    assert json.loads(pages[0]["alarms"])[0]["tag"].startswith("acme/osaka/press-")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"name": "acknowledge", "id": "nobody"}, "no open alarm"),
        ({"name": "explode"}, "no command"),
        ({"name": "shelve"}, "needs `id`"),
        ({"name": "shelve", "asset": "acme/osaka/press-0", "for": "soon"}, "write it like"),
        ({"name": "acknowledge", "id": None}, "no open alarm"),
    ],
)
async def test_what_cannot_be_done_is_said_with_the_way_out(request_: dict[str, Any], message: str) -> None:
    rig = Rig(1)
    with pytest.raises(ConfigError, match=message):
        await rig.ask(do="alarm", **request_)
    assert rig.done == []
