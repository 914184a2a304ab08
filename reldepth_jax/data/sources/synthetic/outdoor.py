"""Random open air: ground, buildings, trees, poles, fences, cars, things overhead, hills, sky."""

import math
import random

import numpy as np

from reldepth_jax.data.sources.synthetic.raycast import BALL, BOX, CYLINDER, LEVEL
from reldepth_jax.data.sources.synthetic.scene import (
    Camera,
    Kit,
    Light,
    Scene,
    floating,
    roll_degrees,
)

TURN = math.tau


def street(draw: random.Random, rng: np.random.Generator) -> Scene:
    """Return a random street, yard or park; the camera looks along x from near the origin."""
    kit = Kit(draw)
    kit.add(LEVEL, (0, 0, 0), (1, 1, 1), kit.material("ground"))
    camera = Camera(
        place=(0, 0, draw.uniform(0.4, 2.2) if draw.random() < 0.8 else draw.uniform(3, 9)),
        yaw=draw.gauss(0, 0.2),
        pitch=math.radians(min(max(draw.gauss(1, 5), -20), 20)),
        roll=math.radians(roll_degrees(draw)),
        view=math.radians(draw.uniform(45, 85)),
    )
    kit.claim(0, 0, 1.2)
    if draw.random() < 0.75:
        _buildings(kit)
    if draw.random() < 0.5:
        _hills(kit)
    if draw.random() < 0.75:
        _overhead(kit, camera.place[2])
    for _ in range(draw.randint(3, 7)):
        _standing(kit)
    for _ in range(draw.randint(0, 2)):
        distance = 2.0 * 8.0 ** draw.random()
        bearing = camera.yaw + draw.uniform(-0.6, 0.6)
        height = camera.place[2] + distance * (math.tan(camera.pitch) + draw.uniform(-0.4, 0.6))
        kit.stand(distance * math.cos(bearing), distance * math.sin(bearing), max(height, 0.3), 0)
        floating(kit, draw.uniform(1.0, 2.5))

    height, around = math.radians(draw.uniform(18, 75)), draw.uniform(0, TURN)
    grey = draw.random()
    light = Light(
        is_sun=True,
        place=(
            math.cos(height) * math.cos(around),
            math.cos(height) * math.sin(around),
            math.sin(height),
        ),
        strength=draw.uniform(0.3, 3.0),
        reach=1.0,
        color=(1.08, 1.0, 0.85),
        sky=(0.45 + 0.35 * grey, 0.62 + 0.2 * grey, 0.95 - 0.1 * grey),
        visibility=400.0 * 40.0 ** draw.random(),
    )
    return kit.finish(light, camera, 0.5, rng)


def _buildings(kit: Kit) -> None:
    """Blocks along both sides, some with a ledge, or scattered ones."""
    draw = kit.draw
    row = draw.random() < 0.6
    for side in (-1, 1):
        x, line = draw.uniform(-2, 8), draw.uniform(4, 12)
        for _ in range(draw.randint(1, 4)):
            half = (draw.uniform(2, 8), draw.uniform(2, 6), draw.uniform(1.5, 9))
            y = side * (line + half[1] + (0 if row else draw.uniform(0, 15)))
            x += half[0]
            wall = kit.material("building")
            kit.stand(x, y, 0, 0 if row else draw.uniform(0, TURN))
            kit.add(BOX, (0, 0, half[2]), half, wall)
            if draw.random() < 0.6:
                ledge = (half[0] + 0.4, half[1] + 0.4, 0.15)
                kit.add(BOX, (0, 0, 2 * half[2]), ledge, kit.material("building"))
            x += half[0] + draw.uniform(0.3, 8)
    if draw.random() < 0.4:
        half = (4, draw.uniform(5, 20), draw.uniform(2, 8))
        kit.stand(draw.uniform(25, 70), draw.uniform(-5, 5), 0, draw.gauss(0, 0.2))
        kit.add(BOX, (0, 0, half[2]), half, kit.material("building"))


def _hills(kit: Kit) -> None:
    """Far, low hills."""
    draw, grass = kit.draw, kit.material("hill")
    for _ in range(draw.randint(1, 4)):
        distance, bearing = draw.uniform(250, 900), draw.uniform(-0.8, 0.8)
        kit.stand(distance * math.cos(bearing), distance * math.sin(bearing), 0, 0)
        half = (draw.uniform(80, 200), draw.uniform(100, 300), draw.uniform(15, 90))
        kit.add(BALL, (0, 0, 0), half, grass)


