"""JPEG decoded at a reduced size: no fewer pixels than are read, in place, and no less sharp."""

import io as streams
import itertools
import pathlib
from typing import Any

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from reldepth_jax.data.cropping import Crop, OpenedSamples, WholeSample, open_sample
from reldepth_jax.data.images import io
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.data.prepared import shards, writing
from reldepth_jax.data.selection import Subset
from reldepth_jax.data.transforms import TrainTransform, jitter_colors
from reldepth_jax.data.unreadable import SkipUnreadable, read
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample
from tests.fixtures import diw, hr_wsi, redweb

PERIOD = 96
"""Pixels of the waves, whose phase tells where a pixel came from."""
ORIENTATIONS = range(1, 9)
FOLDER: dict[str, Any] = {"train": ":", "val": "0:0", "test": "0:0"}


def jpeg(array: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    stream = streams.BytesIO()
    Image.fromarray(array).save(stream, kind, **{"quality": 97} | options)
    return stream.getvalue()


def oriented(array: np.ndarray, orientation: int) -> bytes:
    """Return a JPEG that EXIF turns into `array`."""
    # What EXIF's table says of the stored first row and first column.
    stored = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: array.swapaxes(0, 1)[::-1],
        7: array.swapaxes(0, 1)[::-1, ::-1],
        8: array.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(np.ascontiguousarray(stored), exif=exif)


def waves(height: int, width: int) -> np.ndarray:
    """Return waves along rows and along columns, pixel centres at half-integers."""
    row, column = np.mgrid[:height, :width] + 0.5
    turn = 2 * np.pi / PERIOD
    return np.round(128 + 55 * np.cos(turn * row) + 55 * np.cos(turn * column)).astype(np.uint8)


def shifts(image: np.ndarray, *places: np.ndarray) -> list[float]:
    """Return by how many full pixels each wave lies beside the places that its pixels show."""
    turns = [2 * np.pi / PERIOD * each.ravel() for each in places]
    columns = [np.ones(image[..., 0].size)]
    columns += [wave(turn) for turn in turns for wave in (np.cos, np.sin)]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), image[..., 0].ravel())[0]
    return [
        float(np.arctan2(sine, cosine)) * PERIOD / (2 * np.pi)
        for cosine, sine in fitted[1:].reshape(-1, 2)
    ]


