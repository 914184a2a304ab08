"""The distillation loss against a loop over pairs and against torch's cross entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reldepth_jax.losses.distillation import DistillationLoss
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.metrics.confidence import confidence
from reldepth_jax.types import Batch, Pairs
from tests.references import numpy_losses

BOTH = ("targets", "weights")
# Float32 sums of some hundred terms against float64.
RELATIVE, ABSOLUTE = 1e-5, 1e-7


def labelled_maps(seed: int, certainty: list[float]) -> tuple[jax.Array, Batch, Pairs]:
    """Scores, depth with ties, sky, zeros and NaN where masked, pairs; an image per certainty."""
    rng = np.random.default_rng(seed)
    shape, n = (len(certainty), 5, 7), 80
    depth = rng.choice([0.0, 1.0, 1.01, 1.5, 2.2, 2.7, np.inf], size=shape).astype(np.float32)
    mask = rng.uniform(size=shape) > 0.2
    depth[~mask] = np.nan
    score = rng.normal(size=shape).astype(np.float32)
    first, second = (jnp.asarray(rng.integers(0, 35, (len(score), n)), jnp.int32) for _ in range(2))
    batch: Batch = {
        "image": jnp.zeros((*shape, 3), jnp.uint8),
        "depth": jnp.asarray(depth),
        "mask": jnp.asarray(mask),
        "certainty": jnp.asarray(certainty, jnp.float32),
    }
    valid = jnp.asarray(rng.uniform(size=first.shape) > 0.1)
    return jnp.asarray(score), batch, Pairs(first, second, valid)


@pytest.mark.parametrize("confidence", BOTH)
def test_loss_and_gradient_agree_with_the_equations(confidence):
    certainty = [np.inf, 3.0, 0.4, 0.0, 200.0]
    score, batch, pairs = labelled_maps(0, certainty)
    value, gradient = numpy_losses.distillation_of_maps(
        np.asarray(score),
        *(np.asarray(x) for x in (batch["depth"], batch["mask"], *pairs[:3], certainty)),
        sigma=0.02,
        confidence=confidence,
    )
    loss = DistillationLoss(confidence=confidence)
    got, got_gradient = jax.jit(jax.value_and_grad(loss))(score, batch, pairs)
    np.testing.assert_allclose(got, value, rtol=RELATIVE)
    np.testing.assert_allclose(got_gradient, gradient, rtol=RELATIVE, atol=ABSOLUTE)


def teachers_map(temperature: float) -> tuple[np.ndarray, jax.Array, Batch, Pairs]:
    """A teacher's scores, a student's, and the batch that a source makes of the first."""
    rng = np.random.default_rng(5)
    teacher, student = rng.normal(size=(2, 1, 6, 8)) * 3
    reach = np.ptp(teacher)
    batch: Batch = {
        "image": jnp.zeros((1, 6, 8, 3), jnp.uint8),
        "depth": jnp.asarray(np.exp((teacher - teacher.min()) / reach), jnp.float32),
        "mask": jnp.ones((1, 6, 8), bool),
        "certainty": jnp.asarray([reach / temperature], jnp.float32),
    }
    first, second = jnp.asarray(rng.integers(0, 48, (2, 1, 300)), jnp.int32)
    pairs = Pairs(first, second, first != second)
    return teacher, jnp.asarray(student, jnp.float32), batch, pairs


@pytest.mark.parametrize("confidence", BOTH)
def test_value_and_gradient_agree_with_torch(confidence):
    """By the teacher's own scores, which the loss never sees."""
    teacher, student, batch, pairs = teachers_map(0.7)
    score = torch.from_numpy(np.array(student)).double().requires_grad_()
    i, j = (torch.from_numpy(np.array(x[0])).long() for x in pairs[:2])
    z = torch.from_numpy(teacher).ravel()
    d, p = score.ravel()[i] - score.ravel()[j], torch.sigmoid((z[i] - z[j]) / 0.7)
    used = i != j
    if confidence == "targets":
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        expected = entropy(d[used], p[used])
    else:
        sure = (2 * p - 1).abs()
        expected = (sure * torch.nn.functional.softplus(-d * (z[i] - z[j]).sign()))[used].sum()
        expected = expected / sure[used].sum()
    expected.backward()
    # No pair is called equal: none of the teacher's values are.
    loss = DistillationLoss(confidence=confidence, sigma=0.0)
    got, gradient = jax.value_and_grad(loss)(student, batch, pairs)
    np.testing.assert_allclose(got, expected.item(), rtol=1e-5)
    assert score.grad is not None
    np.testing.assert_allclose(gradient, score.grad.numpy(), atol=1e-6)


