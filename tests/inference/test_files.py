import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reldepth_jax
from reldepth_jax.cli import command, predict
from reldepth_jax.config import ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.inference import files, networks
from reldepth_jax.inference.files import Counts, PredictError, Writer, predict_files
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.types import Polarity

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "predict.py"


def red(images: np.ndarray) -> np.ndarray:
    """Stand in for the network: the red channel, so that outputs show where pixels went."""
    assert images.dtype == np.uint8
    assert images.shape[1] % 32 == 0
    assert images.shape[2] % 32 == 0
    return images[..., 0].astype(np.float32)


class Red(networks.Model):
    """A network without weights that calls `red`."""

    @classmethod
    def at_step(cls, step: int) -> "Red":
        told = {"step": str(step)}
        return cls(ModelConfig(), {}, Preprocessing(size=64), told)

    def __call__(self, images: Any) -> Any:
        return red(images)


PREDICTOR = Predictor(red, Preprocessing(size=64))


def ramp(height: int, width: int, axis: int, last: int = 255) -> np.ndarray:
    """Rise from 0 to `last` along an axis."""
    line = np.linspace(0, last, (height, width)[axis])
    return np.broadcast_to(line[:, None] if axis == 0 else line, (height, width)).astype(np.uint8)


def picture(path: pathlib.Path, height: int = 24, width: int = 20) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(ramp(height, width, 1)[..., None], 3, axis=2)).save(path, "PNG")
    return path