def photograph(height: int, width: int) -> np.ndarray:
    """Return an image with the spectrum of natural ones: amplitude falls with frequency."""
    rng = np.random.default_rng(0)
    row, column = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    fall = np.maximum(np.hypot(row, column), 1 / width) ** -1.3
    noise = np.fft.fft2(rng.normal(size=(3, height, width)))
    image = np.fft.ifft2(noise * fall).real
    image = 128 + 45 * (image - image.mean()) / image.std()
    return np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_the_smallest_size_with_enough_rows_and_columns_is_decoded(orientation: int, kind: str):
    array = np.asarray(Image.fromarray(photograph(203, 301)).convert(kind))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = streams.BytesIO()
    Image.fromarray(array, kind).save(data, "JPEG", exif=exif)
    height, width = (301, 203) if orientation == 6 else (203, 301)
    for rows, columns in itertools.product((1, 25, 26, 38, 75, 101, 102, 150, 203, 500), repeat=2):
        found = Photograph(data.getvalue(), "", displayed=True)
        assert found.size == (height, width)
        image, box, reduced = found.decode((rows, columns))
        enough = [s for s in (1, 2, 4, 8) if height >= s * rows and width >= s * columns]
        factor = max(enough, default=1)
        assert image.size == (-(-width // factor), -(-height // factor))
        assert reduced == (factor > 1)
        assert image.mode == "RGB"
        assert (box[2] - box[0], box[3] - box[1]) == (width / factor, height / factor)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("factor", [2.0, 2.7, 4.0, 5.1, 8.0, 13.0])
def test_every_part_of_a_reduced_photograph_is_in_its_place(orientation: int, factor: float):
    # A size that no reduction divides: 1/8 reaches 7/8 of its pixels beyond the photograph.
    height, width = 809, 1065
    data = oriented(waves(height, width), orientation)
    size = int(height / factor), int(width / factor)
    for corner, shape in (
        ((0, 0), size),
        ((0, 0), (size[0] // 3, size[1] // 4)),
        ((size[0] - size[0] // 3, size[1] - size[1] // 4), (size[0] // 3, size[1] // 4)),
    ):
        crop = Crop((height, width), size, corner, shape, mirrored=True)
        image = crop.image(Photograph(data, "", displayed=True))[:, ::-1]
        row, column = np.mgrid[: shape[0], : shape[1]] + np.array(corner)[:, None, None] + 0.5
        # One pixel of the reduced photograph is `factor` ones of it, or fewer.
        found = shifts(image, row * height / size[0], column * width / size[1])
        assert np.abs(found).max() < 0.03 * factor


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_image_and_depth_of_a_training_example_stay_aligned(
    orientation: int, tmp_path: pathlib.Path
):
    height, width = 803, 1003
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    (tmp_path / "rgb/a.jpg").write_bytes(oriented(waves(height, width), orientation))
    place = 1 + np.arange(width, dtype=np.float32)
    io.write_npy(tmp_path / "depth/a.npy", np.tile(place, (height, 1)))
    source = SOURCES.create("folder", split="train", size=(96, 96), root=str(tmp_path), **FOLDER)
    transform = TrainTransform((96, 128), zoom=(1.0, 3.0))
    mirrored = set()
    for seed in range(8):
        example = transform(open_sample(source, 0), np.random.default_rng(seed))
        assert example["mask"].all()
        # The nearest pixel lies half a pixel aside at most, and on both sides as often.
        found = shifts(example["image"], np.asarray(example["depth"]) - 0.5)
        assert np.abs(found).max() < 0.2, found
        mirrored.add(bool(example["depth"][0, 0] > example["depth"][0, -1]))
    assert mirrored == {False, True}


@pytest.mark.parametrize("factor", [2.2, 3.0, 3.9, 4.0, 5.0, 7.0, 10.0])
def test_reduced_decoding_differs_little_and_loses_no_sharpness(factor: float):
    array = photograph(720, 960)
    data = jpeg(array, quality=90)
    size = int(720 / factor), int(960 / factor)
    found = Crop((720, 960), size, (0, 0), size).image(Photograph(data, "")).astype(float)

    def resized(image: Image.Image, kernel: Image.Resampling) -> np.ndarray:
        return np.asarray(image.resize((size[1], size[0]), kernel)).astype(float)

    with Image.open(streams.BytesIO(data)) as image:
        full = resized(image, Image.Resampling.BILINEAR)
    ideal = resized(Image.fromarray(array), Image.Resampling.LANCZOS)

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean())

    def distance(image: np.ndarray) -> float:
        return float(np.sqrt(np.mean((image - ideal) ** 2)))

    assert np.abs(found - full).mean() < 4
    assert abs(float((found - full).mean())) < 0.1
    assert detail(found) >= detail(full)
    assert distance(found) <= distance(full)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_other_formats_are_cut_out_in_their_place(kind: str):
    array = waves(400, 600)
    data = streams.BytesIO()
    options = {"MPO": {"save_all": True, "quality": 97}, "WEBP": {"quality": 97}}.get(kind, {})
    Image.fromarray(array).convert("RGB").save(data, kind, **options)
    crop = Crop((400, 600), (100, 150), (10, 20), (60, 90))
    image = crop.image(Photograph(data.getvalue(), ""))
    row, column = np.mgrid[:60, :90] + np.array([10, 20])[:, None, None] + 0.5
    assert np.abs(shifts(image, 4 * row, 4 * column)).max() < 0.1


def three_sources(root: pathlib.Path) -> list[Any]:
    """Return data sets on disk with maps and with pairs; images are not twice as large as crops."""
    redweb.write(root / "redweb", 5)
    hr_wsi.write(root / "hr_wsi")
    diw.write(root / "diw")
    options: dict[str, Any] = {"split": "train", "size": (32, 32)}
    return [
        SOURCES.create("redweb", root=str(root / "redweb"), validation=1, **options),
        SOURCES.create("hr_wsi", root=str(root / "hr_wsi"), **options),
        SOURCES.create("diw", root=str(root / "diw"), validation=1, **options),
    ]


def test_reading_a_part_gives_what_cutting_it_out_of_the_whole_gives(tmp_path: pathlib.Path):
    for source in three_sources(tmp_path):
        for each in (
            source,
            Subset(source, 2),
            SkipUnreadable(source, 0, str(tmp_path / "log"), (9, 9)),
        ):
            for index, seed in itertools.product(range(2), range(4)):
                whole = each[index]
                height, width = whole["depth"].shape
                corner = (seed, 2 * seed)
                shape = (height // 2, width // 3)

                opened = open_sample(each, index)
                assert opened.size == (height, width)
                np.testing.assert_array_equal(opened.pairs, whole.get("pairs", np.zeros((0, 5))))
                full = (height, width)
                crop = Crop(full, (height - 1, width), corner, shape, seed % 2 == 0)
                part: dict[str, Any] = {**opened.read(crop)}
                expected: dict[str, Any] = {**WholeSample(whole).read(crop)}
                if "unreadable" in whole:
                    expected["unreadable"] = np.False_
                assert part.keys() == expected.keys() == whole.keys()
                assert part["image"].shape == (*shape, 3)
                for key in part:
                    np.testing.assert_array_equal(part[key], expected[key])


def write_large(root: pathlib.Path, count: int) -> None:
    """Write ReDWeb's layout with photographs of which only a fraction is needed."""
    for name in ("Imgs", "RDs"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        array = np.roll(photograph(300, 410), 13 * number, axis=1)
        (root / f"Imgs/{number}.jpg").write_bytes(jpeg(array))
        io.write_png(root / f"RDs/{number}.png", array[..., 0])


def examples(source: Any, threads: int) -> list[dict[str, np.ndarray]]:
    transform = TrainTransform((32, 64), zoom=(1.0, 2.0), color_jitter=0.2, gamma_jitter=0.1)
    dataset = grain.MapDataset.source(OpenedSamples(source)).shuffle(seed=3).repeat()
    batches = dataset.random_map(transform, seed=4).batch(3, drop_remainder=True)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    return list(itertools.islice(batches.to_iter_dataset(options), 6))


def test_folder_shards_and_any_number_of_threads_give_the_same_examples(tmp_path: pathlib.Path):
    write_large(tmp_path / "folder", 6)
    writing.prepare(
        "redweb", str(tmp_path / "folder"), str(tmp_path / "out"), partial=True, say=lambda x: None
    )
    options: dict[str, Any] = {"split": "train", "size": (32, 64), "validation": 1}
    folder = SOURCES.create("redweb", root=str(tmp_path / "folder"), **options)
    prepared = SOURCES.create("redweb", prepared=str(tmp_path / "out"), **options)
    expected = examples(folder, 1)
    assert not np.array_equal(expected[0]["image"], expected[1]["image"])
    for other in (examples(folder, 4), examples(prepared, 1), examples(prepared, 4)):
        for one, another in zip(expected, other, strict=True):
            assert one.keys() == another.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], another[key])


def test_shards_whose_maps_are_compressed_by_zlib_are_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    redweb.write(tmp_path / "folder", 3)
    tensor = tfds.features.Tensor

    def compressed(**options: Any) -> Any:
        if "encoding" in options:
            options["encoding"] = tfds.features.Encoding.ZLIB
        return tensor(**options)

    with monkeypatch.context() as patch:
        patch.setattr(tfds.features, "Tensor", compressed)
        writing.prepare(
            "redweb", str(tmp_path / "folder"), str(tmp_path), partial=True, say=lambda x: None
        )
    assert "zlib" in (tmp_path / "redweb/1.0.0/features.json").read_text()
    found = shards.read_part("redweb", str(tmp_path), "train")
    assert found is not None
    assert len(found) == 3
    names = sorted(path.stem for path in (tmp_path / "folder").rglob("*.png"))
    for index, name in enumerate(names):
        (path,) = (tmp_path / "folder").rglob(f"{name}.png")
        with Image.open(path) as image:
            expected = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(found[index]["maps"]["rd"], expected)


def test_a_damaged_jpeg_is_named_and_stood_in_for_when_a_part_of_it_is_read(
    tmp_path: pathlib.Path,
):
    write_large(tmp_path / "folder", 3)
    path = tmp_path / "folder/Imgs/1.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    source = SOURCES.create(
        "redweb", split="train", size=(32, 64), root=str(tmp_path / "folder"), validation=0
    )
    transform, log = TrainTransform((32, 64)), str(tmp_path / "bad.jsonl")
    with pytest.raises(UnreadableFile, match="1.jpg"):
        transform(open_sample(source, 1), np.random.default_rng(0))
    tolerant = SkipUnreadable(source, 0, log, (32, 64))
    found: list[Sample] = [
        transform(open_sample(tolerant, index), np.random.default_rng(0)) for index in (0, 1, 2, 1)
    ]
    assert ["unreadable" in example and bool(example["unreadable"]) for example in found] == [
        False, True, False, True,
    ]  # fmt: skip
    assert not found[1]["image"].any()
    assert not found[1]["mask"].any()
    assert found[1]["depth"].shape == (32, 64)
    assert list(read(log)) == [(0, 1)]


def test_colours_are_jittered_as_defined():
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for brightness, contrast, saturation in ((1.2, 1.0, 1.0), (1.0, 0.6, 1.0), (0.9, 1.3, 1.4)):
        x = image * brightness
        x = x.mean() + (x - x.mean()) * contrast
        gray = 0.299 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]
        expected = np.clip(gray + (x - gray) * saturation, 0, 255)
        found = jitter_colors(image, brightness, contrast, saturation)
        assert found.dtype == np.uint8
        assert np.abs(found - expected).max() < 0.501
