"""Random rooms: walls, ceiling, furniture, things on the floor, on the walls and in the air."""

import math
import random

import numpy as np

from reldepth_jax.data.sources.synthetic.raycast import BALL, BOX, CYLINDER, LEVEL, ROOM
from reldepth_jax.data.sources.synthetic.scene import (
    Camera,
    Kit,
    Light,
    Scene,
    floating,
    roll_degrees,
)

TURN = math.tau


def room(draw: random.Random, rng: np.random.Generator) -> Scene:
    """Return a random room, seen from inside."""
    kit = Kit(draw)
    long, wide = draw.uniform(2.5, 7.0), draw.uniform(1.5, 3.2)
    if draw.random() < 0.15:
        long, wide = draw.uniform(5, 10), draw.uniform(0.9, 1.5)
    high = draw.uniform(2.3, 3.2) if draw.random() < 0.7 else draw.uniform(3.2, 5.0)
    kit.add(ROOM, (0, 0, high / 2), (long, wide, high / 2), kit.material("wall"))
    kit.add(LEVEL, (0, 0, 0), (1, 1, 1), kit.material("floor"))
    kit.add(LEVEL, (0, 0, high), (1, 1, 1), kit.material("ceiling"))

    camera = _camera(draw, long, wide, high)
    kit.claim(camera.place[0], camera.place[1], 0.7)
    if draw.random() < 0.1:
        _partition(kit, long, wide, high)
    for _ in range(draw.randint(1, 4)):
        _on_walls(kit, long, wide, high)
    for _ in range(draw.randint(1, 5)):
        _on_floor(kit, long, wide, high)
    for _ in range(draw.randint(0, 2)):
        _from_ceiling(kit, long, wide, high)
    for _ in range(draw.randint(0, 2)):
        _in_air(kit, long, wide, high)

    warm = draw.uniform(-0.12, 0.2)
    place = (draw.uniform(-0.7, 0.7) * long, draw.uniform(-0.7, 0.7) * wide, high * 0.94)
    light = Light(
        is_sun=False,
        place=place,
        strength=draw.uniform(1.0, 4.0),
        reach=draw.uniform(2.0, 5.0),
        color=(1 + warm, 1.0, 1 - warm),
        sky=(1.0, 1.0, 1.0),
        visibility=math.inf,
    )
    return kit.finish(light, camera, 0.35, rng)


def _camera(draw: random.Random, long: float, wide: float, high: float) -> Camera:
    """From one half of the room, mostly looking into the other."""
    place = (
        draw.uniform(-1, -0.2) * (long - 0.35),
        draw.uniform(-0.8, 0.8) * (wide - 0.35),
        draw.triangular(0.4, high - 0.3, 1.5),
    )
    x, y = draw.uniform(0.2, 1) * long, draw.uniform(-0.9, 0.9) * wide
    return Camera(
        place=place,
        yaw=math.atan2(y - place[1], x - place[0]),
        pitch=math.radians(min(max(draw.gauss(-3, 6), -25), 25)),
        roll=math.radians(roll_degrees(draw)),
        view=math.radians(draw.uniform(50, 85)),
    )


def _partition(kit: Kit, long: float, wide: float, high: float) -> None:
    """A wall across the room with a doorway."""
    draw, wall = kit.draw, kit.material("wall")
    x, half = draw.uniform(-0.5, 0.5) * long, draw.uniform(0.4, 0.8)
    y = draw.uniform(-1, 1) * (wide - half)
    top = draw.uniform(1.9, 2.2)
    left, right = (y - half + wide) / 2, (wide - y - half) / 2
    kit.stand(x, 0, 0, 0)
    kit.add(BOX, (0, -wide + left, high / 2), (0.07, left, high / 2), wall)
    kit.add(BOX, (0, wide - right, high / 2), (0.07, right, high / 2), wall)
    kit.add(BOX, (0, y, (high + top) / 2), (0.07, half, (high - top) / 2), wall)


