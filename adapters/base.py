"""What an adapter is: configuration classes, the context it is built with, and the contract it keeps.

A protocol's folder has the same rooms everywhere: `config.py` (YAML model), `plan.py` (pure: tags to few requests and numpy
decoding), `adapter.py` (the connection), `simulator.py` (a real server of the protocol from the same YAML), and `__init__.py`
with `PLUGIN`. Importing the folder imports no protocol library.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from schemas.certificates import CertificateFact
from schemas.clock import Clock
from schemas.data import Kind
from schemas.tags import Severity, Tag, ValueType
from schemas.values import Duration, Size, Strict

if TYPE_CHECKING:  # Arrow, and the log with its console, are not needed to read a configuration
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import structlog

    from .capture import Recorder
    from .playback import Player
    from .simulation import Signals


class LimitsConfig(Strict):
    """Alarm limits of one tag, in its unit. `high`/`low` raise a warning, `high_high`/`low_low` a critical alarm."""

    low_low: float | None = Field(None, description="Critical below this value.")
    low: float | None = Field(None, description="Warning below this value.")
    high: float | None = Field(None, description="Warning above this value.")
    high_high: float | None = Field(None, description="Critical above this value.")
    hysteresis: float = Field(0.0, ge=0, description="How far the value must come back before the alarm clears.")


class TagConfig(Strict):
    """One tag. Each protocol adds its own options and reads `address` and `type` its own way."""

    address: str | int = Field(description="Where the value is, in the protocol's own spelling.")
    type: str = Field(description="Data type on the wire.")
    name: str | None = Field(None, description="Name of the tag; by default its key.")
    asset: str | None = Field(None, description="Asset path below enterprise/site; by default the device's.")
    unit: str | None = Field(None, description="Unit in UCUM or its everyday spelling: `°C`, `mm/s`, `kN`, `1` for none.")
    label: str = Field("", description="Name for people, any language.")
    description: str = Field("", description="What the tag measures.")
    scan: Duration | None = Field(None, description="Scan class; by default the device's.")
    scale: float = Field(1.0, description="value = raw * scale + offset.")
    offset: float = Field(0.0, description="value = raw * scale + offset.")
    enum: Mapping[int, str] | None = Field(None, description="Names of the values of a state tag.")
    limits: LimitsConfig | None = Field(None, description="Alarm limits; watched without a model entry.")
    severity: Severity | None = Field(None, description="Severity of this tag's limit alarms, instead of the default.")
    action: str = Field("", description="What a person does when a limit alarm of this tag comes.")
    deadband: float = Field(0.0, ge=0, description="A change smaller than this is seen by models and not reported.")
    report_at_least: Duration | None = Field(None, description="Report at least this often, deadband or not.")

    def wire_address(self) -> str:
        """The address in the protocol's canonical spelling, echoed wherever people see the tag."""
        return str(self.address)

    def value_type(self) -> ValueType:
        """Which column of a reading holds the value. Each protocol derives it from `type`, `scale` and `offset`."""
        return "number"


TagT = TypeVar("TagT", bound=TagConfig)


class DeviceConfig(Strict, Generic[TagT]):
    """One device on a connection. All of it may stand at the connection itself when there is only one device."""

    asset: str | None = Field(None, description="Asset path below enterprise/site; by default the device's name.")
    template: str | None = Field(None, description="Name of an entry of `templates` whose options this device takes over.")
    scan: Duration | None = Field(None, description="Default scan class of its tags; 1s if nothing says otherwise.")
    tags: Mapping[str, SerializeAsAny[TagT]] = Field(default_factory=dict, description="Tags by name, or `{file: tags.csv}`.")


class CaptureConfig(Strict):
    """A file that keeps the exchanges with one device."""

    file: Path = Field(description="Its path; a former one is kept as FILE.1.", examples=["captures/press-07.capture"])
    max_size: Size = Field(Size("16 MB"), description="When the file has this size, the capture ends.")


def _path_alone(given: object) -> object:
    return {"file": given} if isinstance(given, (str, Path)) else given


LEAST_MEMORY: Final = Size("160 MB")
"""What an isolated adapter needs to begin at all; idle it has 86 to 109 MB."""


