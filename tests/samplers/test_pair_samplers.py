"""Which pairs the samplers draw: against brute force, on images whose edges are known."""

import dataclasses
import functools
import itertools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.config import Choice, Config, ConfigError, override, validate
from reldepth_jax.errors import UserError
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.ops.pairs import limited, with_annotated
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.samplers.masked_draws import draw_pixels, nth_valid_pixel, pack_mask
from reldepth_jax.training.step import sampled_whdr
from reldepth_jax.types import UNKNOWN, Batch, Pairs


def make_batch(images: np.ndarray, mask: np.ndarray | None = None, **more: np.ndarray) -> Batch:
    """Return a batch of images (b h w 3, or gray ones) whose every pixel is valid by default."""
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, -1)
    shape = images.shape[:3]
    depth = np.random.default_rng(9).uniform(1, 9, shape)
    batch = {
        "image": jnp.asarray(images, jnp.uint8),
        "depth": jnp.asarray(depth, jnp.float32),
        "mask": jnp.asarray(np.ones(shape, bool) if mask is None else mask),
    }
    batch |= {name: jnp.asarray(value, jnp.int32) for name, value in more.items()}
    return cast(Batch, batch)


@functools.cache
def compiled(name: str, **options: Any) -> Any:
    return jax.jit(PAIR_SAMPLERS.create(name, **options))


def draw(name: str, batch: Batch, key: int = 0, **options: Any) -> Pairs:
    return compiled(name, **options)(jax.random.key(key), batch)


def valid_points(pairs: Pairs, width: int, which: int | None = None, image: int = 0) -> np.ndarray:
    """Return rows and columns of both points of the valid pairs: (n, 4).

    `which` keeps every third pair, from that one on.
    """
    chosen = np.asarray(pairs.valid[image]).copy()
    if which is not None:
        chosen &= np.arange(chosen.size) % 3 == which
    ends = np.asarray(pairs.first[image])[chosen], np.asarray(pairs.second[image])[chosen]
    return np.stack([part for end in ends for part in divmod(end, width)], 1)


