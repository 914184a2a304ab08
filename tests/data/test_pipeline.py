"""Augmentation keeps image, depth and mask together; order depends on (seed, step) alone."""

import dataclasses
import itertools

import grain
import numpy as np
import pytest

from reldepth_jax.config import Choice, Config, DataConfig, MixedSource
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.data.selection import Subset
from reldepth_jax.data.transforms import TrainTransform, jitter_colors
from reldepth_jax.data.unreadable import SkipUnreadable
from reldepth_jax.types import Sample


class Ramps:
    """Images whose three channels are row, column and index, with depth = 1 + row + 100 column."""

    pairs_per_image = 0

    def __init__(self, count: int, height: int, width: int):
        self.shape = (count, height, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Sample:
        _, height, width = self.shape
        row, column = np.mgrid[:height, :width]
        image = np.stack([row, column, np.full_like(row, index)], -1).astype(np.uint8)
        mask = (row + column) % 5 > 0
        return {"image": image, "depth": (1 + row + 100 * column).astype(np.float32), "mask": mask}


def make_config(**data: object) -> Config:
    return Config(data=dataclasses.replace(DataConfig(crop=(32, 64), batch_size=4), **data))


@pytest.mark.parametrize("size", [(32, 64), (40, 90), (128, 64)])
def test_crops_and_flips_move_image_depth_and_mask_together(size: tuple[int, int]):
    transform = TrainTransform((32, 64))
    flipped = 0
    for seed in range(20):
        out = transform(Ramps(1, *size)[0], np.random.default_rng(seed))
        assert out["image"].shape == (32, 64, 3)
        row, column = out["image"][..., 0].astype(int), out["image"][..., 1].astype(int)
        if size != (40, 90):  # that one is not resized: no blended values, so equality is exact
            np.testing.assert_array_equal(out["depth"], 1 + row + 100 * column)
            np.testing.assert_array_equal(out["mask"], (row + column) % 5 > 0)
        flipped += out["depth"][0, 0] > out["depth"][0, -1]
    assert 3 <= flipped <= 17


@pytest.mark.parametrize("size", [(32, 64), (40, 90), (100, 70)])
def test_instances_move_with_the_depth(size: tuple[int, int]):
    transform = TrainTransform((32, 64), zoom=(1.0, 2.0), instances=True)
    sample = Ramps(1, *size)[0]
    # Each pixel an instance of its own, named by its depth.
    sample["instances"] = sample["depth"].astype(np.int32)
    mirrored = set()
    for seed in range(10):
        out = transform(sample, np.random.default_rng(seed))
        assert "instances" in out
        assert out["instances"].dtype == np.int32
        np.testing.assert_array_equal(out["instances"], out["depth"].astype(int))
        mirrored.add(bool(out["depth"][0, 0] > out["depth"][0, -1]))
    assert mirrored == {False, True}


def test_instances_are_there_if_asked_for_and_zero_where_a_sample_has_none():
    sample = Ramps(1, 40, 90)[0]
    out = TrainTransform((32, 64), instances=True)(sample, np.random.default_rng(0))
    assert "instances" in out
    assert out["instances"].shape == (32, 64)
    assert not out["instances"].any()
    sample["instances"] = np.ones((40, 90), np.int32)
    assert "instances" not in TrainTransform((32, 64))(sample, np.random.default_rng(0))


def test_resizing_keeps_the_aspect_ratio_and_covers_the_crop():
    circle = np.zeros((120, 300), bool)
    row, column = np.mgrid[:120, :300]
    circle[(row - 60) ** 2 + (column - 150) ** 2 < 50**2] = True
    sample: Sample = {
        "image": np.repeat(circle[..., None] * np.uint8(255), 3, -1),
        "depth": np.where(circle, 1.0, 2.0).astype(np.float32),
        "mask": np.ones((120, 300), bool),
    }
    out = TrainTransform((96, 224), flip=False)(sample, np.random.default_rng(0))
    rows, columns = np.nonzero(out["depth"] == 1)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert set(np.unique(out["depth"])) == {1.0, 2.0}


def test_zoom_enlarges_within_its_range():
    transform = TrainTransform((32, 64), zoom=(2.0, 2.0), flip=False)
    out = transform(Ramps(1, 32, 64)[0], np.random.default_rng(0))
    assert np.ptp(out["depth"] // 100) == pytest.approx(31, abs=1)


def test_jitter_of_one_changes_nothing_and_zero_saturation_is_gray():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(jitter_colors(image, 1.0, 1.0, 1.0), image)
    gray = jitter_colors(image, 1.0, 1.0, 0.0).astype(int)
    assert np.ptp(gray, axis=-1).max() <= 1
    assert np.abs(gray[..., 0] - image @ [0.299, 0.587, 0.114]).max() <= 1
    dark = jitter_colors(image, 0.5, 1.0, 1.0)
    assert np.abs(dark.astype(int) - image / 2).max() <= 1


def batches(config: Config, start: int, count: int) -> list[dict[str, np.ndarray]]:
    source = Ramps(37, 40, 70)
    return list(itertools.islice(train_batches(config, [source], start=start), count))


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return all(
        x[name].tobytes() == y[name].tobytes() for x, y in zip(a, b, strict=True) for name in x
    )


def test_order_and_augmentation_do_not_depend_on_threads_workers_or_start():
    config = make_config(zoom=(1.0, 1.5), color_jitter=0.3, threads=1, prefetch=1)
    reference = batches(config, 0, 12)
    assert same(batches(make_config(**{**vars(config.data), "threads": 5}), 0, 12), reference)
    assert same(batches(make_config(**{**vars(config.data), "workers": 2}), 0, 12), reference)
    assert same(batches(config, 7, 5), reference[7:])


@pytest.mark.parametrize(("processes", "start", "workers"), [(2, 0, 0), (4, 3, 0), (2, 3, 1)])
def test_the_shares_of_processes_are_the_batch(processes: int, start: int, workers: int):
    mixed = (MixedSource(source=Choice("synthetic"), share=0.25),)
    config = make_config(zoom=(1.0, 1.5), color_jitter=0.3, mix=mixed, workers=workers)
    sources = [Ramps(37, 40, 70), Ramps(11, 50, 64)]
    whole = itertools.islice(train_batches(config, sources, start=start), 6)
    shares = [
        itertools.islice(train_batches(config, sources, start=start, share=(p, processes)), 6)
        for p in range(processes)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(len(part["image"]) == 4 // processes for part in parts)
        for name, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_seed_changes_the_order():
    config = make_config()
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    assert not same(batches(config, 0, 2), batches(other, 0, 2))


def augmentation(seed: int, slot: int) -> np.random.Generator:
    """Return grain's generator of a slot: Philox with the seed as key and the slot as counter."""
    bits = np.random.Philox(seed)
    state = bits.state
    state["state"]["counter"] = np.array([0, 0, 0, slot], np.uint64)
    bits.state = state
    return np.random.Generator(bits)


def hashed(seed: int, stage: int) -> int:
    return int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])


@pytest.mark.parametrize("order", [1, 2])
def test_order_and_augmentation_follow_from_the_seed_as_written(order: int):
    """Runs go on as they began, also those from before orders were recorded (1)."""
    mixed = (MixedSource(source=Choice("synthetic"), share=0.5),)
    config = make_config(zoom=(1.0, 1.5), batch_size=1, mix=mixed)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=5))
    seeds = (5, 1005, 6) if order == 1 else (hashed(5, 1), hashed(5, 2), hashed(5, 0))
    sources = [Ramps(7, 40, 70), Ramps(5, 48, 64)]
    orders = [
        grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat()
        for source, seed in zip(sources, seeds, strict=False)
    ]
    found = list(itertools.islice(train_batches(config, sources, start=0, order=order), 20))
    transform = TrainTransform((32, 64), (1.0, 1.5))
    for slot, batch in enumerate(found):
        source, place = slot % 2, slot // 2
        index = orders[source][place]
        assert index is not None
        sample = sources[source][index]
        expected = transform(sample, augmentation(seeds[2], slot))
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name][0], value)