def _overhead(kit: Kit, eye: float) -> None:
    """Something nearer above than below: a bridge, an awning, cables, a branch."""
    draw = kit.draw
    kit.stand(0, 0, 0, draw.gauss(0, 0.3))
    match draw.randrange(4):
        case 0:
            x, z = draw.uniform(4, 20), eye + draw.uniform(1.5, 4)
            wall = kit.material("building")
            kit.add(BOX, (x, 0, z), (draw.uniform(1, 3), 25, 0.4), wall)
            for y in (draw.uniform(-8, -3), draw.uniform(3, 8)):
                kit.add(CYLINDER, (x, y, z / 2), (0.35, 0.35, z / 2), wall)
        case 1:
            z = eye + draw.uniform(0.7, 2)
            half = (draw.uniform(1.5, 4), draw.uniform(1.5, 4), 0.05)
            turn = (0, draw.gauss(0, 0.1), draw.gauss(0, 0.15))
            kit.add(
                BOX, (draw.uniform(1, 4), draw.uniform(-2, 2), z), half, kit.material("wood"), turn
            )
        case 2:
            wire = kit.material("metal")
            for _ in range(draw.randint(2, 4)):
                offset = (draw.uniform(3, 12), 0, eye + draw.uniform(1, 4))
                turn = (draw.gauss(0, 0.5), TURN / 4, 0)
                kit.add(CYLINDER, offset, (0.025, 0.025, 25), wire, turn)
        case _:
            leaves, bark = kit.material("leaves"), kit.material("wood")
            z, y = eye + draw.uniform(0.5, 1.5), draw.uniform(-1, 1)
            kit.add(CYLINDER, (3, y, z), (0.05, 0.05, 2.5), bark, (draw.uniform(0, TURN), 1.4, 0))
            for _ in range(draw.randint(3, 6)):
                offset = (draw.uniform(1.8, 5), y + draw.uniform(-2, 2), z + draw.uniform(-0.3, 1))
                half = (draw.uniform(0.2, 0.6), draw.uniform(0.2, 0.6), draw.uniform(0.15, 0.4))
                kit.add(BALL, offset, half, leaves)


def _standing(kit: Kit) -> None:
    """A tree, pole, sign, fence, car, bush, wall, person or crate, nearer more often than far."""
    draw = kit.draw
    uniform = draw.uniform
    for _ in range(4):
        x = 1.5 * 25.0 ** draw.random()
        y = uniform(-1, 1) * (0.8 + 0.55 * x)
        if kit.claim(x, y, 0.3 + 0.05 * x):
            break
    else:
        return
    kit.stand(x, y, 0, uniform(0, TURN))
    match draw.randrange(8):
        case 0 | 1:
            _tree(kit)
        case 2:
            high, metal = uniform(1.2, 3.5), kit.material("metal")
            kit.add(CYLINDER, (0, 0, high), (0.06, 0.06, high), metal)
            if draw.random() < 0.6:
                kit.stand(x, y, 0, draw.gauss(0, 0.6))
                offset = (-0.07, 0, uniform(0.6, 1) * 2 * high)
                half = (0.02, uniform(0.2, 0.8), uniform(0.2, 0.5))
                kit.add(BOX, offset, half, kit.material("thing"))
        case 3:
            wood, long = kit.material("wood"), uniform(1.5, 4)
            for z in (0.4, 0.9):
                kit.add(BOX, (0, 0, z), (long, 0.02, 0.06), wood)
            for step in range(4):
                kit.add(BOX, (long * (step / 1.5 - 1), 0, 0.55), (0.05, 0.05, 0.55), wood)
        case 4:
            paint, tyre = kit.material("thing"), kit.material("metal")
            kit.add(BOX, (0, 0, 0.6), (2.1, 0.85, 0.32), paint)
            kit.add(BOX, (-0.2, 0, 1.15), (1.1, 0.75, 0.27), paint)
            for dx in (-1.3, 1.3):
                kit.add(CYLINDER, (dx, 0, 0.32), (0.32, 0.32, 0.88), tyre, (0, TURN / 4, 0))
        case 5:
            coat, skin = kit.material("thing"), kit.material("wood")
            kit.add(BALL, (0, 0, 1.05), (0.2, 0.28, 0.45), coat)
            kit.add(BALL, (0, 0, 1.62), (0.11, 0.1, 0.14), skin)
            for dy in (-0.1, 0.1):
                kit.add(CYLINDER, (0, dy, 0.4), (0.08, 0.08, 0.4), coat)
        case 6:
            half = (uniform(1, 4), 0.12, uniform(0.4, 1.2))
            kit.add(BOX, (0, 0, half[2]), half, kit.material("building"))
        case _:
            half = (uniform(0.2, 0.8), uniform(0.2, 0.8), uniform(0.2, 0.7))
            kind, palette = draw.choice(((BOX, "thing"), (CYLINDER, "thing"), (BALL, "leaves")))
            kit.add(kind, (0, 0, half[2]), half, kit.material(palette))


def _tree(kit: Kit) -> None:
    draw = kit.draw
    trunk, radius = draw.uniform(1.2, 3.5), draw.uniform(0.07, 0.25)
    kit.add(CYLINDER, (0, 0, trunk / 2), (radius, radius, trunk / 2), kit.material("wood"))
    leaves, size = kit.material("leaves"), draw.uniform(0.7, 2.0)
    for _ in range(draw.randint(1, 4)):
        offset = (
            draw.uniform(-0.6, 0.6) * size,
            draw.uniform(-0.6, 0.6) * size,
            trunk + draw.uniform(0.2, 1) * size,
        )
        half = (
            size * draw.uniform(0.5, 1),
            size * draw.uniform(0.5, 1),
            size * draw.uniform(0.4, 1),
        )
        kit.add(BALL, offset, half, leaves)
