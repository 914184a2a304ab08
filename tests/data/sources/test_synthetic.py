"""The ray caster against closed forms; the scenes against what they promise."""

import hashlib
import math
import pickle

import numpy as np
import pytest

from reldepth_jax.config import ConfigError
from reldepth_jax.data.sources.synthetic import textures
from reldepth_jax.data.sources.synthetic.raycast import (
    BALL,
    BOX,
    CYLINDER,
    LEVEL,
    ROOM,
    Solids,
    cast,
    pixel_grid,
    shadowed,
)
from reldepth_jax.data.sources.synthetic.scene import Camera, rotation
from reldepth_jax.registry import SOURCES

HEIGHT, WIDTH, FOCAL = 47, 63, 50.0
SPLITS = ("train", "val", "test")


def rays() -> np.ndarray:
    """Rays (x, y, 1) through the pixel centres, float64, (h, w, 3)."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    x, y = (columns + 0.5 - WIDTH / 2) / FOCAL, (rows + 0.5 - HEIGHT / 2) / FOCAL
    return np.stack([x, y, np.ones_like(x)], -1)


def solid(kind: int, centre, half, turn=None) -> Solids:
    """One solid in camera axes; `turn` has its own axes as rows."""
    axes = np.eye(3) if turn is None else np.asarray(turn)
    matrix = axes / np.asarray(half, float)[:, None]
    origin = -matrix @ np.asarray(centre, float)
    return Solids(
        np.array([kind]), matrix[None].astype(np.float32), origin[None].astype(np.float32)
    )


def depth_of(*solids: Solids) -> np.ndarray:
    together = Solids(*(np.concatenate(parts) for parts in zip(*solids, strict=True)))
    return cast(together, pixel_grid(HEIGHT, WIDTH, FOCAL))[0]


def turned(angle: float) -> np.ndarray:
    sin, cos = math.sin(angle), math.cos(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]
    )


def assert_agrees(got: np.ndarray, expected: np.ndarray) -> None:
    """Same depth to 1e-4; at most 5 pixels of an outline may fall on the other side of it."""
    assert np.isfinite(expected).any()
    assert np.isinf(expected).any()
    same = np.isfinite(got) == np.isfinite(expected)
    assert (~same).sum() <= 5
    both = np.isfinite(got) & np.isfinite(expected)
    np.testing.assert_allclose(got[both], expected[both], rtol=1e-4)


def test_ball_in_front_has_the_depth_of_the_quadratic_formula():
    centre, radius, d = np.array([0.3, -0.2, 4.0]), 0.9, rays()
    a, b, c = (d * d).sum(-1), d @ centre, centre @ centre - radius**2
    root = b * b - a * c
    expected = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    assert_agrees(depth_of(solid(BALL, centre, (radius,) * 3)), expected)


def test_box_face_on_has_the_constant_depth_of_its_front():
    d = rays()
    inside = (np.abs(3 * d[..., 0] - 0.25) < 0.8) & (np.abs(3 * d[..., 1]) < 0.55)
    expected = np.where(inside, 3.0, np.inf)
    # From in front of its centre nothing but the front of a box is seen.
    got = depth_of(solid(BOX, (0.25, 0, 3.5), (0.8, 0.55, 0.5)))
    assert_agrees(got, expected)


def test_turned_box_is_entered_where_all_six_half_spaces_hold():
    axes, centre, half, d = (
        turned(0.5),
        np.array([0.1, 0.2, 5.0]),
        np.array([0.9, 0.4, 1.2]),
        rays(),
    )
    depths = np.linspace(2.5, 7.5, 4001)
    expected = np.full((HEIGHT, WIDTH), np.inf)
    for depth in depths[::-1]:
        local = (depth * d - centre) @ axes.T
        expected[(np.abs(local) <= half).all(-1)] = depth
    got = depth_of(solid(BOX, centre, half, axes))
    both = np.isfinite(got) & np.isfinite(expected)
    assert (np.isfinite(got) != np.isfinite(expected)).sum() <= 5
    assert both.sum() > 300
    assert np.abs(got[both] - expected[both]).max() < 2 * (depths[1] - depths[0])


def test_upright_cylinder_has_the_depth_of_its_circle():
    # The axis is the camera's y; seen from above the solid is a circle of radius 1 about (0.4, 6).
    d = rays()
    a, b = d[..., 0] ** 2 + 1, 0.4 * d[..., 0] + 6
    root = b * b - a * (0.4**2 + 36 - 1)
    expected = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    # So tall that its ends are out of sight.
    upright = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    assert_agrees(depth_of(solid(CYLINDER, (0.4, 0, 6), (1, 1, 9), upright)), expected)


def test_short_upright_cylinder_ends_where_its_surface_leaves_the_height():
    # The camera is at half the height, so the caps are never seen and the side ends at |y| = 1.5.
    d = rays()
    got = depth_of(solid(CYLINDER, (0, 0, 6), (1, 1, 1.5), [[1, 0, 0], [0, 0, -1], [0, 1, 0]]))
    seen = np.isfinite(got)
    assert 0 < seen[:, WIDTH // 2].sum() < HEIGHT
    middle = np.abs(5 * d[:, WIDTH // 2, 1]) < 1.5
    np.testing.assert_array_equal(seen[:, WIDTH // 2], middle)


def test_cylinder_towards_the_camera_shows_its_cap():
    d = rays()
    expected = np.where(np.hypot(3 * d[..., 0], 3 * d[..., 1]) < 0.7, 3.0, np.inf)
    assert_agrees(depth_of(solid(CYLINDER, (0, 0, 4), (0.7, 0.7, 1))), expected)


def test_floor_has_the_depth_of_its_height_over_the_slope():
    # The solid's z axis points up, against the camera's y; the camera is 1.5 m above the floor.
    turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    y = rays()[..., 1]
    expected = np.full(y.shape, np.inf)
    expected[y > 0] = 1.5 / y[y > 0]
    assert_agrees(depth_of(solid(LEVEL, (0, 1.5, 0), (1, 1, 1), turn)), expected)


def test_walls_around_the_camera_are_seen_from_inside():
    # Walls x = -1 and x = 2 (camera x), back wall z = 5; the room's own z axis is vertical.
    turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    x = rays()[..., 0]
    expected = np.where(x > 0, 2, 1) / np.maximum(np.abs(x), np.where(x > 0, 2, 1) / 5)
    got = depth_of(solid(ROOM, (0.5, 0, 2), (1.5, 3, 1), turn))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_nearest_of_several_solids_is_seen_whatever_their_order():
    far, near = solid(BALL, (0, 0, 6), (1, 1, 1)), solid(BALL, (0, 0, 3), (0.2, 0.2, 0.2))
    middle = (HEIGHT // 2, WIDTH // 2)
    assert depth_of(far, near)[middle] == pytest.approx(2.8, rel=1e-5)
    np.testing.assert_array_equal(depth_of(far, near), depth_of(near, far))


def test_solid_reaching_behind_the_camera_is_drawn_in_full():
    # A board 1 m to the right, from 3 m behind the camera to 3 m before it.
    x = rays()[..., 0]
    expected = np.full(x.shape, np.inf)
    right = x > 0
    expected[right] = 1 / x[right]
    expected[expected > 3] = np.inf
    got = depth_of(solid(BOX, (1.01, 0, 0), (0.01, 9, 3)))
    assert_agrees(got, expected)


def test_thin_rod_far_away_keeps_its_depth():
    # 1 cm radius at 60 m: the textbook discriminant cancels in float32.
    grid = pixel_grid(9, 9, 50_000.0)
    depth, _ = cast(solid(CYLINDER, (0, 0, 60), (0.01, 0.01, 5), np.eye(3)[[2, 0, 1]]), grid)
    assert np.isfinite(depth).sum() > 40
    np.testing.assert_allclose(depth[np.isfinite(depth)], 60, atol=0.02)


@pytest.mark.parametrize("kind", [BOX, BALL, CYLINDER])
def test_shadow_falls_only_behind_the_occluder(kind):
    thing = solid(kind, (0, 0, 5), (1, 1, 1))
    # Behind it, beside it, before it, and with the lamp between itself and the thing.
    points = np.array([[0.1, 0.2, 8], [3, 0, 8], [0.1, 0, 2], [0.1, 0, -2]], np.float32).T
    lamp = np.array([0, 0, 1], np.float32)
    assert shadowed(thing, [0], points, lamp, False).tolist() == [True, False, False, False]
    sun = np.array([0, 0.01, 1], np.float32)
    assert shadowed(thing, [0], points, sun, True).tolist() == [False, False, True, True]


def test_camera_axes_are_right_handed_and_pitch_looks_up():
    axes = rotation(Camera((0, 0, 0), 0.0, math.radians(30), 0.0, 1.0))
    np.testing.assert_allclose(axes[2], [math.sqrt(0.75), 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(axes[0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(np.cross(axes[0], axes[1]), axes[2], atol=1e-12)


@pytest.fixture(scope="module", params=SPLITS)
def scenes(request):
    source = SOURCES.create("synthetic", split=request.param, size=(48, 64))
    return [source[index] for index in range(100)]


def test_samples_have_the_promised_shapes_and_types(scenes):
    for sample in scenes:
        assert sample["image"].shape == (48, 64, 3)
        assert sample["image"].dtype == np.uint8
        assert sample["depth"].shape == sample["mask"].shape == (48, 64)
        assert sample["depth"].dtype == np.float32
        assert sample["mask"].dtype == bool
        assert sample["mask"].all()
        assert (sample["depth"] > 0).all()


def test_sky_is_infinitely_far_in_some_scenes_and_never_all_there_is(scenes):
    sky = np.array([np.isinf(sample["depth"]).mean() for sample in scenes])
    assert 0.15 < (sky > 0).mean() < 0.55
    assert sky.max() < 0.7


def test_scenes_have_depth_to_tell_apart_and_light_to_see_by(scenes):
    for sample in scenes:
        finite = sample["depth"][np.isfinite(sample["depth"])]
        low, high = np.percentile(finite, [4, 96])
        assert high > 1.3 * low
        assert 40 < sample["image"].mean() < 215
        assert sample["image"].std() > 8


def test_rule_that_lower_is_nearer_errs_on_more_than_30_percent_of_pairs(scenes):
    rng = np.random.default_rng(0)
    errors = []
    for sample in scenes:
        first, second = rng.integers(48 * 64, size=(2, 1000))
        depth = sample["depth"].ravel()
        unequal = np.maximum(depth[first], depth[second]) > 1.02 * np.minimum(
            depth[first], depth[second]
        )
        lower = first // 64 > second // 64
        wrong = np.where(first // 64 == second // 64, 0.5, lower == (depth[first] > depth[second]))
        errors.append(wrong[unequal].mean())
    assert np.mean(errors) > 0.30


def test_same_index_gives_the_same_sample_from_a_pickled_copy_too():
    source = SOURCES.create("synthetic", split="train", size=(32, 48), seed=5)
    copy = pickle.loads(pickle.dumps(source))
    for other in (source[7], copy[7]):
        for name, value in source[7].items():
            np.testing.assert_array_equal(other[name], value)


def test_seed_split_and_index_each_change_the_scene():
    def depth(split="train", seed=0, index=3):
        return SOURCES.create("synthetic", split=split, size=(32, 48), seed=seed)[index]["depth"]

    for other in (depth(split="val"), depth(split="test"), depth(seed=1), depth(index=4)):
        assert not np.array_equal(depth(), other)


def test_outdoor_share_chooses_between_rooms_and_open_air():
    def with_sky(outdoor):
        source = SOURCES.create("synthetic", split="val", size=(32, 48), outdoor=outdoor)
        return np.mean([np.isinf(source[index]["depth"]).any() for index in range(20)])

    assert with_sky(0.0) == 0
    assert with_sky(1.0) > 0.8


def test_length_is_capped_outside_training_and_out_of_range_is_an_error():
    assert len(SOURCES.create("synthetic", split="train", size=(32, 32), length=5000)) == 5000
    assert len(SOURCES.create("synthetic", split="test", size=(32, 32), length=5000)) == 1000
    source = SOURCES.create("synthetic", split="test", size=(32, 32), length=2)
    assert len(list(source)) == 2
    with pytest.raises(IndexError, match="scene 2 of 2"):
        source[2]


@pytest.mark.parametrize("option", [{"seed": -1}, {"length": 0}, {"outdoor": 1.5}])
def test_impossible_option_is_one_line_that_names_it(option):
    with pytest.raises(ConfigError, match=rf"data\.source\.{next(iter(option))} must be [^\n]*$"):
        SOURCES.create("synthetic", split="train", size=(32, 32), **option)


def test_splits_share_no_texture_family():
    families = [set(textures.FAMILIES[split]) for split in SPLITS]
    assert all(len(family) >= 4 for family in families)
    assert len(set.union(*families)) == sum(map(len, families))


def test_splits_share_no_kind_of_stain():
    assert len(set(textures.STAINS.values())) == len(SPLITS)
    for split, stains in textures.STAINS.items():
        maps = np.stack([stains(np.random.default_rng(seed)) for seed in range(30)])
        # As strong in every split, light as often as dark, and tiling.
        assert 0.1 < maps.std() < 0.2
        assert abs(maps.mean() - 0.5) < 0.06
        across = np.abs(maps - np.roll(maps, 1, axis=2)).mean(axis=(0, 1))
        assert across[0] < 1.5 * across.mean()
        # What tells them apart: bands change across only, drops are smooth, clouds are neither.
        down = np.abs(np.diff(maps, axis=1)).mean() / np.abs(np.diff(maps, axis=2)).mean()
        rough = np.abs(np.diff(maps, 2, axis=2)).mean() / np.abs(np.diff(maps, axis=2)).mean()
        assert (down < 0.7) == (split == "test")
        assert (rough > 0.6) == (split == "train")


def test_training_textures_are_those_of_earlier_versions():
    """Networks were trained with them; only held-out splits got stains of their own."""
    digest = hashlib.sha256(textures.atlas("train").texels.tobytes()).hexdigest()
    assert digest.startswith("9c25e718890fa790")


@pytest.mark.parametrize("split", SPLITS)
def test_coarser_mip_levels_average_the_finer_ones(split):
    atlas = textures.atlas(split)
    assert atlas.texels.size == atlas.textures * atlas.stride
    for number in range(atlas.textures):
        texels = atlas.texels[number * atlas.stride :][: atlas.stride].astype(float)
        finest, coarsest = texels[: 256 * 256], texels[-1]
        assert finest.std() > 4
        assert abs(finest.mean() - coarsest) < 1


def test_lookup_reads_the_texel_at_its_column_and_row():
    atlas = textures.atlas("train")
    finest = atlas.texels[2 * atlas.stride :][: 256 * 256].reshape(256, 256)
    s, t = np.array([[10.5, 300.2, 255.9], [20.5, 5.1, 512.3]], np.float32)
    got = textures.lookup(atlas, np.array([2, 2, 2]), s, t, np.full(3, 0.5, np.float32))
    expected = [finest[20, 10], finest[5, 44], finest[0, 255]]
    np.testing.assert_allclose(got * 255, expected, atol=1e-3)


def test_instances_change_nothing_else_and_are_none_in_sky_and_room():
    plain = SOURCES.create("synthetic", split="train", size=(48, 64))
    asked = SOURCES.create("synthetic", split="train", size=(48, 64), instances=True)
    shares = []
    for index in range(12):
        without, sample = plain[index], asked[index]
        assert "instances" not in without
        for name, value in without.items():
            np.testing.assert_array_equal(sample[name], value)
        ids = sample["instances"]
        assert ids.shape == (48, 64)
        assert ids.dtype == np.int32
        assert ids.min() == 0
        assert not ids[np.isinf(sample["depth"])].any()
        shares.append((ids > 0).mean())
    assert 0.05 < np.mean(shares) < 0.7


def test_outlines_of_instances_are_where_the_depth_jumps():
    source = SOURCES.create("synthetic", split="train", size=(96, 128), instances=True)
    outline, inside = [], []
    for index in range(12):
        depth, ids = source[index]["depth"], source[index]["instances"]
        one, other, differ = depth[:, 1:], depth[:, :-1], ids[:, 1:] != ids[:, :-1]
        jump = np.maximum(one, other) > 1.05 * np.minimum(one, other)
        outline.append(jump[differ].mean())
        inside.append(jump[~differ].mean())
    assert np.mean(outline) > 0.75
    assert np.mean(inside) < 0.03
