"""The alarm layer: scores in, alerts out, one message a transition. Shared by all models; pure, its time is that of the rows.

States and names follow ISA-18.2 (IEC 62682): unacknowledged, acknowledged, returned (normal again, not acknowledged yet),
normal, shelved, suppressed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StateMismatch
from schemas.kinds import SCORE
from schemas.span import Command
from schemas.tags import Severity, Tag

from .alarm_book import GATEWAY, Book, Waiting
from .alarm_records import Entry, Message, alert_batch, occurrence
from .base import AlarmConfig, EdgeModel, Explains, Grades, Measures, ScoreRow
from .delays import ACTIVE, Delays, Turn
from .sentences import number, quantity
from .slots import Bools, Floats, Index, Times
from .state import array_text, pack, text_array, unpack

_KIND: Final = "alarms"
_VERSION: Final = 1
_SCORE, _LIMIT = SCORE.get_field_index("score"), SCORE.get_field_index("limit")


@dataclass(frozen=True, slots=True)
class _Voice:
    """How the alarms of one model speak."""

    config: AlarmConfig
    model: object  # asked whether it explains or grades
    limits: bool  # plain limits: no budget, and `limit` is in the unit of the tag


class AlarmLayer:
    """Turns scores into alarms; at most one occurrence per model, alarm and subject is open at a time.

    A score at or above its limit for `on_delay` raises, one below the limit less `hysteresis` for `off_delay` clears; a null
    score (bad reading, not warm) changes nothing; a tag whose gate is shut clears at once. An occurrence's id is a hash of model,
    alarm, subject and the row number of its onset.
    """

    def __init__(self, tags: Sequence[Tag]) -> None:
        self._tags = {tag.id: tag for tag in tags}
        self._size = max(self._tags, default=-1) + 1
        self._assets: list[str] = []  # subjects that are assets, behind the tags
        self._voices: dict[str, _Voice] = {}
        self._delays: dict[tuple[str, str], Delays] = {}
        self._book = Book()
        self._restored = False

    def add(self, name: str, config: AlarmConfig, model: EdgeModel | None = None, *, limits: bool = False) -> None:
        """Make a model known by its name. `limits`: its alarms know no budget, and their limit is the tag's."""
        self._voices[name] = _Voice(config, model, limits)

    def update(self, scores: pa.RecordBatch, now: int, *, inactive: Bools | None = None) -> pa.RecordBatch | None:
        """SCORE(n) of any models and alarms -> ALERT or None. `inactive` bool[n] marks rows of tags whose gate is shut."""
        messages = self.expired(now)
        pairs = _pairs(scores)
        for model, alarm in pairs:
            part, shut = scores, inactive
            if len(pairs) > 1:
                chosen = pc.and_(pc.equal(scores.column("model"), model), pc.equal(scores.column("alarm"), alarm)).fill_null(
                    False
                )
                part = scores.filter(chosen)
                shut = None if inactive is None else inactive[chosen.to_numpy(zero_copy_only=False)]
            messages += self.feed(model, alarm, part, inactive=shut)
        return alert_batch(messages)

    def feed(self, model: str, alarm: str, scores: pa.RecordBatch, *, inactive: Bools | None = None) -> list[Message]:
        """The same for rows of one model and alarm, without a look at the shelves. Costs next to nothing while all is well."""
        delays = self._delays_of(model, alarm)
        score: Floats = scores.column(_SCORE).to_numpy(zero_copy_only=False)
        limit: Floats = scores.column(_LIMIT).to_numpy(zero_copy_only=False)
        if delays.is_quiet(score, limit):
            return []
        subject = self._subjects(scores)
        delays.grow(self._size + len(self._assets))
        time: Times = scores.column("time").view(pa.int64()).to_numpy(zero_copy_only=False)
        seq = scores.column("seq").fill_null(-1).to_numpy()
        turns = delays.turns(subject, seq, time, score, limit, inactive)
        voice = self._voice(model)
        told = [self._turn(model, alarm, voice, scores, turn, int(time[turn.row])) for turn in turns]
        return [message for message in told if message is not None]

    def expired(self, now: int) -> list[Message]:
        """Shelves whose time is over at `now` (µs)."""
        return self._book.expired(now)

    def condition(
        self, alarm: str, *, subject: str, asset: str, active: bool, now: int, severity: Severity, problem: str, action: str
    ) -> pa.RecordBatch | None:
        """One of the gateway's own troubles as it is at `now` (µs); call it as often as you like. ALERT at a transition, else None.

        `alarm` and `subject` identify it. A change of severity while it is active is told as `changed`.
        """
        message = self._book.condition(
            alarm, subject=subject, asset=asset, active=active, now=now, severity=severity, problem=problem, action=action
        )
        return alert_batch([*self.expired(now), *([message] if message else [])])

    def command(self, command: Command, now: int) -> pa.RecordBatch | None:
        """`acknowledge {id}`, `shelve {id, for: 8h}`, `unshelve {id}` -> ALERT, or None when there is nothing to change.

        Raises KeyError for an id that is not open, ValueError for another command or a span without unit.
        """
        message = self._book.command(command, now)
        return alert_batch([*([message] if message else []), *self.expired(now)])

    def active(self) -> list[Entry]:
        """What an operator's list shows: everything open that is not suppressed, the most serious first, then the newest."""
        return self._book.listed()

    def _turn(self, model: str, alarm: str, voice: _Voice, scores: pa.RecordBatch, turn: Turn, time: int) -> Message | None:
        tag, asset = self._about(turn.subject)
        key = (model, alarm, asset if tag is None else tag.path)
        if tag is not None and isinstance(voice.model, Measures):
            tag = voice.model.measured(tag, alarm)
        row = _score_row(alarm, scores, turn.row)
        if not turn.comes:
            entry = self._book.open.get(key)
            if entry is None:
                return None
            _measure(entry, row, limits=voice.limits)
            value = f": {quantity(row.value, tag)}" if tag is not None and row.value == row.value else ""
            return self._book.close(key, time, f"{entry.subject} is normal again{value}")
        severity, action = voice.config.severity, voice.config.action
        if tag is not None and isinstance(voice.model, Grades):
            severity, action = voice.model.severity(tag, alarm), voice.model.action(tag, alarm) or action
        entry = Entry(
            id=occurrence(*key, turn.onset_seq),
            model=model,
            alarm=alarm if tag is None else f"{tag.name}.{alarm}",
            tag=None if tag is None else tag.id,
            asset=asset,
            subject=asset.rsplit("/", 1)[-1] if tag is None else tag.display,
            severity=severity,
            problem=_problem(voice, tag, asset, row),
            action=action,
            since_us=turn.onset_time,
            onset_seq=turn.onset_seq,
            unit=None if tag is None else tag.unit,
            contributions=scores.column("contributions")[turn.row].as_py(),
        )
        _measure(entry, row, limits=voice.limits)
        budget = voice.config.budget_per_asset
        if budget is not None and not voice.limits and severity != "critical":
            granted = self._book.budget.take(model, asset, float(budget), time)
            entry.state = "unacknowledged" if granted else "suppressed"
        return self._book.enter(key, entry, time)

    def _voice(self, model: str) -> _Voice:
        return self._voices.get(model) or _Voice(AlarmConfig(), None, False)

    def _delays_of(self, model: str, alarm: str) -> Delays:
        delays = self._delays.get((model, alarm))
        if delays is None:
            delays = self._delays[model, alarm] = Delays(self._size + len(self._assets), self._voice(model).config)
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
        if asset not in self._assets:
            self._assets.append(asset)
        return self._size + self._assets.index(asset)

    def _about(self, subject: int) -> tuple[Tag | None, str]:
        if subject < self._size:
            tag = self._tags[subject]
            return tag, tag.asset
        return None, self._assets[subject - self._size]

    def replay(self, alerts: Iterable[pa.RecordBatch], *, fresh: Collection[str] = ()) -> None:
        """Take note of ALERT rows that are durable already, oldest first, so that rows scored once more tell nothing twice.

        Of models in `fresh` (they lost their state), of the gateway's own troubles, and of everything when no state was
        restored, nothing will be scored once more: there the rows themselves say what is open.
        """
        for batch in alerts:
            for row in batch.to_pylist():
                if row["model"] != GATEWAY and row["model"] not in fresh and self._restored:
                    self._book.note(row)
                else:
                    self._adopt(row)

    def _adopt(self, row: Mapping[str, object]) -> None:
        model, alarm = str(row["model"]), str(row["alarm"])
        if model == GATEWAY:
            self._book.adopt((model, alarm, str(row["subject"])), row)
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
        delays.put_back(at, ACTIVE if entry.active else 0, entry.since_us, entry.onset_seq or 0, entry.since_us)

    def snapshot(self) -> bytes:
        """Everything that is open, waiting, shelved or used up, by names and tag ids: the plant may change meanwhile."""
        waiting: list[Waiting] = []
        for (model, alarm), delays in self._delays.items():
            for subject, state, t0, seq, onset in delays.waiting():
                tag, asset = self._about(subject)
                waiting.append((model, alarm, None if tag is None else tag.id, asset, state, t0, seq, onset))
        told = self._book.written(waiting)
        return pack(_KIND, _VERSION, "", {"book": text_array(told)})

    def restore(self, state: bytes) -> None:
        """Take over a state; what was about tags that are gone is dropped. Raises StateMismatch, and then nothing has changed."""
        arrays = unpack(state, _KIND, _VERSION, "")
        if "book" not in arrays:
            raise StateMismatch("the stored alarms are damaged: no book")
        told = array_text(arrays["book"])
        waiting = self._book.read(told)
        self._book.open = {key: entry for key, entry in self._book.open.items() if entry.tag is None or entry.tag in self._tags}
        self._delays.clear()
        for model, alarm, tag, asset, *fields in waiting:
            if model in self._voices and (tag is None or tag in self._tags):
                at = self._asset(asset) if tag is None else tag
                delays = self._delays_of(model, alarm)
                delays.grow(self._size + len(self._assets))
                delays.put_back(at, *fields)
        self._restored = True


