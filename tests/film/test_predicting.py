"""Films in, films out: times, sound, rotation, kills, and what is said of bad ones."""

import dataclasses
import fractions
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import textwrap
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from reldepth_jax.data.images import pictures
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.film import predicting
from reldepth_jax.film.predicting import Done, FilmWriter
from reldepth_jax.inference import networks
from reldepth_jax.inference.bookkeeping import OutputError
from reldepth_jax.inference.inputs import photographs
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.inference.writer import Writer
from tests.cli.test_commands import run
from tests.inference.test_depth_estimation import brightness

H, W = 48, 64
BASE = fractions.Fraction(1, 600)


def scene(t: int, seed: int = 0) -> np.ndarray:
    """A smooth picture that brightens to the right, with a dark square that moves."""
    columns, rows = np.meshgrid(np.linspace(30, 220, W), np.linspace(0, 25, H))
    frame = np.stack([columns, columns[:, ::-1] if seed else columns, rows + columns / 2], axis=2)
    frame[10:30, 2 * t : 2 * t + 14] = 20
    return frame.round().astype(np.uint8)


def make(
    path: pathlib.Path,
    frames: list[np.ndarray] | None = None,
    sound: str = "aac",
    aspect: fractions.Fraction = fractions.Fraction(1),
) -> list[int]:
    """Write a film of variable intervals; return its time stamps in `BASE`."""
    frames = [scene(t) for t in range(20)] if frames is None else frames
    stamps = np.cumsum([0, *(20 + 7 * (t % 3) for t in range(len(frames) - 1))]).tolist()
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", options={"crf": "5"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.time_base = stream.codec_context.time_base = BASE
        stream.codec_context.sample_aspect_ratio = aspect
        heard: Any = container.add_stream(sound, rate=16000) if sound else None
        if heard:
            heard.layout = "mono"
        for pixels, pts in zip(frames, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard:
            noise = np.random.default_rng(0).integers(-3000, 3000, (1, 16000)).astype(np.int16)
            piece = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            piece.sample_rate, piece.pts = 16000, 0
            container.mux(heard.encode(piece))
            container.mux(heard.encode())
    return stamps


@dataclasses.dataclass
class Counting:
    """Instead of a network: the mean colour in 0..1; stops after `most` images."""

    most: int = 10**6
    kill: bool = False
    calls: int = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls += len(images)
        if self.calls > self.most:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return images.astype(np.float32).mean(axis=3) / 255


def predict(
    path: pathlib.Path, network: Counting | None = None, output: str = "out", **options: Any
) -> Done:
    preprocessing = Preprocessing(fit="short_side", size=48, multiple=16)
    writer = FilmWriter(output=path.parent / output, **options)
    return predicting.predict_film(Predictor(network or Counting(), preprocessing), path, writer)


def frames_of(path: pathlib.Path) -> tuple[list[fractions.Fraction], np.ndarray]:
    """Return the times and pixels of a film, by PyAV alone."""
    with av.open(os.fspath(path)) as container:
        found: list[Any] = list(container.decode(video=0))
        times = [frame.pts * frame.time_base for frame in found]
        return times, np.stack([frame.to_ndarray(format="rgb24") for frame in found])


def sound_of(path: pathlib.Path) -> list[tuple[fractions.Fraction, bytes]]:
    with av.open(os.fspath(path)) as container:
        packets: list[Any] = [each for each in container.demux(audio=0) if each.dts is not None]
        return [(each.pts * each.time_base, bytes(each)) for each in packets]


def test_times_sound_and_pictures_are_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predicting, "PIECE", 8)
    path = tmp_path / "a.mp4"
    stamps = make(path)
    done = predict(path, smooth=False)
    assert (done.frames, done.cuts, done.undecodable) == (20, 0, 0)
    assert done.output == tmp_path / "out" / "a_depth.mp4"
    times, pixels = frames_of(done.output)
    assert times == [pts * BASE for pts in stamps]
    assert sound_of(done.output) == sound_of(path)
    assert pixels.shape == (20, H, 2 * W, 3)
    _, original = frames_of(path)
    assert np.abs(pixels[:, :, :W].astype(int) - original).mean() < 4
    for t in (0, 9, 19):
        score = original[t].astype(np.float32).mean(axis=2) / 255
        expected = pictures.colorize(score).astype(int)
        # Half of the colours' resolution is lost in 4:2:0.
        assert np.abs(pixels[t, :, W:] - expected).mean() < 12
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".predictions.begun", "a_depth.mp4", "predictions.jsonl",
    ]  # fmt: skip
    (entry,) = map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
    assert entry["outputs"] == ["a_depth.mp4"]
    assert entry["frame_count"] == 20