def test_no_epoch_of_one_seed_is_one_of_another():
    orders = set()
    for seed in range(4):
        config = make_config(batch_size=1)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        indices = [int(b["image"][0, 0, 0, 2]) for b in batches(config, 0, 37 * 3)]
        orders |= {tuple(indices[k : k + 37]) for k in (0, 37, 74)}
    assert len(orders) == 12


def test_every_epoch_shows_every_sample_once():
    config = make_config(batch_size=1)
    indices = [int(b["image"][0, 0, 0, 2]) for b in batches(config, 0, 74)]
    assert sorted(indices[:37]) == sorted(indices[37:]) == list(range(37))
    assert indices[:37] != indices[37:]


class Numbered(Ramps):
    """Ramps of which every pixel is of instance 5; the first image cannot be read."""

    instances = True

    def __getitem__(self, index: int) -> Sample:
        if index == 0:
            raise UnreadableFile("0.png", "is damaged")
        sample = super().__getitem__(index)
        sample["instances"] = np.full(sample["depth"].shape, 5, np.int32)
        return sample


def test_instances_of_one_source_are_beside_the_zeros_of_others_and_of_bad_samples(tmp_path):
    config = make_config(mix=(MixedSource(source=Choice("synthetic"), share=0.5),))
    sources = [
        SkipUnreadable(Subset(source, 4), number, str(tmp_path / "bad"), (32, 64))
        for number, source in enumerate((Numbered(4, 32, 64), Ramps(4, 32, 64)))
    ]
    found = [
        (int(instances.min()), int(instances.max()), bool(bad))
        for batch in itertools.islice(train_batches(config, sources, start=0), 4)
        for instances, bad in zip(batch["instances"], batch["unreadable"], strict=True)
    ]
    assert sorted(found) == [(0, 0, False)] * 8 + [(0, 0, True)] * 2 + [(5, 5, False)] * 6
    plain = next(iter(train_batches(make_config(), sources[1:], start=0)))
    assert "instances" not in plain


class Scored(Ramps):
    """Ramps that a network with a temperature labelled; the first image cannot be read."""

    temperature = 0.5

    def __getitem__(self, index: int) -> Sample:
        if index == 0:
            raise UnreadableFile("0.png", "is damaged")
        return {**super().__getitem__(index), "certainty": np.float32(4.0)}


def test_the_certainty_of_one_source_is_beside_the_infinite_one_of_others(tmp_path):
    config = make_config(mix=(MixedSource(source=Choice("synthetic"), share=0.5),))
    sources = [
        SkipUnreadable(Subset(source, 4), number, str(tmp_path / "bad"), (32, 64))
        for number, source in enumerate((Scored(4, 32, 64), Ramps(4, 32, 64)))
    ]
    taken = list(itertools.islice(train_batches(config, sources, start=0), 4))
    assert {batch["certainty"].dtype for batch in taken} == {np.dtype(np.float32)}
    found = [
        (float(certainty), bool(bad))
        for batch in taken
        for certainty, bad in zip(batch["certainty"], batch["unreadable"], strict=True)
    ]
    expected = [(4.0, False)] * 6 + [(np.inf, False)] * 8 + [(np.inf, True)] * 2
    assert sorted(found) == expected
    plain = next(iter(train_batches(make_config(), sources[1:], start=0)))
    assert "certainty" not in plain
