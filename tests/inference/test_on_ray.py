"""Workers of a local Ray cluster, of which some are killed: nothing is lost, repeated, damaged."""

import collections
import dataclasses
import errno
import json
import os
import pathlib
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.inference import on_ray
from reldepth_jax.inference.bookkeeping import MANIFEST, PredictError
from reldepth_jax.inference.files import Counts, Writer, predict_files
from reldepth_jax.inference.inputs import photographs

COUNT = 48
POISON = 250
TEMPORARY = f".{'0' * 32}.tmp"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # In the extra `dev`, not in `test`: 90 MB to fetch, 320 MB of disk, and 25 s of CPU time for
    # one test, half of it for Ray itself. Without it the two tests below run our part of a worker.
    pytest.importorskip("ray", reason="the extra `ray` is not installed: pip install 'ray[data]'")
    with on_ray._connected(2, on_ray._cluster()):
        yield


def once(mark: pathlib.Path) -> bool:
    """Return whether this is the first call for `mark`, of all processes and their lives."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Deadly:
    """The red channel for a score; dies over one photograph once, and over another each time."""

    marks: pathlib.Path

    def __call__(self, image: np.ndarray) -> np.ndarray:
        level = int(image.max())
        with open(self.marks / "calls", "a") as file:
            file.write(f"{level}\n")
        if level == POISON or (level == 30 and once(self.marks / "computing")):
            die()
        return image[..., 0].astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadlyWriter(Writer):
    """Dies once when a photograph is written in half, and once before its line."""

    marks: pathlib.Path

    def write(self, name, score, image=None):
        entry = super().write(name, score, image)
        if name == "10" and once(self.marks / "half"):
            (self.output / "10_color.png").unlink()
            (self.output / TEMPORARY).write_bytes(b"half")
            die()
        if name == "40" and once(self.marks / "whole"):
            die()
        return entry


def photo(path: pathlib.Path, level: int) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((3, 4, 3), level, np.uint8)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(path, "PNG")
    return path


def manifest(output: pathlib.Path) -> dict[str, dict]:
    """Return the lines by photograph, each of which must be there once."""
    lines = [json.loads(line) for line in (output / MANIFEST).read_text().splitlines()]
    by_input = {line["input"]: line for line in lines}
    assert len(by_input) == len(lines)
    return by_input


@pytest.mark.slow
# Of what Ray Data says to itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_workers_that_are_killed_lose_nothing_and_repeat_nothing(
    cluster, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(on_ray, "_DEATHS", 2)
    folder, one, many = tmp_path / "in", tmp_path / "one", tmp_path / "many"
    good = [photo(folder / f"{level}.jpg", level) for level in range(1, COUNT + 1)]
    (folder / "broken.jpg").write_bytes(b"no photograph")
    writer = DeadlyWriter(output=many, marks=tmp_path, npy=True)

    def red(image: np.ndarray) -> np.ndarray:
        return image[..., 0].astype(np.float32)

    assert predict_files(red, [folder], Writer(output=one, npy=True)) == Counts(COUNT, 1)
    told = capsys.readouterr().err
    poison = photo(folder / "zz.jpg", POISON)
    told += f"{poison}: 2 workers died over it, of memory or a damaged file; predict it alone,"
    told += " without --ray, to see\n"

    # Three are there already, and are not even sent.
    assert predict_files(red, good[:3], Writer(output=many, npy=True)) == Counts(3, 0)
    shown = []
    done = on_ray.predict(
        Deadly(tmp_path), photographs([folder], [], writer), writer, 2,
        lambda *numbers: shown.append(numbers),
    )  # fmt: skip
    assert done == Counts(COUNT - 3, 2, there=3)
    assert shown == [(number, COUNT + 2) for number in range(3, COUNT + 3)]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(told.splitlines())

    assert {(tmp_path / name).exists() for name in ("computing", "half", "whole")} == {True}
    # Computed again were those over which a worker died, and nothing else.
    calls = collections.Counter(map(int, (tmp_path / "calls").read_text().split()))
    assert calls == collections.Counter([*range(4, COUNT + 1), 10, 30, 40, POISON, POISON])
    # Of the same command again, but for what fails each time.
    rest = photographs(good, [], writer)
    assert on_ray.predict(Deadly(tmp_path), rest, writer, 2) == Counts(0, 0, COUNT)
    assert len((tmp_path / "calls").read_text().split()) == calls.total()

    assert manifest(many) == manifest(one)
    names = [{path.name for path in each.iterdir()} for each in (one, many)]
    assert names[0] == names[1]
    for path in one.iterdir():
        if path.suffix in (".png", ".npy"):
            assert (many / path.name).read_bytes() == path.read_bytes()


class Block(list):
    """What a worker needs of a table of pyarrow."""

    to_pylist = list.copy


def block(*paths: pathlib.Path) -> Any:
    row = {"alone": True}
    return Block(
        row | {"folder": os.fsencode(path.parent), "relative": os.fsencode(path.name)}
        for path in paths
    )


@pytest.fixture
def worker(tmp_path, monkeypatch) -> Iterator[Callable[[], on_ray._Worker]]:
    """Make workers of one job in this process, without Ray."""
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda kept: kept))
    for name in ("set_up", "keep_compiled"):
        monkeypatch.setattr(on_ray.runtime, name, lambda: None)
    writer = Writer(output=tmp_path / "out")
    task = on_ray._Task(Deadly(tmp_path), writer, frozenset(), 10**6, 2, "0123456789abcdef")
    made = []

    def make() -> on_ray._Worker:
        made.append(on_ray._Worker(task, 0.0))
        return made[-1]

    yield make
    for each in made:
        each._tries._file.close()
        each._closing.close()


def test_a_worker_fails_what_two_others_have_died_over(worker, tmp_path, monkeypatch):
    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[__name__], "die", killed)
    poison, good = photo(tmp_path / "bad.jpg", POISON), photo(tmp_path / "good.jpg", 7)
    alive = worker()
    alive(block(good))
    for _ in range(2):
        dying = worker()
        with pytest.raises(KeyboardInterrupt):
            dying(block(good, poison))
        dying._tries._file.close()  # as the system does when a process ends
    found = worker()(block(good, poison))
    assert list(found["outcome"]) == ["there", "failed"]
    assert found["line"][0] == b""
    assert b"bad.jpg: 2 workers died over it" in found["line"][1]
    # The one that is alive is at a photograph, but has not died over it.
    assert worker()._tries.deaths(str(good)) == 0
    assert len(manifest(tmp_path / "out")) == 1


def test_a_worker_without_room_says_so(worker, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "write", full)
    found = worker()(block(photo(tmp_path / "a.jpg", 7)))
    assert list(found["outcome"]) == ["full"]
    assert b"out cannot be written to: No space left on device" in found["line"][0]


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_a_cluster_where_nobody_listens_is_one_line(form: str):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{listening.getsockname()[1]}")
        listening.listen()
        on_ray._require_answer(address, "127.0.0.1")
    with pytest.raises(PredictError) as refused:
        on_ray._require_answer(address, "127.0.0.1")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"no Ray cluster answers at RAY_ADDRESS={address}: Connection refused; ")


def test_nothing_is_written_for_a_cluster_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    util = types.SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
    fake = types.SimpleNamespace(is_initialized=lambda: False, util=util)
    monkeypatch.setitem(sys.modules, "ray", fake)
    writer = Writer(output=tmp_path / "out")
    chosen = photographs([photo(tmp_path / "a.jpg", 7)], [], writer)
    with pytest.raises(PredictError, match="no Ray cluster answers"):
        on_ray.predict(Deadly(tmp_path), chosen, writer, 2)
    assert not writer.output.exists()


@pytest.mark.parametrize("address", ["head:", "head:port", "head:70000", ":0", "ray://head:x"])
def test_an_address_without_a_port_is_one_line(address: str):
    with pytest.raises(PredictError, match=f"RAY_ADDRESS={address}: name HOST:PORT"):
        on_ray._require_answer(address, "127.0.0.1")


@pytest.mark.parametrize("address", ["auto", "local"])
def test_ray_is_left_to_find_its_own_cluster(address: str):
    on_ray._require_answer(address, "127.0.0.1")
