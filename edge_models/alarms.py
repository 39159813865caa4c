"""The alarm layer: scores in, alerts out, one message a transition. Shared by all models; pure, its time is that of the rows.

States and names follow ISA-18.2 (IEC 62682): unacknowledged, acknowledged, returned (normal again, not acknowledged yet),
normal, shelved, suppressed, out of service.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StateMismatch
from schemas.kinds import SCORE
from schemas.span import Command
from schemas.tags import Severity, Tag

from .alarm_book import GATEWAY, Book
from .alarm_budget import NEVER_DUE, Rationing
from .alarm_context import Recent, tag_of
from .alarm_memory import Waiting, put_aside
from .alarm_records import Entry, Key, Message, Reason, alert_batch, event_batch, occurrence
from .alarm_shelf import Hold
from .alarm_words import measure, pairs, problem, score_row
from .base import AlarmConfig, EdgeModel, Factual, Grades, Measures, ScoreRow, SiteAlarms
from .delays import ACTIVE, IDLE, Delays, Turn
from .sentences import quantity, span
from .slots import Bools, Floats, Index, Readings, Times
from .state import array_text, pack, text_array, unpack

FLOOD: Final = "alarms"
"""`model` of the one alarm that the alarm layer raises itself."""
_KIND: Final = "alarms"
_VERSION: Final = 2
_SCORE, _LIMIT = SCORE.get_field_index("score"), SCORE.get_field_index("limit")
_EVERY_ROW: Final = 2**62
_LIMITS_KNOWN: Final = 64  # columns of limits whose least is remembered, and the most rows of one
_ROWS_KNOWN: Final = 20_000
_FEW: Final = 8  # alarms of one batch for which it does not pay to know the time of every row


class Told(NamedTuple):
    """What came of a command: ALERT and EVENT batches, or None."""

    alerts: pa.RecordBatch | None
    events: pa.RecordBatch | None


@dataclass(frozen=True, slots=True)
class _Voice:
    """How the alarms of one model speak."""

    config: AlarmConfig
    model: object  # asked whether it explains or grades
    limits: bool  # plain limits: nothing holds them back, and `limit` is in the unit of the tag


@dataclass(frozen=True, slots=True)
class _News:
    """A turn and the scores in which it is."""

    model: str
    alarm: str
    scores: pa.RecordBatch
    turn: Turn
    seq: int
    time_us: int


class AlarmLayer:
    """Turns scores into alarms; at most one occurrence per model, alarm and subject is open at a time.

    A score at or above its limit for `on_delay` raises, one below the limit less `hysteresis` for `off_delay` clears; a null
    score (bad reading, not warm) changes nothing; a tag whose gate is shut clears at once. What comes again soon after, over a budget or
    in a flood is suppressed: open, in the lake, and told once its turn has come. An occurrence's id is a hash of model, alarm,
    subject and the row number of its onset.
    """

    def __init__(self, tags: Sequence[Tag], site: SiteAlarms | None = None) -> None:
        """`site` is about the alarms of all models together; None: neither a budget nor floods."""
        self._tags = {tag.id: tag for tag in tags}
        self._size = max(self._tags, default=-1) + 1
        self._ids = {tag.path: tag.id for tag in tags}
        self._place = "/".join(tags[0].asset.split("/")[:2]) if tags else ""  # enterprise/site
        self._assets: dict[str, int] = {}  # subjects that are assets, behind the tags
        self._names: list[str] = []  # their names, in the same order
        self._voices: dict[str, _Voice] = {}
        self._delays: dict[tuple[str, str], Delays] = {}
        self._book = Book()
        self._site = site or SiteAlarms(flood=0)
        self._rationing = Rationing(self._site)
        self._clock = 0  # newest time of the gateway at which there was something to do, µs
        self._news: list[_News] = []
        self._recent = Recent()
        self._known_limits: dict[tuple[int, int, int], tuple[pa.Buffer, float]] = {}
        self._restored = False

    def add(self, name: str, config: AlarmConfig, model: EdgeModel | None = None, *, limits: bool = False) -> None:
        """Make a model known by its name. `limits`: nothing holds its alarms back, and their limit is the tag's."""
        self._voices[name] = _Voice(config, model, limits)

    def update(self, scores: pa.RecordBatch, now: int, *, inactive: Bools | None = None) -> pa.RecordBatch | None:
        """SCORE(n) of any models and alarms -> ALERT or None. `inactive` bool[n] marks rows of tags whose gate is shut."""
        found = pairs(scores)
        for model, alarm in found:
            part, shut = scores, inactive
            if len(found) > 1:
                chosen = pc.and_(pc.equal(scores.column("model"), model), pc.equal(scores.column("alarm"), alarm)).fill_null(
                    False
                )
                part = scores.filter(chosen)
                shut = None if inactive is None else inactive[chosen.to_numpy(zero_copy_only=False)]
            self.feed(model, alarm, part, inactive=shut)
        return self.settle(None, now, upto_us=pc.max(scores.column("time")).value or 0)

    def feed(self, model: str, alarm: str, scores: pa.RecordBatch, *, inactive: Bools | None = None) -> None:
        """Take rows of one model and alarm; `settle` tells what came of them. Costs next to nothing while all is well."""
        delays = self._delays_of(model, alarm)
        score: Floats = scores.column(_SCORE).to_numpy(zero_copy_only=False)
        limits = scores.column(_LIMIT)
        if delays.is_quiet(score, self._least(limits)):
            return
        limit: Floats = limits.to_numpy(zero_copy_only=False)
        subject = self._subjects(scores)
        delays.grow(self._size + len(self._assets))
        time: Times = scores.column("time").view(pa.int64()).to_numpy(zero_copy_only=False)
        numbers = scores.column("seq")
        seq = (numbers.fill_null(-1) if numbers.null_count else numbers).to_numpy()
        for turn in delays.turns(subject, seq, time, score, limit, inactive):
            self._news.append(_News(model, alarm, scores, turn, int(seq[turn.row]), int(time[turn.row])))

    def _least(self, limits: pa.Array) -> float:
        """The least of a column of limits; infinity where there is none. Models give the same buffer again and again."""
        buffer = limits.buffers()[1]
        if buffer is None or limits.null_count or len(limits) > _ROWS_KNOWN:
            return float(np.fmin.reduce(limits.to_numpy(zero_copy_only=False), initial=np.inf))
        key = buffer.address, limits.offset, len(limits)
        known = self._known_limits.get(key)
        if known is None:
            if len(self._known_limits) >= _LIMITS_KNOWN:
                self._known_limits.clear()
            least = float(np.fmin.reduce(limits.to_numpy(zero_copy_only=False), initial=np.inf))
            known = self._known_limits[key] = buffer, least  # while it is held its address is nobody else's
        return known[1]

    def settle(self, readings: Readings | None, now: int, *, upto_us: int = 0) -> pa.RecordBatch | None:
        """What came of the rows since the last call, in the order of the rows, whatever model it is about -> ALERT or None.

        `readings` are the rows, None for a tick at `now`. `upto_us` is how far the time of the rows has come where there are none.
        """
        if readings is not None:
            self._recent.add(readings)
        messages = self._book.expired(now)
        news, self._news = self._news, []
        if news or self._rationing.flood_since is not None or self._rationing.next_due != NEVER_DUE:
            self._settle(news, readings, now if readings is None and upto_us == 0 else upto_us, messages)
        return alert_batch(messages, self._contexts(messages))

    def _settle(self, news: Sequence[_News], readings: Readings | None, end: int, messages: list[Message]) -> None:
        # The gateway's clock as it was at each row: the rows of several models and devices have one order by it.
        moments = None if readings is None else readings.gateway_time()
        if moments is not None:
            end = int(moments.max())
            if len(news) > _FEW:
                moments = np.maximum.accumulate(moments)
        end = max(end, self._clock)
        placed: list[tuple[int, int, int, _News]] = []
        for number_, one in enumerate(news):
            at = min(max(one.time_us, self._clock), end)
            if readings is not None and moments is not None:
                row = int(np.searchsorted(readings.seq, one.seq))
                if row < len(moments) and int(readings.seq[row]) == one.seq:
                    at = max(int(moments[row] if len(news) > _FEW else moments[: row + 1].max()), self._clock)
            placed.append((at, one.seq, number_, one))
        for at, _, _, one in sorted(placed, key=lambda each: each[:3]):
            self._advance(at, messages)
            messages += self._turn(one)
        self._advance(end, messages)

    def _advance(self, until: int, messages: list[Message]) -> None:
        """Let the gateway's clock come to `until`: tell what was held back and has its turn, and the end of a flood."""
        rationing = self._rationing
        while rationing.next_due <= until:
            held = [
                (key, entry, self._per_day(entry))
                for key, entry in self._book.open.items()
                if entry.state == "suppressed" and entry.active and entry.held in ("budget", "flood")
            ]
            due, key = rationing.due(held)
            over = rationing.flood_over_at()
            rationing.next_due = min(due, over)
            if rationing.next_due > until:
                break
            if key is not None and due <= over:
                rationing.use(self._book.open[key], self._per_day(self._book.open[key]), due)
                messages += _some(self._book.release(key, max(due, self._clock), _EVERY_ROW))
            else:
                messages += _some(self._flood_ends(max(over, self._clock)))
        self._clock = max(self._clock, until)

    def _per_day(self, entry: Entry) -> float | None:
        budget = self._voice(entry.model).config.budget_per_asset
        return None if budget is None else float(budget)

    def _admit(self, entry: Entry) -> Reason:
        """Use up budget for an alarm, or say why it is held back. Never limits or `critical`, nor what a person has put aside."""
        if entry.severity == "critical" or self._voice(entry.model).limits:
            return ""
        return self._rationing.admit(entry, self._per_day(entry), self._clock)

    def _flood(self, seq: int) -> Message | None:
        """One more is held back by a flood: one message for all of them, and one more when they are ten times as many."""
        key, many = (FLOOD, "flood", self._place), self._rationing.flooded
        what = f"more than {self._site.flood} alarms in {span(self._site.flood_within.us)}: {many:,} more suppressed"
        if key in self._book.open and self._book.open[key].active:
            return self._book.change(key, self._clock, what) if str(many).rstrip("0") == "1" else None
        entry = Entry(
            id=occurrence(*key, seq), model=FLOOD, alarm="flood", tag=None, asset=self._place, subject=self._place.rsplit("/", 1)[-1],
            severity="warning", problem=what, action="See the list of alarms: `genba alert list --all`", since_us=self._clock,
            onset_seq=seq, unit=None,
        )  # fmt: skip
        return self._book.enter(key, entry, self._clock)

    def _flood_ends(self, time: int) -> Message | None:
        many = self._rationing.flooded
        self._rationing.flood_is_over()
        key = (FLOOD, "flood", self._place)
        return self._book.close(key, time, f"the flood of alarms is over: {many:,} were suppressed")

    def condition(
        self, alarm: str, *, subject: str, asset: str, active: bool, now: int, severity: Severity, problem: str, action: str
    ) -> pa.RecordBatch | None:
        """One of the gateway's own troubles as it is at `now` (µs); call it as often as you like. ALERT at a transition, else None.

        `alarm` and `subject` identify it. A change of severity while it is active is told as `changed`.
        """
        message = self._book.condition(
            alarm, subject=subject, asset=asset, active=active, now=now, severity=severity, problem=problem, action=action
        )
        return alert_batch([*self._book.expired(now), *_some(message)])

    def command(self, command: Command, now: int) -> Told:
        """`acknowledge`, `shelve`, `unshelve`, `out_of_service`, `in_service` -> ALERT and EVENT, None where nothing changes.

        What is meant is `id`, or `tag`, or `asset`, or `asset` and `alarm`; who and why are `by` and `reason`. `acknowledge` takes
        a `verdict`, real or false, also for an occurrence that is over. Raises KeyError for an id that is not known, ValueError for
        another command, an argument that cannot be, or a span without unit.
        """
        done = self._book.command(command, now)
        messages = [*done.messages, *self._book.expired(now)]
        return Told(alert_batch(messages, self._contexts(messages)), event_batch(done.happenings))

    def active(self, *, suppressed: bool = False) -> list[Entry]:
        """What an operator's list shows: everything open, the most serious first, then the newest; what is suppressed on demand."""
        return self._book.listed(suppressed=suppressed)

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many are open by state and severity. May be called from another thread."""
        return Counter((entry.state, entry.severity) for entry in list(self._book.open.values()))

    def aside(self) -> list[tuple[Key, Hold]]:
        """What people have put aside, whether it is open or not."""
        return list(self._book.shelf)

    def about_assets(self, model: str) -> set[str]:
        """The names of a model's alarms of which one about an asset is coming, open or going."""
        return {alarm for (name, alarm), delays in self._delays.items() if name == model and delays.is_busy_from(self._size)}

    def remember(self, readings: Readings) -> None:
        """Rows from before a restart, oldest first, so that the first alarms have their context."""
        self._recent.add(readings)

    def _turn(self, news: _News) -> list[Message]:
        tag, asset = self._about(news.turn.subject)
        key = (news.model, news.alarm, asset if tag is None else tag.path)
        row = score_row(news.alarm, news.scores, news.turn.row)
        what, voice = news.turn.what, self._voice(news.model)
        if tag is not None and isinstance(voice.model, Measures):
            tag = voice.model.measured(tag, news.alarm)
        entry = self._book.open.get(key)
        if what == "goes":
            if entry is None:
                return []
            measure(entry, row, limits=voice.limits)
            value = f": {quantity(row.value, tag)}" if tag is not None and row.value == row.value else ""
            return _some(self._book.close(key, news.time_us, f"{entry.subject} is normal again{value}"))
        if what in ("peaks", "due"):
            if entry is None or entry.state != "suppressed" or (what == "due" and entry.held != "peak"):
                return []
            if what == "peaks":
                measure(entry, row, limits=voice.limits)
                entry.problem = problem(voice.model, tag, asset, row, entry.contributions)
            entry.held = self._admit(entry)
            if not entry.held:
                return _some(self._book.release(key, news.time_us, news.seq))
            return _some(self._flood(news.seq)) if entry.held == "flood" else []
        entry = self._entry(news, voice, key, tag, asset, row)
        held: Reason = "peak" if what == "held" and entry.severity != "critical" else ""
        if not held and self._book.shelf.of(key, asset, news.time_us) is None:
            held = self._admit(entry)
        told = self._book.enter(key, entry, news.time_us, held)
        return [*_some(told), *(_some(self._flood(news.seq)) if held == "flood" else [])]

    def _entry(self, news: _News, voice: _Voice, key: Key, tag: Tag | None, asset: str, row: ScoreRow) -> Entry:
        config = voice.config if tag is None else voice.config.of(tag.path)
        severity, action = config.severity, config.action
        if tag is not None and isinstance(voice.model, Grades):
            severity, action = voice.model.severity(tag, news.alarm), voice.model.action(tag, news.alarm) or action
        contributions = news.scores.column("contributions")[news.turn.row].as_py()
        entry = Entry(
            id=occurrence(*key, news.turn.onset_seq),
            model=news.model,
            alarm=news.alarm if tag is None else f"{tag.name}.{news.alarm}",
            tag=None if tag is None else tag.id,
            asset=asset,
            subject=asset.rsplit("/", 1)[-1] if tag is None else tag.display,
            severity=severity,
            problem=problem(voice.model, tag, asset, row, contributions),
            action=action,
            since_us=news.turn.onset_time,
            onset_seq=news.turn.onset_seq,
            unit=None if tag is None else tag.unit,
            contributions=contributions,
        )
        measure(entry, row, limits=voice.limits)
        return entry

    def _contexts(self, messages: Sequence[Message]) -> Mapping[int, str | None]:
        """By place of the message: the readings of its tag, or of the tag that contributes most."""
        wanted = []
        for at, message in enumerate(messages):
            if message.upto is not None:
                entry = message.entry
                tag = entry.tag if entry.tag is not None else tag_of(entry.contributions, entry.asset, self._ids)
                if tag is not None:
                    wanted.append((at, (tag, message.upto, message.time_us)))
        if not wanted:
            return {}
        return dict(zip((at for at, _ in wanted), self._recent.explain([one for _, one in wanted]), strict=True))

    def _voice(self, model: str) -> _Voice:
        return self._voices.get(model) or _Voice(AlarmConfig(), None, False)

    def _delays_of(self, model: str, alarm: str) -> Delays:
        delays = self._delays.get((model, alarm))
        if delays is None:
            voice = self._voice(model)
            config = voice.config

            def of(subject: int) -> AlarmConfig:
                tag = self._tags.get(subject)
                return config if tag is None else config.of(tag.path)

            peaks = config.severity != "critical" and not voice.limits and not isinstance(voice.model, Factual)
            size = self._size + len(self._assets)
            delays = Delays(size, config, of=of if config.tags else None, peaks=peaks)
            self._delays[model, alarm] = delays
        return delays

    def _subjects(self, scores: pa.RecordBatch) -> Index:
        column = scores.column("tag")
        if column.null_count:
            pairs = zip(column.to_pylist(), scores.column("asset").to_pylist(), strict=True)
            return np.array([self._asset(str(asset)) if tag is None else tag for tag, asset in pairs], dtype=np.intp)
        found = column.to_numpy()
        if len(found) and (int(found.max()) >= self._size or int(found.min()) < 0):
            raise ValueError("a score names a tag that the alarm layer was not given")
        subjects: Index = found.astype(np.intp)
        return subjects

    def _asset(self, asset: str) -> int:
        at = self._assets.get(asset)
        if at is None:
            at = self._assets[asset] = len(self._names)
            self._names.append(asset)
        return self._size + at

    def _about(self, subject: int) -> tuple[Tag | None, str]:
        if subject < self._size:
            tag = self._tags[subject]
            return tag, tag.asset
        return None, self._names[subject - self._size]

    def replay(
        self,
        alerts: Iterable[pa.RecordBatch],
        *,
        fresh: Collection[str] = (),
        events: Iterable[pa.RecordBatch] = (),
        now: int = 0,
    ) -> pa.RecordBatch | None:
        """Take note of ALERT rows that are durable already, oldest first, so that rows scored once more tell nothing twice.

        Of models in `fresh` (they lost their state), of the gateway's own troubles, and of everything when no state was
        restored, nothing will be scored once more: there the rows themselves say what is open. EVENT rows, oldest first, say what was
        put aside since the state was stored. Returns what is still to be told: ALERT or None.
        """
        for batch in alerts:
            for row in batch.to_pylist():
                if row["model"] != GATEWAY and row["model"] not in fresh and self._restored:
                    self._book.note(row)
                else:
                    self._adopt(row)
        holds: dict[Key, Hold | None] = {}
        for batch in events:
            for row in batch.filter(pc.starts_with(batch.column("event"), "alarm_")).to_pylist():
                holds |= put_aside(row["event"], row["attributes"])
        messages = self._book.recall(holds, now)
        return alert_batch([*messages, *self._book.expired(now)]) if holds else None

    def _adopt(self, row: Mapping[str, object]) -> None:
        model, alarm = str(row["model"]), str(row["alarm"])
        if model in (GATEWAY, FLOOD):
            place = str(row["subject"]) if model == GATEWAY else str(row["asset"])
            self._book.adopt((model, alarm, place), row)
            if model == FLOOD:  # it counts anew, and ends when it is calm
                self._rationing.flood_since = self._clock if (model, alarm, place) in self._book.open else None
            return
        tag_id = row["tag"]
        tag = None if tag_id is None else self._tags.get(cast(int, tag_id))
        if model not in self._voices or (tag is None and tag_id is not None):
            return  # the model or the tag is gone
        alarm = alarm if tag is None else alarm.removeprefix(f"{tag.name}.")
        place = str(row["asset"]) if tag is None else tag.path
        entry = self._book.adopt((model, alarm, place), row)
        at = self._asset(place) if tag is None else tag.id
        delays = self._delays_of(model, alarm)
        delays.grow(self._size + len(self._assets))
        bar = entry.score if entry.score == entry.score else 0.0
        state = ACTIVE if entry.active else IDLE
        delays.put_back(at, (state, entry.since_us, entry.onset_seq or 0, entry.since_us, 0, False, bar, bar, 0))
        self._rationing.next_due = 0

    def snapshot(self) -> bytes:
        """Everything that is open, waiting, put aside or used up, by names and tag ids: the plant may change meanwhile."""
        waiting: list[Waiting] = []
        for (model, alarm), delays in self._delays.items():
            for subject, waits in delays.waiting(self._clock - 86_400_000_000):
                tag, asset = self._about(subject)
                waiting.append((model, alarm, None if tag is None else tag.id, asset, waits))
        told = {"book": self._book.written(waiting), "rationing": self._rationing.written(), "clock": self._clock}
        return pack(_KIND, _VERSION, "", {"book": text_array(json.dumps(told, ensure_ascii=False))})

    def restore(self, state: bytes) -> None:
        """Take over a state, also one of version 1; what was about tags that are gone is dropped.

        Raises StateMismatch, and then nothing has changed.
        """
        try:
            arrays, version = unpack(state, _KIND, _VERSION, ""), _VERSION
        except StateMismatch:
            try:
                arrays, version = unpack(state, _KIND, 1, ""), 1
            except StateMismatch:
                arrays, version = unpack(state, _KIND, _VERSION, ""), _VERSION  # says what is wrong
        if "book" not in arrays:
            raise StateMismatch("the stored alarms are damaged: no book")
        rationing = Rationing(self._site)
        try:
            told = json.loads(array_text(arrays["book"]))
            book, clock = (told["book"], int(told["clock"])) if version == _VERSION else (told, 0)
            if version == _VERSION:
                rationing.read(told["rationing"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatch(f"the stored alarms are damaged: {error}") from error
        waiting = self._book.read(book)
        self._rationing, self._clock = rationing, clock
        self._book.open = {key: entry for key, entry in self._book.open.items() if entry.tag is None or entry.tag in self._tags}
        self._delays.clear()
        for model, alarm, tag, asset, waits in waiting:
            if model in self._voices and (tag is None or tag in self._tags):
                at = self._asset(asset) if tag is None else tag
                delays = self._delays_of(model, alarm)
                delays.grow(self._size + len(self._assets))
                delays.put_back(at, waits)
        self._restored = True


def _some(message: Message | None) -> list[Message]:
    return [] if message is None else [message]