def chi_square_is_likely(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Whether chi-square is below about its 99.99 % point; cells are pooled where few are due."""
    assert counts[expected == 0].sum() == 0
    few = expected < 5
    pooled_counts = np.append(counts[~few], counts[few].sum())
    pooled = np.append(expected[~few], expected[few].sum())
    keep = pooled > 0
    value = ((pooled_counts - pooled)[keep] ** 2 / pooled[keep]).sum()
    freedom = keep.sum() - 1
    # Wilson and Hilferty's approximation.
    return value < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


def brute_force_sobel(gray: np.ndarray) -> np.ndarray:
    """Return the gradient (rows down, columns right) at each pixel, 0 on the border: (h, w, 2)."""
    height, width = gray.shape
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])[:, ::-1]
    gradient = np.zeros((height, width, 2))
    for row, column in itertools.product(range(1, height - 1), range(1, width - 1)):
        window = gray[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64)
        gradient[row, column] = (window * kernel.T).sum(), (window * kernel).sum()
    return gradient


def brute_force_distribution(
    gradient: np.ndarray, edge: np.ndarray, low: int, high: int, signs: tuple[int, int]
) -> np.ndarray:
    """Return how likely each ordered pair of pixels is, of two points on these sides: (p, p)."""
    height, width = edge.shape
    likely = np.zeros((height * width, height * width))
    span = range(low, high + 1)
    for row, column in np.argwhere(edge):
        angle = math.atan2(*gradient[row, column])
        for distances in itertools.product(span, span):
            ends = []
            for sign, distance in zip(signs, distances, strict=True):
                r = row + round(sign * distance * math.sin(angle))
                c = column + round(sign * distance * math.cos(angle))
                ends.append(min(max(r, 0), height - 1) * width + min(max(c, 0), width - 1))
            likely[ends[0], ends[1]] += 1
    return likely / likely.sum()


@pytest.mark.parametrize(("which", "signs"), [(0, (-1, -1)), (1, (-1, 1)), (2, (1, 1))])
def test_edge_guided_pairs_are_distributed_as_by_brute_force(which: int, signs: tuple[int, int]):
    height, width = 12, 15
    gray = np.zeros((height, width), np.uint8)
    gray[:, 5:] = 60
    gray[4:9, 8:13] = 150
    gray += np.random.default_rng(0).integers(0, 9, gray.shape, np.uint8)
    gradient = brute_force_sobel(gray)
    strength = np.hypot(gradient[..., 0], gradient[..., 1])
    edge = strength >= 0.1 * strength.max()
    assert 40 < edge.sum() < 130 - 20
    likely = brute_force_distribution(gradient, edge, 2, 5, signs)
    count = 60_000
    pairs = draw("edge_guided", make_batch(gray[None]), num_pairs=3 * count, distances=(2, 5))
    first, second, valid = (np.asarray(values[0])[which::3] for values in pairs[:3])
    counts = np.zeros_like(likely)
    np.add.at(counts, (first, second), 1)
    assert chi_square_is_likely(counts, count * likely)
    np.testing.assert_array_equal(valid, first != second)


def test_the_first_column_has_no_more_anchors_than_it_has_edges():
    # Two edges, far right and lower left: nothing may come from the first columns of other rows.
    gray = np.zeros((1, 60, 90), np.uint8)
    gray[:, :, 70:] = 200
    gray[:, 40:, :20] = 200
    points = valid_points(draw("edge_guided", make_batch(gray), distances=(2, 5)), 90)
    rows, columns = points[:, ::2].ravel(), points[:, 1::2].ravel()
    assert len(points) > 2000
    assert not ((columns < 20) & (rows < 33)).any()
    assert ((columns < 30) & (rows > 33)).mean() > 0.2
    assert (columns > 60).mean() > 0.4


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 120, 135, 200, 300])
def test_edge_guided_points_lie_on_both_sides_of_a_slanted_edge(degrees: int):
    row, column = np.mgrid[:101, :101] - 50
    angle = math.radians(degrees)
    signed = column * math.cos(angle) + row * math.sin(angle)
    bright = np.clip(128 + 100 * signed, 20, 220).astype(np.uint8)
    inside = np.hypot(row, column) < 45
    pairs = draw("edge_guided", make_batch(bright[None], inside[None]), distances=(2, 20))
    sides = [
        (signed[p[:, 0], p[:, 1]], signed[p[:, 2], p[:, 3]])
        for p in (valid_points(pairs, 101, which) for which in range(3))
    ]
    assert all(len(one) > 400 for one, _ in sides)
    # Rounding, and anchors up to 1.5 pixels beside the edge.
    assert sides[0][0].max() < 0.75
    assert sides[0][1].max() < 0.75
    assert sides[1][0].max() < 0.75
    assert sides[1][1].min() > -0.75
    assert sides[2][0].min() > -0.75
    assert sides[2][1].min() > -0.75
    assert sides[1][0].min() < -18
    assert sides[1][1].max() > 18


def test_distances_are_equally_likely_and_both_ends_occur():
    gray = np.zeros((1, 40, 100), np.uint8)
    gray[:, :, 50:] = 255
    pairs = draw("edge_guided", make_batch(gray), num_pairs=60_000, distances=(2, 30))
    for which, point in ((0, 1), (0, 3), (1, 3), (2, 3)):
        points = valid_points(pairs, 100, which)
        # The anchors are the columns 49 and 50, equally often.
        counts = np.bincount(np.abs(2 * points[:, point] - 99) // 2, minlength=50)
        expected = np.zeros(50)
        for anchor, distance in itertools.product((0, 1), range(2, 31)):
            expected[distance - anchor] += 0.5 / 29
        assert chi_square_is_likely(counts, len(points) * expected)


def test_gray_sees_an_edge_between_colours_of_equal_red_and_red_does_not():
    image = np.zeros((1, 20, 40, 3), np.uint8)
    image[..., 0] = 200
    image[:, :, 20:, 1:] = 200
    batch = make_batch(image)
    assert draw("edge_guided", batch).valid.mean() > 0.5
    assert not draw("edge_guided", batch, channel="red").valid.any()
    red = make_batch(image[..., [1, 0, 0]])
    assert draw("edge_guided", red, channel="red").valid.mean() > 0.5


@pytest.mark.parametrize(
    ("threshold", "seen"),
    [(0.525, "green"), (0.5, "red green"), (0.205, "red green"), (0.185, "red green blue")],
)
def test_gray_weighs_colours_by_rec_601(threshold: float, seen: str):
    """Edges of 200 in one colour: red has 0.299 / 0.587 of green's gradient, blue 0.114 / 0.587."""
    image = np.zeros((1, 20, 90, 3), np.uint8)
    for colour in range(3):
        image[:, :, 30 * colour + 10 : 30 * colour + 20, colour] = 200
    pairs = draw(
        "edge_guided", make_batch(image), num_pairs=900, distances=(1, 2), threshold=threshold
    )
    # At most 3 columns from an edge.
    found = np.unique(valid_points(pairs, 90)[:, 1::2] // 30)
    assert " ".join(("red", "green", "blue")[colour] for colour in found) == seen


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (201, 77, 33)])
def test_an_image_of_one_colour_has_no_edge(color: tuple[int, int, int]):
    flat = np.broadcast_to(np.array(color, np.uint8), (1, 16, 20, 3))
    pairs = draw("edge_guided", make_batch(flat))
    assert not pairs.valid.any()
    assert ((pairs.first >= 0) & (pairs.first < 320)).all()


