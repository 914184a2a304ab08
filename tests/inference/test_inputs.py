"""Lists and shards: which photographs a job takes, and what it costs before the first of them."""

import importlib.util
import io
import pathlib
import sys
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.cli import predict as command
from reldepth_jax.config import ConfigError
from reldepth_jax.errors import UserError
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import MANIFEST, PredictError
from reldepth_jax.inference.files import Counts, Writer, predict_files
from reldepth_jax.inference.inputs import Shard, photographs


def red(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(np.float32)


def photo(path: pathlib.Path, level: int = 9) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((3, 4, 3), level, np.uint8)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(path, "PNG")
    return path


def outputs(folder: pathlib.Path) -> set[str]:
    found = folder.rglob("*")
    return {
        path.relative_to(folder).as_posix()
        for path in found
        if path.is_file() and path.name not in (MANIFEST, ".predictions.begun")
    }


def listed(tmp_path: pathlib.Path, text: bytes) -> pathlib.Path:
    path = tmp_path / "lists/photos.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    return path


def paths(chosen, writer: Writer) -> list[str]:
    return [photo.key for photo in chosen.photos(writer)]


def first_names(chosen, writer: Writer) -> list[str]:
    return [next(photo.names()) for photo in chosen.photos(writer)]


def test_a_list_is_read_from_its_own_folder_and_keeps_the_folders_of_its_lines(tmp_path, capsys):
    for level, name in enumerate(("lists/a/x.jpg", "lists/b/x.jpg", "up/x.jpg"), 1):
        photo(tmp_path / name, 40 * level)
    text = f"a/x.jpg\n\n./b//x.jpg\r\n../up/x.jpg\n{tmp_path}/lists/a/x.jpg\ngone.jpg"
    writer = Writer(output=tmp_path / "out")
    counts = predict_files(red, [], writer, lists=[listed(tmp_path, text.encode())])
    assert counts == Counts(3, 1)
    assert capsys.readouterr().err == f"{tmp_path}/lists/gone.jpg: no such file\n"
    whole = f"{tmp_path}/up/x".lstrip("/")
    assert outputs(tmp_path / "out") == {
        f"{name}{ending}" for name in ("a/x", "b/x", whole) for ending in (".png", "_color.png")
    }


def test_names_of_a_list_may_be_any_bytes_but_ends_of_lines(tmp_path):
    path = listed(tmp_path, b"\xef\xbb\xbf# 1.jpg\n\xff \xc3\xa9.jpg\n")
    writer = Writer(output=tmp_path / "out")
    folder = str(tmp_path / "lists")
    expected = [f"{folder}/# 1.jpg", f"{folder}/\udcff é.jpg"]
    assert paths(photographs([], [path], writer), writer) == expected


def test_standard_input_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a/x.jpg\n")))
    writer = Writer(output=tmp_path / "out")
    assert paths(photographs([], ["-"], writer), writer) == [str(tmp_path / "a/x.jpg")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "photos.txt holds no paths; expected text, a path a line"),
        (b"\n\r\n", "photos.txt holds no paths; expected text, a path a line"),
        ("a.jpg\n".encode("utf-16"), "photos.txt: line 1 holds a zero byte; expected UTF-8"),
        (b"here.jpg\n", "'?here.jpg'? is not in the folder of the list.*but in the working dir"),
        (None, "photos.txt cannot be read: No such file or directory"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "here.jpg")
    path = tmp_path / "lists/photos.txt" if text is None else listed(tmp_path, text)
    with pytest.raises(PredictError, match=told) as caught:
        photographs([], [path], Writer(output=tmp_path / "out"))
    assert len(str(caught.value).splitlines()) == 1


def test_shards_take_each_photograph_once_with_the_names_of_one_job(tmp_path):
    # Among them two of one stem, of which neither may be called "3", also in different jobs.
    names = [*(f"{number}.jpg" for number in range(6)), "3.png", "deep/3.jpg"]
    for level, name in enumerate(names, 1):
        photo(tmp_path / "in" / name, 10 * level)
    path = listed(tmp_path, f"{tmp_path}/in/1.jpg\n{tmp_path}/more.jpg\n".encode())
    photo(tmp_path / "more.jpg", 200)
    whole, parts = Writer(output=tmp_path / "whole"), Writer(output=tmp_path / "parts")
    folder = tmp_path / "in"
    assert predict_files(red, [folder], whole, lists=[path]) == Counts(9, 0)
    for again in range(2):
        counts = [
            predict_files(red, [folder], parts, lists=[path], shard=Shard(index, 4))
            for index in (2, 0, 3, 1)
        ]
        sizes = [2, 3, 2, 2]
        assert counts == [Counts(0, 0, n) if again else Counts(n, 0) for n in sizes]
    assert outputs(parts.output) == outputs(whole.output)
    for name in outputs(whole.output):
        assert (parts.output / name).read_bytes() == (whole.output / name).read_bytes()
    lines = [(out / MANIFEST).read_text().splitlines() for out in (whole.output, parts.output)]
    assert sorted(lines[0]) == sorted(lines[1])


def test_shards_go_round_in_order_and_may_be_empty(tmp_path):
    path = listed(tmp_path, b"".join(b"%d.jpg\n" % number for number in range(5)))
    writer = Writer(output=tmp_path / "out")

    def shard(*which: int) -> list[str]:
        return first_names(photographs([], [path], writer, Shard(*which)), writer)

    assert [shard(0, 2), shard(1, 2)] == [["0", "2", "4"], ["1", "3"]]
    assert shard(6, 7) == []
    assert predict_files(red, [], writer, lists=[path], shard=Shard(6, 7)) == Counts(0, 0)


def test_no_output_takes_the_name_of_an_input_in_the_output_folder(tmp_path):
    # The output of b.jpg would be B.PNG, but for case.
    inputs = [photo(tmp_path / name) for name in ("b.jpg", "B.PNG", "c.jpg")]
    writer = Writer(output=tmp_path)
    chosen = photographs(inputs, [], writer)
    # "B.PNG" itself would give B.PNG.png.
    assert first_names(chosen, writer) == ["b.jpg", "B.PNG", "c"]
    alone = photographs(inputs[1:], [], writer, Shard(0, 2))
    assert first_names(alone, writer) == ["B.PNG"]


def test_what_a_hundred_thousand_lines_cost_before_the_first_prediction(tmp_path):
    count = 100_000
    path = listed(tmp_path, b"".join(b"some/folder/image_%07d.jpg\n" % n for n in range(count)))
    writer = Writer(output=tmp_path / "out")
    started = time.process_time()
    chosen = photographs([], [path], writer)
    # 0.8 s on two busy cores; 15 times as much for a loaded machine, or for a square of it.
    assert time.process_time() - started < 12
    assert len(chosen.named) == count
    del chosen
    part = listed(tmp_path, b"".join(b"some/folder/image_%07d.jpg\n" % n for n in range(5_000)))
    tracemalloc.start()
    chosen = photographs([], [part], writer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chosen.named) == 5_000
    # Bytes: some 500, so that a million are half a gigabyte.
    assert peak / 5_000 < 700


def test_the_book_keeps_little_of_each_photograph(tmp_path):
    photos = [photo(tmp_path / f"in/{number}.jpg") for number in range(3)]
    way = {"preprocessing": {f"option {number}": [1.5] * 40 for number in range(20)}}
    writer = Writer(output=tmp_path / "out", made_by=way)
    predict_files(red, photos, writer)
    line = (writer.output / MANIFEST).read_text().splitlines()[0]
    count = 300
    with open(writer.output / MANIFEST, "a") as file:
        for number in range(count):
            file.write(line.replace("/0.jpg", f"/x{number}.jpg") + "\n")
    tracemalloc.start()
    # Opening reads the manifest, to tidy up.
    with bookkeeping.opened(writer.output, writer.settings, writer.endings) as book:
        assert all(map(book.done, photographs(photos[1:], [], writer).photos(writer)))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # One line is 5,000 bytes, parsed 15,000; most of them are the settings, which all share.
    assert kept / count < 1500


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x.jpg", "--shard", "8/8"], "takes I/N with I from 0 to N - 1.*'8/8'"),
        (["x.jpg", "--shard", "/"], "takes I/N with I from 0 to N - 1.*'/'"),
        (["x.jpg", "--shard=-1/2"], "takes I/N"),
        (["x.jpg", "--shard", "0/0"], "takes I/N"),
        ([], "name photographs or folders, or a --list"),
        (["x.jpg", "--nearer", "1,1,2,2", "--shard", "0/2"], "--nearer takes photographs by name"),
        (["x.jpg", "--ray", "-1"], "--ray must be at least 1"),
        (["x.jpg", "--nearer", "1,1,2,2", "--npy"], "--npy is about files that are written"),
        (["x.jpg", "--nearer", "1,1,2,2", "--output", "o"], "--output is about files that are"),
        ([""], "an argument is empty"),
        (["x.jpg", "--output="], "--output is empty"),
        (["x.jpg", "--output", ""], "an argument is empty"),
        (["x.jpg", "--fov", "0"], "--fov belongs to --ply and --glb"),
        (["x.jpg", "--max-pixels", "0"], "--max-pixels must be from"),
        (["x.jpg", "--max-pixels", "nan"], "--max-pixels must be from"),
        (["x.jpg", "--max-pixels", "inf"], "--max-pixels must be from"),
    ],
)
def test_options_that_make_no_sense_are_one_line(arguments, told):
    with pytest.raises(ConfigError, match=told) as caught:
        command.main(arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_ray_is_one_line_that_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name)
    )
    with pytest.raises(
        UserError, match=r"^ray is not installed: pip install 'reldepth-jax\[ray\]'$"
    ):
        command.main(["x.jpg", "--ray", "2"])
