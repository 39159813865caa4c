"""Which rows go to which sink. Pure: rules and tags in, masks out.

Rules are a union: a row goes to every sink that any rule names. A kind named in any rule loses its default; `to: []` sends it
nowhere on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.asset import matches_any
from schemas.data import Kind
from schemas.tags import Tag

from .destinations import DEFAULTS as DEFAULTS
from .destinations import TOLD, Rule
from .destinations import destinations as destinations


class Router:
    """Selects the rows of a batch for one sink.

    Telemetry inside its deadband (`thinned`) is passed over for every sink. An alert that is held back (`suppressed`) is for those who
    look, not for those who are told: the sinks of `TOLD` do not get it. A rule with tag patterns takes only rows of tags
    that fit; rows without a tag (events of the gateway) fit only rules without patterns.
    """

    def __init__(self, rules: Iterable[Rule] | None, sinks: Mapping[str, str], tags: Iterable[Tag]) -> None:
        rules = list(rules or ())
        self.destinations = destinations(rules, sinks)
        self._paths = {tag.id: tag.path for tag in tags}
        self._told = {name for name, kind in sinks.items() if kind in TOLD}
        self._masks: dict[tuple[Kind, str], npt.NDArray[np.bool_]] = {}
        for kind, names in self.destinations.items():
            for name in names:
                mine = [rule for rule in rules if rule.data == kind and name in rule.to]
                if mine and all(rule.tags for rule in mine):
                    patterns = [pattern for rule in mine for pattern in rule.tags]
                    mask = np.zeros(max(self._paths, default=-1) + 1, dtype=bool)
                    for tag_id, path in self._paths.items():
                        mask[tag_id] = matches_any(path, patterns)
                    self._masks[kind, name] = mask

    def select(self, kind: Kind, sink: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of `batch` that belong to `sink`, in order. The same batch when all do."""
        keep: npt.NDArray[np.bool_] | None = None
        if kind == "telemetry":
            thinned = batch.column("thinned")
            if thinned.null_count < len(thinned):
                keep = ~thinned.fill_null(False).to_numpy(zero_copy_only=False)
        elif kind == "alert" and sink in self._told:
            held = pc.equal(batch.column("transition"), "suppressed").fill_null(False)
            keep = ~held.to_numpy(zero_copy_only=False)
        mask = self._masks.get((kind, sink))
        if mask is not None:
            tag = batch.column("tag")
            ids = tag.fill_null(-1).to_numpy() if tag.null_count else tag.to_numpy()
            known = (ids >= 0) & (ids < len(mask))
            fits = np.zeros(len(ids), dtype=bool)
            fits[known] = mask[ids[known]]
            keep = fits if keep is None else keep & fits
        if keep is None or keep.all():
            return batch
        return batch.filter(pa.array(keep))

    def selects_all(self, kind: Kind, sink: str) -> bool:
        """True when no rule narrows this kind for this sink by tags."""
        return (kind, sink) not in self._masks


def total_rows(batches: Sequence[pa.RecordBatch]) -> int:
    """Rows over several batches."""
    return sum(batch.num_rows for batch in batches)
