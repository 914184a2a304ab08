"""What each ray meets first, exactly: boxes, balls, cylinders, walls around, a level plane.

Every solid is a unit shape under an affine map, `unit = matrix @ point + origin`, with `point` in
camera axes (metres). An affine map keeps the parameter along a ray, and the ray of a pixel is
`depth * (x, y, 1)` with image-plane coordinates x and y: so the parameter is the planar depth.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

BOX, BALL, CYLINDER, ROOM, LEVEL = range(5)
"""Unit shapes: the cube |x|, |y|, |z| < 1; the ball |p| < 1; the cylinder x^2 + y^2 < 1, |z| < 1;
the walls |x| = 1 and |y| = 1 seen from inside, without end in z; the plane z = 0."""

NEAR = 0.05
"""Metres: nothing nearer is seen."""


class Solids(NamedTuple):
    """Shapes in camera axes."""

    kind: Int[np.ndarray, "n"]
    matrix: Float32[np.ndarray, "n 3 3"]
    origin: Float32[np.ndarray, "n 3"]


class Grid(NamedTuple):
    """Image-plane coordinates of the pixel centres: x of the columns, y of the rows."""

    x: Float32[np.ndarray, "1 w"]
    y: Float32[np.ndarray, "h 1"]
    focal: float
    """Focal length in pixels."""


def pixel_grid(height: int, width: int, focal: float) -> Grid:
    """Return the grid of a pinhole camera with its principal point in the middle."""
    x = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) / np.float32(focal)
    y = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)) / np.float32(focal)
    return Grid(x[None, :], y[:, None], focal)


def cast(solids: Solids, grid: Grid) -> tuple[Float32[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Return the planar depth (metres, inf where nothing is met) and the index of the solid.

    Where nothing is met the index is 0.
    """
    height, width = grid.y.shape[0], grid.x.shape[1]
    depth = np.full((height, width), np.inf, np.float32)
    index = np.zeros((height, width), np.int64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shapes = zip(
            solids.kind.tolist(), solids.matrix.tolist(), solids.origin.tolist(), strict=True
        )
        rectangles = screen_rectangles(solids, grid)
        for number, (kind, matrix, origin) in enumerate(shapes):
            top, bottom, left, right = rectangles[number]
            if top >= bottom or left >= right:
                continue
            x, y = grid.x[:, left:right], grid.y[top:bottom]
            seen = depth[top:bottom, left:right]
            ray = [a * x + (b * y + c) for a, b, c in matrix]
            near, far = _SPANS[kind](origin, ray)
            hit = near < seen
            hit &= near > NEAR
            if far is not None:
                hit &= near < far
            np.copyto(seen, near, where=hit)
            np.copyto(index[top:bottom, left:right], number, where=hit)
    return depth, index


Span = tuple[np.ndarray, np.ndarray | None]
"""Where a ray enters and where it leaves again, if that matters; NaN where it misses."""


def _slabs(origin: list[float], ray: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Span of |p_k| < 1 over the given axes."""
    near = far = None
    for start, step in zip(origin, ray, strict=True):
        inverse = 1 / step
        one = (-1 - start) * inverse
        other = np.multiply(inverse, 1 - start, out=inverse)
        low = np.minimum(one, other)
        high = np.maximum(one, other, out=other)
        near = low if near is None else np.maximum(near, low, out=near)
        far = high if far is None else np.minimum(far, high, out=far)
    assert near is not None
    assert far is not None
    return near, far


def _quadric(origin: list[float], ray: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Span of |p| < 1 over the given two or three axes."""
    square = ray[0] * ray[0]
    middle = ray[0] * -origin[0]
    for start, step in zip(origin[1:], ray[1:], strict=True):
        square += step * step
        middle -= start * step
    # |d|^2 - |o x d|^2 instead of b^2 - a c: for a thin rod far away the latter is the difference
    # of two numbers that agree in all digits of a float32.
    root = square.copy()
    for i, j in ((0, 1), (1, 2), (2, 0)) if len(ray) == 3 else ((0, 1),):
        cross = origin[i] * ray[j]
        cross -= origin[j] * ray[i]
        cross *= cross
        root -= cross
    np.sqrt(root, out=root)
    return (middle - root) / square, (middle + root) / square


def _cylinder(origin: list[float], ray: list[np.ndarray]) -> Span:
    near, far = _quadric(origin[:2], ray[:2])
    low, high = _slabs(origin[2:], ray[2:])
    return np.maximum(near, low, out=low), np.minimum(far, high, out=high)


def _room(origin: list[float], ray: list[np.ndarray]) -> Span:
    return _slabs(origin[:2], ray[:2])[1], None


def _level(origin: list[float], ray: list[np.ndarray]) -> Span:
    return -origin[2] / ray[2], None


_SPANS = {BOX: _slabs, BALL: _quadric, CYLINDER: _cylinder, ROOM: _room, LEVEL: _level}

_CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)), np.float32).T
_EDGES = np.array(
    [
        (i, j)
        for i in range(8)
        for j in range(i)
        if np.abs(_CORNERS[:, i] - _CORNERS[:, j]).sum() == 2
    ]
).T