def _on_walls(kit: Kit, long: float, wide: float, high: float) -> None:
    """A picture, window, door, cupboard, beam or pipe on one of the walls."""
    draw = kit.draw
    side = draw.randrange(4)
    across, out = (wide, long) if side % 2 == 0 else (long, wide)
    heading = side * TURN / 4
    kit.stand(math.cos(heading) * out, math.sin(heading) * out, 0, heading)
    y = draw.uniform(-0.85, 0.85) * across
    match draw.randrange(5):
        case 0:
            half = (0.02, draw.uniform(0.15, 0.8), draw.uniform(0.15, 0.6))
            kit.add(BOX, (-0.02, y, draw.uniform(1.2, 1.8)), half, kit.material("thing"))
        case 1:
            kit.add(BOX, (-0.03, y, 1.0), (0.05, 0.45, 1.0), kit.material("wood"))
        case 2:
            deep, tall = draw.uniform(0.15, 0.35), draw.uniform(0.5, high / 2)
            half = (deep, draw.uniform(0.3, 0.9), tall)
            kit.add(BOX, (-deep, y, tall), half, kit.material("wood"))
        case 3:
            wood = kit.material("wood")
            for level in range(draw.randint(1, 3)):
                z = 0.9 + 0.45 * level
                kit.add(BOX, (-0.15, y, z), (0.15, 0.6, 0.015), wood)
                half = (draw.uniform(0.05, 0.12), draw.uniform(0.05, 0.2), draw.uniform(0.05, 0.17))
                offset = (-0.15, y + draw.uniform(-0.4, 0.4), z + 0.015 + half[2])
                kit.add(draw.choice((BOX, CYLINDER)), offset, half, kit.material("thing"))
        case _:
            radius = draw.uniform(0.04, 0.2)
            half = (radius, radius, high / 2)
            kit.add(CYLINDER, (-radius, y, high / 2), half, kit.material("metal"))


def _on_floor(kit: Kit, long: float, wide: float, high: float) -> None:
    """A piece of furniture, a pillar, a plant, a crate or a ball, where the floor is free."""
    draw = kit.draw
    for _ in range(4):
        x, y = draw.uniform(-0.9, 0.9) * long, draw.uniform(-0.9, 0.9) * wide
        if kit.claim(x, y, 0.45):
            break
    else:
        return
    kit.stand(x, y, 0, draw.uniform(0, TURN) if draw.random() < 0.5 else 0)
    uniform = draw.uniform
    match draw.randrange(8):
        case 0:
            _table(kit, uniform(0.35, 0.9), uniform(0.3, 0.5), uniform(0.4, 0.8))
        case 1:
            _chair(kit)
        case 2:
            radius = uniform(0.08, 0.3)
            kit.add(CYLINDER, (0, 0, high / 2), (radius, radius, high / 2), kit.material("wall"))
        case 3:
            _lamp(kit)
        case 4:
            _plant(kit)
        case 5:
            _stack(kit)
        case 6:
            half = (uniform(0.4, 0.6), uniform(0.7, 1.1), 0.2)
            cloth = kit.material("thing")
            kit.add(BOX, (0, 0, 0.2), half, cloth)
            kit.add(BOX, (-half[0], 0, 0.4), (0.1, half[1], 0.4), cloth)
        case _:
            radius = uniform(0.1, 0.45)
            kit.add(BALL, (0, 0, radius), (radius, radius, radius), kit.material("thing"))


def _table(kit: Kit, long: float, wide: float, high: float) -> None:
    draw, wood = kit.draw, kit.material("wood")
    kit.add(BOX, (0, 0, high), (long, wide, 0.02), wood)
    for x in (-1, 1):
        for y in (-1, 1):
            offset = (x * (long - 0.05), y * (wide - 0.05), high / 2)
            kit.add(BOX, offset, (0.025, 0.025, high / 2), wood)
    for _ in range(draw.randint(0, 2)):
        half = (draw.uniform(0.04, 0.15), draw.uniform(0.04, 0.15), draw.uniform(0.04, 0.2))
        offset = (draw.uniform(-0.8, 0.8) * long, draw.uniform(-0.8, 0.8) * wide, high + half[2])
        kind = draw.choice((BOX, CYLINDER, BALL))
        kit.add(kind, offset, half, kit.material("thing"), (draw.uniform(0, TURN), 0, 0))


