"""From configuration to tags: each point of each device with its path, unit, type and scan class."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from adapters.base import AdapterConfig, BoundTag, DeviceConfig, LimitsConfig, TagConfig, devices_of
from schemas.asset import join, segments
from schemas.tags import Limits, Tag
from schemas.units import normalise
from schemas.values import Duration

from .places import Loc, Section, find
from .report import Report

DEFAULT_SCAN = Duration("1s")
_NO_NAMES: Final[Mapping[int, str]] = {}


@dataclass(slots=True)
class Resolver:
    """Resolves adapter after adapter of one plant and watches over the paths of all of them."""

    prefix: str  # enterprise/site
    root: Section
    report: Report
    tags: list[Tag] = field(default_factory=list)
    places: dict[str, Loc] = field(default_factory=dict)
    _folded: dict[str, str] = field(default_factory=dict)

    def adapter(self, name: str, config: AdapterConfig) -> tuple[BoundTag[TagConfig], ...]:
        """The bound tags of one connection, in the order of the file."""
        made: list[BoundTag[TagConfig]] = []
        devices: Mapping[str, DeviceConfig[TagConfig]] = devices_of(name, config)
        several = bool(getattr(config, "devices", None))
        if config.timeout <= 0:
            self.report.at("E015", self.root, ("adapters", name, "timeout"), "must be longer than 0s")
        for key, device in devices.items():
            loc: Loc = ("adapters", name, "devices", key) if several else ("adapters", name)
            if not getattr(device, "tags", None):
                if self.report.failed and find(self.root, (*loc, "tags")).loc == (*loc, "tags"):
                    continue  # the file of its tags could not be read, which was said
                what = "device" if several else "connection"
                self.report.at("W021", self.root, loc, f"nothing is read: the {what} has no tags", on="key")
                continue
            for tag_key, tag_config in device.tags.items():
                tag = self._tag(tag_key, tag_config, name, key, device, (*loc, "tags", tag_key))
                if tag is not None:
                    made.append(BoundTag(tag, tag_config, key))
        self.tags += [bound.tag for bound in made]
        return tuple(made)

    def _tag(
        self, key: str, config: TagConfig, adapter: str, device_key: str, device: DeviceConfig[TagConfig], loc: Loc
    ) -> Tag | None:
        name = config.name or key
        own = loc[:-2] if config.asset is None else loc
        path = self._path(config.asset or device.asset or device_key, name, (*own, "asset"), loc)
        if path is None or not self._unique(path, loc):
            return None
        value_type = config.value_type()
        if config.limits is not None:
            self._limits(config.limits, (*loc, "limits"))
            if value_type != "number":
                what = {"text": "text", "samples": "a waveform", "integer": "a 64-bit integer kept exact"}[value_type]
                self.report.at("E034", self.root, (*loc, "limits"), f"limits compare numbers, and this tag is {what}", on="key")
            elif config.unit is None and not config.enum:
                self.report.at(
                    "W030", self.root, (*loc, "limits"), "limits without a unit", on="key", hint="add `unit:`, `1` for none"
                )
        if config.report_at_least is not None and not config.deadband:
            hint = "add `deadband:`, or delete it: every reading is reported anyway"
            self.report.at(
                "W031", self.root, (*loc, "report_at_least"), "changes nothing without a deadband", on="key", hint=hint
            )
        scan = next(span for span in (config.scan, device.scan, DEFAULT_SCAN) if span is not None)
        if scan <= 0:
            owner = loc if config.scan is not None else loc[:-2]
            self.report.at("E015", self.root, (*owner, "scan"), "must be longer than 0s")
        if config.scale == 0:
            self.report.at("E018", self.root, (*loc, "scale"), "a scale of 0 makes every value the same")
        return Tag(
            path=path,
            asset=sys.intern(path.removesuffix(f"/{name}")),  # one text for all tags of an asset
            name=name,
            adapter=adapter,
            device=device_key,
            address=config.wire_address(),
            value_type=value_type,
            unit=self._unit(config.unit, (*loc, "unit")),
            label=config.label,
            description=config.description,
            period_us=scan.us,
            deadband=config.deadband,
            report_at_least_us=config.report_at_least.us if config.report_at_least is not None else 0,
            limits=Limits(**dict(config.limits)) if config.limits is not None else None,
            severity=config.severity,
            action=config.action,
            enum=config.enum or _NO_NAMES,
        )

    def _path(self, asset: str, name: str, asset_loc: Loc, loc: Loc) -> str | None:
        hint = "asset and name are parts of a path such as stamping/line-2/press-07/motor_temp"
        try:
            segments(asset)
        except ValueError:
            self.report.at("E017", self.root, asset_loc, f"the asset {asset!r} is not usable in a path", hint=hint)
            return None
        if "/" in name:
            hint = "write the asset with `asset:`, the name with `name:`"
            self.report.at("E017", self.root, loc, f"the name {name!r} may not hold a `/`", on="key", hint=hint)
            return None
        try:
            return join(self.prefix, asset, name)
        except ValueError:
            self.report.at("E017", self.root, loc, f"the name {name!r} is not usable in a path", on="key", hint=hint)
            return None

    def _unique(self, path: str, loc: Loc) -> bool:
        """Whether no tag before has this path, also in other letter case."""
        folded = unicodedata.normalize("NFC", path).casefold()
        other = self._folded.setdefault(folded, path)
        if path not in self.places:
            self.places[path] = loc
            if other == path:
                return True
            self.report.at(
                "E033", self.root, loc, f"{path} and {other} differ only in letter case", on="key", hint=self._elsewhere(other)
            )
            return False
        self.report.at("E032", self.root, loc, f"there are two tags {path}", on="key", hint=self._elsewhere(path))
        return False

    def _elsewhere(self, path: str) -> str:
        spot = find(self.root, self.places[path]).spot
        return f"the other is at {spot.source.name}:{spot.key().line + 1}" if spot is not None else ""

    def _limits(self, limits: LimitsConfig, loc: Loc) -> None:
        written = list(_written(limits))
        for (lower_name, lower), (upper_name, upper) in pairwise(written):
            if lower >= upper:
                message = f"{lower_name} ({lower:g}) must be below {upper_name} ({upper:g})"
                self.report.at("E031", self.root, (*loc, lower_name), message, hint="low_low < low < high < high_high")

    def _unit(self, unit: str | None, loc: Loc) -> str:
        if unit is None:
            return "1"
        try:
            return normalise(unit)
        except ValueError as error:
            text, comma, hint = str(error).partition(", did you mean ")
            self.report.at("E030", self.root, loc, text, hint=f"did you mean {hint}" if comma else "")
            return "1"


def _written(limits: LimitsConfig) -> Iterator[tuple[str, float]]:
    for name in ("low_low", "low", "high", "high_high"):
        value: float | None = getattr(limits, name)
        if value is not None:
            yield name, value
