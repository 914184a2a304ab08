"""Malformed inputs: what each command prints, and its exit code; `docs/bad_input.md` is the table.

Every case plants one fault in a small data set or a folder of photographs and runs the command of a
user: its own `main` below `cli.command.run`, on the data as it is. Only the network is replaced:
`train` reads every training and validation sample as its pipeline does and stops before the
first step, `evaluate` and `predict` get a run whose network scores everything 0. The cases of
`REAL` run once more as processes, with nothing replaced.

The numbers (D1, D2, …) are those of a list of faults in data that the project keeps. What has no
case, and why:
D4, bit flips in a JPEG: most of them decode, which no reader can notice; `--verify` of prepared
shards does (docs/preparing_data.md).
D23, outputs that would replace a file: two cases only, tests/inference/test_files.py has the rest.
D26, files that change or vanish during a run: that depends on the moment; reading says the same as
for D1 and D3.
D28, the same picture in training and validation: `reldepth check-data` compares, training does not;
here only ranges of a folder that overlap.
D30, random mutants: tests/data/images/test_io.py.
"""

import contextlib
import dataclasses
import functools
import importlib
import io as memory
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.data.pipeline import make_source, train_sources
from reldepth_jax.data.transforms import TrainTransform
from reldepth_jax.inference import networks
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import save_config
from reldepth_jax.training import run as training_run
from reldepth_jax.training.state import new_state
from tests.fixtures import (
    da2k,
    diw,
    eth3d,
    hr_wsi,
    kitti,
    nyu_depth_v2,
    nyu_pairs,
    redweb,
    sintel,
    tum,
)
from tests.fixtures.scenes import save, scene

ROOT = pathlib.Path(__file__).parents[2]
TABLE = ROOT / "docs" / "bad_input.md"
SECONDS = 10
"""What a case may take; whoever waits for a pipe takes for ever."""
LIBRARY = "[words of the library]"

Plant = Callable[[pathlib.Path], object]
"""Puts the fault into a copy of the data set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    name: str
    data: str
    """Which data set is written, "photos" for none."""
    plant: Plant
    arguments: tuple[str, ...]
    """Of the command; {data}, {run}, {out} stand for folders."""
    code: int
    says: str
    """Regular expression for what is printed. What its group `library` matches is left out of the
    table; such an expression begins behind the name of the file."""
    names: str
    """File, or file:line, that each line must name."""
    lines: int = 1
    """Lines on stderr; 0 where nothing is wrong."""
    outputs: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Height and width of what `predict` writes, by name."""

    short: str
    """Arguments as they stand in the table."""

    @property
    def command(self) -> str:
        return f"{self.name} {self.short}"

    def match(self, text: str) -> re.Match[str] | None:
        pattern = self.says
        if "library" in pattern:
            pattern = f"{re.escape(self.names)}: {pattern}"
        return re.search(pattern, text, re.MULTILINE)


# Builders of faults.


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = memory.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def npy(values: object, **options: Any) -> bytes:
    buffer = memory.BytesIO()
    np.save(buffer, np.asarray(values), **options)
    return buffer.getvalue()


def npz(*arrays: np.ndarray) -> bytes:
    buffer = memory.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = memory.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("Imgs/0001.jpg", b"x")
    return buffer.getvalue()


