"""The demo store's pictures: garments of any colour and pattern, drawn with Pillow."""

import colorsys
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PICTURE_SIZE = 64  # pixels, width and height
OVERSAMPLING = 4  # pictures are drawn this much larger and shrunk, which smooths every edge

COLOURS = {  # hue, saturation, value
    "red": (0.985, 0.82, 0.80),
    "orange": (0.070, 0.84, 0.93),
    "yellow": (0.135, 0.70, 0.95),
    "green": (0.385, 0.60, 0.56),
    "blue": (0.595, 0.74, 0.74),
    "purple": (0.755, 0.52, 0.60),
    "pink": (0.930, 0.38, 0.94),
    "black": (0.620, 0.20, 0.22),
}

Point = tuple[float, float]


class _Sketch:
    """A garment being drawn: its silhouette, filled with fabric later, and details laid on top.

    Points are (x, y) in -1..1, y downwards; the sketch places them with its own scale, shift and tilt.
    """

    def __init__(self, tones: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
        side = PICTURE_SIZE * OVERSAMPLING
        self.rng, self.tones = rng, tones
        self.silhouette, self.details = Image.new("L", (side, side)), Image.new("RGBA", (side, side))
        self._pens = ImageDraw.Draw(self.silhouette), ImageDraw.Draw(self.details)
        scale, tilt = 0.455 * side * rng.uniform(0.90, 1.0), rng.normal(0, 0.035)
        self._turn = scale * np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        self._centre = side * (0.5 + rng.uniform(-0.025, 0.025, size=2))

    def _place(self, points: Sequence[Point]) -> list[Point]:
        return [tuple(point) for point in (np.asarray(points) @ self._turn + self._centre).tolist()]

    def shape(self, points: Sequence[Point], fill: int = 255) -> None:
        """Adds a polygon to the silhouette, or takes it away (`fill=0`)."""
        self._pens[0].polygon(self._place(points), fill=fill)

    def mirrored(self, half: Sequence[Point]) -> None:
        """Adds a symmetric polygon, of which the right half is given from top to bottom."""
        self.shape([*half, *[(-x, y) for x, y in reversed(half)]])

    def patch(self, points: Sequence[Point], tone: str) -> None:
        self._pens[1].polygon(self._place(points), fill=self.tones[tone])

    def line(self, points: Sequence[Point], tone: str, width: int = 5) -> None:
        self._pens[1].line(self._place(points), fill=self.tones[tone], width=width, joint="curve")

    def button(self, x: float, y: float, radius: float, tone: str) -> None:
        self.patch(_arc(x, y, radius, radius), tone)


def _arc(x: float, y: float, width: float, height: float, start: float = 0, end: float = 360) -> list[Point]:
    """Points of an ellipse's arc from `start` to `end` degrees, clockwise from three o'clock."""
    angles = np.radians(np.linspace(start, end, 25))
    return list(zip((x + width * np.cos(angles)).tolist(), (y + height * np.sin(angles)).tolist(), strict=True))


def _draw_t_shirt(sketch: _Sketch) -> None:
    sleeve, hem = sketch.rng.uniform(0.0, 0.22), sketch.rng.uniform(0.72, 0.84)
    cuff = [(0.96, -0.22 + sleeve), (0.68, 0.02 + sleeve)]
    sketch.mirrored([(0.0, -0.78), (0.22, -0.80), (0.50, -0.68), *cuff, (0.50, -0.16), (0.51, hem), (0.0, hem)])
    sketch.shape(_arc(0, -0.82, 0.21, 0.22), fill=0)
    sketch.line(_arc(0, -0.82, 0.23, 0.24, 2, 178), "ink", 8)
    for side in (-1, 1):
        sketch.line([(side * 0.50, -0.62), (side * 0.46, -0.16)], "seam")
        sketch.line([(side * 0.92, -0.25 + sleeve), (side * 0.66, -0.03 + sleeve)], "seam", 4)


def _draw_dress(sketch: _Sketch) -> None:
    flare, hem, sleeves = sketch.rng.uniform(0.56, 0.76), sketch.rng.uniform(0.80, 0.92), sketch.rng.random() < 0.4
    sketch.mirrored([(0.0, -0.60), (0.2, -0.92), (0.32, -0.92), (0.36, -0.48), (0.25, -0.12), (flare, hem), (0, 0.96)])
    if sleeves:
        for side in (-1, 1):
            sketch.shape([(side * 0.24, -0.92), (side * 0.66, -0.58), (side * 0.50, -0.40), (side * 0.30, -0.55)])
    sketch.line([(-0.2, -0.92), (0.0, -0.62), (0.2, -0.92)], "ink", 6)
    sketch.patch([(-0.27, -0.18), (0.27, -0.18), (0.27, -0.07), (-0.27, -0.07)], "ink")
    for fold in (-0.45, 0.0, 0.45):
        sketch.line([(fold * 0.35, 0.0), (fold * flare * 1.4, 0.86)], "seam")


def _draw_trousers(sketch: _Sketch) -> None:
    ankle, hem = sketch.rng.uniform(0.34, 0.56), sketch.rng.uniform(0.78, 0.96)
    sketch.mirrored([(0.0, -0.92), (0.40, -0.92), (0.48, -0.35), (ankle, hem), (ankle - 0.27, hem), (0.0, -0.18)])
    sketch.patch([(-0.40, -0.94), (0.40, -0.94), (0.41, -0.81), (-0.41, -0.81)], "ink")
    sketch.button(0, -0.875, 0.045, "cream")
    sketch.line([(0, -0.80), (0, -0.18)], "seam")
    for side in (-1, 1):
        sketch.line([(side * 0.22, -0.80), (side * 0.44, -0.55)], "seam", 6)


def _draw_shoes(sketch: _Sketch) -> None:
    top = sketch.rng.uniform(-0.62, -0.44)
    tongue = [(-0.42, top + 0.16), (-0.18, top - 0.10), (-0.02, top + 0.06)]
    toe = [(0.26, -0.16), (0.62, -0.06), (0.88, 0.10), (0.95, 0.40)]
    sketch.shape([(-0.92, 0.42), (-0.86, -0.05), (-0.90, top), (-0.74, top + 0.04), *tongue, *toe])
    sketch.patch([(-0.97, 0.36), (0.98, 0.36), (1.0, 0.46), (0.93, 0.58), (-0.93, 0.58), (-0.98, 0.48)], "cream")
    sketch.line([(-0.96, 0.36), (0.98, 0.36)], "ink", 5)
    sketch.patch([(-0.93, top + 0.02), (-0.76, top + 0.04), (-0.70, 0.36), (-0.94, 0.36)], "ink")
    sketch.line(_arc(0.98, 0.36, 0.44, 0.44, 180, 258), "seam", 6)
    for step in (0.0, 0.14, 0.28):
        sketch.line([(-0.10 + step, top + 0.18 + step * 0.8), (0.04 + step, top + 0.05 + step * 0.8)], "cream", 8)


def _draw_bag(sketch: _Sketch) -> None:
    top, height = sketch.rng.uniform(0.56, 0.72), sketch.rng.uniform(0.62, 0.86)
    sketch.line([(-0.34, 0.0), *_arc(0, -0.34, 0.34, height * 0.72, 180, 360), (0.34, 0.0)], "leather", 13)
    sketch.mirrored([(0.0, -0.24), (top, -0.24), (0.80, 0.82), (0.70, 0.90), (0.0, 0.90)])
    sketch.patch([(-top - 0.02, -0.26), (top + 0.02, -0.26), (top + 0.04, -0.12), (-top - 0.04, -0.12)], "leather")
    for side in (-1, 1):
        sketch.button(side * 0.34, -0.02, 0.07, "leather")
        sketch.line([(side * top * 0.96, -0.1), (side * 0.72, 0.86)], "seam", 4)
    sketch.button(0, -0.12, 0.075, "cream")


def _draw_hat(sketch: _Sketch) -> None:
    crown, lean = sketch.rng.uniform(-0.66, -0.50), sketch.rng.uniform(-0.04, 0.04)
    sketch.shape(_arc(0, 0.38, 0.98, 0.27))
    dent = [(-0.40, crown), (-0.14, crown - 0.03), (lean, crown + 0.08), (0.14, crown - 0.03), (0.40, crown)]
    sketch.shape([(-0.58, 0.38), (-0.55, -0.15), *dent, (0.55, -0.15), (0.58, 0.38)])
    band = [(0.57, 0.16), *_arc(0, 0.36, 0.58, 0.12, 0, 180), (-0.57, 0.16), *_arc(0, 0.16, 0.57, 0.12, 180, 0)]
    sketch.patch(band, "ink")
    sketch.patch([(0.38, 0.17), (0.52, 0.10), (0.52, 0.44), (0.38, 0.48)], "cream")
    sketch.line(_arc(0, 0.38, 0.92, 0.22, 20, 160), "seam", 4)


def _draw_scarf(sketch: _Sketch) -> None:
    left, right = sketch.rng.uniform(0.62, 0.82), sketch.rng.uniform(0.30, 0.55)
    for inner, outer, end in ((-0.02, -0.46, left), (0.06, 0.48, right)):
        sketch.shape([(inner, -0.4), (outer * 0.9, -0.4), (outer, end), (inner + outer * 0.08, end)])
        for strand in np.linspace(inner + outer * 0.12, outer * 0.97, 6):
            sketch.line([(strand, end - 0.02), (strand, end + 0.15)], "ink", 6)
    sketch.shape(_arc(0, -0.52, 0.64, 0.42))
    sketch.patch(_arc(0, -0.64, 0.40, 0.19), "ink")
    sketch.line(_arc(0, -0.52, 0.60, 0.36, 25, 155), "seam", 5)
    sketch.line([(0.02, -0.12), (0.0, min(left, right))], "seam", 6)


def _draw_coat(sketch: _Sketch) -> None:
    hem, cuff, belted = sketch.rng.uniform(0.80, 0.95), sketch.rng.uniform(0.30, 0.45), sketch.rng.random() < 0.5
    arm = [(0.50, -0.74), (0.80, cuff - 0.05), (0.58, cuff + 0.04), (0.44, -0.22)]
    sketch.mirrored([(0.0, -0.90), (0.18, -0.92), *arm, (0.54, hem), (0.0, hem)])
    for side in (-1, 1):
        sketch.patch([(side * 0.02, -0.40), (side * 0.15, -0.95), (side * 0.34, -0.68)], "ink")
        sketch.line([(side * 0.46, -0.66), (side * 0.44, -0.20)], "seam")
        sketch.line([(side * 0.20, 0.38), (side * 0.40, 0.34)], "ink", 6)
        sketch.line([(side * 0.79, cuff - 0.14), (side * 0.56, cuff - 0.06)], "ink", 6)
    sketch.patch([(-0.12, -0.94), (0.12, -0.94), (0.0, -0.50)], "cream")
    sketch.line([(0, -0.42), (0, hem)], "seam", 6)
    for height in (-0.26, 0.02, 0.30):
        sketch.button(0.10, height, 0.055, "cream")
    if belted:
        sketch.patch([(-0.47, 0.10), (0.47, 0.10), (0.48, 0.21), (-0.48, 0.21)], "ink")


_DRAWERS = {
    "t-shirt": _draw_t_shirt,
    "dress": _draw_dress,
    "trousers": _draw_trousers,
    "shoes": _draw_shoes,
    "bag": _draw_bag,
    "hat": _draw_hat,
    "scarf": _draw_scarf,
    "coat": _draw_coat,
}


def _pattern_cover(pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the accent tone, 0..1, at fabric coordinates counted in repeats of the pattern."""
    if pattern == "plain":
        return np.zeros_like(u)
    if pattern == "stripes":
        return (v % 1 < 0.42).astype(float)
    if pattern == "checks":
        return ((u % 1 < 0.5).astype(float) + (v % 1 < 0.5)) / 2
    if pattern == "zigzag":
        return ((v + 0.9 * np.abs(u % 1 - 0.5)) % 1 < 0.38).astype(float)
    across, down = (u + 0.5 * (np.floor(v) % 2)) % 1 - 0.5, v % 1 - 0.5  # every other row shifted by half
    radius = np.hypot(across, down)
    if pattern == "dots":
        return (radius < 0.27).astype(float)
    petals = 0.47 * (0.62 + 0.38 * np.cos(5 * np.arctan2(down, across)))
    return ((radius < petals) & (radius > 0.11)).astype(float)


def _fabric(pattern: str, base: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> Image.Image:
    side = PICTURE_SIZE * OVERSAMPLING
    repeat = side * {"floral": 0.235, "dots": 0.17}.get(pattern, 0.165) * rng.uniform(0.92, 1.1)
    v, u = np.mgrid[:side, :side] / repeat + rng.uniform(0, 1, size=(2, 1, 1))
    if rng.random() < 0.4:
        u, v = v, u
    cover = _pattern_cover(pattern, u, v)[..., None]
    return Image.fromarray((base + (accent - base) * cover).astype(np.uint8))


def _tones(colour: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The colour with a slight jitter, a dark and a light companion, as RGB arrays in 0..255."""
    hue, saturation, value = np.array(COLOURS[colour]) + rng.uniform(-1, 1, size=3) * (0.010, 0.05, 0.04)

    def rgb(saturation: float, value: float) -> np.ndarray:
        return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, float(np.clip(saturation, 0, 1)), min(value, 1.0)))

    ink = rgb(saturation, 0.52) if colour == "black" else rgb(saturation + 0.12, 0.52 * value)
    return {"base": rgb(saturation, value), "ink": ink, "cream": np.array([250.0, 245.0, 234.0])}