def screen_rectangles(solids: Solids, grid: Grid) -> list[list[int]]:
    """Return the rows top:bottom and columns left:right outside which each solid is not seen."""
    height, width = grid.y.shape[0], grid.x.shape[1]
    corners = np.linalg.inv(solids.matrix) @ (_CORNERS - solids.origin[:, :, None])
    # A solid that reaches behind the camera shows up to where its edges cross the near plane.
    start, end = corners[:, :, _EDGES[0]], corners[:, :, _EDGES[1]]
    part = (NEAR - start[:, 2]) / (end[:, 2] - start[:, 2])
    cuts = start + part[:, None] * (end - start)
    cuts[:, 2] = np.where((part >= 0) & (part <= 1), NEAR, -1)
    x, y, z = np.concatenate([corners, cuts], 2).transpose(1, 0, 2)
    hidden = z < NEAR
    column = x / z * grid.focal + (width - 1) / 2
    row = y / z * grid.focal + (height - 1) / 2
    bounds = np.stack(
        [
            np.where(hidden, np.inf, row).min(1),
            np.where(hidden, -np.inf, row).max(1) + 1,
            np.where(hidden, np.inf, column).min(1),
            np.where(hidden, -np.inf, column).max(1) + 1,
        ],
        1,
    )
    endless = (solids.kind == ROOM) | (solids.kind == LEVEL)
    bounds[endless] = [0, height, 0, width]
    return np.ceil(np.clip(bounds, 0, [height, height, width, width])).astype(int).tolist()


def shadowed(
    solids: Solids,
    occluders: list[int],
    points: Float32[np.ndarray, "3 n"],
    light: Float32[np.ndarray, "3"],
    is_sun: bool,
) -> Bool[np.ndarray, "n"]:
    """Return which points have an occluder between themselves and the light.

    Args:
      occluders: indices of boxes, balls and cylinders.
      points: camera axes, metres.
      light: the lamp's place or, for a sun, the direction towards it.
    """
    dark = np.zeros(points.shape[1], bool)
    reach = np.float32(np.inf if is_sun else 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for number in occluders:
            matrix = solids.matrix[number]
            start = matrix @ points + solids.origin[number][:, None]
            target = (matrix @ light)[:, None]
            ray = target if is_sun else target + solids.origin[number][:, None] - start
            near, far = _SHAPES_AT[int(solids.kind[number])](start, ray)
            dark |= (near < far) & (far > 0) & (near < reach)
    return dark


def _slabs_at(start, ray):
    # Not middle -+ half: that is NaN for a ray along a face.
    inverse = 1 / ray
    one, other = (-1 - start) * inverse, (1 - start) * inverse
    return np.minimum(one, other).max(0), np.maximum(one, other).min(0)


def _ball_at(start, ray):
    square = (ray * ray).sum(0)
    middle = -(start * ray).sum(0)
    root = np.sqrt(middle * middle - square * ((start * start).sum(0) - 1))
    return (middle - root) / square, (middle + root) / square


def _cylinder_at(start, ray):
    near, far = _ball_at(start[:2], ray[:2])
    low, high = _slabs_at(start[2:], ray[2:])
    return np.maximum(near, low), np.minimum(far, high)


_SHAPES_AT = {BOX: _slabs_at, BALL: _ball_at, CYLINDER: _cylinder_at}