def read16(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "I;16"
        return np.asarray(image).astype(np.float64) / 65535


def listing(folder: pathlib.Path) -> set[str]:
    """Return the files below a folder, but the one that the bookkeeping needs for itself."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".predictions.begun")}


def manifest(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / files.MANIFEST).read_text().splitlines()]


@pytest.mark.parametrize("size", [(64, 64), (48, 31), (1, 1), (2, 700), (900, 1), (333, 250)])
def test_score_has_the_size_of_the_image_and_its_geometry(size):
    axis = int(size[1] > size[0])
    image = np.repeat(ramp(size[0], size[1], axis)[..., None], 3, axis=2)
    score = PREDICTOR(image)
    assert score.shape == size
    assert score.dtype == np.float32
    # Blurred by shrinking and enlarging, most at the ends, but nowhere displaced.
    pixel = 255 * max(1.0, min(size) / 64) / max(size)
    np.testing.assert_allclose(score, image[..., 0], atol=3 + 2 * pixel)


def test_network_sees_the_short_side_it_was_asked_for():
    seen = []

    def model_fn(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        return red(images)

    Predictor(model_fn, Preprocessing(size=96))(np.zeros((200, 300, 3), np.uint8))
    Predictor(model_fn, Preprocessing(size=100))(np.zeros((300, 200, 3), np.uint8))
    assert seen == [(1, 96, 160, 3), (1, 160, 128, 3)]


@pytest.fixture
def holiday(tmp_path):
    """Make the folder of the issue: four photographs, a truncated one and a text file."""
    folder = tmp_path / "holiday"
    folder.mkdir()

    def rgb(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[..., None], 3, axis=2)

    # Stored lying on its side; a viewer turns it by 90 degrees clockwise (orientation 6).
    displayed = rgb(ramp(90, 60, axis=0))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(displayed.swapaxes(0, 1)[::-1])).save(
        folder / "portrait.jpg", exif=exif, quality=95
    )
    Image.fromarray(ramp(50, 70, axis=1)).save(folder / "grey.png")
    cut_out = np.dstack([rgb(ramp(80, 80, axis=0, last=200)), np.full((80, 80), 255, np.uint8)])
    cut_out[:, 40:, 3] = 0
    Image.fromarray(cut_out).save(folder / "cut-out.png")
    Image.fromarray(rgb(ramp(300, 5000, axis=1))).save(folder / "strip.jpg")
    whole = (folder / "strip.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("not a picture\n")
    (folder / "notes.txt").write_text("ignored\n")
    return folder


def check_holiday(output: pathlib.Path, errors: str):
    np.testing.assert_allclose(
        read16(output / "portrait.png"), ramp(90, 60, axis=0) / 255, atol=0.03
    )
    np.testing.assert_allclose(read16(output / "grey.png"), ramp(50, 70, axis=1) / 255, atol=0.03)
    np.testing.assert_allclose(
        read16(output / "strip.png"), ramp(300, 5000, axis=1) / 255, atol=0.03
    )
    cut_out = read16(output / "cut-out.png")
    assert cut_out.shape == (80, 80)
    np.testing.assert_allclose(cut_out[:, 45:], 1)
    np.testing.assert_allclose(
        cut_out[:, :35], ramp(80, 80, axis=0, last=200)[:, :35] / 255, atol=0.03
    )
    names = ("portrait", "grey", "cut-out", "strip")
    assert listing(output) == {files.MANIFEST} | {
        f"{name}{ending}" for name in names for ending in (".png", "_color.png")
    }
    first, *lines = errors.splitlines()
    assert first.endswith("holiday: 1 file left out: 1 .txt")
    assert len(lines) == 2
    assert "broken.jpg: image file is truncated" in lines[0]
    assert "text.jpg: is not an image" in lines[1]


def test_folder_with_odd_and_broken_files(holiday, tmp_path, capfd):
    counts = predict_files(PREDICTOR, [holiday], Writer(output=tmp_path / "out"))
    assert counts == Counts(4, 2)
    check_holiday(tmp_path / "out", capfd.readouterr().err)


@pytest.mark.parametrize(("polarity", "sign"), [("depth", 1), ("disparity", -1)])
def test_all_outputs_agree_and_tell_the_sign(tmp_path, polarity: Polarity, sign):
    photo = picture(tmp_path / "a.png")
    with Image.open(photo) as image:
        score = PREDICTOR(np.asarray(image))
    output = tmp_path / "out"
    writer = Writer(output=output, npy=True, pfm=True, polarity=polarity, run="runs/x", step=7)
    predict_files(PREDICTOR, [photo], writer)

    raw = np.load(output / "a.npy")
    np.testing.assert_array_equal(raw, sign * score)
    pfm = (output / "a.pfm").read_bytes().removeprefix(b"Pf\n20 24\n-1.0\n")
    np.testing.assert_array_equal(np.frombuffer(pfm, "<f4").reshape(24, 20)[::-1], raw)
    unit = (raw - raw.min()) / (raw.max() - raw.min())
    np.testing.assert_allclose(read16(output / "a.png"), unit, atol=1e-5)

    larger_is = "farther" if sign > 0 else "nearer"
    with Image.open(output / "a.png") as image:
        facts = image.info
    assert (facts["larger_is"], facts["run"], facts["step"]) == (larger_is, "runs/x", "7")
    assert float(facts["score_maximum"]) == raw.max()
    assert manifest(output) == [
        {
            "input": str(photo),
            "outputs": ["a.png", "a_color.png", "a.npy", "a.pfm"],
            "bytes": photo.stat().st_size,
            "modified": photo.stat().st_mtime_ns,
            "height": 24,
            "width": 20,
            "larger_is": larger_is,
            "score_minimum": raw.min(),
            "score_maximum": raw.max(),
            "run": "runs/x",
            "step": 7,
            "version": reldepth_jax.__version__,
        }
    ]


def test_colours_are_bright_where_near_for_either_polarity(tmp_path):
    photo = picture(tmp_path / "a.png")
    colors = []
    polarities: list[Polarity] = ["depth", "disparity"]
    for polarity in polarities:
        output = tmp_path / polarity
        predict_files(PREDICTOR, [photo], Writer(output=output, polarity=polarity))
        with Image.open(output / "a_color.png") as image:
            colors.append(np.asarray(image).astype(int))
    np.testing.assert_array_equal(colors[0], colors[1])
    assert colors[0][:, 0].sum(axis=1).min() > colors[0][:, -1].sum(axis=1).max() + 300


def test_constant_score_is_black_not_an_error(tmp_path):
    Image.new("RGB", (9, 9), "white").save(tmp_path / "a.bmp")
    counts = predict_files(PREDICTOR, [tmp_path / "a.bmp"], Writer(output=tmp_path / "out"))
    assert counts == Counts(1, 0)
    assert (read16(tmp_path / "out" / "a.png") == 0).all()


def test_score_that_is_not_finite_is_reported(tmp_path, capfd):
    photo = picture(tmp_path / "a.png")
    broken = Predictor(lambda images: red(images) * np.float32(np.nan), Preprocessing(size=64))
    assert predict_files(broken, [photo], Writer(output=tmp_path / "out")) == Counts(0, 1)
    assert "a.png: the network's score is not finite" in capfd.readouterr().err
    assert listing(tmp_path / "out") == {files.MANIFEST}


def test_subfolders_are_kept_and_hidden_files_left_out(tmp_path):
    for name in ("a.JPG", "b/c.png", "b/.hidden.png", ".thumbnails/d.png"):
        picture(tmp_path / "in" / name)
    counts = predict_files(PREDICTOR, [tmp_path / "in"], Writer(output=tmp_path / "out"))
    assert counts == Counts(2, 0)
    assert {"a.png", "b/c.png", "b/c_color.png"} <= listing(tmp_path / "out")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["a.jpg", "A.png"], ["a.jpg.png", "A.png.png"]),
        (["a.jpg", "a_color.jpg"], ["a.jpg.png", "a_color.jpg.png"]),
        (["x/a.jpg", "y/a.jpg"], ["a.jpg.png", "a.jpg-2.png"]),
        (["a.jpg", "a.jpg"], ["a.png"]),
        (["a.jpg", "a.png", "a.jpg.bmp"], ["a.jpg.png", "a.png.png", "a.jpg.bmp.png"]),
        (["photo"], ["photo.png"]),
        (["-x.jpg", "ü [1].jpg"], ["-x.png", "ü [1].png"]),
    ],
)
def test_inputs_never_share_an_output(tmp_path, inputs, expected):
    paths = [picture(tmp_path / "in" / name) for name in inputs]
    counts = predict_files(PREDICTOR, paths, Writer(output=tmp_path / "out"))
    assert counts == Counts(len(expected), 0)
    assert [entry["outputs"][0] for entry in manifest(tmp_path / "out")] == expected
    outputs = [name for entry in manifest(tmp_path / "out") for name in entry["outputs"]]
    assert listing(tmp_path / "out") == {files.MANIFEST, *outputs}


def test_inputs_and_strange_files_are_never_overwritten(tmp_path, capfd):
    photo = picture(tmp_path / "a.png")
    original = photo.read_bytes()
    picture(tmp_path / "b.bmp")
    (tmp_path / "b.png").write_bytes(b"precious")
    counts = predict_files(PREDICTOR, [photo, tmp_path / "b.bmp"], Writer(output=tmp_path))
    assert counts == Counts(1, 1)
    assert photo.read_bytes() == original
    assert (tmp_path / "b.png").read_bytes() == b"precious"
    assert (tmp_path / "a.png.png").exists()
    assert "b.png is in the way" in capfd.readouterr().err


def test_repeated_call_replaces_its_own_files_and_does_not_predict_them(tmp_path):
    picture(tmp_path / "a.jpg")
    first = Writer(output=tmp_path, npy=True, step=1)
    assert predict_files(PREDICTOR, [tmp_path], first) == Counts(1, 0)
    assert predict_files(PREDICTOR, [tmp_path], Writer(output=tmp_path, step=2)) == Counts(1, 0)
    assert [(entry["step"], entry["outputs"]) for entry in manifest(tmp_path)] == [
        (1, ["a.png", "a_color.png", "a.npy"]),
        (2, ["a.png", "a_color.png"]),
    ]
    assert listing(tmp_path) == {"a.jpg", "a.png", "a_color.png", "a.npy", files.MANIFEST}
    assert predict_files(PREDICTOR, [tmp_path], first) == Counts(1, 0)


def test_interruption_keeps_what_is_done_and_can_be_repeated(tmp_path):
    photos = [picture(tmp_path / f"{name}.jpg") for name in "abc"]
    output = tmp_path / "out"
    calls = []

    def interrupted(image: np.ndarray) -> np.ndarray:
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return PREDICTOR(image)

    with pytest.raises(KeyboardInterrupt):
        predict_files(interrupted, photos, Writer(output=output))
    assert listing(output) == {"a.png", "a_color.png", files.MANIFEST}
    assert predict_files(PREDICTOR, photos, Writer(output=output)) == Counts(2, 0, there=1)


def test_half_written_predictions_are_taken_back(tmp_path, monkeypatch, capfd):
    def full(*_: object):
        raise OSError(28, "No space left on device")

    photo = picture(tmp_path / "a.jpg")
    monkeypatch.setattr("reldepth_jax.data.images.io.write_npy", full)
    writer = Writer(output=tmp_path / "out", npy=True)
    with pytest.raises(PredictError, match="out cannot be written to: No space") as caught:
        predict_files(PREDICTOR, [photo, picture(tmp_path / "b.jpg")], writer)
    assert caught.value.exit_code == 6
    assert listing(tmp_path / "out") == {files.MANIFEST}
    assert capfd.readouterr().err == ""


def test_requests_that_cannot_be_met(tmp_path):
    photo = picture(tmp_path / "in" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / files.MANIFEST).write_text("[1, 2]")
    for inputs, output, message in (
        ([tmp_path / "empty"], "out", "no images in .*empty"),
        ([photo], "in/a.png", "a.png is a file"),
        ([photo], "in/a.png/out", "Not a directory|is a file"),
        ([photo], "other", "not a list of predictions"),
    ):
        with pytest.raises(PredictError, match=message) as caught:
            predict_files(PREDICTOR, inputs, Writer(output=tmp_path / output))
        assert len(str(caught.value).splitlines()) == 1
    assert listing(tmp_path) == {"in/a.png", f"other/{files.MANIFEST}"}


@pytest.fixture
def script(monkeypatch):
    """Return the script as a function of its arguments, with a stand-in for trained networks."""

    def from_run(workdir: str, step: int | None = None) -> networks.Model:
        if workdir != "runs/x":
            raise UserError(f"{workdir}: no run")
        return Red.at_step(step or 9)

    monkeypatch.setattr(networks, "from_run", from_run)
    monkeypatch.setattr(networks, "load_model", lambda path: Red.at_step(0))

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as stop:
            command.run(lambda: predict.main([*map(str, arguments)]))
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return run


def test_script_predicts_a_folder_and_reports_bad_files(script, holiday, tmp_path, capfd):
    output = tmp_path / "out"
    options = ["--workdir", "runs/x", "--output", str(output), "--image-size", "64"]
    assert script(holiday, *options) == 1
    captured = capfd.readouterr()
    check_holiday(output, captured.err)
    assert captured.out == f"4 predicted, see {output}; 2 failed\n"


def test_script_passes_its_options_on(script, tmp_path):
    photo = picture(tmp_path / "a.jpg")
    output = tmp_path / "out"
    options = "--workdir runs/x --checkpoint 3 --npy --pfm --polarity disparity --output".split()
    assert script(photo, *options, output) == 0
    assert listing(output) == {"a.png", "a_color.png", "a.npy", "a.pfm", files.MANIFEST}
    (entry,) = manifest(output)
    assert (entry["run"], entry["step"], entry["larger_is"]) == ("runs/x", 3, "nearer")


def test_lines_of_metric_networks_name_their_unit(script, tmp_path, monkeypatch):
    photo = picture(tmp_path / "a.jpg")
    for max_depth, unit in ((20.0, "metre"), (0.0, None)):
        model = ModelConfig(max_depth=max_depth, output="depth")
        red = dataclasses.replace(Red.at_step(0), config=model)
        monkeypatch.setattr(networks, "load_model", lambda path, red=red: red)
        output = tmp_path / f"out{max_depth:g}"
        assert script(photo, "--weights", photo, "--output", output) == 0
        (entry,) = manifest(output)
        assert entry.get("unit") == unit
        # Absent, as in lines of older versions, whose photographs are still done.
        assert ("unit" in entry) == (unit is not None)


def test_script_tells_what_cannot_be_begun(script, tmp_path, capfd):
    photo = picture(tmp_path / "a.jpg")
    assert script(photo, "--workdir", "runs/y") == 2
    assert capfd.readouterr().err == "error: runs/y: no run\n"
    (tmp_path / "empty").mkdir()
    assert script(tmp_path / "empty", "--workdir", "runs/x") == 2
    assert capfd.readouterr().err.startswith("error: no images in ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "--polarity {depth,disparity}"),
        ([], 2, "name photographs or folders"),
        (["a.jpg", "--workdir", "x", "--weights", "y"], 2, "not allowed with argument --workdir"),
        (["a.jpg", "--weights", "x", "--checkpoint", "3"], 2, "--checkpoint belongs to --workdir"),
        (["a.jpg", "--weights", "x", "--temperature", "3"], 2, "belongs to --confidence"),
        (
            ["a.jpg", "--weights", "x", "--confidence", "--temperature", "0"],
            2,
            "above 0, got 0.0",
        ),
        (["a.jpg", "--workdir", "x", "--image-size", "9"], 2, "at least 32, got 9"),
        (["a.jpg", "--workdir", "x", "--polarity", "up"], 2, "invalid choice: 'up'"),
    ],
)
def test_help_and_usage_errors_do_not_load_jax(arguments, code, words):
    program = (
        "import runpy, sys\n"
        f"sys.argv = {[str(SCRIPT), *arguments]!r}\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    sys.exit(99 if 'jax' in sys.modules else stop.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
