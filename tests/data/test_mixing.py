"""Several sources in one stream of batches, and training sets of a fixed smaller size."""

import collections
import dataclasses
import itertools
import pathlib

import numpy as np
import pytest

from reldepth_jax import config
from reldepth_jax.config import Choice, Config, ConfigError, DataConfig, MixedSource
from reldepth_jax.data.pipeline import make_source, train_batches, train_sources
from reldepth_jax.data.selection import Subset, fixed_order, held_out, not_held_out
from reldepth_jax.errors import UserError
from reldepth_jax.types import UNKNOWN, Sample
from tests.fixtures import diw, redweb


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Images that tell their source (red) and index (green); with pairs if it has any."""

    source: int
    count: int
    pairs_per_image: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 0], image[..., 1] = self.source, index
        sample: Sample = {
            "image": image,
            "depth": np.ones((32, 32), np.float32),
            "mask": np.ones((32, 32), bool),
        }
        if self.pairs_per_image:
            sample["pairs"] = np.tile(
                np.array([0, 0, 31, 31, 1], np.int32), (self.pairs_per_image, 1)
            )
        return sample


def mixed_config(*shares: float, workers: int = 0) -> Config:
    mix = tuple(MixedSource(source=Choice("synthetic"), share=share) for share in shares)
    return Config(data=DataConfig(crop=(32, 32), batch_size=4, mix=mix, workers=workers))


def drawn(config: Config, sources: list, start: int, count: int) -> list[tuple[int, int]]:
    batches = itertools.islice(train_batches(config, sources, start=start), count)
    pixels = np.concatenate([batch["image"][:, 0, 0] for batch in batches])
    return list(zip(pixels[:, 0].tolist(), pixels[:, 1].tolist(), strict=True))


def test_shares_hold_and_every_source_is_gone_through_evenly():
    sources = [Numbered(0, 10), Numbered(1, 5), Numbered(2, 50)]
    stream = drawn(mixed_config(0.25, 0.25), sources, 0, 50)
    per_source = collections.Counter(source for source, _ in stream)
    assert [per_source[k] for k in range(3)] == [100, 50, 50]
    for source, times in ((0, 10), (1, 10), (2, 1)):
        counts = collections.Counter(index for number, index in stream if number == source)
        assert set(counts.values()) == {times}
    # No long stretch without one of them.
    assert all(len({s for s, _ in stream[k : k + 12]}) == 3 for k in range(0, 180))


def test_the_mixture_is_a_function_of_seed_and_step():
    sources = [Numbered(0, 10), Numbered(1, 5)]
    whole = drawn(mixed_config(0.3), sources, 0, 20)
    assert drawn(mixed_config(0.3), sources, 7, 13) == whole[28:]
    other = dataclasses.replace(
        mixed_config(0.3), train=dataclasses.replace(Config().train, seed=1)
    )
    assert drawn(other, sources, 0, 20) != whole


def test_sources_of_one_size_come_in_orders_of_their_own():
    stream = drawn(mixed_config(0.5), [Numbered(0, 40), Numbered(1, 40)], 0, 20)
    first, second = ([index for number, index in stream if number == k] for k in (0, 1))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_workers_change_nothing():
    sources = [Numbered(0, 10), Numbered(1, 5)]
    assert drawn(mixed_config(0.3, workers=2), sources, 3, 6) == drawn(
        mixed_config(0.3), sources, 3, 6
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_sources_with_and_without_pairs_share_a_batch(reverse: bool):
    sources = [Numbered(0, 10), Numbered(1, 5, pairs_per_image=3)]
    sources = sources[::-1] if reverse else sources
    for batch in itertools.islice(train_batches(mixed_config(0.5), sources, start=0), 5):
        assert batch["pairs"].shape == (4, 3, 5)
        annotated = (batch["pairs"][..., 4] != UNKNOWN).all(axis=1)
        assert annotated.tolist() == (batch["image"][:, 0, 0, 0] == 1).tolist()


def test_a_fixed_order_is_a_permutation_that_never_changes():
    assert sorted(fixed_order(3600).tolist()) == list(range(3600))
    # Written down once: another order would silently change every validation split.
    assert fixed_order(10).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]


def test_held_out_and_the_rest_part_the_samples():
    out, rest = held_out(3600, 360), not_held_out(3600, 360)
    assert (len(out), len(rest)) == (360, 3240)
    assert sorted([*out.tolist(), *rest.tolist()]) == list(range(3600))
    # Not a stretch of neighbours: about a tenth of every third.
    assert all(80 < np.sum((out >= k) & (out < k + 1200)) < 160 for k in (0, 1200, 2400))


def test_smaller_subsets_lie_in_larger_ones():
    source = Numbered(0, 100)
    chosen = [{Subset(source, size)[k]["image"][0, 0, 1] for k in range(size)} for size in (10, 40)]
    assert (len(chosen[0]), len(chosen[1])) == (10, 40)
    assert chosen[0] < chosen[1]
    with pytest.raises(IndexError):
        Subset(source, 10)[10]


def test_training_takes_the_subset_and_validation_does_not(tmp_path: pathlib.Path):
    redweb.write(tmp_path, 8)
    source = Choice("redweb", root=str(tmp_path), validation=2)
    small = Config(data=DataConfig(source=source, subset=3))
    assert [len(s) for s in train_sources(small)] == [3]
    with pytest.raises(UserError, match="data.subset is 7, but the training split has 6"):
        train_sources(Config(data=DataConfig(source=source, subset=7)))


def test_all_images_are_trained_on_where_another_source_validates(tmp_path: pathlib.Path):
    """As the paper does: the whole of ReDWeb, and pairs of DIW to validate on."""
    redweb.write(tmp_path / "redweb", 8)
    diw.write(tmp_path / "diw")
    whole = config.override(
        config.load("configs/redweb.py:diw"),
        {
            "data.source.root": str(tmp_path / "redweb"),
            "data.validation.root": str(tmp_path / "diw"),
            "data.subset": "8",
        },
    )
    assert [len(source) for source in train_sources(whole)] == [8]
    assert make_source(whole, "val").pairs_per_image == 1
    assert config.from_dict(config.to_dict(whole)).data.validation is not None
    unset = Config()
    with pytest.raises(ConfigError, match="data.validation is not set; name it first"):
        config.override(unset, {"data.validation.root": "x"})
    named = config.override(unset, {"data.validation.root": "x", "data.validation.name": "diw"})
    assert named.data.validation == Choice("diw", root="x")


def test_mixed_sources_survive_json_and_the_command_line():
    before = mixed_config(0.25, 0.125)
    plain = config.to_dict(before)
    assert plain["data"]["mix"][1]["share"] == 0.125
    assert config.to_dict(config.from_dict(plain)) == plain
    after = config.override(
        before,
        {
            "data.mix.1.share": "0.5",
            "data.mix.1.source.name": "redweb",
            "data.mix.1.source.root": "x",
        },
    )
    assert after.data.mix[0] == before.data.mix[0]
    assert after.data.mix[1].share == 0.5
    assert after.data.mix[1].source == Choice("redweb", root="x")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            {"data.mix.0.share": "0.8"},
            "shares must add up to .* got 0.8, 0.3; data.source gives the rest",
        ),
        ({"data.mix.0.share": "0"}, "data.mix.0.share must be greater than 0"),
        ({"data.mix.2.share": "0.1"}, "items: 0, 1"),
        ({"data.mix": "redweb"}, "name an item"),
        ({"data.mix.0.shar": "0.1"}, "Did you mean 'share'"),
        ({"data.mix.0.source.name": "redwep"}, "Did you mean 'redweb'"),
        ({"data.mix.0.source.lenght": "3"}, "Did you mean 'length'"),
        ({"data.subset": "-1"}, "data.subset must be at least 0"),
    ],
)
def test_mistakes_in_a_mixture_are_named(assignments: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        config.validate(config.override(mixed_config(0.2, 0.3), assignments))