def test_images_of_a_batch_have_their_own_edges():
    gray = np.zeros((2, 30, 80), np.uint8)
    gray[0, :, 10:] = 9
    gray[1, :, 70:] = 255
    pairs = draw("edge_guided", make_batch(gray), distances=(2, 4))
    assert valid_points(pairs, 80, image=0)[:, 1::2].max() <= 14
    assert valid_points(pairs, 80, image=1)[:, 1::2].min() >= 65


def test_points_without_ground_truth_are_in_no_valid_pair():
    gray = np.random.default_rng(2).integers(0, 256, (1, 20, 30), np.uint8)
    mask = np.random.default_rng(3).random((1, 20, 30)) < 0.5
    batch = make_batch(gray, mask, instances=gray // 128)
    for name in ("edge_guided", "instance_guided", "mixture"):
        points = valid_points(draw(name, batch), 30)
        assert len(points) > 100
        assert mask[0][points[:, 0], points[:, 1]].all()
        assert mask[0][points[:, 2], points[:, 3]].all()
    mask[:] = False
    mask[0, 7, 7] = True
    batch = make_batch(gray, mask, instances=gray // 128)
    for name in ("uniform", "edge_guided", "instance_guided", "mixture"):
        assert not draw(name, batch).valid.any()


DISCS = np.zeros((1, 80, 120), np.int32)
_ROW, _COLUMN = np.mgrid[:80, :120]
DISCS[0, np.hypot(_ROW - 40, _COLUMN - 35) < 24] = 7
DISCS[0, np.hypot(_ROW - 40, _COLUMN - 78) < 20] = 3
DISCS[0, 30:50, 58:60] = 3


def test_instance_guided_pairs_are_across_outlines_or_within_one_instance():
    batch = make_batch(np.zeros((1, 80, 120), np.uint8), instances=DISCS)
    pairs = draw("instance_guided", batch, num_pairs=6000, distances=(2, 12))
    kinds = set()
    for which in range(3):
        points = valid_points(pairs, 120, which)
        assert len(points) > 1400
        one, other = (DISCS[0][points[:, i], points[:, i + 1]] for i in (0, 2))
        assert ((one != other) == (which == 1)).all()
        kinds |= set(zip(one.tolist(), other.tolist(), strict=True))
        # Near an outline: 12 pixels, and a diagonal for rounding.
        outline = np.minimum(
            np.abs(np.hypot(points[:, 0] - 40, points[:, 1] - 35) - 24),
            np.abs(np.hypot(points[:, 0] - 40, points[:, 1] - 78) - 20),
        )
        assert outline.max() < 14.5
    assert kinds >= {(0, 0), (3, 3), (7, 7), (0, 3), (3, 0), (0, 7), (7, 0), (3, 7), (7, 3)}


def test_instance_guided_points_lie_along_the_normal_of_the_outline():
    ids = np.where(_COLUMN + _ROW > 100, 5, 2)[None]
    batch = make_batch(np.zeros((1, 80, 120), np.uint8), instances=ids)
    points = valid_points(draw("instance_guided", batch, distances=(3, 9)), 120, 1)
    inside = ((points > 0) & (points < [79, 119, 79, 119])).all(1)
    step = (points[:, 2:] - points[:, :2])[inside]
    assert len(step) > 500
    assert np.abs(step[:, 0] - step[:, 1]).max() <= 1
    # c lies on the anchor's side, so the step points either way.
    assert 0.3 < (step[:, 0] > 0).mean() < 0.7


def test_without_instances_there_are_no_pairs_and_without_the_key_one_line():
    black = np.zeros((1, 20, 30), np.uint8)
    batch = make_batch(black, instances=np.zeros((1, 20, 30)))
    assert not draw("instance_guided", batch).valid.any()
    with pytest.raises(
        UserError, match=r"^pairs: instance_guided needs instance masks; "
    ) as caught:
        draw("instance_guided", make_batch(black))
    assert "\n" not in str(caught.value)


UNIFORM = Choice("uniform")
EVERY = {
    "samplers": (Choice("uniform"), Choice("edge_guided"), Choice("instance_guided")),
    "num_pairs": (100, 200, 300),
}


def test_pairs_depend_on_the_key_alone():
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (2, 20, 30, 3), np.uint8)
    batch = make_batch(images, instances=rng.integers(0, 3, (2, 20, 30)))
    pairs, again = (draw("mixture", batch, 5, **EVERY) for _ in range(2))
    for one, same in zip(pairs[:3], again[:3], strict=True):
        np.testing.assert_array_equal(one, same)
    assert (pairs.first[0] != pairs.first[1]).mean() > 0.9
    other = draw("mixture", batch, 6, **EVERY)
    # Of the three samplers each has another key.
    for part in range(3):
        assert (pairs.first != other.first)[:, part::3].mean() > 0.9


@pytest.mark.parametrize("number", [1, 2, 4, 6, 6000])
@pytest.mark.parametrize("name", ["uniform", "edge_guided", "instance_guided"])
def test_any_number_of_pairs_can_be_asked_for(name: str, number: int):
    batch = make_batch(DISCS, instances=DISCS)
    sampler = PAIR_SAMPLERS.create(name, num_pairs=number)
    shapes = jax.eval_shape(sampler, jax.random.key(0), batch)
    assert {values.shape for values in shapes[:3]} == {(1, number)}


def test_each_valid_pixel_is_drawn_equally_often():
    mask = np.random.default_rng(0).random((2, 50)) < 0.4
    mask[1] = False
    pixels, found = draw_pixels(jax.random.key(0), jnp.asarray(mask), 20_000)
    counts = np.bincount(np.asarray(pixels[0]), minlength=50)
    assert chi_square_is_likely(counts, 20_000 * mask[0] / mask[0].sum())
    assert found.ravel().tolist() == [True, False]


@pytest.mark.parametrize("pixels", [1, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_valid_pixels_are_found_by_their_rank(pixels: int, share: float):
    mask = np.random.default_rng(pixels).random((3, pixels)) < share
    packed = pack_mask(jnp.asarray(mask))
    assert packed.total.ravel().tolist() == mask.sum(axis=1).tolist()
    ranks = np.broadcast_to(np.arange(pixels + 2, dtype=np.int32), (3, pixels + 2))
    found = np.asarray(nth_valid_pixel(packed, jnp.asarray(ranks), pixels))
    for image in range(3):
        places = np.flatnonzero(mask[image])
        too_large = [pixels - 1] * (pixels + 2 - len(places))
        assert found[image].tolist() == [*places, *too_large]


def test_smaller_budgets_are_the_beginnings_of_larger_ones():
    batch = make_batch(np.zeros((2, 20, 30), np.uint8))
    largest = PAIR_SAMPLERS.create("uniform", num_pairs=600)
    traced = 0

    @jax.jit
    def step(key: jax.Array, budget: jax.Array) -> Pairs:
        nonlocal traced
        traced += 1
        return limited(largest(key, batch), budget)

    for budget in (1, 600):
        pairs = step(jax.random.key(3), jnp.asarray(budget))
        expected = np.broadcast_to(np.arange(600) < budget, (2, 600))
        np.testing.assert_array_equal(pairs.valid, expected)
        configured = draw("uniform", batch, 3, num_pairs=budget, padded_to=600)
        for one, other in zip(pairs[:3], configured[:3], strict=True):
            np.testing.assert_array_equal(one, other)
    assert traced == 1


def test_a_loss_of_a_budget_is_that_of_its_pairs_alone():
    batch = make_batch(np.zeros((1, 20, 30), np.uint8))
    score = jnp.asarray(np.random.default_rng(1).normal(size=(1, 20, 30)), jnp.float32)
    pairs = draw("uniform", batch, num_pairs=600)
    few = Pairs(pairs.first[:, :40], pairs.second[:, :40], pairs.valid[:, :40])
    loss = RankingLoss()
    np.testing.assert_allclose(
        loss(score, batch, limited(pairs, 40)), loss(score, batch, few), rtol=1e-6
    )


def test_every_beginning_of_a_mixture_has_the_samplers_in_their_shares():
    # One colour: what is valid is uniform.
    batch = make_batch(np.zeros((1, 20, 30), np.uint8))
    pairs = draw("mixture", batch, num_pairs=(300, 900))
    assert pairs.valid.shape == (1, 1200)
    sums = np.cumsum(np.asarray(pairs.valid[0]))
    # No closer: a share of a pair does not exist.
    assert np.abs(sums - np.arange(1, 1201) / 4).max() <= 0.5


def test_a_mixture_has_one_random_pair_to_two_across_edges_unless_told_otherwise():
    gray = np.zeros((1, 40, 100), np.uint8)
    gray[:, :, 50:] = 255
    batch = make_batch(gray, np.tile(np.arange(100) < 50, (1, 40, 1)))
    pairs = draw("mixture", batch)
    assert pairs.valid.shape == (1, 3000)
    # Of uniform pairs both points are valid, of the other ones those on the left side.
    points = valid_points(pairs, 100)
    across = (points[:, 1] > 18) & (points[:, 3] > 18) & (points[:, 0] == points[:, 2])
    assert abs(len(points) - 1000 - 2000 / 3) < 60
    assert across.sum() > 400


def test_a_mixture_holds_the_pairs_of_its_samplers():
    gray = np.zeros((1, 40, 100), np.uint8)
    gray[:, :, 50:] = 255
    batch = make_batch(gray)
    points = valid_points(draw("mixture", batch, num_pairs=(500, 1000)), 100)
    # Edge-guided pairs lie in one row; of uniform ones 1 in 40 does.
    same_row = (points[:, 0] == points[:, 2]).sum()
    edges = valid_points(draw("edge_guided", batch, num_pairs=1000), 100)
    assert abs(same_row - len(edges) - 500 / 40) < 40
    assert 1440 < len(points) <= 1500


def test_a_mixture_is_a_choice_in_a_config_and_on_the_command_line():
    config = override(
        Config(pairs=Choice("mixture")),
        {
            "pairs.samplers": "uniform,instance_guided",
            "pairs.num_pairs": "10,20",
            "pairs.samplers.1.distances": "3,4",
        },
    )
    validate(config)
    sampler = PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options)
    assert sampler.needs == ("instances",)
    assert [part.num_pairs for part in sampler.parts] == [10, 20]
    assert sampler.parts[1].distances == (3, 4)
    for mistake, message in (
        ({"pairs.sampler": "uniform"}, "Did you mean 'samplers'"),
        ({"pairs.samplers": "uniform,edge_giuded"}, "samplers.1.name: .*mean 'edge_guided'"),
        ({"pairs.samplers.1.threshhold": "1"}, "'pairs.samplers.1.threshhold'.*mean 'threshold'"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(override(Config(pairs=Choice("mixture")), mistake))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixture", {"samplers": (UNIFORM,)}, "one number for each of pairs.samplers"),
        ("mixture", {"samplers": (), "num_pairs": ()}, "one number for each of pairs.samplers"),
        (
            "mixture",
            {"samplers": (UNIFORM, UNIFORM)},
            "all must be different, got uniform, uniform",
        ),
        ("mixture", {"samplers": (UNIFORM, Choice("annotated"))}, "'annotated' cannot be part"),
        ("mixture", {"samplers": (Choice("mixture"), UNIFORM)}, "'mixture' cannot be part"),
        (
            "mixture",
            {"samplers": (UNIFORM, Choice("edge_guided", num_pairs=5))},
            "edge_guided gets its number from pairs.num_pairs",
        ),
        (
            "mixture",
            {"samplers": (UNIFORM, Choice("edge_guided", threshold=0.0))},
            "samplers.1.threshold must be above 0",
        ),
        ("mixture", {"num_pairs": (1000, 0)}, "of edge_guided must be from 1 to"),
        ("uniform", {"num_pairs": 0}, "num_pairs must be from 1 to"),
        ("uniform", {"num_pairs": 10, "padded_to": 9}, "padded_to must be 0, or from"),
        ("edge_guided", {"num_pairs": 0}, "num_pairs must be from 1"),
        ("edge_guided", {"distances": (3, 2)}, "smallest <= largest <= 32768, got 3, 2"),
        ("edge_guided", {"distances": (0, 2)}, "1 <= smallest"),
        ("edge_guided", {"threshold": 0.0}, "threshold must be above 0"),
        ("instance_guided", {"num_pairs": -1}, "num_pairs must be from 1"),
        ("instance_guided", {"distances": (5, 4)}, "smallest <= largest"),
    ],
)
def test_mistakes_are_told_at_construction(name: str, options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=rf"^pairs\.[^\n]*{message}[^\n]*$"):
        PAIR_SAMPLERS.create(name, **options)


def test_annotated_pairs_are_all_there_is():
    given = np.full((2, 3, 5), 0)
    given[..., 4] = UNKNOWN
    given[0, :2] = [[0, 1, 2, 3, -1], [1, 1, 0, 0, 1]]
    given[1, 0] = [3, 3, 0, 2, -1]
    batch = make_batch(np.zeros((2, 4, 5), np.uint8), pairs=given)
    drawn = draw("annotated", batch)
    assert drawn.first.shape == (2, 0)
    score = np.random.default_rng(0).normal(size=(2, 4, 5))
    joined = with_annotated(drawn, batch)
    differences = [
        (score[0, 0, 1] - score[0, 2, 3]) * -1,
        (score[0, 1, 1] - score[0, 0, 0]) * 1,
        (score[1, 3, 3] - score[1, 0, 2]) * -1,
    ]
    scores = jnp.asarray(score, jnp.float32)
    value = RankingLoss(drop_easiest=0.0)(scores, batch, joined)
    terms = [math.log1p(math.exp(-difference)) for difference in differences]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-5)
    error = sampled_whdr(scores, batch, joined, sigma=0.02)
    np.testing.assert_allclose(error, np.mean(np.array(differences) <= 0), rtol=1e-6)


def test_no_pairs_at_all_are_no_loss_and_no_error():
    batch = make_batch(np.zeros((2, 4, 5), np.uint8), pairs=np.zeros((2, 1, 5)))
    drawn = draw("annotated", batch)
    scores = jnp.ones((2, 4, 5))
    for loss in (RankingLoss(), dataclasses.replace(RankingLoss(), average="images")):
        value, gradient = jax.value_and_grad(loss)(scores, batch, drawn)
        assert value == 0
        assert (gradient == 0).all()
    assert sampled_whdr(scores, batch, drawn, sigma=0.02) == 0


def test_annotated_refuses_a_batch_without_annotations_in_one_line():
    batch = make_batch(np.zeros((1, 4, 5), np.uint8))
    with pytest.raises(UserError, match=r"^pairs: annotated needs a source with ") as caught:
        draw("annotated", batch)
    assert "\n" not in str(caught.value)
