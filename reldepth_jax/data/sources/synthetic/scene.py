"""The description of a scene, and the kit that rooms and streets are built with.

World axes: right-handed, metres, z up. Nothing here knows about images.
"""

import math
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int

from reldepth_jax.data.sources.synthetic.raycast import BALL, BOX, CYLINDER, LEVEL, ROOM, Solids

# name: (hue, saturation, value ranges; second colour's largest contrast; metres of a texture tile)
PALETTES = {
    "wall": ((0.02, 0.70), (0.00, 0.22), (0.45, 0.95), 0.45, (0.8, 3.0)),
    "floor": ((0.02, 0.14), (0.05, 0.55), (0.20, 0.75), 0.60, (0.8, 2.5)),
    "ceiling": ((0.05, 0.60), (0.00, 0.12), (0.60, 0.98), 0.30, (0.8, 2.5)),
    "wood": ((0.03, 0.12), (0.15, 0.65), (0.15, 0.80), 0.50, (0.5, 1.5)),
    "metal": ((0.50, 0.70), (0.00, 0.15), (0.15, 0.75), 0.30, (0.5, 1.5)),
    "thing": ((0.00, 1.00), (0.05, 0.60), (0.10, 0.95), 0.70, (0.3, 1.5)),
    "ground": ((0.05, 0.35), (0.03, 0.45), (0.20, 0.65), 0.60, (2.0, 6.0)),
    "building": ((0.02, 0.16), (0.03, 0.45), (0.25, 0.90), 0.60, (3.0, 9.0)),
    "leaves": ((0.14, 0.34), (0.15, 0.55), (0.15, 0.50), 0.75, (0.8, 2.0)),
    "hill": ((0.18, 0.40), (0.10, 0.40), (0.15, 0.45), 0.50, (60.0, 200.0)),
}


Number = int | float
Vector = tuple[Number, Number, Number]


class Surfaces(NamedTuple):
    """How each solid looks: which texture between which two linear RGB colours."""

    first: Float32[np.ndarray, "n 3"]
    second: Float32[np.ndarray, "n 3"]
    texture: Float64[np.ndarray, "n"]
    """Position in the atlas, 0..1."""
    tile: Float32[np.ndarray, "n"]
    """Metres of a texture tile."""


class Light(NamedTuple):
    """One lamp or sun, and light from everywhere."""

    is_sun: bool
    place: Vector
    """World: of the lamp, or the direction towards the sun."""
    strength: float
    """Of the direct light over the ambient light (of a lamp at the distance `reach`)."""
    reach: float
    """Metres at which a lamp's light has fallen to half."""
    color: Vector
    sky: Vector
    """Linear RGB of the ambient light and, lighter towards the horizon, of the sky."""
    visibility: float
    """Metres at which haze leaves 2 % of the contrast (Koschmieder); inf indoors."""


class Camera(NamedTuple):
    """Where the camera is, and how it looks from there. Angles in radians."""

    place: Vector
    yaw: float
    pitch: float
    """Up is positive."""
    roll: float
    view: float
    """Field of view of the longer side of the image."""


class Scene(NamedTuple):
    """Everything that is drawn."""

    kind: Int[np.ndarray, "n"]
    centre: Float64[np.ndarray, "n 3"]
    half: Float64[np.ndarray, "n 3"]
    """Half sizes along the solid's own axes."""
    axes: Float64[np.ndarray, "n 3 3"]
    """Rows: the solid's axes in the world."""
    material: Int[np.ndarray, "n"]
    """Which solids have one: parts of one thing."""
    surfaces: Surfaces
    light: Light
    camera: Camera


def roll_degrees(draw: random.Random) -> float:
    """Draw a roll: mostly a hand's tremble, at times a camera held at any slant."""
    return draw.gauss(0, 3) if draw.random() < 0.9 else draw.uniform(-20, 20)


def rotation(camera: Camera) -> Float64[np.ndarray, "3 3"]:
    """Return the camera's axes (right, down, forward) in the world, as rows."""
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    up, level = math.sin(camera.pitch), math.cos(camera.pitch)
    forward = np.array([cos * level, sin * level, up])
    right = np.array([sin, -cos, 0])
    down = np.array([cos * up, sin * up, -level])
    a, b = math.cos(camera.roll), math.sin(camera.roll)
    return np.stack([a * right + b * down, a * down - b * right, forward])


def in_camera(scene: Scene) -> Solids:
    """Express the solids in camera axes."""
    matrix = scene.axes / scene.half[:, :, None]
    origin = np.einsum("nij,nj->ni", matrix, np.array(scene.camera.place) - scene.centre)
    matrix = matrix @ rotation(scene.camera).T
    return Solids(scene.kind, matrix.astype(np.float32), origin.astype(np.float32))


