"""A picture of one frame: the atoms as shaded discs in their box, seen a little from the side and from above.

Place: worker.py asks `draw` for the PNG of a record.Frame.

How: an orthographic projection, the box's far edges, the atoms (discs.py), its near edges, a caption. The picture is
drawn at twice its size and made smaller, where that is cheap. The camera depends on the box alone, so the frames of a
run fit one another.

Invariant: whatever the coordinates are (nan, far outside), there is a picture of the asked size.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from discs import DISC_PIXELS_MAX, Floats, lay_atoms
from growing import UnanswerableError
from PIL import Image, ImageDraw, ImageFont
from record import Frame

HEIGHT_TO_WIDTH = 0.75
AZIMUTH, ELEVATION = math.radians(-62), math.radians(18)
TOP, BOTTOM = (22, 27, 38), (8, 10, 15)  # the background, from top to bottom
EDGE, INK = (120, 132, 156), (222, 228, 238)
TWICE_WIDTH_MAX = 1000  # wider pictures are drawn at their own size
LENGTH_MAX = 1e100  # of a box
CROWD = 50  # so many atoms tell by themselves which part of the box they fill

# Okabe and Ito's colours, told apart with every kind of colour vision.
TYPE_COLOURS = np.array(
    [
        (86, 180, 233),
        (230, 159, 0),
        (0, 158, 115),
        (204, 121, 167),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
    ],
    float,
)
# Along viridis without its darkest end, which would vanish on the dark background.
SPEED_COLOURS = np.array(
    [(72, 74, 150), (46, 111, 142), (31, 158, 137), (94, 201, 98), (190, 223, 38), (253, 231, 37)], float
)


def draw(frame: Frame, width: int) -> tuple[bytes, int]:
    """Return the PNG and its height."""
    height = round(width * HEIGHT_TO_WIDTH)
    positions = _positions(frame)
    colours, legend = _colours(frame)
    atoms = np.isfinite(positions).all(axis=1)
    camera = _Camera(frame, width, height, flat=np.unique(positions[atoms, 2]).size <= 1 < frame.natoms)
    image = camera.background()
    camera.box_edges(image, behind=True)
    if atoms.any():
        with np.errstate(all="ignore"):  # a system that exploded
            lay_atoms(image, camera.project(positions[atoms]), camera.radius(positions[atoms]), colours[atoms])
    camera.box_edges(image, behind=False)
    if image.width != width:
        image = image.resize((width, height), Image.Resampling.BOX)
    _caption(image, frame, legend)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=3)
    return png.getvalue(), height


def _positions(frame: Frame) -> Floats:
    for names in (("x", "y", "z"), ("xu", "yu", "zu")):
        found = [frame.columns.get(name) for name in names]
        if all(isinstance(column, np.ndarray) for column in found):
            return np.stack([np.asarray(column, float) for column in found], axis=1)
    raise UnanswerableError("unreadable", "The dump has no coordinates (x y z) that can be drawn.")


def _colours(frame: Frame) -> tuple[Floats, dict[str, Any]]:
    """Return a colour for each atom, and what the caption says about them."""
    velocity = [frame.columns.get(name) for name in ("vx", "vy", "vz")]
    if all(isinstance(column, np.ndarray) for column in velocity):
        with np.errstate(all="ignore"):
            speed = np.sqrt(sum(np.asarray(column, float) ** 2 for column in velocity))
            speed = np.nan_to_num(speed, nan=0.0, posinf=0.0, neginf=0.0)
        top = _round_up(float(np.percentile(speed, 98))) if len(speed) else 1.0
        place = np.clip(speed / top, 0, 1) * (len(SPEED_COLOURS) - 1)
        ramp = np.arange(len(SPEED_COLOURS))
        mixed = [np.interp(place, ramp, SPEED_COLOURS[:, channel]) for channel in range(3)]
        return np.stack(mixed, axis=1), {"speed": top}
    kind = frame.columns.get("type", frame.columns.get("element", np.ones(frame.natoms)))
    names, number = np.unique(np.asarray(kind), return_inverse=True)
    colours = TYPE_COLOURS[number % len(TYPE_COLOURS)]
    shown = [f"{name:g}" if isinstance(name, float) else str(name)[:8] for name in names[: len(TYPE_COLOURS)].tolist()]
    return colours, {"types": shown if len(names) > 1 else []}


def _round_up(number: float) -> float:
    """Return the next round number: a scale that does not change with every frame."""
    if not 1e-300 < number < 1e300:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(number))
    return next(step * decade for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if number <= step * decade * (1 + 1e-9))


def _directions() -> Floats:
    """Return what is right, up and towards the viewer, in the box's space."""
    level = math.cos(ELEVATION)
    towards = np.array([level * math.cos(AZIMUTH), level * math.sin(AZIMUTH), math.sin(ELEVATION)])
    right = np.array([-math.sin(AZIMUTH), math.cos(AZIMUTH), 0.0])
    return np.stack([right, np.cross(towards, right), towards])


