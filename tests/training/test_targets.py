"""What a loss compares is what the sources know, and batches with nothing to learn are counted."""

import dataclasses
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from reldepth_jax import config
from reldepth_jax.config import Choice
from reldepth_jax.data.selection import Subset
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES, SOURCES
from reldepth_jax.training import targets
from reldepth_jax.training.report import Report
from reldepth_jax.training.run import require_trainable
from reldepth_jax.types import Batch, Pairs
from tests.fixtures import diw, folder, hr_wsi, redweb

SETTINGS = config.load(str(pathlib.Path(__file__).parents[2] / "configs/smoke.py"))
INVERSE = {
    "mae": Choice("mae"),
    "mse": Choice("mse", normalisation="inverse_median_mad"),
    "sgrl": Choice("sgrl"),
    "ssi_mse": Choice("ssi_mse"),
    "ssi_mae": Choice("ssi_mae"),
    "ssi_trimmed": Choice("ssi_trimmed"),
    "gradient_matching": Choice("gradient_matching"),
    "sum": Choice("sum"),
}
VALUES = {"mae": Choice("mae", normalisation="minmax"), "mse": Choice("mse", normalisation="none")}
ORDER = {name: Choice(name) for name in ("ranking", "youtube3d", "distillation")}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return sources as a function of their name and options."""
    root = tmp_path_factory.mktemp("data")
    for each in (diw, folder, hr_wsi, redweb):
        each.write(root / each.__name__.split(".")[-1])

    def create(name, **options):
        options = {"root": str(root / name)} | options
        if name == "redweb":
            options["validation"] = 1
        return SOURCES.create(name, split="train", size=(8, 8), **options)

    return create


def fits(choice: Choice, *sources) -> str:
    """Return the complaint about a loss, empty if it fits."""
    try:
        loss = LOSSES.create(choice.name, **choice.options)
        targets.require_fit(choice.name, loss, sources)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("choice", INVERSE.values(), ids=INVERSE)
def test_losses_on_inverse_depth_need_it(source, choice):
    complaint = fits(choice, source("redweb"))
    assert re.match(
        rf"loss\.name={choice.name} compares .*inverse depth, but data\.source ", complaint
    )
    assert "set data.source.values=disparity" in complaint
    assert len(complaint.splitlines()) == 1
    assert fits(choice, source("folder", polarity="ordinal")) != ""
    scenes = SOURCES.create("synthetic", split="train", size=(8, 8))
    stereo = source("folder", polarity="disparity")
    for known in (source("redweb", values="disparity"), source("hr_wsi"), stereo, scenes):
        assert fits(choice, known) == ""


@pytest.mark.parametrize("choice", VALUES.values(), ids=VALUES)
def test_losses_on_depth_need_its_values(source, choice):
    assert fits(choice, source("redweb")) == ""
    assert fits(choice, source("folder")) == ""
    for other in (
        source("redweb", values="disparity"), source("hr_wsi"),
        source("folder", polarity="disparity"), source("folder", polarity="inverse_ordinal"),
        source("diw"),
    ):  # fmt: skip
        assert "compares values" in fits(choice, other)


@pytest.mark.parametrize("choice", ORDER.values(), ids=ORDER)
def test_losses_on_relations_fit_everything(source, choice):
    for each in ("redweb", "hr_wsi", "folder", "diw"):
        assert fits(choice, source(each)) == ""
    assert fits(choice, source("folder", polarity="ordinal")) == ""


def test_pairs_beside_maps_need_one_term_that_uses_them(source):
    both = Choice("sum", terms=(Choice("mae"), Choice("ranking")), weights=(1.0, 1.0))
    maps = source("folder")
    assert fits(both, maps, source("diw")) == ""
    assert fits(Choice("sgrl"), maps, source("diw")) == ""
    assert "data.mix.0.source has annotated pairs alone" in fits(Choice("mae"), maps, source("diw"))
    assert "has annotated pairs alone" in fits(Choice("plackett_luce"), source("diw"))
    # One term that does not fit is enough.
    assert "inverse depth" in fits(both, source("redweb"))
    assert "inverse depth" in fits(Choice("mae"), Subset(source("redweb"), 2))


def test_a_start_is_refused_before_a_run_directory_is_made(source, tmp_path):
    settings = config.override(SETTINGS, {"loss.name": "ssi_mae"})
    with pytest.raises(UserError, match=r"loss\.name=ssi_mae compares inverse depth"):
        require_trainable(settings, tmp_path / "run", [source("redweb")])
    assert not (tmp_path / "run").exists()


def test_the_teachers_confidence_needs_maps_that_have_it(source, tmp_path):
    settings = config.override(SETTINGS, {"loss.name": "distillation"})
    scores = source("folder", polarity="ordinal", temperature=0.5)
    require_trainable(settings, tmp_path / "run", [source("redweb"), Subset(scores, 1)])
    with pytest.raises(
        UserError, match=r"loss\.name=distillation needs .*data\.source\.temperature"
    ):
        require_trainable(settings, tmp_path / "run", [source("folder", polarity="ordinal")])
    # In a sum too.
    terms = (Choice("distillation"), Choice("ranking"))
    settings = dataclasses.replace(SETTINGS, loss=Choice("sum", terms=terms, weights=(1.0, 1.0)))
    require_trainable(settings, tmp_path / "run", [scores])
    with pytest.raises(UserError, match=r"loss\.name=sum needs maps that a network made"):
        require_trainable(settings, tmp_path / "run", [source("folder", polarity="ordinal")])


def test_every_loss_says_what_it_compares():
    for name, entry in LOSSES.entries.items():
        if entry.module.startswith("reldepth_jax.losses."):
            assert targets.compared(LOSSES.create(name)), name


def redweb_batch() -> tuple[Batch, np.ndarray]:
    """Return two images of RD values; the first has one pixel of value 0."""
    values = np.random.default_rng(0).integers(1, 256, (2, 24, 32))
    values[0, 5, 5] = 0
    depth = np.where(values == 255, np.inf, values).astype(np.float32)
    blank = jnp.zeros((*values.shape, 3), jnp.uint8)
    return {
        "image": blank,
        "depth": jnp.asarray(depth),
        "mask": jnp.ones(values.shape, bool),
    }, values


def test_one_pixel_of_value_zero_leaves_inverse_losses_nothing():
    batch, _ = redweb_batch()
    for name, share in (("mae", 0.5), ("ssi_mae", 0.5), ("sgrl", 0.5), ("ranking", 0.0)):
        assert float(targets.degenerate(LOSSES.create(name), batch)) == share
    minmax = LOSSES.create("mae", normalisation="minmax")
    assert float(targets.degenerate(minmax, batch)) == 0.0


def test_constant_depth_is_counted_for_every_loss():
    batch, _ = redweb_batch()
    constant: Batch = {**batch, "depth": batch["depth"].at[1].set(7.0)}
    assert float(targets.degenerate(LOSSES.create("ranking"), constant)) == 0.5
    values = LOSSES.create("mae", normalisation="median_mad")
    assert float(targets.degenerate(values, constant)) == 0.5
    assert float(targets.degenerate(LOSSES.create("mae"), constant)) == 1.0


@pytest.mark.parametrize("values", ["rd", "disparity"])
def test_what_mae_compares_on_redweb(values):
    """As docs/losses.md says: the RD value from 0 to 1, the sky like or beyond the farthest."""
    batch, rd = redweb_batch()
    rd = rd.astype(np.float64)
    if values == "rd":
        loss = LOSSES.create("mae", normalisation="minmax")
        capped = np.where(rd == 255, -1, rd)
        rd = np.where(rd == 255, capped.max(axis=(1, 2), keepdims=True), rd)
    else:
        loss = LOSSES.create("mae")
        with np.errstate(divide="ignore"):
            batch = {**batch, "depth": jnp.asarray(255 / (255 - rd), jnp.float32)}
    low, high = rd.min(axis=(1, 2), keepdims=True), rd.max(axis=(1, 2), keepdims=True)
    target = (rd - low) / (high - low)
    score = np.random.default_rng(1).normal(size=rd.shape)
    wanted = np.abs(score - target).mean()
    places = jnp.zeros((2, 1), jnp.int32)
    none = Pairs(places, places, places > 0)
    got = float(loss(jnp.asarray(score, jnp.float32), batch, none))
    assert got == pytest.approx(wanted, rel=1e-5)


def test_many_degenerate_images_are_told_once(tmp_path, capsys):
    report = Report(tmp_path, Console())
    for step, share in ((10, 0.05), (20, 0.25), (30, 0.5)):
        report.degenerate(step, share)
    out = capsys.readouterr().out
    assert out.startswith("step 20: 25% of the images have, for this loss, one value at nearly")
    assert out.count("step ") == 1
