"""Turns what the rays met into a photograph: texture, light, shadows, haze, exposure, grain.

Light is linear until the end. Depth enters the image only as it does outdoors and in rooms: light
that falls off from its lamp, and haze.
"""

import functools

import numpy as np
from jaxtyping import Float32, Int, UInt8

from reldepth_jax.data.sources.synthetic import textures
from reldepth_jax.data.sources.synthetic.raycast import (
    BALL,
    CYLINDER,
    LEVEL,
    ROOM,
    Grid,
    Solids,
    shadowed,
)
from reldepth_jax.data.sources.synthetic.scene import Light, Scene, rotation

OCCLUDERS = 12
"""So many solids cast shadows: those that look largest from the camera."""
CLOUDS = 512
"""Cells along a side of the map of clouds."""


def photograph(
    scene: Scene,
    solids: Solids,
    grid: Grid,
    depth: Float32[np.ndarray, "h w"],
    index: Int[np.ndarray, "h w"],
    atlas: textures.Atlas,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture of what `cast` answered: sRGB-like, gamma 2, with random exposure.

    Args:
      scene: the world; `solids` are the same solids, in the same order, in camera axes.
      depth: metres along the optical axis, inf for the sky.
      index: which solid is seen; anything where depth is inf.
      rng: exposure, blur, grain and clouds.
    """
    height, width = depth.shape
    met = np.isfinite(depth)
    points = np.empty((3, depth.size), np.float32)
    image = points.reshape(3, height, width)
    image[2] = np.where(met, depth, 1)
    np.multiply(image[2], grid.x, out=image[0])
    np.multiply(image[2], grid.y, out=image[1])
    z = points[2]
    which = index.ravel()

    view = rotation(scene.camera).astype(np.float32)
    place = view @ (
        np.array(scene.light.place) - (0 if scene.light.is_sun else np.array(scene.camera.place))
    ).astype(np.float32)
    normal, s, t, density, lean = _surface(scene, solids, which, points)
    footprint = density * z * (np.float32(1 / grid.focal) * lean ** np.float32(-0.7))
    numbers = (scene.surfaces.texture * atlas.textures).astype(int)
    mix = textures.lookup(atlas, numbers.take(which), s, t, footprint)

    direct = _direct(scene.light, place, points, normal)
    direct *= 1 - _shadow(scene, solids, place, depth, points, normal, direct)
    upward = view[:, 2] @ normal
    ambient = np.float32(0.75) + np.float32(0.25) * upward
    sky = np.array(scene.light.sky, np.float32)
    color = np.array(scene.light.color, np.float32)
    first, second = scene.surfaces.first.T, scene.surfaces.second.T
    rgb = np.empty((3, z.size), np.float32)
    for channel in range(3):
        base = first[channel].take(which)
        base += mix * (second[channel] - first[channel]).take(which)
        rgb[channel] = base * (ambient * sky[channel] + direct * color[channel])
    if scene.light.is_sun:
        _air(scene.light, view, grid, met, z, rgb, rng)
    return _develop(rgb, height, width, rng)


def _surface(
    scene: Scene, solids: Solids, which: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit normal towards the camera, texel coordinates, texels per metre, cosine of the view."""
    count = len(solids.kind)
    density = np.float32(textures.SIZE) / scene.surfaces.tile
    table = np.concatenate(
        [
            solids.matrix.reshape(count, 9).T,
            solids.origin.T,
            scene.half.T * density,
            density[None],
        ]
    ).astype(np.float32)
    got = table.take(which, axis=1)
    matrix, origin, texels = got[:9].reshape(3, 3, -1), got[9:12], got[12:15]
    unit = matrix[:, 0] * points[0]
    unit += matrix[:, 1] * points[1]
    unit += matrix[:, 2] * points[2]
    unit += origin
    kind = solids.kind.take(which)

    # Which face of the cube a point is on; balls borrow the cube's faces for their texture.
    size = np.abs(unit)
    axis_x = (size[0] > size[1]) & (size[0] > size[2])
    axis_y = ~axis_x & (size[1] > size[2])
    level = kind == LEVEL
    axis_x &= ~level
    axis_y &= ~level
    axis_z = ~(axis_x | axis_y)
    local = np.stack([axis_x, axis_y, axis_z]) * unit
    round_ = kind == BALL
    tube = kind == CYLINDER
    tube &= unit[2] * unit[2] < unit[0] * unit[0] + unit[1] * unit[1]
    np.copyto(local, unit, where=round_ | tube)
    local[2] *= ~tube
    np.copyto(local[2], 1, where=level)
    normal = (matrix * local[:, None]).sum(0)
    length = np.sqrt((normal * normal).sum(0))
    ray = (normal * points).sum(0)
    normal *= -np.sign(ray) / length
    lean = np.abs(ray) / (length * np.sqrt((points * points).sum(0)))

    flat = unit * texels
    s = np.where(axis_x, flat[1], flat[0])
    t = np.where(axis_z, flat[1], flat[2])
    around = np.flatnonzero(tube)
    s[around] = np.arctan2(unit[1, around], unit[0, around]) * texels[0, around]
    t[around] = flat[2, around]
    # Positive everywhere near, because the conversion to whole texels rounds towards zero.
    shift = np.float32(1 << 14)
    return normal, s + shift, t + shift, got[15], np.maximum(lean, np.float32(0.02))


def _direct(light: Light, place: np.ndarray, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Lambert's cosine times the light that arrives."""
    if light.is_sun:
        return np.maximum(place @ normal, 0) * np.float32(light.strength)
    towards = place[:, None] - points
    square = (towards * towards).sum(0)
    cosine = np.maximum((towards * normal).sum(0), 0) / np.sqrt(square)
    return cosine * (np.float32(2 * light.strength) / (1 + square / np.float32(light.reach**2)))


def _shadow(
    scene: Scene,
    solids: Solids,
    place: np.ndarray,
    depth: np.ndarray,
    points: np.ndarray,
    normal: np.ndarray,
    direct: np.ndarray,
) -> np.ndarray:
    """1 in shadow, 0 in the light; found at half resolution."""
    height, width = depth.shape
    lit = (direct.reshape(height, width)[::2, ::2] > 0) & np.isfinite(depth[::2, ::2])
    image = (3, height, width)
    start = points.reshape(image)[:, ::2, ::2][:, lit]
    out = normal.reshape(image)[:, ::2, ::2][:, lit]
    start = start + out * (np.float32(0.003) * start[2])
    casts = np.flatnonzero((solids.kind != ROOM) & (solids.kind != LEVEL))
    away = np.linalg.norm(scene.centre[casts] - np.array(scene.camera.place), axis=1)
    order = np.argsort(-np.cbrt(scene.half[casts].prod(1)) / away)[:OCCLUDERS]
    half = np.zeros(lit.shape, np.float32)
    half[lit] = shadowed(solids, casts[order].tolist(), start, place, scene.light.is_sun)
    return half.repeat(2, 0).repeat(2, 1)[:height, :width].ravel()


def _air(
    light: Light,
    view: np.ndarray,
    grid: Grid,
    met: np.ndarray,
    z: np.ndarray,
    rgb: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Paint the sky with its clouds, and the haze before things."""
    bright, cover = rng.uniform(1.0, 2.2), rng.uniform(0, 1.2)
    sky = bright * np.array(light.sky, np.float32)
    pale = 0.5 * sky + 0.5 * sky.mean()
    direction = view.T @ np.stack(np.broadcast_arrays(grid.x, grid.y, 1)).reshape(3, -1)
    direction /= np.sqrt((direction * direction).sum(0))
    climb = np.clip(direction[2], 0, 0.5) * 2
    clear = np.exp(z * (-3.9 / light.visibility))
    clear *= met.ravel()
    rgb *= clear
    clear -= 1
    rgb -= (pale[:, None] + (sky - pale)[:, None] * climb) * clear

    open_sky = np.flatnonzero(~met.ravel() & (climb > 0))
    if open_sky.size:
        # Clouds lie in a level plane: their place is the direction divided by its climb.
        place = direction[:2, open_sky] / np.maximum(direction[2, open_sky], 0.03)
        at = (place * 24 + rng.integers(1 << 12, size=(2, 1))).astype(int) % CLOUDS
        thick = np.clip(_clouds()[at[0], at[1]] - (1.2 - cover), 0, 1) * climb[open_sky]
        rgb[:, open_sky] += thick * (1.3 * bright - rgb[:, open_sky])


@functools.lru_cache(maxsize=1)
def _clouds() -> Float32[np.ndarray, "s s"]:
    """Thickness of clouds, about 0..1, smooth and periodic: noise whose spectrum falls off."""
    noise = np.fft.rfft2(np.random.default_rng(11).standard_normal((CLOUDS, CLOUDS)))
    frequency = np.hypot(np.fft.fftfreq(CLOUDS)[:, None], np.fft.rfftfreq(CLOUDS)) * CLOUDS
    field = np.fft.irfft2(noise * np.maximum(frequency, 4) ** -1.8 * (frequency > 2))
    return (0.5 + 0.25 * field / field.std()).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _film(count: int) -> np.ndarray:
    """Normal noise, to be read in `count` numbers from random offsets up to `count`."""
    return np.random.default_rng(7).standard_normal(2 * count, np.float32)


def _develop(rgb: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Expose, blur by the lens, add grain, encode."""
    # After encoding, so that a bright sky or lamp does not leave everything else in the dark.
    rgb = np.sqrt(rgb, out=rgb).reshape(3, height, width)
    rgb *= rng.uniform(0.34, 0.5) / rgb[:, ::2, ::2].mean()
    soft = float(rng.uniform(0.0, 0.22))
    for axis in (1, 2):
        rgb = _blur(rgb, axis, soft)
    offset = int(rng.integers(rgb.size))
    rgb += float(rng.uniform(0.003, 0.02)) * _film(rgb.size)[offset:][: rgb.size].reshape(rgb.shape)
    np.clip(rgb, 0, 1, out=rgb)
    rgb *= 255
    return np.ascontiguousarray(rgb.astype(np.uint8).transpose(1, 2, 0))


def _blur(rgb: np.ndarray, axis: int, share: float) -> np.ndarray:
    """Give `share` of each pixel to either neighbour along an axis; the border keeps its own."""
    inner = [slice(None)] * 3
    before, after = list(inner), list(inner)
    inner[axis], before[axis], after[axis] = slice(1, -1), slice(None, -2), slice(2, None)
    blurred = rgb.copy()
    around = rgb[tuple(before)] + rgb[tuple(after)]
    around *= share
    blurred[tuple(inner)] *= 1 - 2 * share
    blurred[tuple(inner)] += around
    return blurred