def test_the_map_alone_of_odd_sides_is_padded_to_even_ones(tmp_path: pathlib.Path):
    path = tmp_path / "a.mp4"
    make(path, [scene(t)[:47, :61] for t in range(3)], sound="", aspect=fractions.Fraction(4, 3))
    done = predict(path, alone=True)
    with av.open(os.fspath(done.output)) as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height) == (62, 48)
        assert context.sample_aspect_ratio == fractions.Fraction(4, 3)
        assert not container.streams.audio


def test_sound_that_mp4_cannot_hold_makes_it_matroska(tmp_path: pathlib.Path):
    path = tmp_path / "a.mov"
    make(path, sound="pcm_u8")
    done = predict(path)
    assert done.output.name == "a_depth.mkv"
    assert b"".join(data for _, data in sound_of(done.output)) == b"".join(
        data for _, data in sound_of(path)
    )


def turn(path: pathlib.Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix (16.16, row by row) into the header of the film's first track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "quarters"),
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_frames_are_turned_as_the_file_says(
    tmp_path: pathlib.Path, matrix: tuple[int, ...], quarters: int
):
    """(x, y) is displayed at (a x + c y, b x + d y), y down: (0, 1, -1, 0) is to the right."""
    path = tmp_path / "a.mp4"
    make(path, sound="", aspect=fractions.Fraction(4, 3))
    turn(path, matrix)
    done = predict(path)
    upright = np.rot90(scene(4), quarters).astype(int)
    _, pixels = frames_of(done.output)
    height, width = upright.shape[:2]
    assert pixels.shape[1:3] == (height, 2 * width)
    assert np.abs(pixels[4, :, :width] - upright).mean() < 5
    with av.open(os.fspath(done.output)) as container:
        aspect = container.streams.video[0].codec_context.sample_aspect_ratio
        assert aspect == fractions.Fraction(*((3, 4) if quarters % 2 else (4, 3)))


def test_an_interrupted_film_goes_on_and_becomes_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predicting, "PIECE", 5)
    path = tmp_path / "a.mp4"
    make(path)
    whole = predict(path, output="whole", frames="npz").output
    with pytest.raises(KeyboardInterrupt):
        predict(path, Counting(most=12), frames="npz")
    output = tmp_path / "out" / "a_depth.mp4"
    assert not output.exists()
    network = Counting()
    assert predict(path, network, frames="npz").frames == 20
    assert network.calls == 10  # frames 11 to 20
    assert output.read_bytes() == whole.read_bytes()
    for number in range(1, 21):
        name = f"a_frames/{number:06}.npz"
        maps = [np.load(tmp_path / folder / name)["values"] for folder in ("whole", "out")]
        np.testing.assert_array_equal(*maps)
    assert not list((tmp_path / "out").glob(".*film"))
    network = Counting()
    assert predict(path, network, frames="npz").there
    assert network.calls == 0