def test_the_weight_is_what_predict_calls_confidence():
    """Of a single pair beside a certain one: the share of its gradient tells its weight."""
    teacher, student, batch, _ = teachers_map(1.3)
    sure = batch.get("certainty")
    assert sure is not None
    measured = {"depth": jnp.asarray([[[1.0, 2.0]]]), "certainty": jnp.asarray([jnp.inf])}
    both: Batch = {
        "image": jnp.zeros((2, 1, 2, 3), jnp.uint8),
        "depth": jnp.concatenate([batch["depth"][:, :1, :2], measured["depth"]]),
        "mask": jnp.ones((2, 1, 2), bool),
        "certainty": jnp.concatenate([sure, measured["certainty"]]),
    }
    index = jnp.asarray([[0], [0]]), jnp.asarray([[1], [1]])
    pairs = Pairs(*index, jnp.ones((2, 1), bool))
    loss = DistillationLoss(confidence="weights", sigma=0.0)
    gradient = np.abs(jax.grad(loss)(jnp.zeros((2, 1, 2)), both, pairs))
    stated = confidence(np.diff(teacher[0, 0, :2]), 1.3)[0]
    np.testing.assert_allclose(gradient[0, 0, 0] / gradient[1, 0, 0], 2 * stated - 1, rtol=1e-5)


def test_targets_are_met_where_the_student_has_the_teachers_differences():
    teacher, _, batch, pairs = teachers_map(0.7)
    loss = DistillationLoss()
    scores = jnp.asarray(teacher / 0.7 + 4, jnp.float32)
    gradient = jax.grad(loss)(scores, batch, pairs)
    np.testing.assert_allclose(gradient, np.zeros((1, 6, 8)), atol=1e-6)
    # The cross entropy of the teacher with itself: its entropy.
    i, j = (np.asarray(x)[np.asarray(pairs.valid)] for x in pairs[:2])
    odds = (teacher.ravel()[i] - teacher.ravel()[j]) / 0.7
    p = 1 / (1 + np.exp(-odds))
    entropy = -np.mean(p * np.log(p) + (1 - p) * np.log1p(-p))
    np.testing.assert_allclose(loss(scores, batch, pairs), entropy, rtol=1e-4)


@pytest.mark.parametrize("confidence", BOTH)
def test_what_was_measured_is_ranked_as_ever(confidence):
    score, batch, pairs = labelled_maps(3, [np.inf, np.inf])
    ranking = RankingLoss(drop_easiest=0.0)
    expected = jax.value_and_grad(ranking)(score, batch, pairs)
    without = {name: value for name, value in batch.items() if name != "certainty"}
    for each in (batch, without):
        got = jax.value_and_grad(DistillationLoss(confidence=confidence))(score, each, pairs)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("confidence", BOTH)
def test_what_annotators_said_is_certain(confidence):
    score, batch, pairs = labelled_maps(5, [0.4, 3.0])
    said = jnp.asarray(np.random.default_rng(0).integers(-1, 2, pairs.first.shape), jnp.int32)
    pairs = pairs._replace(relation=said)
    expected = jax.value_and_grad(RankingLoss(drop_easiest=0.0))(score, batch, pairs)
    got = jax.value_and_grad(DistillationLoss(confidence=confidence))(score, batch, pairs)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("confidence", BOTH)
@pytest.mark.parametrize("certainty", [0.0, 1e-30, 1.0, 1e30, np.inf])
@pytest.mark.parametrize("depth", [0.0, 1.0, np.inf, np.nan])
def test_any_map_gives_finite_loss_and_gradient(confidence, certainty: float, depth: float):
    score, batch, pairs = labelled_maps(4, [certainty, certainty])
    loss = jax.value_and_grad(DistillationLoss(confidence=confidence))
    for other in (depth, 2.0):
        values = jnp.full(score.shape, depth, jnp.float32).at[0, 0, 0].set(other)
        for mask in (jnp.isfinite(values), jnp.full(score.shape, False)):
            value, gradient = loss(score, {**batch, "depth": values, "mask": mask}, pairs)
            assert jnp.isfinite(value)
            assert jnp.isfinite(gradient).all()
            assert mask.any() or value == 0