def _measure(entry: Entry, row: ScoreRow, *, limits: bool) -> None:
    entry.value, entry.score, entry.low, entry.high = row.value, row.score, row.low, row.high
    entry.limit = row.limit if not limits else row.low if row.low == row.low else row.high


def _problem(voice: _Voice, tag: Tag | None, asset: str, row: ScoreRow) -> str:
    if tag is not None and isinstance(voice.model, Explains):
        return voice.model.problem(tag, row)
    what = asset.rsplit("/", 1)[-1] if tag is None else f"{tag.display} at {quantity(row.value, tag)}"
    return f"{what} is unusual, its score is {number(row.score)} of 1"


def _score_row(alarm: str, scores: pa.RecordBatch, row: int) -> ScoreRow:
    def of(name: str) -> float:
        found = scores.column(name)[row].as_py()
        return float("nan") if found is None else float(found)

    since = scores.column("since")[row]
    return ScoreRow(
        alarm=alarm, time_us=scores.column("time")[row].value, since_us=since.value if since.is_valid else None,
        value=of("value"), score=of("score"), limit=of("limit"), low=of("low"), high=of("high"),
        contributions=scores.column("contributions")[row].as_py(),
    )  # fmt: skip


def _pairs(scores: pa.RecordBatch) -> list[tuple[str, str]]:
    if scores.num_rows == 0:
        return []
    models, alarms = (pc.unique(scores.column(name)).to_pylist() for name in ("model", "alarm"))
    if len(models) == len(alarms) == 1:
        return [(models[0], alarms[0])]
    return list(dict.fromkeys(zip(scores.column("model").to_pylist(), scores.column("alarm").to_pylist(), strict=True)))