def test_a_piece_that_is_not_whole_and_other_settings_start_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predicting, "PIECE", 5)
    path = tmp_path / "a.mp4"
    make(path)
    for damage, calls in (("nut", 15), ("npz", 15), ("settings", 20), ("film", 20)):
        with pytest.raises(KeyboardInterrupt):
            predict(path, Counting(most=12), damage)
        (folder,) = (tmp_path / damage).glob(".*film")
        options = {}
        if damage in ("nut", "npz"):
            held = folder / f"000001.{damage}"
            held.write_bytes(held.read_bytes()[:-40])
        elif damage == "settings":
            options = {"alone": True}
        else:
            os.utime(path, ns=(1, 1))
        network = Counting()
        assert predict(path, network, damage, **options).frames == 20
        assert network.calls == calls


def test_a_killed_process_costs_a_piece(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predicting, "PIECE", 5)
    path = tmp_path / "a.mp4"
    make(path)
    program = f"""
        import pathlib
        from reldepth_jax.film import predicting
        from tests.film.test_predicting import Counting, predict
        predicting.PIECE = 5
        predict(pathlib.Path({os.fspath(path)!r}), Counting(most=12, kill=True))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "a_depth.mp4").exists()
    network = Counting()
    output = predict(path, network).output
    assert network.calls == 10
    assert output.read_bytes() == predict(path, output="whole").output.read_bytes()


def test_a_cut_is_counted(tmp_path: pathlib.Path):
    path = tmp_path / "a.mp4"
    make(path, [scene(t, seed=t >= 6) for t in range(12)], sound="")
    assert predict(path).cuts == 1


def test_maps_of_frames_have_one_scale(tmp_path: pathlib.Path):
    path = tmp_path / "a.mp4"
    stamps = make(path, sound="")
    predict(path, frames="png")
    files = sorted(os.listdir(tmp_path / "out" / "a_frames"))
    assert files == [f"{number:06}.png" for number in range(1, 21)]
    _, original = frames_of(path)
    score = original[0].astype(np.float64).mean(axis=2)
    unit = (score - np.median(score)) / np.abs(score - np.median(score)).mean()
    with Image.open(tmp_path / "out" / "a_frames" / files[0]) as image:
        assert isinstance(image, PngImageFile)
        assert image.text["larger_is"] == "farther"
        assert image.text["65535"].startswith("8 mean deviations")
        assert image.mode == "I;16"
        np.testing.assert_allclose(np.asarray(image) / 65535 * 16 - 8, unit, atol=1e-3)
    predict(path, output="metric", frames="png", largest=2.0, polarity="disparity")
    with Image.open(tmp_path / "metric" / "a_frames" / files[0]) as image:
        assert isinstance(image, PngImageFile)
        assert (image.text["0"], image.text["65535"]) == ("-2 metres", "-0 metres")
        np.testing.assert_allclose(np.asarray(image) / 65535 * 2 - 2, -score / 255, atol=1e-4)
    predict(path, output="raw", frames="npz", smooth=False)
    with np.load(tmp_path / "raw" / "a_frames" / "000003.npz") as held:
        expected = original[2].astype(np.float32).mean(axis=2) / 255
        np.testing.assert_allclose(held["values"], expected, atol=1e-6)
        assert held["seconds"] == pytest.approx(stamps[2] / 600)


def maps_in(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder / "a_frames"))


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_maps_are_those_of_the_film_and_all_of_them(tmp_path: pathlib.Path, kind):
    path, out = tmp_path / "a.mp4", tmp_path / "out"
    make(path, [scene(t) for t in range(6)], sound="")
    assert not predict(path, frames=kind).there
    (out / "a_frames" / f"000003.{kind}").unlink()
    assert not predict(path, frames=kind).there
    assert maps_in(out) == [f"{number:06}.{kind}" for number in range(1, 7)]
    assert predict(path, frames=kind).there
    # A shorter film under the same path.
    make(path, [scene(t) for t in range(4)], sound="")
    assert predict(path, frames=kind).frames == 4
    assert maps_in(out) == [f"{number:06}.{kind}" for number in range(1, 5)]


@dataclasses.dataclass
class Failing(Counting):
    """Gives no number from the seventh frame on."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        score = super().__call__(images)
        return score if self.calls < 7 else score * np.nan


