"""Line charts for people, drawn with Pillow: several measured curves with their spread."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_SIZE = (900, 520)
_MARGIN = (80, 50, 20, 60)
"""Left, top, right, bottom."""
_COLORS = (
    (31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14),
    (23, 150, 170), (140, 86, 75), (227, 119, 194), (90, 90, 90), (188, 150, 34),
)  # fmt: skip
_TICKS = 5

Curve = Mapping[int, Sequence[float]]
"""Step -> values of several seeds."""


def draw(curves: Mapping[str, Curve], title: str, vertical: str) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return a picture of each curve's mean over seeds, with a band of one standard deviation.

    Values are shares and shown in percent. Raises ValueError if there is nothing to draw.
    """
    if not curves or not all(curves.values()):
        raise ValueError("draw: a curve without points")
    summary = {
        name: [(step, float(np.mean(v)), float(np.std(v))) for step, v in sorted(curve.items())]
        for name, curve in curves.items()
    }
    points = [point for curve in summary.values() for point in curve]
    last = max(step for step, _, _ in points) or 1
    low, high = (min(m - s for _, m, s in points), max(m + s for _, m, s in points))
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
    left, top, right, bottom = _MARGIN
    width, height = _SIZE[0] - left - right, _SIZE[1] - top - bottom

    def place(step: float, value: float) -> tuple[float, float]:
        return left + width * step / last, top + height * (high - value) / (high - low)

    picture = Image.new("RGB", _SIZE, "white")
    canvas, font = ImageDraw.Draw(picture, "RGBA"), ImageFont.load_default(14)
    canvas.text((left, 10), f"{title} ({vertical}, mean and standard deviation of seeds)", "black")
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        step = last * tick / _TICKS
        (_, y), (x, _) = place(0, value), place(step, low)
        canvas.line([(left, y), (left + width, y)], (225, 225, 225))
        canvas.text((left - 8, y), f"{100 * value:.1f} %", "black", font=font, anchor="rm")
        canvas.text((x, top + height + 8), f"{step:.0f}", "black", font=font, anchor="mt")
    canvas.text((left + width / 2, _SIZE[1] - 12), "steps", "black", font=font, anchor="ms")
    for number, (name, curve) in enumerate(summary.items()):
        color = _COLORS[number % len(_COLORS)]
        upper = [place(step, mean + spread) for step, mean, spread in curve]
        lower = [place(step, mean - spread) for step, mean, spread in reversed(curve)]
        if len(curve) > 1:
            canvas.polygon([*upper, *lower], (*color, 40))
        canvas.line([place(step, mean) for step, mean, _ in curve], color, width=2)
        row = top + 8 + 18 * number
        canvas.line([(left + width - 190, row), (left + width - 165, row)], color, width=3)
        canvas.text((left + width - 158, row), name, "black", font=font, anchor="lm")
    return np.asarray(picture)