def _chair(kit: Kit) -> None:
    wood = kit.material("wood")
    kit.add(BOX, (0, 0, 0.45), (0.22, 0.22, 0.025), wood)
    for x in (-0.2, 0.2):
        for y in (-0.2, 0.2):
            kit.add(CYLINDER, (x, y, 0.22), (0.02, 0.02, 0.22), wood)
    kit.add(BOX, (-0.21, 0, 0.75), (0.02, 0.22, 0.25), wood)


def _lamp(kit: Kit) -> None:
    high = kit.draw.uniform(1.0, 1.8)
    kit.add(CYLINDER, (0, 0, high / 2), (0.018, 0.018, high / 2), kit.material("metal"))
    shade = kit.draw.uniform(0.12, 0.25)
    kind = kit.draw.choice((BALL, CYLINDER))
    kit.add(kind, (0, 0, high), (shade, shade, shade * 0.8), kit.material("ceiling"))


def _plant(kit: Kit) -> None:
    draw = kit.draw
    kit.add(CYLINDER, (0, 0, 0.2), (0.17, 0.17, 0.2), kit.material("thing"))
    leaves = kit.material("leaves")
    for _ in range(draw.randint(2, 4)):
        turn = (draw.uniform(0, TURN), draw.uniform(-0.5, 0.5), draw.uniform(-0.5, 0.5))
        offset = (draw.uniform(-0.15, 0.15), draw.uniform(-0.15, 0.15), draw.uniform(0.6, 1.0))
        kit.add(BALL, offset, (0.12, 0.12, draw.uniform(0.2, 0.45)), leaves, turn)


def _stack(kit: Kit) -> None:
    draw, z = kit.draw, 0.0
    for _ in range(draw.randint(1, 4)):
        half = (draw.uniform(0.15, 0.35), draw.uniform(0.15, 0.35), draw.uniform(0.08, 0.3))
        turn = (draw.uniform(0, TURN), 0.0, 0.0)
        kit.add(
            draw.choice((BOX, BOX, CYLINDER)),
            (0, 0, z + half[2]),
            half,
            kit.material("thing"),
            turn,
        )
        z += 2 * half[2]


def _from_ceiling(kit: Kit, long: float, wide: float, high: float) -> None:
    """A hanging lamp, a beam or a duct under the ceiling."""
    draw = kit.draw
    x, y = draw.uniform(-0.8, 0.8) * long, draw.uniform(-0.8, 0.8) * wide
    kit.stand(0, 0, 0, 0)
    match draw.randrange(3):
        case 0:
            drop, radius = draw.uniform(0.3, 1.0), draw.uniform(0.1, 0.3)
            offset, rod = (x, y, high - drop / 2), (0.012, 0.012, drop / 2)
            kit.add(CYLINDER, offset, rod, kit.material("metal"))
            kind = draw.choice((BALL, CYLINDER))
            kit.add(
                kind, (x, y, high - drop), (radius, radius, 0.7 * radius), kit.material("thing")
            )
        case 1:
            half = (draw.uniform(0.06, 0.15), wide, draw.uniform(0.06, 0.15))
            kit.add(BOX, (x, 0, high - half[2]), half, kit.material("wood"))
        case _:
            radius = draw.uniform(0.06, 0.2)
            offset, half = (0, y, high - 1.3 * radius), (radius, radius, long)
            kit.add(CYLINDER, offset, half, kit.material("metal"), (0, 0, TURN / 4))


def _in_air(kit: Kit, long: float, wide: float, high: float) -> None:
    """A thing of any shape at any angle: its place in the image tells nothing of its depth."""
    draw = kit.draw
    kit.stand(
        draw.uniform(-0.9, 0.9) * long,
        draw.uniform(-0.9, 0.9) * wide,
        draw.uniform(0.15, 0.95) * high,
        0,
    )
    floating(kit, 1.0)