class AdapterConfig(Strict):
    """One connection. A protocol's configuration class inherits from this and from its own device class.

    When no `devices` are written the connection is itself its one device (it is an instance of the device class), so
    `devices_of` gives the same view of both spellings. Options at the connection are defaults for its devices.
    """

    records: ClassVar[bool] = False
    """Whether the adapter records and plays `AdapterContext.tape`."""
    replays: ClassVar[bool] = False
    """Whether the source can be read again from any place. The gateway then notes how far the durable rows reach, and
    `AdapterContext.reached` says so after a restart. Readings of such an adapter bear the origin `replay`, its events `replay_mark`."""
    kind: str = Field(description="The protocol.")
    endpoint: str = Field(description="Where the device is.")
    timeout: Duration = Field(Duration("2s"), description="Deadline for one request.")
    isolation: Literal["none", "process"] = Field(
        "none", description="`process`: the adapter runs in a process of its own, so that whatever it does costs only itself."
    )
    memory_limit: Size = Field(
        Size("512 MB"),
        description="Memory of that process; above it, it is ended and started anew. For `isolation: process` only.",
    )

    capture: Annotated[CaptureConfig, BeforeValidator(_path_alone, json_schema_input_type=Path | CaptureConfig)] | None = Field(
        None, description="File that keeps what goes over the wire, for `genba decode`: its path, or `{file: …, max_size: …}`."
    )

    @field_validator("capture", mode="after")
    @classmethod
    def _can_capture(cls, capture: CaptureConfig | None) -> CaptureConfig | None:
        if capture is not None and not cls.records:
            raise ValueError("adapters of this kind keep no capture yet; delete it")
        return capture

    @field_validator("memory_limit", mode="after")
    @classmethod
    def _room_to_begin(cls, memory_limit: Size) -> Size:
        if memory_limit < LEAST_MEMORY:
            raise ValueError(f"an adapter needs {LEAST_MEMORY} to begin; write {LEAST_MEMORY} or more")
        return memory_limit


def devices_of(name: str, config: AdapterConfig) -> Mapping[str, DeviceConfig[TagConfig]]:
    """The devices of a connection by key; a connection that is its own device has itself below its own name."""
    devices: Mapping[str, DeviceConfig[TagConfig]] = getattr(config, "devices", None) or {}
    if devices:
        return devices
    return {name: cast("DeviceConfig[TagConfig]", config)}


@dataclass(frozen=True, slots=True)
class BoundTag(Generic[TagT]):
    """A resolved tag (with its id) beside the configuration it came from. `device` is the key for `devices_of`."""

    tag: Tag
    config: TagT
    device: str


@dataclass(frozen=True, slots=True)
class Mark:
    """How far rows of one kind reach in a source that is sorted by time: up to `time_us`, of which `rows` were the last."""

    time_us: int
    rows: int

    def followed_by(self, times_us: npt.NDArray[np.int64]) -> Mark:
        """The mark behind further rows (not empty, in order of time)."""
        last = int(times_us[-1])
        rows = len(times_us) - int(times_us.searchsorted(last))
        return Mark(last, rows + (self.rows if rows == len(times_us) and last == self.time_us else 0))


START: Final = Mark(-(2**63), 0)
"""Before everything."""


def replay_mark(adapter: str) -> str:
    """What stands in `attributes` of the events that an adapter replays: one entry of the JSON object, as text."""
    return f'"replayed_by": {json.dumps(adapter, ensure_ascii=False)}'


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """What the gateway hands to an adapter. `directory` is private to it and survives restarts.

    `base` is the directory of the YAML file: relative paths in the adapter's options are relative to it. `last_seen_us` is the time up
    to which the previous run of the gateway has everything, None when there was none. `tape` records what goes over the wire where
    `capture` asks for it, or plays it in place of a device. `reached` is up to where the spool has the rows of the source, by kind, for adapters
    with `replays`; it moves along.
    """

    name: str
    tags: Sequence[BoundTag[TagConfig]]
    clock: Clock
    directory: Path
    log: structlog.stdlib.BoundLogger
    time_zone: str = "UTC"
    base: Path = Path()
    last_seen_us: int | None = None
    tape: Recorder | Player | None = None
    reached: Mapping[Kind, Mark] = field(default_factory=dict)


class Adapter(Protocol):
    """Reads one connection. One task owns it; nothing else touches it.

    Order: `connect`, then `batches` until it raises or ends, then `aclose`. After `NotConnected` the supervisor waits with
    back-off and calls `connect` again on the same object; an adapter keeps nothing per failed attempt. Nothing here blocks
    the event loop, and each exchange with the device has a total deadline (`timeout`).
    """

    async def connect(self) -> None:
        """Reach the device. Raises NotConnected (it is not there; reconnect) or ConfigError (a person must act)."""
        ...

    def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """Telemetry, event or gap batches of 1 … max_rows rows, in the order in which the values were seen.

        A polling adapter yields one batch per poll and scan class on the drift-free schedule t0 + n*period; a late poll skips
        to the next slot. A reading that failed is a row too, null with its quality code; the others of that poll stand.
        Raises NotConnected when the connection is lost, EndOfStream when there will never be more.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything. Idempotent, legal before `connect` and after any error; takes less than the timeout."""
        ...


@runtime_checkable
class Certified(Protocol):
    """An adapter whose connection rests on certificates. The gateway shows when they expire and raises an alarm in time."""

    def certificates(self) -> Sequence[CertificateFact]:
        """Those of the last connection that stood, at most one per owner; empty before. Cheap, may be called from another thread."""
        ...


@dataclass(frozen=True, slots=True)
class SimulatorContext:
    """What a simulator is built with: the tags of its entry and the signals of the simulated plant."""

    name: str
    tags: Sequence[BoundTag[TagConfig]]
    signals: Signals
    time_zone: str = "UTC"


class Simulator(Protocol):
    """A real server of the protocol on loopback that serves the address map of one configuration entry."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen (port 0: any free one) and return the endpoint in the spelling of the YAML file."""
        ...

    async def aclose(self) -> None:
        """Stop listening and drop every client. Idempotent."""
        ...