class _Camera:
    """Where things of the box's space are on the canvas."""

    def __init__(self, frame: Frame, width: int, height: int, flat: bool) -> None:
        self._frame = frame
        self.factor = 2 if width <= TWICE_WIDTH_MAX else 1
        self.size = (width * self.factor, height * self.factor)
        xy, xz, yz = frame.tilt or (0.0, 0.0, 0.0)
        sides = [hi - lo for lo, hi in frame.box]
        self._origin = np.array([lo for lo, _ in frame.box])
        self._cell = np.array([[sides[0], 0, 0], [xy, sides[1], 0], [xz, yz, sides[2]]])
        # In the negative: nan is not below it either.
        if not (np.abs([self._origin, *self._cell]) < LENGTH_MAX).all():
            raise UnanswerableError("unreadable", "The box of the frame has no finite size.")
        # A flat system is seen from above, as it is drawn on paper.
        self._axes = np.eye(3) if flat else _directions()
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ self._cell
        seen = corners @ self._axes.T
        low, high = seen.min(axis=0), seen.max(axis=0)
        self._middle = (low + high) / 2
        extent = np.maximum(high - low, max(float((high - low).max()), 1e-12) * 1e-3)
        caption = 0.06
        self._scale = min(self.size[0] * 0.92 / extent[0], self.size[1] * (0.94 - caption) / extent[1])
        self._centre = (self.size[0] / 2, self.size[1] * (1 - caption) / 2)

    def project(self, positions: Floats) -> Floats:
        """Return column, row and depth (larger is nearer) in pixels of the canvas."""
        seen = ((positions - self._origin) @ self._axes.T - self._middle) * self._scale
        placed: Floats = seen * (1, -1, 1) + (*self._centre, 0)
        return placed

    def radius(self, positions: Floats) -> float:
        """Return the radius of a disc in pixels, from the space each atom has."""
        room = np.maximum(np.abs(np.diag(self._cell)), 1e-9)
        if len(positions) >= CROWD:
            low, high = np.percentile(positions, [1, 99], axis=0)
            room = np.minimum(np.maximum(high - low, 1e-9), room)
        flat = room[2] < 0.02 * room[:2].max()
        each = math.sqrt(room[0] * room[1] / len(positions)) if flat else float(np.cbrt(room.prod() / len(positions)))
        at_most = math.sqrt(DISC_PIXELS_MAX / (math.pi * len(positions)))
        return float(min(max(0.52 * each * self._scale, 0.8), at_most, self.size[0] / 24))

    def background(self) -> Image.Image:
        """Return an empty canvas."""
        width, height = self.size
        rows = np.linspace(TOP, BOTTOM, height).astype(np.uint8)
        return Image.fromarray(rows[:, None, :].repeat(width, axis=1), "RGB")

    def box_edges(self, image: Image.Image, behind: bool) -> None:
        """Draw the three edges behind the atoms, or the nine before them, thinly."""
        cubes = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        points = self.project(cubes @ self._cell + self._origin)
        far = int(points[:, 2].argmin())
        pen = ImageDraw.Draw(image, "RGBA")
        for a in range(8):
            for b in (a | 4, a | 2, a | 1):
                if a != b and (far in (a, b)) is behind:
                    ends = [(float(points[i, 0]), float(points[i, 1])) for i in (a, b)]
                    pen.line(ends, fill=(*EDGE, 150 if behind else 110), width=self.factor)


def _caption(image: Image.Image, frame: Frame, legend: dict[str, Any]) -> None:
    width, height = image.size
    if width < 160:
        return
    size = max(9, round(width / 44))
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(image)
    base = height - round(size * 0.7)
    text = f"step {frame.step:,}"
    if width >= 240:
        text += f"   {frame.natoms:,} atoms"
    pen.text((size, base), text, INK, font, anchor="ls")
    if width < 320:
        return
    right = width - size
    if "speed" in legend:
        bar = round(width * 0.16)
        ramp = np.linspace(0, len(SPEED_COLOURS) - 1, bar)
        line = np.stack([np.interp(ramp, np.arange(len(SPEED_COLOURS)), SPEED_COLOURS[:, c]) for c in range(3)], axis=1)
        label = f"{legend['speed']:g}"
        pen.text((right, base), label, INK, font, anchor="rs")
        right -= round(font.getlength(label)) + size // 2 + bar
        strip = np.repeat(line[None].astype(np.uint8), max(3, size // 2), axis=0)
        image.paste(Image.fromarray(strip, "RGB"), (right, base - strip.shape[0]))
        pen.text((right - size // 2, base), "speed  0", INK, font, anchor="rs")
    for number, name in reversed(list(enumerate(legend.get("types", [])))):
        pen.text((right, base), name, INK, font, anchor="rs")
        right -= round(font.getlength(name)) + size
        r, g, b = (round(part) for part in TYPE_COLOURS[number].tolist())
        pen.ellipse((right, base - size * 0.75, right + size * 0.7, base - size * 0.05), (r, g, b))
        right -= size // 2