def draw_garment(garment: str, colour: str, pattern: str, rng: np.random.Generator) -> bytes:
    """
    A picture of a garment as PNG, 64 x 64 RGB, no two alike.

    Args:
        garment: one of `GARMENTS` of the demo store.
        colour: one of `COLOURS`.
        pattern: one of `PATTERNS` of the demo store.
        rng: draws cut, tone, angle and backdrop.
    """
    tones = _tones(colour, rng)
    # Cream on a light colour would hardly show, so light colours are mostly printed with their own dark tone.
    accent = tones["ink" if rng.random() < (0.85 if colour in ("yellow", "pink") else 0.2) else "cream"]
    leather = np.array([146.0, 98.0, 62.0]) * rng.uniform(0.75, 1.1)
    opaque = {name: (*tone.astype(int).tolist(), 255) for name, tone in (tones | {"leather": leather}).items()}
    sketch = _Sketch(opaque | {"seam": (20, 15, 30, 70)}, rng)
    _DRAWERS[garment](sketch)
    fabric = _fabric(pattern, tones["base"], accent, rng)
    buffer = io.BytesIO()
    _photograph(sketch, fabric, rng).save(buffer, format="PNG")
    return buffer.getvalue()


def _photograph(sketch: _Sketch, fabric: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sews fabric, silhouette and details together and lights them on a pale backdrop."""
    # Blurring and hardening the silhouette rounds its corners.
    silhouette = sketch.silhouette.filter(ImageFilter.BoxBlur(4)).point([max(0, 4 * v - 382) for v in range(256)])
    fabric.paste(sketch.details, mask=sketch.details)
    cover = np.maximum(np.asarray(silhouette), np.asarray(sketch.details.getchannel("A")))
    cover = Image.fromarray(cover).reduce(OVERSAMPLING)
    product = np.asarray(fabric.reduce(OVERSAMPLING), dtype=float)
    shade = Image.new("L", cover.size)
    shade.paste(cover, (2, 3))  # the light comes from the upper left
    layers = cover, cover.filter(ImageFilter.GaussianBlur(1.5)), shade.filter(ImageFilter.GaussianBlur(4))
    alpha, soft, shadow = (np.asarray(layer, dtype=float)[..., None] / 255 for layer in layers)
    across = np.linspace(-1, 1, PICTURE_SIZE)
    product *= (0.56 + 0.48 * soft) * (1 - 0.06 * across)[None, :, None]  # rounder at the edges, lit from the left
    backdrop = np.array([(246, 243, 238), (240, 243, 246), (244, 240, 245), (241, 245, 240)][rng.integers(4)])
    ground = backdrop * (1 - 0.035 * across[:, None, None]) * (1 - 0.30 * shadow)
    return Image.fromarray(np.clip(ground + (product - ground) * alpha, 0, 255).astype(np.uint8))