def test_a_film_that_fails_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predicting, "PIECE", 3)
    make(tmp_path / "a.mp4", sound="")
    with pytest.raises(UnreadableFile, match="not finite"):
        predict(tmp_path / "a.mp4", Failing(), frames="png")
    assert sorted(os.listdir(tmp_path / "out")) == [".predictions.begun", "predictions.jsonl"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_of_maps_that_is_not_ours_is_in_the_way(tmp_path: pathlib.Path, kind: str):
    make(tmp_path / "a.mp4", sound="")
    place = tmp_path / "out" / "a_frames"
    mine = place if kind == "file" else place / "000005.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UnreadableFile, match=r"a\.mp4: .*a_frames is in the way"):
        predict(tmp_path / "a.mp4", frames="png")
    assert mine.read_text() == "mine"


def test_maps_of_frames_are_no_photographs(tmp_path: pathlib.Path):
    make(tmp_path / "a.mp4", [scene(t) for t in range(3)], sound="")
    predict(tmp_path / "a.mp4", frames="png")
    Image.fromarray(scene(0)).save(tmp_path / "b.png")
    for output in ("out", "elsewhere"):
        found = photographs([tmp_path], [], Writer(output=tmp_path / output))
        assert [each.relative for each in found.named] == ["b.png"]


def test_bad_films_are_told_in_one_line(tmp_path: pathlib.Path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    make(tmp_path / "cut.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:5000])
    with av.open(os.fspath(tmp_path / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), "s16", "mono")
        silence.sample_rate = 16000
        container.mux([*stream.encode(silence), *stream.encode()])
    cases = {
        "text": "Invalid data", "empty": "", "folder": "is not a regular file",
        "cut": "Invalid data", "sound": "no pictures", "none": "no such file",
    }  # fmt: skip
    for name, said in cases.items():
        with pytest.raises(UnreadableFile, match=rf"{name}\.mp4: .*{said}") as caught:
            predict(tmp_path / f"{name}.mp4")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*_depth*"))


def test_other_peoples_files_are_not_replaced(tmp_path: pathlib.Path):
    make(tmp_path / "a.mp4", sound="")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_depth.mp4").write_text("mine")
    with pytest.raises(UnreadableFile, match=r"a_depth\.mp4 is in the way"):
        predict(tmp_path / "a.mp4")
    make(tmp_path / "b.mp4", sound="")
    make(tmp_path / "b.mov", sound="")
    assert predict(tmp_path / "b.mp4").output.name == "b_depth.mp4"
    assert predict(tmp_path / "b.mov").output.name == "b.mov_depth.mp4"


def test_a_second_process_is_sent_away_and_a_full_disk_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.mp4"
    make(path, sound="")

    class Meanwhile(Counting):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            with pytest.raises(UnreadableFile, match="by another process"):
                predict(path)
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        predict(path, Meanwhile())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'reldepth-jax\[video\]'"):
        predict(path)


def test_the_command_takes_films_and_says_what_it_leaves_in_folders(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networks, "load_public", lambda name: brightness())
    (tmp_path / "holiday").mkdir()
    Image.fromarray(scene(0)[:40, :60]).save("holiday/a.png")
    make(pathlib.Path("holiday/b.mp4"), [scene(t)[:40, :60] for t in range(3)], sound="")
    out, err = run("predict", "holiday", "holiday/b.mp4", "nowhere.mp4", code=1)
    assert "1 predicted" in out
    assert "out/b_depth.mp4: 3 frames, 0 cuts, " in out
    assert "1 .mp4; a film is predicted if it is named" in err
    assert "nowhere.mp4: no such file" in err
    _, err = run("predict", "holiday/b.mp4", "--npy", code=2)
    assert "--npy belongs to photographs, holiday/b.mp4 is a film" in err
    _, err = run("predict", "holiday", "--no-smooth", code=2)
    assert "--no-smooth belongs to films" in err
    out, _ = run("predict", "holiday/b.mp4")
    assert out == "out/b_depth.mp4 is there already\n"
