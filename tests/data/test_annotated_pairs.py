"""Annotated pairs on their way from a sample through the crop into the loss."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.data.transforms import TrainTransform
from reldepth_jax.losses.ranking import RankingLoss, ranking_loss
from reldepth_jax.ops.pairs import label, with_annotated
from reldepth_jax.training.step import sampled_whdr
from reldepth_jax.types import UNKNOWN, Batch, Pairs, Sample


def coded(height: int, width: int, pairs: list[tuple[int, ...]]) -> Sample:
    """Return a sample whose pixels tell their own place: red is the row, green the column."""
    row, column = np.mgrid[:height, :width]
    return {
        "image": np.stack([row, column, 0 * row], -1).astype(np.uint8),
        "depth": np.zeros((height, width), np.float32),
        "mask": np.zeros((height, width), bool),
        "pairs": np.array(pairs, np.int32).reshape(-1, 5),
    }


def test_points_stay_on_their_pixels_under_crop_and_mirror():
    pairs = [(3, 10, 30, 60, 1), (31, 99, 0, 40, -1), (8, 8, 9, 9, 0)]
    # As high as the crop, so nothing is resized.
    sample = coded(32, 100, pairs)
    transform = TrainTransform((32, 64), pairs_per_image=5)
    seen = set()
    for seed in range(60):
        out = transform(sample, np.random.default_rng(seed))
        assert "pairs" in out
        assert out["pairs"].shape == (5, 5)
        for r1, c1, r2, c2, relation in out["pairs"]:
            if relation == UNKNOWN:
                continue
            first, second = out["image"][r1, c1], out["image"][r2, c2]
            found = (*first[:2].tolist(), *second[:2].tolist(), int(relation))
            assert found in pairs
            seen.add(found)
    assert len(seen) == 3


@pytest.mark.parametrize("size", [(48, 96), (100, 70), (333, 500), (32, 64), (31, 64)])
def test_an_image_with_one_pair_never_loses_it(size: tuple[int, int]):
    height, width = size
    transform = TrainTransform((32, 64), zoom=(1.0, 2.0), pairs_per_image=1)
    rng = np.random.default_rng(1)
    for seed in range(100):
        points = rng.integers(0, [height, width], (2, 2))
        # Points on opposite sides, so that resizing cannot make them one.
        points[0, 1], points[1, 1] = points[0, 1] // 4, width - 1 - points[1, 1] // 4
        pair = (*points.ravel().tolist(), 1)
        out = transform(coded(height, width, [pair]), np.random.default_rng(seed))
        assert "pairs" in out
        assert out["pairs"][0, 4] == 1
        assert (out["pairs"][0, :4] >= 0).all()
        assert (out["pairs"][0, [0, 2]] < 32).all()
        assert (out["pairs"][0, [1, 3]] < 64).all()


def test_points_too_far_apart_for_any_crop_squeeze_the_whole_image():
    sample = coded(32, 128, [(5, 0, 6, 127, -1)])
    out = TrainTransform((32, 64), flip=False, pairs_per_image=1)(sample, np.random.default_rng(0))
    assert "pairs" in out
    assert out["pairs"].tolist() == [[5, 0, 6, 63, -1]]
    # The columns of the whole image, averaged in twos: 0.5, 2.5, … rounded by the resampling.
    np.testing.assert_allclose(out["image"][3, :, 1], 0.5 + 2 * np.arange(64), atol=1)


def test_a_resized_point_is_the_pixel_that_its_centre_falls_into():
    # 64x128 to 32x64: pixel centres 10.5, 20.5 become 5.25, 10.25, so pixels 5 and 10.
    sample = coded(64, 128, [(10, 20, 63, 127, 1)])
    out = TrainTransform((32, 64), flip=False, pairs_per_image=1)(sample, np.random.default_rng(0))
    assert "pairs" in out
    assert out["pairs"].tolist() == [[5, 10, 31, 63, 1]]


def test_a_point_of_an_enlarged_image_is_in_the_middle_of_what_its_pixel_became():
    # 20x40 to 32x64, by 1.6: the centre of pixel 3 lies at 5.6, so in pixel 5, not 3 * 1.6 = 4.
    sample = coded(20, 40, [(3, 3, 13, 38, 1)])
    out = TrainTransform((32, 64), flip=False, pairs_per_image=1)(sample, np.random.default_rng(0))
    assert "pairs" in out
    assert out["pairs"].tolist() == [[5, 5, 21, 61, 1]]


def test_the_first_and_the_last_possible_crop_occur():
    sample = coded(32, 70, [(0, 20, 9, 40, 1)])
    transform = TrainTransform((32, 64), flip=False, pairs_per_image=1)
    starts = {
        int(transform(sample, np.random.default_rng(seed))["image"][0, 0, 1]) for seed in range(200)
    }
    assert starts == set(range(7))


def test_points_that_fall_on_one_pixel_are_no_pair():
    sample = coded(128, 256, [(8, 8, 9, 9, 1)])
    out = TrainTransform((32, 64), flip=False, pairs_per_image=2)(sample, np.random.default_rng(0))
    assert "pairs" in out
    assert out["pairs"][:, 4].tolist() == [UNKNOWN, UNKNOWN]


def test_of_many_pairs_a_random_part_is_kept():
    many = [(0, column, 31, column, 1) for column in range(64)]
    transform = TrainTransform((32, 64), flip=False, pairs_per_image=10)
    kept = set()
    for seed in range(50):
        out = transform(coded(32, 64, many), np.random.default_rng(seed))
        assert "pairs" in out
        columns = out["pairs"][:, 1].tolist()
        assert len(set(columns)) == 10
        kept |= set(columns)
    assert len(kept) == 64


def test_without_pairs_asked_for_there_are_none():
    out = TrainTransform((32, 64))(coded(32, 64, [(0, 0, 1, 1, 1)]), np.random.default_rng(0))
    assert "pairs" not in out


def mixed_batch() -> tuple[Batch, Pairs]:
    """One image with depth, one with two annotated pairs; three sampled pairs each."""
    depth = jnp.asarray(np.arange(1.0, 25.0).reshape(2, 3, 4), jnp.float32)
    mask = jnp.asarray(np.stack([np.ones((3, 4), bool), np.zeros((3, 4), bool)]))
    pairs = np.full((2, 2, 5), 0)
    pairs[..., 4] = UNKNOWN
    pairs[1] = [[0, 1, 2, 3, -1], [1, 1, 0, 0, 0]]
    batch: Batch = {
        "image": jnp.zeros((2, 3, 4, 3), jnp.uint8),
        "depth": depth,
        "mask": mask,
        "pairs": jnp.asarray(pairs, jnp.int32),
    }
    sampled = Pairs(
        first=jnp.array([[0, 5, 7], [0, 0, 0]]),
        second=jnp.array([[11, 4, 7], [1, 1, 1]]),
        valid=jnp.array([[True, True, False], [False, False, False]]),
    )
    return batch, sampled


def test_annotated_pairs_follow_the_sampled_ones():
    batch, sampled = mixed_batch()
    joined = with_annotated(sampled, batch)
    assert joined.first[1].tolist() == [0, 0, 0, 1, 5]
    assert joined.second[1].tolist() == [1, 1, 1, 11, 0]
    assert joined.valid.tolist() == [[True, True, False, False, False], [False] * 3 + [True] * 2]
    relation, counted = label(batch, joined, sigma=0.02)
    assert relation[0, :2].tolist() == [-1, 1]  # depths 1 and 12, 6 and 5
    assert relation[1, 3:].tolist() == [-1, 0]
    assert counted.tolist() == joined.valid.tolist()


def test_a_batch_without_annotations_stays_as_it_is():
    batch, sampled = mixed_batch()
    del batch["pairs"]
    assert with_annotated(sampled, batch) is sampled


def test_the_loss_of_annotated_pairs_is_that_of_the_equation():
    batch, sampled = mixed_batch()
    score = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    value = RankingLoss(drop_easiest=0.0)(jnp.asarray(score), batch, with_annotated(sampled, batch))
    flat = score.reshape(2, 12).astype(np.float64)
    terms = [
        math.log1p(math.exp(flat[0, 0] - flat[0, 11])),  # the first is nearer
        math.log1p(math.exp(flat[0, 4] - flat[0, 5])),  # the first is farther
        math.log1p(math.exp(flat[1, 1] - flat[1, 11])),  # annotated: the first is nearer
        (flat[1, 5] - flat[1, 0]) ** 2,  # annotated: equal
    ]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-6)
    by_image = RankingLoss(drop_easiest=0.0, average="images")(
        jnp.asarray(score), batch, with_annotated(sampled, batch)
    )
    np.testing.assert_allclose(by_image, (np.mean(terms[:2]) + np.mean(terms[2:])) / 2, rtol=1e-6)


def test_an_annotation_overrules_the_depth_map():
    batch, sampled = mixed_batch()
    batch["mask"] = jnp.ones((2, 3, 4), bool)
    joined = with_annotated(sampled, batch)
    relation, _ = label(batch, joined, sigma=0.02)
    assert relation[1, 4] == 0  # its depths are 18 and 13


@pytest.mark.parametrize("masked", [0, 11])
def test_a_sampled_pair_counts_only_if_both_points_have_ground_truth(masked: int):
    batch, sampled = mixed_batch()
    batch["mask"] = batch["mask"].at[0, masked // 4, masked % 4].set(False)
    _, counted = label(batch, with_annotated(sampled, batch), sigma=0.02)
    assert counted[0].tolist() == [False, True, False, False, False]


def test_the_error_of_a_step_counts_annotated_pairs():
    batch, sampled = mixed_batch()
    score = jnp.asarray(-np.arange(24.0).reshape(2, 3, 4), jnp.float32)
    # Unequal and valid: two sampled ones, one annotated. The negative of the depth errs on all.
    joined = with_annotated(sampled, batch)
    assert sampled_whdr(score, batch, joined, sigma=0.02) == 1
    assert sampled_whdr(-score, batch, joined, sigma=0.02) == 0


def test_averaging_over_images_leaves_out_images_without_pairs():
    score_i, score_j = jnp.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]]), jnp.zeros((3, 2))
    relation = jnp.zeros((3, 2), jnp.int32)
    where = jnp.array([[True, False], [False, False], [True, True]])
    arguments: dict[str, Any] = {"where": where, "drop_easiest": 0.0}
    over_images = ranking_loss(score_i, score_j, relation, average="images", **arguments)
    assert over_images == (1 + (9 + 1) / 2) / 2
    assert ranking_loss(score_i, score_j, relation, **arguments) == (1 + 9 + 1) / 3


def test_gradients_of_an_unannotated_batch_are_finite_and_zero():
    batch, sampled = mixed_batch()
    batch["pairs"] = jnp.full((2, 2, 5), UNKNOWN, jnp.int32).at[..., :4].set(0)
    batch["mask"] = jnp.zeros((2, 3, 4), bool)
    joined = with_annotated(sampled._replace(valid=jnp.zeros((2, 3), bool)), batch)
    for average in ("pairs", "images"):
        loss = RankingLoss(average=average)
        value, gradient = jax.value_and_grad(loss)(jnp.ones((2, 3, 4)), batch, joined)
        assert value == 0
        assert (gradient == 0).all()