@functools.cache
def bomb(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, complete: 20000x20000 are 48 KB in the file, 1.2 GB as RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def rotated(image: np.ndarray, orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(image, kind, exif=exif)


def damaged_tiff(tag: int, place: int) -> bytes:
    """A TIFF with a byte of 255 at a place of the entry of a tag."""
    data = bytearray(encoded(PHOTO, "TIFF"))
    data[data.index(struct.pack("<H", tag), struct.unpack_from("<I", data, 4)[0]) + place] = 255
    return bytes(data)


PHOTO = scene(0)[0]
"""48 rows, 64 columns."""
GRAY = PHOTO[..., 0]
WEB_PAGE = b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"
DEPTH = np.linspace(1, 9, 48 * 64, dtype=np.float32).reshape(48, 64)


def put(path: str, data: bytes) -> Plant:
    def plant(root: pathlib.Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        (root / path).write_bytes(data)

    return plant


def puts(content: Mapping[str, bytes]) -> Plant:
    return both(*(put(path, data) for path, data in content.items()))


def delete(path: str) -> Plant:
    def plant(root: pathlib.Path) -> None:
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()

    return plant


def change(path: str, to: Callable[[bytes], bytes]) -> Plant:
    return lambda root: (root / path).write_bytes(to((root / path).read_bytes()))


def cut(path: str) -> Plant:
    return change(path, lambda data: data[: len(data) // 2])


def flipped(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 30
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def both(*plants: Plant) -> Plant:
    def plant(root: pathlib.Path) -> None:
        for one in plants:
            one(root)

    return plant


def pipe(path: str) -> Plant:
    def plant(root: pathlib.Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        os.mkfifo(root / path)

    return plant


def link(path: str, to: str) -> Plant:
    def plant(root: pathlib.Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(to)

    return plant


def folder_instead(path: str) -> Plant:
    def plant(root: pathlib.Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).mkdir(parents=True)

    return plant


def nothing(root: pathlib.Path) -> None:
    pass


def arrays(path: str, **content: Any) -> Plant:
    """An HDF5 file."""

    def plant(root: pathlib.Path) -> None:
        with h5py.File(root / path, "w") as file:
            for name, values in content.items():
                file[name.replace("__", "/")] = values

    return plant


def huge_array(path: str, image: str, depth: str) -> Plant:
    """An HDF5 file of a few KB that claims to hold 10^10 pixels."""

    def plant(root: pathlib.Path) -> None:
        with h5py.File(root / path, "w") as file:
            file.create_dataset(image, (100_000, 100_000, 3), "u1", chunks=(64, 64, 3))
            file.create_dataset(depth, (100_000, 100_000), "f4", chunks=(64, 64))

    return plant


# Data sets.


def write_folder(root: pathlib.Path) -> None:
    for name in "abcde":
        save(root / f"rgb/{name}.jpg", PHOTO)
        (root / "depth").mkdir(exist_ok=True)
        (root / f"depth/{name}.npy").write_bytes(npy(DEPTH))


WRITERS: dict[str, Callable[[pathlib.Path], None]] = {
    "photos": lambda root: root.mkdir(),
    "folder": write_folder,
    "redweb": redweb.write,
    "hr_wsi": hr_wsi.write,
    "diw": diw.write,
    "nyu_pairs": nyu_pairs.write,
    "nyu_depth_v2": nyu_depth_v2.write,
    "da2k": da2k.write,
    "kitti": kitti.write,
    "eth3d": eth3d.write,
    "sintel": sintel.write,
    "tum": tum.write,
}
OPTIONS = {
    "redweb": ("validation=2",),
    "nyu_depth_v2": ("validation=1",),
    "folder": ("train=0:3", "val=3:5"),
}
PROTOCOL = {"nyu_pairs": "nyu", "nyu_depth_v2": "nyu_depth"}

IMG, RD = "ReDWeb_V1/Imgs/0001.jpg", "ReDWeb_V1/RDs/0001.png"
HR = "HR-WSI/train"
DIW_LIST, THUMB = "DIW_Annotations_splitted/DIW_train.csv", "DIW_train_val/train000.thumb"
DIW_TEST = "DIW_Annotations_splitted/DIW_test.csv"
NYU_LIST = f"data/{nyu_pairs.LISTS['train']}.csv"
NYU_TEST = "data/654_NYU_MITpaper_test_imgs_orig_size"
JSON, DA2K_IMG = "DA-2K/annotations.json", "images/indoor/0.jpg"
KITTI_IMG, KITTI_MAP = kitti.paths(1)
ETH_IMG = "courtyard/images/dslr_images/DSC_0286.JPG"
ETH_MAP = "courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG"
DPT, FRAME = "training/depth/alley_1/frame_0001.dpt", "training/final/alley_1/frame_0001.png"
H5 = "tum_hdf5/AjJV5tXVHJU_0001.jpg.h5"
MAT = "nyu_depth_v2_labeled.mat"
GOOD_PAIR = "3,4,5,7,>,64,48"


def pairs(row: str, path: str = "./DIW_train_val/train000.thumb") -> Plant:
    """A list of DIW in which every pair is written as `row`: more than are left out in silence."""
    return put(DIW_LIST, f"{path}\n{row}\n".encode("utf-8", "surrogateescape") * 12)


def nyu_list(old: str, new: str) -> Plant:
    """Replace in every line of a list."""
    return change(NYU_LIST, lambda data: data.replace(old.encode(), new.encode()))


def annotation(**values: Any) -> Plant:
    """Set values of the first annotation of DA-2K."""

    def to(data: bytes) -> bytes:
        content = json.loads(data)
        content[DA2K_IMG][0] |= values
        return json.dumps(content).encode()

    return change(JSON, to)


def splits(**content: Any) -> Plant:
    return lambda root: scipy.io.savemat(root / "splits.mat", content)


# Commands.


def train(
    id: str, data: str, plant: Plant, names: str, says: str, *options: str, code: int = 2
) -> Case:
    source = [f"--config.data.source.name={data}"]
    given = {option.partition("=")[0] for option in options}
    for option in ("root={data}", *OPTIONS.get(data, ()), *options):
        if option in options or option.partition("=")[0] not in given:
            source.append(f"--config.data.source.{option}")
    return Case(
        id=id, name="train", data=data, plant=plant, code=code, says=says, names=names,
        arguments=("--config", str(ROOT / "configs/smoke.py"), "--workdir", "{run}", *source),
        lines=1 if code else 0, short=" ".join((data, *options)).replace("{data}", "…"),
    )  # fmt: skip


def evaluate(id: str, data: str, plant: Plant, names: str, says: str, *, code: int = 2) -> Case:
    name = PROTOCOL.get(data, data)
    return Case(
        id=id, name="evaluate", data=data, plant=plant, code=code, says=says, names=names,
        arguments=("--workdir", "{run}", "--dataset", name, "--data-dir", "{data}"),
        lines=1 if code else 0, short=f"--dataset {name}",
    )  # fmt: skip


def listed(id: str, content: str, names: str, says: str) -> Case:
    """A list of KITTI, read by `evaluate` as a source."""
    return Case(
        id=id, name="evaluate", data="kitti", plant=put("list.txt", content.encode()),
        code=2, says=says, names=names, short="…source.name=kitti …source.list=list.txt",
        arguments=(
            "--workdir", "{run}", "--config.data.source.name=kitti",
            "--config.data.source.root={data}", "--config.data.source.list={data}/list.txt",
        ),
    )  # fmt: skip


def predict(
    id: str,
    plant: Plant,
    names: str,
    says: str,
    *,
    inputs: tuple[str, ...] = ("{data}",),
    code: int = 1,
    lines: int | None = None,
    outputs: Mapping[str, tuple[int, int]] = {},
) -> Case:
    return Case(
        id=id, name="predict", data="photos", plant=plant, code=code, says=says, names=names,
        arguments=("--workdir", "{run}", "--output", "{out}", *inputs),
        lines=(1 if code else 0) if lines is None else lines, outputs=outputs,
        short=" ".join(word.replace("{data}", "photos/") for word in inputs).replace("//", "/"),
    )  # fmt: skip


def prepare(
    id: str, data: str, plant: Plant, names: str, says: str, *options: str, code: int = 2
) -> Case:
    return Case(
        id=id, name="prepare", data=data, plant=plant, code=code, says=says, names=names,
        arguments=(
            data, "--manual-dir", "{data}", "--data-dir", "{out}", "--workers", "0", *options
        ),
        lines=1 if code else 0, short=" ".join((data, *options)).replace("{data}", "…"),
    )  # fmt: skip


READ = r"^read \d+ training and \d+ validation samples$"
JPEG = encoded(PHOTO, "JPEG")
PNG = encoded(PHOTO, "PNG")
SIZE = (48, 64)
STRANGE = "\x1b[2J\r\n\u202e.jpg"
"""Clears a terminal, starts a line, turns the writing direction."""

CASES = [
    # What is given is not there, or is something else.
    train("D1 another folder", "redweb", delete("ReDWeb_V1"), "…/data/Imgs", "is no folder"),
    train("D1 folder that does not exist", "diw", nothing, "…/data/nowhere", "is no folder",
          "root={data}/nowhere"),
    train("D1 no folder given", "redweb", nothing, "redweb", "root is not set", "root="),
    train("D1 listed image missing", "diw", delete(THUMB), THUMB, "no such file"),
    train("D1 all listed images missing", "diw", delete("DIW_train_val"), DIW_LIST,
          "none of its images is below …/data"),
    listed("D1 listed file missing", f"{KITTI_IMG} {KITTI_MAP}\n{KITTI_IMG} {KITTI_MAP}x\n",
           "list.txt:2", "there is no file"),
    predict("D1 photograph missing", nothing, "nowhere.jpg", "no such file",
            inputs=("{data}/nowhere.jpg",)),
    predict("D1 folder without photographs", put("notes.txt", b"x"), "…/data", "no images in",
            code=2),
    # Not an image.
    train("D2 empty image", "redweb", put(IMG, b""), IMG, "is empty"),
    train("D2 empty map", "hr_wsi", put(f"{HR}/gts/0001.png", b""), f"{HR}/gts/0001.png",
          "is empty"),
    train("D2 web page as image", "redweb", put(IMG, WEB_PAGE), IMG,
          "is a web page, not an image; download it again"),
    train("D2 web page as map", "redweb", put(RD, WEB_PAGE), RD, "is a web page"),
    train("D2 text as image", "diw", put(THUMB, b"not a picture\n"), THUMB,
          "is not an image that can be read"),
    evaluate("D2 web page as JPEG", "sintel", put(FRAME, WEB_PAGE), FRAME, "is a web page"),
    evaluate("D2 web page as JPEG", "eth3d", put(ETH_IMG, WEB_PAGE), ETH_IMG,
             "is a web page"),
    predict("D2 empty file, web page, text", puts({"a.jpg": b"", "b.jpg": WEB_PAGE, "c.jpg": b"x"}),
            ".jpg", "is empty\n.*is a web page.*\n.*is not an image", lines=3),
    # Cut off or changed.
    train("D3 truncated JPEG", "redweb", cut(IMG), IMG, "(?P<library>.*truncated.*)"),
    train("D3 truncated PNG", "hr_wsi", cut(f"{HR}/valid_masks/0001.png"),
          f"{HR}/valid_masks/0001.png", "(?P<library>.+)"),
    train("D3 truncated .thumb", "diw", cut(THUMB), THUMB, "(?P<library>.*truncated.*)"),
    predict("D3 truncated JPEG beside a good one", puts({"a.jpg": JPEG[:-300], "b.jpg": JPEG}),
            "a.jpg", "(?P<library>.*truncated.*)", outputs={"b": SIZE}),
    predict("D3 TIFF with a damaged header", puts({"a.tif": damaged_tiff(256, 4),
                                                   "b.tif": damaged_tiff(277, 8)}),
            ".tif", "(?P<library>.*)\n.*b.tif: is not an image", lines=2),
    evaluate("D4 flipped bit in a PNG", "sintel", change(FRAME, flipped), FRAME,
             "(?P<library>.+)"),
    train("D4 flipped bit in a map", "redweb", change(RD, flipped), RD, "(?P<library>.+)"),
    # Rare but right: read as it is meant.
    predict("D5 CMYK", puts({"a.jpg": encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG")}),
            "", "^1 predicted", code=0, outputs={"a": SIZE}),
    train("D5 CMYK in training", "folder",
          put("rgb/a.jpg", encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG")), "", READ,
          code=0),
    predict("D6 gray, gray with alpha, 1 bit",
            puts({f"{mode}.png": encoded(Image.fromarray(PHOTO).convert(mode), "PNG")
                  for mode in ("L", "LA", "1")}),
            "", "^3 predicted", code=0, outputs={"L": SIZE, "LA": SIZE, "1": SIZE}),
    predict("D7 palette with transparency, alpha 0",
            puts({"p.png": encoded(Image.fromarray(PHOTO).convert("P"), "PNG",
                                   transparency=bytes(range(255))),
                  "a.png": encoded(np.dstack([PHOTO, 0 * GRAY]), "PNG")}),
            "", "^2 predicted", code=0, outputs={"a": SIZE, "p": SIZE}),
    predict("D8 16-bit gray photograph",
            puts({"a.png": encoded(GRAY.astype(np.uint16) * 257, "PNG")}), "", "^1 predicted",
            code=0, outputs={"a": SIZE}),
    predict("D8 floating-point TIFF as photograph", puts({"a.tif": encoded(DEPTH, "TIFF")}),
            "a.tif", "holds floating-point values, not a photograph"),
    train("D9 maps as 16-bit PNG, float TIFF, PFM, NPZ", "folder",
          both(*(delete(f"depth/{name}.npy") for name in "abcd"),
               puts({"depth/a.png": encoded((DEPTH * 1000).astype(np.uint16), "PNG"),
                     "depth/b.tif": encoded(DEPTH, "TIFF"),
                     "depth/c.pfm": b"Pf\n64 48\n-1.0\n" + DEPTH[::-1].tobytes(),
                     "depth/d.npz": npz(DEPTH)})), "", READ, code=0),
    # Maps that are none.
    train("D9 pickle in .npy", "folder", put("depth/a.npy", npy([{}], allow_pickle=True)),
          "depth/a.npy", "(?P<library>.*[Oo]bject.*)"),
    train("D9 truncated .npy", "folder", cut("depth/a.npy"), "depth/a.npy", "(?P<library>.+)"),
    train("D9 .npy of three dimensions", "folder", put("depth/a.npy", npy(np.zeros((2, 3, 4)))),
          "depth/a.npy", r"expected an array of shape \(height, width\), got \(2, 3, 4\)"),
    train("D9 .npz with two arrays", "folder", put("depth/a.npy", npz(DEPTH, DEPTH)),
          "depth/a.npy", "expected an archive of one array, got 2: arr_0, arr_1"),
    train("D9 values below zero", "folder", put("depth/a.npy", npy(DEPTH - 9)), "rgb/a.jpg",
          "nothing says what it means"),
    train("D9 zero as sky", "folder", put("depth/a.npy", npy(np.maximum(DEPTH - 9, 0))),
          "rgb/a.jpg", "infinity=0", "polarity=disparity"),
    train("D9 broken .npz", "folder", put("depth/a.npy", npz(DEPTH)[:-40]), "depth/a.npy",
          "(?P<library>.+)"),
    train("D9 truncated .pfm", "folder", put("depth/a.npy", b"Pf\n64 48\n-1\n" + bytes(99)),
          "depth/a.npy", "is truncated"),
    train("D9 .pfm without a size", "folder", put("depth/a.npy", b"Pf\n64 x\n-1\n" + bytes(99)),
          "depth/a.npy", "damaged PFM header"),
    train("D9 OpenEXR", "folder", put("depth/a.npy", b"\x76\x2f\x31\x01" + bytes(99)),
          "depth/a.npy", "OpenEXR is not read; convert it"),
    train("D10 16-bit map where 8 bits are published", "redweb",
          put(RD, encoded(GRAY.astype(np.uint16), "PNG")), IMG,
          "its RD map has uint16 values, not 8 bits"),
    evaluate("D10 8-bit map where 16 bits are published", "kitti",
             put(KITTI_MAP, encoded(np.zeros((40, 120), np.uint8), "PNG")), KITTI_IMG,
             "its depth map has uint8 values, not 16 bits"),
    train("D10 JPEG as map", "redweb", put(RD, encoded(GRAY, "JPEG")), RD,
          "JPEG changes depth values"),
    train("D10 coloured map", "redweb", put(RD, PNG), RD, "got three channels that differ"),
    train("D10 palette map", "hr_wsi",
          put(f"{HR}/gts/0001.png", encoded(Image.fromarray(PHOTO).convert("P"), "PNG")),
          f"{HR}/gts/0001.png", "expected one number per pixel, got a palette"),
    # Geometry.
    predict("D11 all EXIF orientations",
            puts({f"{n}.jpg": rotated(PHOTO, n) for n in range(1, 9)}), "", "^8 predicted", code=0,
            outputs={f"{n}": SIZE if n < 5 else (64, 48) for n in range(1, 9)}),
    predict("D11 damaged EXIF",
            puts({"a.jpg": rotated(PHOTO, 6).replace(b"MM\0*\0\0\0\x08", b"MM\0*" + b"\xff" * 4)}),
            "", "^1 predicted", code=0, outputs={"a": SIZE}),
    train("D11 listed image turned by EXIF", "diw",
          put(THUMB, rotated(PHOTO.swapaxes(0, 1).copy(), 6)), THUMB,
          "stored 48x64; the list says 64x48; EXIF orientation 6"),
    predict("D12 1x1, 2x2, 1x3000, 3000x1",
            puts({f"{w}x{h}.png": encoded(np.zeros((h, w, 3), np.uint8), "PNG")
                  for w, h in ((1, 1), (2, 2), (1, 3000), (3000, 1))}), "", "^4 predicted", code=0,
            outputs={f"{w}x{h}": (h, w) for w, h in ((1, 1), (2, 2), (1, 3000), (3000, 1))}),
    train("D12 1x1 in training", "folder",
          puts({"rgb/a.jpg": encoded(PHOTO[:1, :1], "JPEG"), "depth/a.npy": npy(DEPTH[:1, :1])}),
          "", READ, code=0),
    predict("D13 PNG of 48 KB, 20000x20000", puts({"a.png": bomb(20_000, 20_000)}), "a.png",
            "20000x20000 pixels; the limit is 89 million"),
    predict("D13 12000x12000", puts({"a.png": bomb(12_000, 12_000)}), "a.png", "89 million"),
    train("D13 bomb as training image", "redweb", put(IMG, bomb(20_000, 20_000)), IMG,
          "89 million"),
    train("D13 bomb as map", "redweb", put(RD, bomb(20_000, 20_000)), RD, "89 million"),
    train("D13 .pfm that claims 10^10 pixels", "folder",
          put("depth/a.npy", b"Pf\n100000 100000\n-1\n"), "depth/a.npy", "89 million"),
    train("D13 .npz that claims 4 GB", "folder",
          put("depth/a.npy", npz(DEPTH).replace(struct.pack("<I", 128 + DEPTH.nbytes),
                                                struct.pack("<I", 4_000_000_000))),
          "depth/a.npy", "unpacks to 4.0 GB"),
    evaluate("D13 .h5 that claims 10^10 pixels", "tum", huge_array(H5, "gt/img_1", "gt/gt_depth"),
             H5, "has more than 89 million pixels"),
    predict("D14 100:1", puts({"a.jpg": encoded(np.zeros((40, 4000, 3), np.uint8), "JPEG")}), "",
            "^1 predicted", code=0, outputs={"a": (40, 4000)}),
    train("D15 map of another shape", "redweb", put(RD, encoded(GRAY[:, :50], "PNG")), IMG,
          "the RD map of 50x48 pixels does not go with the photograph's 64x48"),
    train("D15 own map of another shape", "folder", put("depth/a.npy", npy(DEPTH[:, :50])),
          "rgb/a.jpg", "map of 50x48 pixels does not go with the photograph's 64x48"),
    evaluate("D15 depth of another size", "kitti",
             put(KITTI_MAP, encoded(np.zeros((40, 60), np.uint16), "PNG")), KITTI_IMG,
             "120x40 pixels, but its depth map has 60x40"),
    evaluate("D15 depth of another size, raw", "eth3d", put(ETH_MAP, bytes(4 * 48 * 63)), ETH_MAP,
             "has 12096 bytes; float32 for 64x48 pixels takes 12288"),
    evaluate("D15 depth of another size, .dpt", "sintel",
             lambda root: sintel.write_dpt(root / DPT, DEPTH[:40]), FRAME,
             "64x48 pixels, but its depth map has 64x40"),
    # What belongs together.
    train("D16 image without map", "redweb", delete(RD), "…/data/ReDWeb_V1",
          "1 of 6 images have no RD map: 0001"),
    train("D16 map without image", "redweb", delete(IMG), "…/data/ReDWeb_V1",
          "1 of 6 RD maps have no image: 0001"),
    train("D16 mask missing", "hr_wsi", delete(f"{HR}/valid_masks/0001.png"), f"…/data/{HR}",
          "1 of 3 images have no disparity map or valid mask: 0001"),
    evaluate("D16 depth missing", "sintel", delete(DPT), "…/data",
             "1 of 4 images have no depth map: alley_1/frame_0001"),
    # Lists.
    train("D17 too few fields", "diw", pairs("3,4,5,7,>,64"), f"{DIW_LIST}:2",
          "expected 7 fields, got 6"),
    train("D17 other separator", "diw", pairs("3;4;5;7;>;64;48"), f"{DIW_LIST}:2",
          "expected 7 fields, got 1 - is the separator ';'?"),
    train("D17 text in a number", "diw", pairs("3,four,5,7,>,64,48"), f"{DIW_LIST}:2",
          "'four' is not a number"),
    train("D17 NaN in a number", "diw", pairs("3,nan,5,7,>,64,48"), f"{DIW_LIST}:2",
          "'nan' is not a number"),
    train("D17 quote that is not closed", "diw", pairs('"3,4,5,7,>,64,48'), f"{DIW_LIST}:2",
          "'\"3' is not a number"),
    train("D17 field of 200,000 characters", "diw", pairs("9" * 200_000 + ",4,5,7,>,64,48"),
          f"{DIW_LIST}:2", "9…' is not a number"),
    train("D17 control characters in a field", "diw", pairs("3,\x1b[2J,5,7,>,64,48"),
          f"{DIW_LIST}:2", re.escape(r"'\x1b[2J' is not a number")),
    train("D17 NUL byte", "diw", pairs("3,4\0,5,7,>,64,48"), f"{DIW_LIST}:2", "holds a NUL byte"),
    train("D17 UTF-16", "diw", change(DIW_LIST, lambda data: data.decode().encode("utf-16")),
          f"{DIW_LIST}:1", "holds a NUL byte; this is not plain text"),
    train("D17 empty list", "diw", put(DIW_LIST, b""), DIW_LIST, "is empty"),
    train("D17 blank list", "diw", put(DIW_LIST, b"\n\n"), DIW_LIST, "holds no annotated pair"),
    train("D17 image as list", "diw", put(DIW_LIST, PNG), DIW_LIST, "NUL byte"),
    train("D17 web page as list", "diw", put(DIW_LIST, WEB_PAGE), f"{DIW_LIST}:1",
          "no line with a pair follows this path"),
    train("D17 byte-order mark and CRLF", "diw",
          change(DIW_LIST, lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")), "", READ,
          code=0),
    train("D17 column missing", "nyu_pairs", nyu_list(",>", ""), f"{NYU_LIST}:",
          "expected 5 fields, got 4"),
    train("D17 other separator", "nyu_pairs", nyu_list(",", ";"), f"{NYU_LIST}:2",
          "expected 3 fields, got 1 - is the separator ';'?"),
    train("D17 truncated list", "nyu_pairs", change(NYU_LIST, lambda data: data[:-200]),
          f"{NYU_LIST}:33", "states 31 pairs, but 1[0-9] follow"),
    train("D17 number of pairs is text", "nyu_pairs", nyu_list(",1,31,,", ",1,many,,"),
          f"{NYU_LIST}:33", "'many' is not a number; here the line of an image"),
    train("D17 empty list", "nyu_pairs", put(NYU_LIST, b""), NYU_LIST, "is empty"),
    train("D17 only titles", "nyu_pairs", put(NYU_LIST, b"img_path,id,n_points,,\n"), NYU_LIST,
          "holds no annotated pair"),
    train("D17 NUL byte", "nyu_pairs", change(NYU_LIST, lambda data: data + b"\0"), f"{NYU_LIST}:",
          "holds a NUL byte"),
    listed("D17 too many fields", f"{KITTI_IMG} {KITTI_MAP} 721.5\n", "list.txt:1",
           "expected 'image_path depth_path', got 3 fields"),
    listed("D17 NUL byte", f"{KITTI_IMG} {KITTI_MAP}\0\n", "list.txt",
           re.escape(r"none of its images is below") + r".*\\x00"),
    listed("D17 empty list", "", "list.txt", "is empty"),
    listed("D17 blank list", "\n\n", "list.txt", "names no image"),
    evaluate("D18 one bad line among good ones", "diw",
             change(DIW_TEST, lambda data: data.replace(b",>,", b",=,", 1)), "",
             "^1 samples of the csv were left out, the first at line 2", code=0),
    train("D18 one bad line among good ones", "diw",
          change(DIW_LIST, lambda data: data.replace(b",>,", b",=,", 1)), "", "^read 5 training",
          code=0),
    train("D18 coordinates from 0", "diw", pairs("0,4,5,0,>,64,48"), f"{DIW_LIST}:2",
          "most would be valid if counted from 0"),
    train("D18 x before y", "diw", pairs("60,4,5,7,>,64,48"), f"{DIW_LIST}:2",
          "most would be valid with rows and columns swapped"),
    train("D18 coordinates out of range", "diw", pairs("3,4,500,700,>,64,48"), f"{DIW_LIST}:2",
          "lies outside the 48 rows and 64 columns"),
    train("D18 relation =", "diw", pairs("3,4,5,7,=,64,48"), f"{DIW_LIST}:2",
          "relation '=', expected > or <"),
    train("D18 both points equal", "diw", pairs("3,4,3,4,>,64,48"), f"{DIW_LIST}:2",
          r"both points are \(3, 4\)"),
    train("D18 image without a pair", "diw", pairs("./DIW_train_val/train001.thumb"),
          f"{DIW_LIST}:1", "no line with a pair follows this path"),
    train("D18 relation of letters", "nyu_pairs", nyu_list(",>", ",farther"), f"{NYU_LIST}:",
          "relation 'farther', expected > or < or ="),
    train("D18 coordinates of the large images", "nyu_pairs",
          change(NYU_LIST, functools.partial(re.sub, rb"(?m)^\d+,\d+,(\d+,\d+,.)$",
                                             rb"480,640,\1")),
          f"{NYU_LIST}:3", "lies outside the 240 rows and 320 columns"),
    train("D19 image of another size than listed", "diw", put(THUMB, encoded(PHOTO[:24], "JPEG")),
          THUMB, "stored 64x24; the list says 64x48"),
    train("D19 image of another size than listed", "nyu_pairs", put("data/train_imgs/1.png", PNG),
          "data/train_imgs/1.png", "stored 64x48; the list says 320x240"),
    train("D19 size of 0x48", "diw", pairs("3,4,5,7,>,0,48"), f"{DIW_LIST}:2",
          "an image of 0x48 pixels"),
    # Names and places.
    train("D20 path out of the data", "diw", pairs(GOOD_PAIR, "../../etc/passwd"), f"{DIW_LIST}:1",
          "'../../etc/passwd' leads out of the data"),
    train("D20 absolute path", "diw", pairs(GOOD_PAIR, "/etc/passwd"), DIW_LIST,
          r"none of its images is below …/data \(the first is /etc/passwd\)"),
    train("D20 path out of the data", "nyu_pairs",
          nyu_list("../../data/train_imgs/1.png", "../../data/../../1.png"), f"{NYU_LIST}:2",
          "leads out of the data"),
    evaluate("D20 path out of the data", "da2k",
             change(JSON, lambda data: data.replace(b"images/indoor/0", b"../../secret")), JSON,
             "'../../secret.jpg' leads out of the data"),
    listed("D20 path out of the data", f"../../etc/passwd {KITTI_MAP}\n", "list.txt",
           "'../../etc/passwd' leads out of the data"),
    train("D21 control characters in a listed path", "diw", pairs(GOOD_PAIR, "\x1b[2J.thumb"),
          DIW_LIST, re.escape(r"\x1b[2J.thumb")),
    train("D21 listed path that is no UTF-8", "diw", pairs(GOOD_PAIR, "caf\udce9.thumb"), DIW_LIST,
          re.escape(r"caf\udce9.thumb")),
    predict("D21 strange names",
            puts(dict.fromkeys(("ü [1].jpg", "u\u0308.jpg", "深.jpg", "a b.jpg", "caf\udce9.jpg",
                                "-x.jpg", STRANGE), JPEG)), "", "^7 predicted", code=0,
            outputs=dict.fromkeys(("ü [1]", "u\u0308", "深", "a b", "caf\udce9", "-x",
                                   STRANGE.removesuffix(".jpg")), SIZE)),
    predict("D21 control characters in the name of a bad file", puts({STRANGE: b"x"}),
            r"\x1b[2J\r\n\u202e.jpg", "is not an image"),
    predict("D21 name that is no UTF-8", puts({"caf\udce9.jpg": b"x"}), r"caf\udce9.jpg",
            "is not an image"),
    predict("D21 name too long for its outputs", puts({f"{'x' * 251}.jpg": JPEG}), f"{'x' * 251}",
            "its prediction cannot be written"),
    predict("D21 -x.jpg after --", puts({"-x.jpg": JPEG}), "", "^1 predicted", code=0,
            inputs=("--", "-x.jpg"), outputs={"-x": SIZE}),
    predict("D21 -x.jpg taken for an option", puts({"-x.jpg": JPEG}), "'-x.jpg'",
            "unknown argument",
            inputs=("-x.jpg", "a.jpg"), code=2),
    # Not files.
    train("D22 pipe as image", "redweb", pipe(IMG), IMG, "is not a regular file"),
    train("D22 pipe as map", "redweb", pipe(RD), RD, "is not a regular file"),
    train("D22 pipe as list", "diw", pipe(DIW_LIST), DIW_LIST, "is not a regular file"),
    train("D22 pipe as list", "nyu_pairs", pipe(NYU_LIST), NYU_LIST, "is not a regular file"),
    train("D22 folder as list", "diw", folder_instead(DIW_LIST), DIW_LIST,
          "is not a regular file"),
    evaluate("D22 pipe as .h5", "tum", pipe(H5), H5, "is not a regular file"),
    evaluate("D22 pipe as .mat", "nyu_depth_v2", pipe(MAT), MAT, "is not a regular file"),
    evaluate("D22 pipe as .json", "da2k", pipe(JSON), JSON, "is not a regular file"),
    train("D22 link to itself", "redweb", link(IMG, "0001.jpg"), IMG, "(?P<library>Too many .*)"),
    train("D22 dangling link", "redweb", link(IMG, "nowhere.jpg"), IMG, "no such file"),
    train("D22 folder named 0001.jpg", "redweb", folder_instead(IMG), "…/data/ReDWeb_V1",
          "1 of 6 RD maps have no image: 0001"),
    predict("D22 pipe, /dev/zero, link to itself, dangling link, folder",
            both(pipe("a.jpg"), link("b.jpg", "/dev/zero"), link("c.jpg", "c.jpg"),
                 link("d.jpg", "nowhere"), folder_instead("e.jpg"), link("loop", "."),
                 put("e.jpg/f.jpg", JPEG)),
            ".jpg", "a.jpg: is not a regular file\n.*b.jpg: is not a regular file\n.*c.jpg: .*\n"
            ".*d.jpg: no such file$", lines=4, outputs={"e.jpg/f": SIZE}),
    predict("D22 empty folder named a.jpg", folder_instead("a.jpg"), "a.jpg", "no images in",
            inputs=("{data}/a.jpg",), code=2),
    train("D23 two images of one name", "redweb", put("ReDWeb_V1/Imgs/0001.png", PNG),
          "ReDWeb_V1/Imgs/0001", "two files have one name"),
    predict("D23 output folder is a file", puts({"a.jpg": JPEG, "../out": b"x"}), "…/out",
            "is a file; expected a folder", code=2),
    predict("D23 names that differ in the extension only",
            puts({"a.jpg": JPEG, "a.png": PNG, "A.JPG": JPEG}), "", "^3 predicted", code=0,
            outputs={"A.JPG": SIZE, "a.jpg-2": SIZE, "a.png": SIZE}),
    predict("D24 PNG named .JPG", puts({"a.JPG": PNG}), "", "^1 predicted", code=0,
            outputs={"a": SIZE}),
    predict("D24 EPS, PDF, SVG named .jpg",
            puts({"a.jpg": encoded(PHOTO, "EPS"), "b.jpg": encoded(PHOTO, "PDF"),
                  "c.jpg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}), ".jpg",
            "(.*is not an image that can be read.*\n?){3}", lines=3),
    predict("D25 animated GIF, TIFF of two pages",
            puts({f"a{number}.{kind}": encoded(PHOTO, kind, save_all=True,
                                               append_images=[Image.fromarray(255 - PHOTO)])
                  for number, kind in enumerate(("gif", "tiff"))}), "", "^2 predicted", code=0,
            outputs={"a0": SIZE, "a1": SIZE}),
    # Whole data sets.
    train("D27 empty folder", "redweb", both(delete("ReDWeb_V1/Imgs"), delete("ReDWeb_V1/RDs"),
          folder_instead("ReDWeb_V1/Imgs"), folder_instead("ReDWeb_V1/RDs")), "…/data/ReDWeb_V1",
          "no name is common to all"),
    train("D27 nothing left to validate on", "redweb", nothing, "redweb",
          "the val split is empty; there are 6 samples, of which 0 are to validate",
          "validation=0"),
    train("D27 fewer images than a batch", "folder", nothing, "", "^read 1 training", "train=0:1",
          "val=3:5", code=0),
    train("D27 folder without list", "diw", delete("DIW_Annotations_splitted"), "…/data",
          "holds none of DIW_test.csv, DIW_train.csv and DIW_train_val.csv"),
    train("D27 no list of this part", "nyu_pairs", delete(NYU_LIST), "…/data",
          "has no train split here"),
    train("D27 data set for testing only", "tum", nothing, "tum", "has no train split"),
    train("D28 training and validation overlap", "folder", nothing, "…/data", "share 1 of 5",
          "train=0:4"),
    train("D29 archive instead of a folder", "redweb", put("ReDWeb_V1.zip", archive()),
          "ReDWeb_V1.zip", "is an archive; extract it first", "root={data}/ReDWeb_V1.zip"),
    predict("D29 archive instead of a folder", put("photos.zip", archive()), "photos.zip",
            "is not an image", inputs=("{data}/photos.zip",)),
    train("D29 partly extracted", "redweb", delete("ReDWeb_V1/RDs"), "ReDWeb_V1/RDs",
          "is no folder"),
    # Formats of single data sets.
    evaluate(".mat missing", "nyu_depth_v2", delete(MAT), MAT, "no such file"),
    evaluate(".mat truncated", "nyu_depth_v2", cut(MAT), MAT, "(?P<library>.*truncated.*)"),
    evaluate(".mat is a web page", "nyu_depth_v2", put(MAT, WEB_PAGE), MAT, r"is not HDF5"),
    evaluate(".mat without depth", "nyu_depth_v2",
             arrays(MAT, images=np.zeros((2, 3, 640, 480), np.uint8)), MAT,
             "has no data set 'depths'"),
    evaluate(".mat with axes as in MATLAB", "nyu_depth_v2",
             arrays(MAT, images=np.zeros((480, 640, 3, 2), np.uint8)), MAT, "images is "),
    evaluate("splits.mat is a web page", "nyu_depth_v2", put("splits.mat", WEB_PAGE), "splits.mat",
             r"is not a MATLAB file that can be read \((?P<library>.*)\)"),
    evaluate("splits.mat without testNdxs", "nyu_depth_v2", splits(trainNdxs=[[1.0]]),
             "splits.mat", "has no variable 'testNdxs'"),
    evaluate("splits.mat counts from 0", "nyu_depth_v2",
             splits(trainNdxs=[[0.0], [1.0]], testNdxs=[[2.0]]), "splits.mat",
             "trainNdxs names image 0, but .* holds images 1 to 7"),
    evaluate("splits.mat names an image twice", "nyu_depth_v2",
             splits(trainNdxs=[[1.0], [2.0]], testNdxs=[[2.0]]), "splits.mat",
             "1 images are named twice"),
    evaluate("splits.mat is sparse", "nyu_depth_v2",
             splits(trainNdxs=scipy.sparse.csc_matrix([[1.0]]), testNdxs=[[2.0]]), "splits.mat",
             "has no variable 'trainNdxs' that is an array"),
    evaluate("splits.mat holds text", "nyu_depth_v2", splits(trainNdxs="ab", testNdxs=[[2.0]]),
             "splits.mat", "not image numbers"),
    evaluate(".h5 truncated", "tum", cut(H5), H5, "(?P<library>.*truncated.*)"),
    evaluate(".h5 is a web page", "tum", put(H5, WEB_PAGE), H5, "is not HDF5"),
    evaluate(".h5 without depth", "tum", arrays(H5, gt__img_1=PHOTO), H5,
             "has no data set 'gt/gt_depth'"),
    evaluate(".h5 with depth in millimetres", "tum",
             arrays(H5, gt__img_1=PHOTO, gt__gt_depth=DEPTH.astype(np.uint16)), H5,
             "gt/gt_depth holds uint16 values, not metres as float"),
    evaluate(".h5 with depth of 1e300", "tum",
             arrays(H5, gt__img_1=PHOTO, gt__gt_depth=np.full(SIZE, 1e300)), H5,
             "gt/gt_depth holds negative or infinite values"),
    evaluate(".h5 with negative depth", "tum", arrays(H5, gt__img_1=PHOTO, gt__gt_depth=-DEPTH),
             H5, "gt/gt_depth holds negative or infinite values"),
    evaluate(".h5 with empty arrays", "tum",
             arrays(H5, gt__img_1=h5py.Empty("f4"), gt__gt_depth=h5py.Empty("f4")), H5,
             "has no data set 'gt/img_1'"),
    evaluate(".h5 with a link out of the file", "tum",
             arrays(H5, gt__img_1=PHOTO, gt__gt_depth=h5py.ExternalLink("/etc/passwd", "x")), H5,
             "has no data set 'gt/gt_depth'"),
    evaluate("_depth.h5 truncated", "nyu_pairs", cut(f"{NYU_TEST}/1_depth.h5"),
             f"{NYU_TEST}/1_depth.h5", "(?P<library>.*truncated.*)"),
    evaluate("_depth.h5 of integers", "nyu_pairs",
             arrays(f"{NYU_TEST}/1_depth.h5", depth=np.zeros((480, 640), int)),
             f"{NYU_TEST}/1_depth.h5", "/depth is no map of real numbers"),
    evaluate(".dpt without its mark", "sintel",
             lambda root: sintel.write_dpt(root / DPT, DEPTH, tag=1.0), DPT,
             "does not start with 202021.25"),
    evaluate(".dpt truncated", "sintel", cut(DPT), DPT,
             "has 6150 bytes, which is not what 64x48 depth values take"),
    evaluate(".dpt of negative size", "sintel",
             put(DPT, struct.pack("<fii", 202021.25, -1, -1) + bytes(4)), DPT, "-1x-1"),
    evaluate(".dpt with NaN", "sintel",
             lambda root: sintel.write_dpt(root / DPT, DEPTH * np.nan), FRAME,
             "holds negative values or NaN"),
    evaluate("raw depth truncated", "eth3d", cut(ETH_MAP), ETH_MAP, "has 6144 bytes"),
    evaluate("raw depth negative", "eth3d", put(ETH_MAP, (-DEPTH).tobytes()), ETH_IMG,
             "holds negative values or NaN"),
    evaluate(".json truncated", "da2k", cut(JSON), JSON, "(?P<library>.+)"),
    evaluate(".json is a web page", "da2k", put(JSON, WEB_PAGE), JSON, "(?P<library>.+)"),
    evaluate(".json is a list", "da2k", put(JSON, b"[1, 2]"), JSON,
             "expected an object with the paths of images"),
    evaluate(".json nested 100,000 deep", "da2k", put(JSON, b"[" * 100_000), JSON,
             "is nested too deeply"),
    evaluate(".json in Latin-1", "da2k", put(JSON, '{"é": 1}'.encode("latin-1")), JSON,
             "(?P<library>.+)"),
    evaluate(".json with one key twice", "da2k", put(JSON, b'{"a": 1, "a": 2}'), JSON,
             "'a' is there twice"),
    evaluate(".json with NaN as coordinate", "da2k", annotation(point1=[float("nan"), 3]), JSON,
             r"annotation 0: point1 is '\[nan, 3\]', not \[row, column\] from 0"),
    evaluate(".json with a number of 5,000 digits", "da2k",
             put(JSON, b'{"a": [' + b"9" * 5000 + b"]}"), JSON, "(?P<library>.+)"),
    evaluate(".json without the closer point", "da2k", annotation(closer_point=None), JSON,
             "closer_point is 'None', not a point"),
    evaluate(".json with both points equal", "da2k", annotation(point1=[1, 1], point2=[1, 1]),
             JSON, r"both points are \(1, 1\)"),
    evaluate(".json with a point outside", "da2k", annotation(point1=[48, 1]), DA2K_IMG,
             r"has 48 rows and 64 columns, but annotations"),
    # Preparing shards reads everything before anything counts as prepared.
    prepare("D29 incomplete data set", "redweb", nothing, "redweb",
            "train has 6 records, published are 3600. Complete the folder, or give --partial"),
    prepare("D3 truncated JPEG", "redweb", cut(IMG), IMG, "(?P<library>.*truncated.*)",
            "--partial"),
    prepare("D10 16-bit map where 8 bits are published", "redweb",
            put(RD, encoded(GRAY.astype(np.uint16), "PNG")), IMG,
            "its rd map holds uint16, not uint8 values", "--partial"),
    prepare("D22 pipe as image", "redweb", pipe(IMG), IMG, "is not a regular file", "--partial"),
    prepare("D17 too few fields", "diw", pairs("3,4,5,7,>,64"), f"{DIW_LIST}:2",
            "expected 7 fields, got 6", "--partial"),
    prepare("D29 archive instead of a folder", "redweb", put("ReDWeb_V1.zip", archive()),
            "ReDWeb_V1.zip", "is an archive; extract it first",
            "--manual-dir={data}/ReDWeb_V1.zip"),
]  # fmt: skip

REAL = [
    "D16 image without map: train redweb",
    "D18 relation =: train diw",
    "D22 pipe as .mat: evaluate --dataset nyu_depth",
    "D3 TIFF with a damaged header: predict photos/",
    "D21 control characters in the name of a bad file: predict photos/",
    "D21 -x.jpg taken for an option: predict -x.jpg a.jpg",
    "D17 too few fields: prepare diw --partial",
]


def name_of(case: Case) -> str:
    return f"{case.id}: {case.command}"


BY_NAME = {name_of(case): case for case in CASES}

HEADER = """\
# Bad input

What the commands of `reldepth` print for input that is damaged, incomplete or not what it seems,
and their exit code: one line on stderr that names the file, and the line of a list. Nothing is left
half-written. `predict` prints one line for each photograph that fails, and predicts the others.

Exit codes: 0, it works (some rare kinds of files look damaged and are not); 1, some photographs
could not be predicted; 2, nothing was started, or the work was stopped.

`…` stands for the folder in which a case was tried, `[words of the library]` for what Pillow, h5py
and others say, which differs between their versions. `train NAME …` is short for `reldepth train
--config smoke --config.data.source.name=NAME --config.data.source.root=…/data`, the rest for
further `--config.data.source.…`; `evaluate --dataset NAME` for `--workdir … --data-dir …/data` with
it; `prepare NAME` for `--manual-dir …/data --data-dir …/out` with it. D1, D2, … number the kinds of
faults.

What `train` prints is the line for a validation image. Of unreadable training images
up to `data.max_unreadable` (1 %, at least 10) are tolerated: named once in `bad_samples.jsonl`,
counted, and in the batch without ground truth; more end training with exit code 3, its state saved,
and the first three of these lines.

Every row is a test of
[tests/cli/test_malformed_inputs.py](../tests/cli/test_malformed_inputs.py), which
also writes this file: `RELDEPTH_WRITE_DOCS=1 python -m pytest tests/cli/test_malformed_inputs.py`.

| What is wrong | Command | Exit code | What is printed |
| --- | --- | --- | --- |
"""

# What runs them.


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """Return where a clean data set is, written once."""
    folder = tmp_path_factory.mktemp("originals")

    @functools.cache
    def original(name: str) -> pathlib.Path:
        WRITERS[name](folder / name)
        return folder / name

    return original


def read_all(settings: config.Config, workdir: pathlib.Path, console: object) -> int:
    """Stand in for `experiment.train`: read every sample as its pipeline does."""
    sources, validation = train_sources(settings), make_source(settings, "val")
    pairs_per_image = max(source.pairs_per_image for source in sources)
    transform = TrainTransform(settings.data.crop, pairs_per_image=pairs_per_image)
    rng = np.random.default_rng(0)
    for source in (*sources, validation):
        for index in range(len(source)):
            transform(source[index], rng)
    print(f"read {sum(map(len, sources))} training and {len(validation)} validation samples")
    return 0


SMOKE = config.load(str(ROOT / "configs/smoke.py"))


class Untrained(networks.Model):
    """A network that scores everything 0."""

    def __call__(self, images: Any) -> Any:
        return np.zeros(images.shape[:3], np.float32)


def untrained(workdir: str | os.PathLike[str], step: int | None = None) -> networks.Model:
    """Stand in for `api.from_run`."""
    preprocessing = Preprocessing(size=SMOKE.prediction_size)
    return Untrained(SMOKE.model, {}, preprocessing, {"step": "8"})


Listing = dict[str, tuple[int, int]]
"""Type and size by path."""


def listing(folder: pathlib.Path) -> Listing:
    """Return what lies below; links are not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = pathlib.Path(parent, name)
            facts = path.lstat()
            size = 0 if path.is_dir() else facts.st_size
            found[path.relative_to(folder).as_posix()] = (facts.st_mode, size)
    return found


def planted(case: Case, originals: Callable[[str], pathlib.Path], place: pathlib.Path) -> list[str]:
    """Write the data with its fault to `place`/data; return the arguments of the command."""
    folders = {name: str(place / name) for name in ("data", "run", "out")}
    shutil.copytree(originals(case.data), place / "data")
    case.plant(place / "data")
    return [argument.format(**folders) for argument in case.arguments]


class Outcome(NamedTuple):
    """What a command left; the temporary folder is written as `…`."""

    code: int
    out: str
    err: str


def check(case: Case, got: Outcome, place: pathlib.Path, data: Listing, run: Listing) -> None:
    """Check what holds for every case; `data` and `run` lay there before."""
    assert got.code == case.code, got
    assert "Traceback" not in got.out + got.err
    assert [c for c in got.out + got.err if not c.isprintable() and c != "\n"] == []
    # Where a progress bar was begun there is an empty line.
    lines = [line for line in got.err.splitlines() if line]
    assert len(lines) == case.lines, got.err
    for line in lines:
        assert case.names in line
        # A photograph that fails does not stop the others: its line is no end.
        assert line.startswith("error: ") == (got.code == 2), line
    assert case.match(got.err.strip() or got.out), got
    # Nothing is half-written, and the data is as it was.
    assert listing(place / "data") == data
    if got.code:
        assert listing(place / "run") == run
    written = {path for path, (mode, _) in listing(place / "out").items() if stat.S_ISREG(mode)}
    expected = {f"{name}{end}" for name in case.outputs for end in (".png", "_color.png")}
    if case.name == "predict" and got.code < 2:
        expected |= {"predictions.jsonl", ".predictions.begun"}
        for name, (height, width) in case.outputs.items():
            with Image.open(place / "out" / f"{name}.png") as image:
                assert image.size == (width, height)
    assert {path for path in written if not path.endswith("/.lock")} == expected


def row(case: Case, got: Outcome) -> str:
    """Return the row of the table."""
    text = got.err.strip()
    match = case.match(text or got.out)
    assert match is not None
    if not text:
        text = match.string[match.string.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
    elif "library" in match.groupdict():
        text = text[: match.start("library")] + LIBRARY + text[match.end("library") :]
    lines = [f"`` {line} ``" for line in text.splitlines()]
    if case.name == "train" and not got.code:
        lines = ["nothing of it; training goes on"]
    cells = [case.id, f"`{case.command}`", str(got.code), "<br>".join(lines)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


ROWS: dict[str, str] = {}
"""The row of each case that has run."""


def test_cases_have_names_of_their_own():
    assert len(BY_NAME) == len(CASES) >= 45
    assert set(REAL) <= set(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_fault_is_one_line(
    name: str,
    originals: Callable[[str], pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    case = BY_NAME[name]
    monkeypatch.setattr(training_run, "train", read_all)
    monkeypatch.setattr(networks, "from_run", untrained)
    main = importlib.import_module(f"reldepth_jax.cli.{case.name}").main
    arguments = planted(case, originals, tmp_path)
    monkeypatch.chdir(tmp_path / "data")
    if case.name != "train":
        (tmp_path / "run").mkdir()
        save_config(tmp_path / "run", SMOKE)
    before = listing(tmp_path / "data"), listing(tmp_path / "run")
    capfd.readouterr()
    with warnings.catch_warnings(), time_limit():
        # As outside of tests, where a warning is one more line on stderr; `data.io` sets the rest.
        warnings.simplefilter("default")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        with pytest.raises(SystemExit) as stop:
            command.run(lambda: main(arguments))
    assert isinstance(stop.value.code, int)
    out, err = (text.replace(str(tmp_path), "…") for text in capfd.readouterr())
    got = Outcome(stop.value.code, out, err)
    check(case, got, tmp_path, *before)
    ROWS[name] = row(case, got)


class Hangs(BaseException):
    """Not an Exception: nothing but the test may catch it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise Hangs after SECONDS, also in a read that waits for a pipe."""

    def stop(*_: object) -> None:
        raise Hangs

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def test_the_time_limit_ends_a_read_that_waits(tmp_path: pathlib.Path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 1)
    with pytest.raises(Hangs), time_limit():
        (tmp_path / "pipe").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Write a run whose weights are 0."""
    folder = tmp_path_factory.mktemp("run")
    settings = config.load(str(ROOT / "configs/smoke.py"))
    _, like = new_state(settings, abstract=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(8, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like), {})
    checkpoints.close()
    save_config(folder, settings)
    return folder


@pytest.fixture(scope="module")
def processes(
    originals: Callable[[str], pathlib.Path],
    trained: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], futures.Future]]:
    """Start the real commands, two at a time; return what gives the outcome of a case."""

    def run(case: Case, arguments: list[str], place: pathlib.Path) -> tuple[Any, ...]:
        before = listing(place / "data"), listing(place / "run")
        done = subprocess.run(
            [sys.executable, "-m", "reldepth_jax", case.name, *arguments],
            capture_output=True, text=True, timeout=120, check=False, cwd=place / "data",
        )  # fmt: skip
        out, err = (text.replace(str(place), "…") for text in (done.stdout, done.stderr))
        return Outcome(done.returncode, out, err), place, *before

    with futures.ThreadPoolExecutor(2) as pool:
        started = {}
        for name in REAL:
            case, place = BY_NAME[name], tmp_path_factory.mktemp("real")
            arguments = planted(case, originals, place)
            if case.name != "train":
                shutil.copytree(trained, place / "run")
            started[name] = pool.submit(run, case, arguments, place)
        yield started.__getitem__


@pytest.mark.parametrize("name", REAL)
def test_a_process_of_its_own_says_the_same(name: str, processes: Callable[[str], futures.Future]):
    got, *where = processes(name).result()
    check(BY_NAME[name], got, *where)
    if name in ROWS:
        assert row(BY_NAME[name], got) == ROWS[name]


def test_the_table_in_the_documentation_is_up_to_date():
    if not set(BY_NAME) <= set(ROWS):
        pytest.skip("not all cases have run, or not all as they should")
    text = HEADER + "".join(ROWS[name] for name in BY_NAME)
    if os.environ.get("RELDEPTH_WRITE_DOCS"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text
