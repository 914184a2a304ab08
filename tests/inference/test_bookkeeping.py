"""Kills, other jobs and full disks: nothing is lost, predicted twice or replaced."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from reldepth_jax import runtime
from reldepth_jax.data.images import io
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import OutputError, PredictError
from reldepth_jax.inference.files import Counts, Writer, predict_files
from reldepth_jax.inference.predictor import Predictor

SIZE = (3, 4)


def red(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(np.float32)


def photo(path: pathlib.Path, level: int = 9) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE, 3), level, np.uint8)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(path, "PNG")
    return path


def levels(output: pathlib.Path) -> list[int]:
    """Return the largest score of each line of the manifest: the red of its photograph."""
    return [round(entry["score_maximum"]) for entry in lines(output)]


def lines(output: pathlib.Path) -> list[dict]:
    text = (output / bookkeeping.MANIFEST).read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def names(folder: pathlib.Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    hidden = {bookkeeping.MANIFEST, ".predictions.begun"}
    return {path.relative_to(folder).as_posix() for path in files} - hidden


def predict(inputs: list[pathlib.Path], output: pathlib.Path, **options) -> Counts:
    return predict_files(red, inputs, Writer(output=output, **options))


def test_the_same_call_again_predicts_nothing(tmp_path):
    photos, output = [photo(tmp_path / f"{name}.jpg") for name in "abc"], tmp_path / "out"
    assert predict(photos, output) == Counts(3, 0)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert predict(photos, output) == Counts(0, 0, there=3)
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


@pytest.mark.parametrize("change", ["photograph", "step", "made_by", "polarity", "wanted", "gone"])
def test_what_would_be_another_prediction_is_made_again(tmp_path, change):
    source, output = photo(tmp_path / "a.jpg"), tmp_path / "out"
    predict([source], output, step=1, made_by={"weights": "x"})
    options = {"step": 1, "made_by": {"weights": "x"}}
    if change == "photograph":
        photo(source, 200)
    elif change == "gone":
        (output / "a_color.png").unlink()
    else:
        options |= {
            "step": {"step": 2},
            "made_by": {"made_by": {"weights": "y"}},
            "polarity": {"polarity": "disparity"},
            "wanted": {"npy": True},
        }[change]
    assert predict([source], output, **options) == Counts(1, 0)
    assert predict([source], output, **options) == Counts(0, 0, there=1)
    assert len(lines(output)) == 2


def test_photographs_of_one_name_from_two_calls_both_stay(tmp_path):
    output = tmp_path / "out"
    for folder, level in (("A", 10), ("B", 20)):
        source = photo(tmp_path / folder / "frame.png", level)
        assert predict([source], output) == Counts(1, 0)
    assert levels(output) == [10, 20]
    assert names(output) == {
        "frame.png", "frame_color.png", "frame.png.png", "frame.png_color.png"
    }  # fmt: skip
    # And both are known by these names from now on, whatever the order.
    assert predict([tmp_path / "B", tmp_path / "A"], output) == Counts(0, 0, there=2)
    photo(tmp_path / "B/frame.png", 30)
    assert predict([tmp_path / "B/frame.png"], output) == Counts(1, 0)
    assert [entry["outputs"][0] for entry in lines(output)][1:] == 2 * ["frame.png.png"]


def test_a_picture_that_the_user_put_in_the_place_of_ours_stays(tmp_path, capsys):
    source, output = photo(tmp_path / "a.jpg"), tmp_path / "out"
    predict([source], output)
    mine = photo(output / "a_color.png").read_bytes()
    assert predict([source], output, step=2) == Counts(0, 1)
    assert (output / "a_color.png").read_bytes() == mine
    assert "a_color.png is in the way; choose another output folder" in capsys.readouterr().err


def test_the_case_of_an_ending_does_not_matter(tmp_path):
    source = tmp_path / "IMG_0001.PNG"
    source.write_bytes(photo(tmp_path / "a.png").read_bytes())
    assert predict([source], tmp_path / "out") == Counts(1, 0)


def test_earlier_outputs_are_no_photographs_wherever_they_lie(tmp_path, capsys):
    album = tmp_path / "album"
    photo(album / "day/a.jpg")
    assert predict([album], album, npy=True) == Counts(1, 0)
    assert predict([album / "day"], album / "day/deep/out") == Counts(1, 0)
    capsys.readouterr()
    for start in (album, album / "day"):
        assert predict([start], tmp_path / "elsewhere" / start.name) == Counts(1, 0)
        # Nor is there a word about them.
        assert capsys.readouterr().err == ""
    # Also where no manifest tells: a copy, and one that is named.
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies/x.png").write_bytes((album / "day/a_color.png").read_bytes())
    for given in (tmp_path / "copies", album / "day/a.png"):
        assert predict([given], tmp_path / "third") == Counts(0, 1)
        assert "was predicted here: it is no photograph" in capsys.readouterr().err


PROGRAM = """
    import builtins, json, os, pathlib, signal, sys
    from reldepth_jax.inference.files import Writer, predict_files

    folder, outputs = map(pathlib.Path, sys.argv[1:])
    left = 0
    os.fsync = lambda file: None  # takes most of the time, and no power fails here

    def child(number, output):
        # Counts each place where a file or a line appears, or is about to; SIGKILL at one of them.
        global left
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        left = number

        def die():
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        opened, replaced = builtins.open, os.replace

        def opening(file, mode="r", *rest, **named):
            if "a" in mode or "x" in mode:
                die()
            return opened(file, mode, *rest, **named)

        def replacing(*names):
            die()
            replaced(*names)
            die()

        builtins.open, os.replace = opening, replacing
        writer = Writer(output=output, npy=True)
        counts = predict_files(lambda image: image[..., 0].astype("float32"), [folder], writer)
        os._exit(10 * counts.done + counts.there)

    number, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        number += 1
        ended = child(number, outputs / str(number))
        print(ended, child(0, outputs / str(number)), flush=True)
