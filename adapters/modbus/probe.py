"""What a Modbus device has, found by asking: units, identity, limits, readable addresses, and a guess at what they mean.

Function codes 1 to 4 and 43 only, one request at a time with a rest in between, and no more of them than `requests`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from schemas.errors import NotConnected
from schemas.plugin import Check, Point, Settings

from .address import FUNCTIONS, Stretch, Table
from .exchange import NoAnswer, Refused, WrongAnswer
from .findings import BITS, REGISTERS, between, limit_of, named, order_of, points_of, settings_of, shown
from .identify import in_words, read_objects
from .options import ModbusProbe
from .plan import Span
from .survey import Ask, Survey
from .walker import NO_ANSWER, NO_PROPER_ANSWER, Enough, Walker

NAMES: Final[Mapping[Table, str]] = {"hr": "holding registers", "ir": "input registers", "co": "coils", "di": "discrete inputs"}
_ILLEGAL_FUNCTION: Final = 1
_NOT_THERE: Final = (10, 11)  # said by a gateway about a unit behind it
_WINDOW: Final = 4


class _NoTable(Exception):
    """The device does not know the function code, or does not answer to it."""


async def walk(options: ModbusProbe) -> AsyncGenerator[Check | Point | Settings, None]:
    """See `Discovery.walk`: checks as it goes, settings, then the points. Raises NotConnected and ConfigError."""
    walker = Walker(options)
    try:
        await walker.connection()
        yield Check("connection", "ok", f"{options.config.endpoint} is open")
        unit, check = await _unit(walker, options)
        yield check
        yield await _identity(walker, unit)
        surveys: dict[Table, Survey] = {}
        whole = True
        for stretch in options.stretches:
            known = surveys.get(stretch.table)
            survey = surveys[stretch.table] = known or Survey(
                _asker(walker, unit, stretch.table), FUNCTIONS[stretch.table], options.step
            )
            whole, check = await _look(survey, stretch, options)
            yield check
            if not whole:
                break
        for name, tables in (("registers", REGISTERS), ("bits", BITS)):
            found = [surveys[table] for table in tables if table in surveys and surveys[table].values]
            if found:
                yield limit_of(name, found)
        if whole and options.config.transport in ("tcp", "tls"):
            yield await _window(walker, unit, surveys)
        order, check = order_of(surveys)
        if any(surveys[table].values for table in REGISTERS if table in surveys):
            yield check
        for check in shown(options.places, surveys, order):
            yield check
        yield Settings({"unit_id": unit, **options.written, **settings_of(surveys, order)})
        for point in points_of(surveys, order):
            yield point
    finally:
        await walker.aclose()


async def _unit(walker: Walker, options: ModbusProbe) -> tuple[int, Check]:
    """The unit to walk. Raises NotConnected when none answers."""
    units = options.units
    functions = (3, 4, 1, 2) if len(units) == 1 else (3,)
    there = []
    last = ""
    for unit in units:
        for function in functions:
            answer = await walker.ask(Span(unit, function, 0, 1))
            if not isinstance(answer, int) or (answer not in _NOT_THERE and answer > 0):
                there.append(unit)
                break
            last = f"exception {answer}, the gateway does not reach it" if answer > 0 else "no answer"
    if not there:
        asked = f"unit {units[0]}" if len(units) == 1 else f"none of the units {', '.join(map(str, units))}"
        raise NotConnected(
            f"{options.config.endpoint}: {asked} {'does not answer' if len(units) == 1 else 'answers'} ({last}); other units: --unit 1-10; "
            f"what is wrong: genba doctor modbus {options.endpoint}"
        )
    found = f"answers: {', '.join(map(str, there))}" if len(units) > 1 else "answers"
    more = f"the others are walked one at a time: --unit {there[1]}" if len(there) > 1 else ""
    return there[0], Check(f"unit {there[0]}", "ok", found, more)


async def _identity(walker: Walker, unit: int) -> Check:
    connection = await walker.connection()
    for level in (2, 1):
        await walker.rest()
        try:
            objects = await read_objects(connection, unit, level)
        except Refused as error:
            if error.code == _ILLEGAL_FUNCTION:
                break
        except (NoAnswer, WrongAnswer) as error:
            return Check("identity", "ok", f"the device does not say who it is ({error})")
        except NotConnected:
            await walker.aclose()
            return Check("identity", "ok", "the device does not say who it is (it hangs up when it is asked)")
        else:
            return Check("identity", "ok", in_words(objects) or "the device names itself with empty texts")
    return Check("identity", "ok", "the device does not say who it is (no function code 43)")


def _asker(walker: Walker, unit: int, table: Table) -> Ask:
    """Reads one table of one unit. Raises _NoTable when there is none."""
    answered = False

    async def ask(start: int, count: int) -> bytes | int:
        nonlocal answered
        answer = await walker.ask(Span(unit, FUNCTIONS[table], start, count))
        if isinstance(answer, int) and not answered:
            if answer == _ILLEGAL_FUNCTION:
                raise _NoTable("the device does not know this function code (exception 1)")
            if walker.is_silent:
                raise _NoTable("requests to this table are not answered")
        if isinstance(answer, int) and walker.is_silent:
            raise NotConnected("the device answers no more; ask more slowly: --pause 100ms")
        answered = answered or answer != NO_ANSWER
        return answer

    return ask


async def _look(survey: Survey, stretch: Stretch, options: ModbusProbe) -> tuple[bool, Check]:
    """Walk one stretch; False when it was not walked to its end. Raises NotConnected when nothing was found before the device went away."""
    name = NAMES[stretch.table]
    stopped = ""
    try:
        await survey.walk(stretch.start, stretch.end)
    except _NoTable as error:
        return True, Check(stretch.table, "ok", f"no {name}: {error}")
    except Enough:
        stopped = f"stopped after {options.requests} requests"
    except NotConnected as error:
        if not survey.values:
            raise
        stopped = f"the device went away: {error}"
    reached = Stretch(stretch.table, stretch.start, max(survey.reached, stretch.start + 1) if stopped else stretch.end)
    inside = [
        (max(a, reached.start), min(b, reached.end)) for a, b in survey.stretches() if a < reached.end and b > reached.start
    ]
    found = f"{name}: readable {named(stretch.table, inside)}; refused {named(stretch.table, between(inside, reached))}"
    if survey.codes:
        found += f" ({', '.join(_code(code) for code in sorted(survey.codes))})"
    if stopped:
        way_out = f"go on with --range {stretch.table}:{reached.end}-{stretch.end - 1}, with more --requests or a longer --pause"
        return False, Check(stretch.table, "failure", f"{found}; {stopped}", way_out)
    missed = f"where addresses are refused, every {options.step}th was tried: less than that may be missed; --step 1 tries each"
    return True, Check(stretch.table, "ok", found, missed if survey.codes else "")


async def _window(walker: Walker, unit: int, surveys: Mapping[Table, Survey]) -> Check:
    """Several requests at once: each answer must be that of its request, which shows by its length."""
    table = next((table for table in (*REGISTERS, *BITS) if table in surveys and surveys[table].values), None)
    if table is None:
        return Check("window", "ok", "nothing can be read, so several requests at once were not tried")
    start, end = max(surveys[table].stretches(), key=lambda stretch: stretch[1] - stretch[0])
    spans = [Span(unit, FUNCTIONS[table], start, 1 + n % min(end - start, surveys[table].most)) for n in range(_WINDOW)]
    connection = await walker.connection()
    walker.asked += _WINDOW
    answers = await asyncio.gather(*(connection.read(span) for span in spans), return_exceptions=True)
    wrong = next((answer for answer in answers if isinstance(answer, BaseException)), None)
    if wrong is None:
        return Check(
            "window", "ok", f"{_WINDOW} requests at once are answered; `window: {_WINDOW}` reads faster over a slow network"
        )
    if isinstance(wrong, NotConnected):
        await walker.aclose()
    return Check(
        "window", "ok", f"one request at a time: of {_WINDOW} at once not all were answered ({wrong})", "leave out `window`"
    )


def _code(code: int) -> str:
    return {NO_ANSWER: "no answer", NO_PROPER_ANSWER: "no proper answer"}.get(code, f"exception {code}")
