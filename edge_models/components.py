"""Principal components of many assets at once, and how far rows lie in their plane (T²) and off it (SPE).

Arrays have the asset last: [tag, asset], [tag, component, asset], the largest component first. Sums go one term after the other, so
that an asset has the same result whatever assets are beside it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .slots import Bools, Floats

Singles = npt.NDArray[np.float32]

_FLOOR: Final = 1e-3  # least variance of a direction, as a share of the mean one: exact copies of a tag would have none
_TEMPER: Final = 0.1  # how much of the mean variance off the plane is added to that of each direction there


class Components(NamedTuple):
    """What a correlation is made of. `plane` and `off` are what the squared components weigh in T² and SPE, each of which is 1 on average."""

    axes: Floats  # [tag, component, asset]
    plane: Floats  # [component, asset]
    off: Floats  # [component, asset]
    found: Bools  # [asset]: there is any variance


def components(correlation: Floats, part: Bools, explained: float) -> Components:
    """Of `correlation` float64[tag, tag, asset]; tags that have no `part` (bool[tag, asset]) are zero in it.

    The plane takes the largest components until `explained` of the variance is in it, and leaves one out where there are two tags.
    """
    both = (correlation + correlation.transpose(1, 0, 2)) / 2
    value, axes = np.linalg.eigh(both.transpose(2, 0, 1))
    value, axes = value[:, ::-1].T, axes[:, :, ::-1].transpose(1, 2, 0)
    tags = part.sum(axis=0)
    nth = np.arange(len(value))[:, None]
    real = nth < tags
    value = np.where(real, value, 0.0)
    total = added(value)
    value = np.where(real, np.maximum(value, _FLOOR * total / np.maximum(tags, 1)), 0.0)
    before = np.cumsum(value, axis=0) - value
    inside = real & (before < explained * added(value)) & (nth < np.maximum(tags - 1, 1))
    outside = real & ~inside
    plane = np.where(inside, 1.0 / np.where(value > 0, value, 1.0) / np.maximum(inside.sum(axis=0), 1), 0.0)
    # Directions off the plane weigh by their own variance, tempered: a quiet one must not drown in a noisy one, nor rounding be a fault.
    tempered = value + _TEMPER * added(np.where(outside, value, 0.0)) / np.maximum(outside.sum(axis=0), 1)
    rest = added(np.where(outside, value / np.where(outside, tempered, 1.0), 0.0))
    off = np.where(outside, 1.0 / np.where(outside, tempered * np.where(rest > 0, rest, 1.0), 1.0), 0.0)
    return Components(axes, plane, off, (tags > 0) & (total > 0))


def statistics(standard: Singles, axes: Singles, plane: Singles, off: Singles) -> tuple[Singles, Singles, Singles]:
    """Components, T² and SPE of standardised rows [tag, asset]."""
    part = standard[0] * axes[0]
    for tag in range(1, len(standard)):
        part += standard[tag] * axes[tag]
    power = part * part
    return part, added(power * plane), added(power * off)


def size(plane: Singles, off: Singles) -> Floats:
    """The greater of T² and SPE as a number that is nearly Gaussian: the cube root of a χ² over its degrees of freedom."""
    found: Floats = np.cbrt(np.maximum(plane, off).astype(np.float64))
    return found


def added(parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sum over the first axis, one after the other."""
    total: npt.NDArray[Any] = parts[0].copy() if len(parts) else np.zeros(parts.shape[1:])
    for one in parts[1:]:
        total += one
    return total
