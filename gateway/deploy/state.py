"""What a gateway reports of itself in its shadow: the states of its parts, never its tags, always within the room there is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway import __version__, logs
from schemas.values import Duration

if TYPE_CHECKING:
    from gateway.collector import Collector
    from gateway.pipeline import Pipeline

State = dict[str, Any]
T = TypeVar("T")
_MOST_CLASSES: Final = 8


def parts(pipeline: Pipeline) -> State:
    """What changes when something happens: versions, connections, scan classes, models."""
    adapters = {one.name: {"state": one.state, "scan_classes": _classes(one)} for one in pipeline.collectors}
    return {
        "version": __version__,
        "log_level": logs.level(),
        "counts": {
            "tags": len(pipeline.tags),
            "adapters": dict(Counter(one.state for one in pipeline.collectors)),
        },
        "adapters": adapters,
        "sinks": {one.name: {"state": one.state, "paused": one.paused} for one in pipeline.deliveries},
        "models": pipeline.models.versions,
    }


def spool(pipeline: Pipeline) -> State:
    """What changes all the time: the age of the oldest row that a sink has not taken yet (s), and bytes on disk."""
    oldest = max((pipeline.oldest_age_s(delivery) for delivery in pipeline.deliveries), default=0.0)
    return {"oldest_row_s": round(oldest), "bytes": pipeline.spool.bytes_used()}


def _classes(collector: Collector) -> list[str]:
    periods = sorted({tag.period_us for tag in collector.tags})
    return [str(Duration(period)) for period in periods[:_MOST_CLASSES]]


def fitted(state: State, wishes: Mapping[str, Any], room: int) -> State:
    """`state` with the wishes that are in force at their places, in at most `room` bytes of JSON.

    What is well is left out first: adapters that are up, sinks that are up, models. `left_out` says what.
    """
    for leave_out in _ever_less():
        made = leave_out(state)
        whole = without_empty(_merged(made, wishes))
        if size(whole) <= room:
            return whole
    kept: State = {"version": state["version"], "log_level": state["log_level"], "left_out": ["all but the wishes"]}
    return without_empty(_merged(kept, wishes))


def _ever_less() -> Iterator[Callable[[State], State]]:
    yield lambda state: state
    yield lambda state: _left_out(state, "adapters")
    yield lambda state: _left_out(state, "adapters", "sinks", "models")
    for most in (50, 20, 5):
        yield lambda state, most=most: _first(_left_out(state, "adapters", "sinks", "models"), most)  # type: ignore[misc]


def _left_out(state: State, *groups: str) -> State:
    made = {**state, "left_out": list(groups)}
    for group in groups:
        entries = {} if group == "models" else state.get(group, {})
        made[group] = {name: one for name, one in entries.items() if one.get("state") != "up" or one.get("paused")}
    return made


def _first(state: State, most: int) -> State:
    made = {**state, "errors": state.get("errors", [])[:1]}
    for group in ("adapters", "sinks"):
        made[group] = {name: {"state": one["state"]} for name, one in list(state.get(group, {}).items())[:most]}
    return made


def _merged(state: Mapping[str, Any], wishes: Mapping[str, Any]) -> State:
    made = dict(state)
    for key, value in wishes.items():
        old = made.get(key)
        made[key] = _merged(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return made


def without_empty(state: Mapping[str, Any]) -> State:
    """Without mappings that hold nothing: the service keeps none of them, and would look different for ever."""
    made = {key: without_empty(value) if isinstance(value, Mapping) else value for key, value in state.items()}
    return {key: value for key, value in made.items() if value != {}}


def size(state: Mapping[str, Any]) -> int:
    """Bytes of its JSON as the service counts them, generously."""
    return len(json.dumps(state, ensure_ascii=False).encode())
