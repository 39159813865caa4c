"""What `genba plan` shows, and the doctor's options from an entry of a file."""

from __future__ import annotations

from pathlib import Path

from adapters.s7 import PLUGIN, S7Config
from adapters.s7.examination import S7Examination
from schemas.plugin import Place
from tests.adapters.s7 import rig


def test_the_plan_shows_each_request_its_tags_and_what_is_read_in_vain() -> None:
    tags = {"a": ("DB10.DBD0", "real"), "b": ("DB10.DBD8", "real"), "far": ("DB10.DBW3000", "int"), "flag": ("M10.3", "bool")}
    tags |= {"t5": ("T5", "timer"), "t6": ("T6", "timer"), "text": ("DB11.DBB0", "string[10]")}
    config = rig.configure(tags, cpu="s7-1200")
    assert PLUGIN.plan is not None
    (request,) = PLUGIN.plan(config, rig.bind(config))
    assert request.fields == {"read": "T5..6, MB10, DB10.DBB0..11 and 2 more", "bytes": 4 + 1 + 12 + 2 + 12, "pdu": 240}
    assert (request.period_us, request.tags, request.wasted) == (20_000, 7, 4)


def test_the_plan_is_what_the_adapter_asks_for_at_that_pdu() -> None:
    tags = {f"t{n}": {"address": f"DB1.DBD{4 * n}", "type": "real", "scan": "1s" if n % 2 else "2s"} for n in range(1000)}
    for cpu, requests in (("s7-1500", 5), ("s7-1200", 18), (None, 5)):
        config = rig.configure(tags, **({"cpu": cpu} if cpu else {}))
        assert PLUGIN.plan is not None
        planned = PLUGIN.plan(config, rig.bind(config))
        assert sorted({one.period_us for one in planned}) == [1_000_000, 2_000_000]
        assert len(planned) == 2 * requests
        assert sum(one.tags for one in planned) == 1000


def test_an_entry_is_examined_with_its_own_cpu_and_the_furthest_tag_of_each_block() -> None:
    config = rig.configure(
        {"near": ("DB10.DBD0", "real"), "far": ("DB10.DBB96", "string[32]"), "flag": ("MW10", "int"), "delay": ("T5", "timer")},
        rack=1,
        slot=3,
        connection="basic",
    )
    assert PLUGIN.doctor is not None
    assert PLUGIN.doctor.of is not None
    found = PLUGIN.doctor.of(config, Place("furnace", Path(), Path()))
    assert isinstance(found, S7Examination)
    assert found.address == ["DB10.DBB96:string[32]", "MW10:int", "T5:timer"]
    assert found.config.tsaps == config.tsaps == (0x0100, 0x0323)
    logo = S7Config.model_validate({"kind": "s7", "endpoint": "s7://10.0.0.3:1102", "tsap": "02.00"})
    assert PLUGIN.doctor.of(logo, Place("logo", Path(), Path())).config.tsaps == logo.tsaps
