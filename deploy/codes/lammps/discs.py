"""Atoms as shaded discs.

Place: picture.py says where on the canvas the atoms are and which colours they have.

How: a z-buffer of 64-bit keys (depth above, number of the atom below) into which the atoms are laid disc pixel by disc
pixel, all atoms at once; then colour and light for the pixels that were hit. The time is atoms times pixels of a disc:
atoms that cannot be seen are left out first, and discs of very many atoms are small.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

LIGHT = np.array([-0.45, 0.55, 0.70])  # right, up, towards the viewer
DISC_PIXELS_MAX = 60_000_000  # atoms times pixels of a disc: one to two seconds
CELLS_MAX = 4_000_000
LOOK_RADIUS_MIN = 4.0
BLOCK_PIXELS = 1 << 15  # lit at once: what the processor's cache holds
ATOM = (1 << 32) - 1  # the lower bits of a key
FAR_SHADE = 0.42  # the light that is left at the far side

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def lay_atoms(image: Image.Image, seen: Floats, radius: float, colours: Floats) -> None:
    """Draw discs of one radius at columns, rows and depths (larger is nearer), in the order of their depths."""
    width, height = image.size
    border = math.ceil(radius) + 1
    inside = (
        (seen[:, 0] > -border) & (seen[:, 0] < width + border) & (seen[:, 1] > -border) & (seen[:, 1] < height + border)
    )
    seen, colours = seen[inside], colours[inside]
    seen[:, 2] = np.clip(np.nan_to_num(seen[:, 2]), -10 * width, 10 * width)
    if not len(seen):
        return
    shown = _shown(seen, radius, width, height)
    seen, colours = seen[shown], colours[shown]
    keys = _keys(seen, radius, width, height)
    rows, columns = np.nonzero(keys >= 0)
    canvas = np.array(image)
    like = _like(seen, radius, colours)
    for first in range(0, len(rows), BLOCK_PIXELS):
        here = rows[first : first + BLOCK_PIXELS], columns[first : first + BLOCK_PIXELS]
        canvas[here] = _lit(like[keys[here] & ATOM], radius, *here)
    image.paste(Image.fromarray(canvas, "RGB"))


def _shown(seen: Floats, radius: float, width: int, height: int) -> Ints:
    """Return the atoms to draw. A look at half the size, a quarter of the work, finds those that are seen.

    An atom of which only a sliver thinner than that look's pixels is seen is lost.
    """
    shown = np.flatnonzero(_not_hidden(seen, radius))
    if radius < LOOK_RADIUS_MIN:
        return shown
    keys = _keys(seen[shown] / 2, radius / 2, width // 2 + 1, height // 2 + 1)
    return shown[np.unique(keys[keys >= 0] & ATOM)]


def _not_hidden(seen: Floats, radius: float) -> npt.NDArray[np.bool_]:
    """Return which atoms may be seen at all: in a dense system most are behind others.

    On a grid of a third of the radius an atom covers the 3x3 cells round its centre whole, and touches at most the
    9x9 cells round it. It is hidden if each of these is covered whole by an atom that is nearer by the radius.
    """
    cells = np.floor(seen[:, :2] * (3 / radius)).astype(np.int64)
    cells -= cells.min(axis=0) - 5
    rows, columns = cells[:, 1].max() + 6, cells[:, 0].max() + 6
    if rows * columns > CELLS_MAX:
        return np.ones(len(seen), bool)
    place = cells[:, 1] * columns + cells[:, 0]
    cover = np.full(rows * columns, -np.inf)
    np.maximum.at(cover, place, seen[:, 2])
    grid = _over_neighbours(np.maximum, cover.reshape(rows, columns), 1)
    grid = _over_neighbours(np.minimum, grid, 4)
    hidden: npt.NDArray[np.bool_] = grid.reshape(-1)[place] >= seen[:, 2] + radius
    return ~hidden


def _over_neighbours(extreme: np.ufunc, grid: Floats, reach: int) -> Floats:
    """Return the extreme of each cell and its neighbours; beyond the border is nothing, which covers nothing."""
    for axis in (0, 1):
        result = grid.copy()
        for shift in range(-reach, reach + 1):
            result = extreme(result, np.roll(grid, shift, axis))
        grid = result
    return grid


def _keys(seen: Floats, radius: float, width: int, height: int) -> Ints:
    """Return for each pixel the key of the atom that is seen there, or -1."""
    pad = 2 * math.ceil(radius) + 4  # no disc reaches beyond it
    stride = width + 2 * pad
    near, far = seen[:, 2].max(), seen[:, 2].min()
    fine = (1 << 24) / (near - far + 2 * radius + 1)  # depth in pixels to the upper bits of a key
    keys = ((seen[:, 2] - far) * fine).astype(np.int64) << 32 | np.arange(len(seen))
    places = (np.rint(seen[:, 1]).astype(np.int64) + pad) * stride + np.rint(seen[:, 0]).astype(np.int64) + pad
    buffer = np.full((height + 2 * pad) * stride, -1, np.int64)
    reach = math.ceil(radius)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rest = radius * radius - dx * dx - dy * dy
            if rest >= 0 or dx == dy == 0:
                bulge = int(math.sqrt(max(rest, 0)) * fine) << 32
                np.maximum.at(buffer, places + (dy * stride + dx), keys + bulge)
    return buffer.reshape(height + 2 * pad, stride)[pad : pad + height, pad : pad + width]


def _like(seen: Floats, radius: float, colours: Floats) -> Singles:
    """Return in one row for each atom what a pixel of it needs: colour, gloss, column and row."""
    depth = seen[:, 2]
    nearness = 1 - (depth.max() - depth) / max(float(np.ptp(depth)), 4 * radius)  # a flat system is near
    shaded = colours * (FAR_SHADE + (1 - FAR_SHADE) * nearness)[:, None]
    return np.column_stack([shaded, 18 + 42 * nearness, np.rint(seen[:, :2])]).astype(np.float32)


def _lit(like: Singles, radius: float, rows: Ints, columns: Ints) -> Bytes:
    """Return the colour of each pixel: its atom's, lit from the upper left, darker at the rim and far away."""
    single = np.float32
    across = (columns.astype(single) - like[:, 4]) * single(1 / radius)
    up = (like[:, 5] - rows.astype(single)) * single(1 / radius)
    facing = np.sqrt(np.maximum(1 - across * across - up * up, 0))
    light = np.maximum(across * single(LIGHT[0]) + up * single(LIGHT[1]) + facing * single(LIGHT[2]), 0)
    gloss = light * light
    for _ in range(3):
        gloss *= gloss  # light to the 16th
    gloss *= like[:, 3]
    lit = like[:, :3] * ((0.42 + 0.72 * light) * (0.66 + 0.34 * facing))[:, None]
    lit += gloss[:, None]
    colour: Bytes = np.minimum(lit, 255, out=lit).astype(np.uint8)
    return colour