"""


def test_a_batch_that_is_killed_anywhere_goes_on_with_the_same_command(tmp_path):
    for level in (10, 20):
        photo(tmp_path / "in" / f"{level}.jpg", level)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, tmp_path / "program.py", tmp_path / "in", tmp_path / "out"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[int(word) for word in line.split()] for line in said.splitlines()]
    *killed, whole = rows
    # Nothing was left to do where nothing was killed; else what the killed one had not completed.
    assert whole == [20, 2]
    assert [row[0] for row in killed] == [-signal.SIGKILL] * len(killed)
    assert [row[1] for row in killed] == sorted((row[1] for row in killed), reverse=True)
    assert {row[1] for row in killed} == {20, 11}
    endings = (".png", "_color.png", ".npy")
    for number in range(1, len(rows) + 1):
        output = tmp_path / "out" / str(number)
        assert levels(output) == [10, 20]
        assert names(output) == {f"{name}{end}" for name in (10, 20) for end in endings}


def test_what_a_kill_left_half_is_not_taken_for_done(tmp_path, monkeypatch):
    source, output = photo(tmp_path / "a.jpg", 10), tmp_path / "out"
    predict([source], output, step=1)

    def killed(*_):
        # As if the process ended here: nothing that follows in it is done.
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(io, "write_npy", killed)
        with pytest.raises(KeyboardInterrupt):
            predict([source], output, step=2, npy=True)
    # Two of its files are of step 2 by now.
    assert predict([source], output, step=1) == Counts(1, 0)
    with Image.open(output / "a_color.png") as image, Image.open(output / "a.png") as other:
        assert other.info["step"] == "1"
        assert image.size == other.size


def test_two_jobs_in_one_folder_lose_nothing_and_repeat_nothing(tmp_path):
    output, folders = tmp_path / "out", [tmp_path / "A", tmp_path / "B"]
    for level, folder in enumerate(folders, 1):
        for number in range(4):
            photo(folder / f"{number}.jpg", 40 * level + number)
    calls = []

    def other(image: np.ndarray) -> np.ndarray:
        calls.append(image)
        if len(calls) % 3 == 1:
            # While this job computes, another one predicts both folders, or what is left of them.
            predict_files(red, folders[::-1], Writer(output=output))
        return red(image)

    first = predict_files(other, folders, Writer(output=output))
    assert first.failed == 0
    assert sorted(levels(output)) == sorted([*range(40, 44), *range(80, 84)])
    assert len(names(output)) == 2 * 8
    # The one photograph that both had at the same time, and no other.
    assert len(calls) == 1


def test_jobs_that_begin_the_same_name_take_two(tmp_path):
    output = tmp_path / "out"
    one, two = photo(tmp_path / "A/x.jpg", 10), photo(tmp_path / "B/x.jpg", 20)

    def other(image: np.ndarray) -> np.ndarray:
        predict([two], output)
        return red(image)

    predict_files(other, [one], Writer(output=output))
    assert levels(output) == [20, 10]
    assert len(names(output)) == 4


def test_a_line_that_was_cut_short_costs_its_photograph_alone(tmp_path):
    photos, output = [photo(tmp_path / f"{name}.jpg") for name in "ab"], tmp_path / "out"
    predict(photos, output)
    path = output / bookkeeping.MANIFEST
    path.write_bytes(path.read_bytes()[:-30])
    assert predict(photos, output) == Counts(1, 0, there=1)
    kept = path.read_text().splitlines()
    assert len(kept) == 3
    assert [json.loads(line)["outputs"][0] for line in (kept[0], kept[2])] == ["a.png", "b.png"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_an_output_folder_without_room_is_met_before_anything_is_computed(
    tmp_path, monkeypatch, code
):
    photos = [photo(tmp_path / f"{name}.jpg") for name in "ab"]

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(bookkeeping.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match=f"out cannot be written to: {os.strerror(code)}"):
        predict_files(
            lambda image: pytest.fail("computed"), photos, Writer(output=tmp_path / "out")
        )


def test_a_disk_that_becomes_full_ends_the_batch_once_and_it_goes_on_later(
    tmp_path, monkeypatch, capsys
):
    photos, output = [photo(tmp_path / f"{name}.jpg") for name in "abcd"], tmp_path / "out"
    write, calls = io.write_png, []

    def filling(path, *arguments):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(io, "write_png", filling)
        with pytest.raises(OutputError, match="No space left on device"):
            predict(photos, output)
    assert len(calls) == 4
    assert names(output) == {"a.png", "a_color.png"}
    assert predict(photos, output) == Counts(3, 0, there=1)
    assert capsys.readouterr().err == ""


def test_temporary_files_of_killed_jobs_are_removed_and_those_of_others_stay(tmp_path):
    source, output = photo(tmp_path / "in/deep/a.jpg"), tmp_path / "out"
    predict([source.parents[1]], output)
    left = output / "deep" / f".{'0a' * 16}.tmp"
    left.write_bytes(b"half")
    (output / ".mine.tmp").write_bytes(b"precious")
    with bookkeeping.opened(output, {}, [".png"]):
        left.write_bytes(b"half")
        predict([source.parents[1]], output)
        assert left.exists()  # another job is running, whose it may be
    predict([source.parents[1]], output)
    assert names(output) == {"deep/a.png", "deep/a_color.png", ".mine.tmp"}


def test_names_that_are_no_utf8_and_manifests_of_others(tmp_path):
    source = photo(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    assert predict([source], tmp_path / "out") == Counts(1, 0)
    assert predict([source], tmp_path / "out") == Counts(0, 0, there=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / bookkeeping.MANIFEST).write_text('{"a": 1}\n')
    with pytest.raises(PredictError, match="is not a list of predictions"):
        predict([source], tmp_path / "other")


def test_files_that_are_left_out_are_counted_and_named(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "mixed"
    photo(folder / "a.jpg")
    monkeypatch.setattr(io, "IMAGE_SUFFIXES", io.IMAGE_SUFFIXES - io.HEIC_SUFFIXES)
    for name in ("b.heic", "c.HEIC", "d.dng", "e"):
        (folder / name).touch()
    assert predict([folder], tmp_path / "out") == Counts(1, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}: 4 files left out: 2 .heic, 1 without extension, 1 .dng; ")
    assert "pip install 'reldepth-jax[heic]'" in line
    (folder / "a.jpg").unlink()
    with pytest.raises(PredictError, match="no images in .*4 files left out: 2 .heic") as caught:
        predict([folder], tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 9 GiB")])
def test_exhausted_memory_costs_one_photograph_and_names_a_size(tmp_path, capsys, error):
    photos = [photo(tmp_path / f"{name}.jpg", level) for name, level in (("a", 10), ("b", 20))]
    network = Predictor(lambda images: images[..., 0].astype(np.float32), Preprocessing(size=384))

    class Small(Predictor):
        def __call__(self, image):
            if np.asarray(image).max() < 15:
                raise error
            return network(image)

    predictor = Small(network.network, network.preprocessing)
    assert predict_files(predictor, photos, Writer(output=tmp_path / "out")) == Counts(1, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{photos[0]}: memory is exhausted; reduce the photograph")
    assert line.endswith("try --image-size 192")
    # Anything else is a fault of ours, which must not look like one of the photograph.
    broken = [photo(tmp_path / "c.jpg")]
    with pytest.raises(ZeroDivisionError):
        predict_files(lambda image: image[1 // 0], broken, Writer(output=tmp_path / "out"))


def test_memory_is_given_back_after_large_photographs_and_many_small_ones(tmp_path, monkeypatch):
    given_back, seen = [], []
    monkeypatch.setattr(runtime, "give_back", lambda: given_back.append(len(seen)))
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        Image.new("1", (3000, 500), number % 2).save(folder / f"{number}.png")
    Image.new("1", (3000, 1500)).save(folder / "large.png")

    def noting(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.zeros(image.shape[:2], np.float32)

    monkeypatch.setattr(Writer, "write", lambda self, name, score, _: {"outputs": [f"{name}.png"]})
    predict_files(noting, [folder], Writer(output=tmp_path / "out"))
    # 3 x 1.5 million pixels, then one of 4.5.
    assert given_back == [3, 4]


def test_a_photograph_is_known_by_whatever_path_leads_to_it(tmp_path, monkeypatch):
    source, output = photo(tmp_path / "in/a.jpg"), tmp_path / "out"
    predict([source], output)
    monkeypatch.chdir(tmp_path / "in")
    assert predict([pathlib.Path("a.jpg")], pathlib.Path("../out")) == Counts(0, 0, there=1)
    assert predict([pathlib.Path("../in")], output) == Counts(0, 0, there=1)


def test_an_output_folder_can_be_moved_and_copied(tmp_path):
    source = photo(tmp_path / "a.jpg")
    predict([source], tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "copy")
    for output in ("elsewhere", "copy"):
        assert predict([source], tmp_path / output) == Counts(0, 0, there=1)


def test_names_that_differ_in_case_alone_take_two_in_two_calls(tmp_path):
    # On some file systems they would be one file.
    for name in ("A/Frame.png", "B/frame.png"):
        predict([photo(tmp_path / name)], tmp_path / "out")
    found = {name.casefold() for name in names(tmp_path / "out")}
    assert len(found) == 4


def test_a_name_with_line_breaks_stays_on_one_line(tmp_path):
    source = photo(tmp_path / 'a\n{"input": 1}\n.jpg')
    assert predict([source], tmp_path / "out") == Counts(1, 0)
    (entry,) = lines(tmp_path / "out")
    assert entry["input"] == str(source)
    assert predict([source], tmp_path / "out") == Counts(0, 0, there=1)


def test_a_photograph_that_vanishes_meanwhile_costs_itself_alone(tmp_path, capsys):
    photos = [photo(tmp_path / f"{name}.jpg") for name in "abc"]

    def vanishing(image: np.ndarray) -> np.ndarray:
        photos[1].unlink(missing_ok=True)
        return red(image)

    assert predict_files(vanishing, photos, Writer(output=tmp_path / "out")) == Counts(2, 1)
    assert capsys.readouterr().err == f"{photos[1]}: no such file\n"


@pytest.mark.parametrize("name", [bookkeeping.MANIFEST, ".predictions.begun"])
def test_a_folder_in_the_place_of_the_bookkeeping_is_met_at_once(tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    writer, source = Writer(output=tmp_path / "out"), photo(tmp_path / "a.jpg")
    with pytest.raises(PredictError, match="Is a directory") as caught:
        predict_files(lambda image: pytest.fail("computed"), [source], writer)
    assert len(str(caught.value).splitlines()) == 1


def test_an_output_folder_that_vanishes_ends_the_batch_in_a_line(tmp_path):
    photos, output = [photo(tmp_path / f"{name}.jpg") for name in "ab"], tmp_path / "out"

    def removing(image: np.ndarray) -> np.ndarray:
        shutil.rmtree(output)
        return red(image)

    with pytest.raises(OutputError, match="out cannot be written to: No such file or directory"):
        predict_files(removing, photos, Writer(output=output))
