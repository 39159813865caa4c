"""What a person or the cloud asks of the alarms: carried out, written down as events, and stored before anybody is answered."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from edge_models.alarms import Told
from schemas.errors import ConfigError
from schemas.span import Command

if TYPE_CHECKING:
    from .pipeline import Pipeline

_PAGE: Final = 40  # alarms in one answer, which is one line
Answer = Mapping[str, str | int | None]
Request = Mapping[str, str | int | None]


async def obey(pipeline: Pipeline, command: Command) -> Told:
    """Carry out a command of the alarm layer. Raises KeyError or ValueError as it does, and then nothing has changed."""
    told = pipeline.alarms.command(command, pipeline.clock.now_us())
    if told.events is not None:
        await pipeline.put("event", told.events)
    if told.alerts is not None:
        await pipeline.put("alert", told.alerts)
    if pipeline.runner is not None and (told.events is not None or told.alerts is not None):
        pipeline.runner.store_soon()
    return told


def answers(pipeline: Pipeline) -> dict[str, Callable[[Request], Awaitable[Answer]]]:
    """What the control socket answers about alarms: `alarm` carries out a command, `alarms` lists a page of them."""

    async def alarm(request: Request) -> Answer:
        said = {name: value for name, value in request.items() if name not in ("do", "name") and value is not None}
        try:
            told = await obey(pipeline, Command(str(request.get("name", "")), "command line", said))
        except KeyError as error:
            raise ConfigError(str(error.args[0]), hint="`genba alert list` shows what is open") from error
        except ValueError as error:
            raise ConfigError(str(error)) from error
        await pipeline.spool.flush()
        messages = [] if told.events is None else told.events.column("message").to_pylist()
        return {"changed": 0 if told.alerts is None else told.alerts.num_rows, "message": "; ".join(messages)[:2000]}

    async def alarms(request: Request) -> Answer:
        first = int(request.get("first") or 0)
        entries = pipeline.alarms.active(suppressed=bool(request.get("all")))
        held = [{"model": key[0], "alarm": key[1], "subject": key[2], **asdict(hold)} for key, hold in pipeline.alarms.aside()]
        page = [
            {name: value for name, value in asdict(entry).items() if value == value}  # without NaN
            | {"tag": None if entry.tag is None else pipeline.registry[entry.tag].path}
            for entry in entries[first : first + _PAGE]
        ]
        return {
            "total": len(entries), "alarms": _text(page), "aside_total": len(held), "aside": _text(held[first : first + _PAGE])
        }  # fmt: skip

    return {"alarm": alarm, "alarms": alarms}


def _text(rows: object) -> str:
    return json.dumps(rows, ensure_ascii=False)