class Kit:
    """Collects solids; sizes are half sizes in metres, angles radians.

    `stand` sets the place and heading that the offsets of following solids refer to.
    """

    def __init__(self, draw: random.Random):
        self.draw = draw
        self._solids: list[tuple[float, ...]] = []
        self._materials: list[str] = []
        self._taken: list[tuple[float, float, float]] = []
        self.stand(0, 0, 0, 0)

    def stand(self, x: Number, y: Number, z: Number, heading: Number) -> None:
        """Place the following solids relative to this point and heading."""
        self._at = (x, y, z, heading, math.cos(heading), math.sin(heading))

    def material(self, palette: str) -> int:
        """Return a new material of this palette, to be shared by parts of one thing."""
        self._materials.append(palette)
        return len(self._materials) - 1

    def add(
        self,
        kind: int,
        offset: Vector,
        half: Vector,
        material: int,
        turn: Vector = (0, 0, 0),
    ) -> None:
        """Add a solid; `turn` is its own yaw, pitch and roll about z, x and y."""
        x, y, z, heading, cos, sin = self._at
        dx, dy, dz = offset
        place = (x + cos * dx - sin * dy, y + sin * dx + cos * dy, z + dz)
        angles = (heading + turn[0], turn[1], turn[2])
        self._solids.append((kind, *place, *half, *angles, material))

    def claim(self, x: Number, y: Number, radius: Number) -> bool:
        """Reserve a disc of floor; False if it is taken."""
        for other_x, other_y, other in self._taken:
            if (x - other_x) ** 2 + (y - other_y) ** 2 < (radius + other) ** 2:
                return False
        self._taken.append((x, y, radius))
        return True

    def finish(
        self, light: Light, camera: Camera, clearance: float, rng: np.random.Generator
    ) -> Scene:
        """Return the scene, without solids that come within `clearance` metres of the camera."""
        table = np.array(self._solids)
        centre, half = table[:, 1:4], table[:, 4:7]
        axes = _axes(table[:, 7:10])
        inside = np.einsum("nij,nj->ni", axes, np.array(camera.place) - centre)
        keep = (np.abs(inside) - half).max(1) > clearance
        kind = table[:, 0].astype(int)
        keep |= (kind == ROOM) | (kind == LEVEL)
        surfaces = _surfaces(self._materials, rng)
        material = table[keep, 10].astype(int)
        chosen = Surfaces(*(values[material] for values in surfaces))
        solids = kind[keep], centre[keep], half[keep], axes[keep], material
        return Scene(*solids, chosen, light, camera)


def floating(kit: Kit, scale: Number) -> None:
    """A board, rod, block, ball or drum at any angle, `scale` times household size."""
    draw = kit.draw
    turn = (draw.uniform(0, math.tau), draw.uniform(-1.5, 1.5), draw.uniform(-1.5, 1.5))
    small, large = draw.uniform(0.08, 0.35), draw.uniform(0.08, 0.35)
    kind, (x, y, z) = draw.choice(
        (
            (BOX, (2 * large, 1.5 * small, 0.015)),
            (CYLINDER, (0.02, 0.02, 3.5 * large)),
            (BOX, (small, large, draw.uniform(0.08, 0.35))),
            (BALL, (large, large, large)),
            (CYLINDER, (small, small, large)),
        )
    )
    kit.add(kind, (0, 0, 0), (scale * x, scale * y, scale * z), kit.material("thing"), turn)


def _axes(angles: np.ndarray) -> np.ndarray:
    """Rows are the axes of solids turned by roll about y, then pitch about x, then yaw about z."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles.T), np.sin(angles.T)
    return np.stack(
        [
            np.stack([ca * cc - sa * sb * sc, sa * cc + ca * sb * sc, -cb * sc], 1),
            np.stack([-sa * cb, ca * cb, sb], 1),
            np.stack([ca * sc + sa * sb * cc, sa * sc - ca * sb * cc, cb * cc], 1),
        ],
        1,
    )


def _surfaces(palettes: list[str], rng: np.random.Generator) -> Surfaces:
    """Draw colours (muted ones more often than vivid ones) and textures for materials."""
    rows = [PALETTES[name] for name in palettes]
    low = np.array([(h[0], s[0], v[0], 0.0, math.log(t[0])) for h, s, v, _, t in rows])
    high = np.array([(h[1], s[1], v[1], c, math.log(t[1])) for h, s, v, c, t in rows])
    drawn = rng.random((8, len(rows)))
    drawn[1] *= drawn[1]
    hue, saturation, value, contrast, tile = (low + (high - low) * drawn[:5].T).T
    first = _linear_rgb(hue, saturation, value)
    other_hue = hue + 0.1 * (drawn[5] - 0.5)
    second = _linear_rgb(other_hue, saturation * (0.5 + drawn[6]), value * (1 - contrast))
    return Surfaces(first, second, drawn[7], np.exp(tile).astype(np.float32))


def _linear_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return linear RGB of display-referred hue, saturation and value, all 0..1."""
    around = (hue[:, None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    tint = np.clip(np.minimum(around, 4 - around), 0, 1)
    shown = value[:, None] * (1 - np.clip(saturation, 0, 1)[:, None] * tint)
    return (shown**2).astype(np.float32)
