"""Prepared shards: the same as the folder, and nothing that could be mistaken for it."""

import dataclasses
import fcntl
import hashlib
import io as memory
import itertools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from reldepth_jax import config
from reldepth_jax.cli import command, prepare
from reldepth_jax.data.data_set import DataSetSource
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.data.prepared import builders, shards, writing
from reldepth_jax.data.reading.declaration import DataSet, Map, OwnFormat
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Record
from reldepth_jax.registry import SOURCES, Entry
from tests.fixtures import hr_wsi, redweb

SCRIPT = "scripts/prepare_data.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("folder")
    redweb.write(root, 40)
    return root


@pytest.fixture(scope="module")
def prepared(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """ReDWeb in several shards."""
    data_dir = tmp_path_factory.mktemp("prepared")
    run("redweb", folder, data_dir, shard_bytes=30_000)
    return data_dir


def run(name: str, root: pathlib.Path, data_dir: pathlib.Path, **given: Any) -> list[str]:
    """Prepare what is there; return what was said."""
    lines: list[str] = []
    options: dict[str, Any] = {"partial": True} | given
    writing.prepare(name, str(root), str(data_dir), say=lines.append, **options)
    return lines


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]):
    """Return what runs the command in this process and returns what it printed."""

    def run(*arguments: object, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as ended:
            command.run(lambda: prepare.main([*map(str, arguments)]))
        printed = capsys.readouterr()
        assert ended.value.code == code, printed
        return printed

    return run


def assert_same(one: Record, other: Record) -> None:
    assert one["name"] == other["name"]
    assert one["image"] == other["image"]
    assert one["maps"].keys() == other["maps"].keys()
    for a, b in [
        (one["pairs"], other["pairs"]),
        *((one["maps"][name], other["maps"][name]) for name in one["maps"]),
    ]:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def described(data_dir: pathlib.Path) -> tuple[int, str]:
    # Protobuf does not promise an order of keys, so that files of the same records may differ.
    part = json.loads((data_dir / "redweb/1.0.0/metadata.json").read_text())["parts"]["train"]
    return part["records"], part["fingerprint"]


def copied(prepared: pathlib.Path, to: pathlib.Path) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Return a copy that may be damaged, and its shards."""
    shutil.copytree(prepared, to / "copy")
    return to / "copy", sorted((to / "copy").rglob("*.array_record*"))


def test_several_shards_keep_the_order(folder: pathlib.Path, prepared: pathlib.Path):
    records = shards.read_part("redweb", str(prepared), "train")
    assert isinstance(records, shards.ShardRecords)
    assert len(records.shards) == 3
    # Backwards, so that the order is not that of reading.
    names = [records[index]["name"] for index in reversed(range(40))][::-1]
    assert names == [f"ReDWeb_V1/Imgs/{number:04}.jpg" for number in range(40)]


def read_odd(root: str, part: str) -> list[Record]:
    """Return records whose images, names and values are unusual."""
    del part
    paths = sorted(pathlib.Path(root).iterdir())
    rng = np.random.default_rng(0)
    values = np.array([[np.nan, -np.inf, -0.0], [np.inf, 1e-45, 3]], np.float32)
    return [
        {
            "name": path.name,
            "image": path.read_bytes(),
            "maps": {
                "a": rng.integers(0, 65536, (number + 1, 3)).astype(np.uint16),
                "b": values,
            },
            "pairs": rng.integers(-1, 2, (number, 5)).astype(np.int32),
        }
        for number, path in enumerate(paths)
    ]


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> type[DataSetSource]:
    class Odd(DataSetSource):
        data_set = DataSet(
            name="odd",
            parts=("train",),
            counts={"train": 8},
            layout=OwnFormat(read_odd),
            maps={"a": Map(np.dtype(np.uint16)), "b": Map(np.dtype(np.float32))},
        )

    monkeypatch.setitem(SOURCES.entries, "odd", Entry(__name__, {}))
    monkeypatch.setitem(SOURCES._made, "odd", Odd)
    return Odd


@pytest.mark.usefixtures("odd")
def test_images_of_any_kind_are_kept_byte_for_byte(tmp_path: pathlib.Path):
    root = tmp_path / "folder"
    root.mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    image.save(root / "colour.jpg", comment=b"kept", quality=71, progressive=True)
    image.convert("L").save(root / "grey.jpg")
    image.convert("CMYK").save(root / "cmyk.jpg")
    image.convert("P").save(root / "palette.png")
    image.convert("LA").save(root / "alpha.png")
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save(root / "deep.png")
    image.save(root / os.fsdecode(b"\xff\xe4 \n.bmp"))
    (root / "trailing.jpg").write_bytes((root / "grey.jpg").read_bytes() + b"\0behind the end")
    run("odd", root, tmp_path / "prepared", partial=False)
    records = read_odd(str(root), "train")
    again = shards.read_part("odd", str(tmp_path / "prepared"), "train")
    assert again is not None
    assert len(again) == 8
    for index in range(8):
        assert_same(again[index], records[index])


def test_another_type_of_map_than_stated_is_refused(tmp_path: pathlib.Path, monkeypatch, odd):
    maps = {"a": Map(np.dtype(np.uint8)), "b": Map(np.dtype(np.float32))}
    monkeypatch.setattr(odd, "data_set", dataclasses.replace(odd.data_set, maps=maps))
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "folder/x.png")
    with pytest.raises(UnreadableFile, match=r"x\.png: its a map holds uint16, not uint8 values"):
        run("odd", tmp_path / "folder", tmp_path / "prepared")


def test_training_batches_are_the_same(folder: pathlib.Path, prepared: pathlib.Path):
    settings = config.Config()
    settings = config.override(
        settings,
        {"data.batch_size": "4", "data.crop": "(32, 32)", "data.zoom": "(1.0, 1.4)",
         "data.color_jitter": "0.2", "data.threads": "2"},
    )  # fmt: skip

    def batches(**options: str) -> list[str]:
        source = SOURCES.create("redweb", split="train", size=(32, 32), validation=7, **options)
        found = train_batches(settings, [source], start=0)
        return [
            hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch))).hexdigest()
            for batch in itertools.islice(found, 3)
        ]

    one = batches(root=str(folder))
    assert one == batches(prepared=str(prepared))
    assert len(set(one)) == 3


def test_workers_write_the_same(folder: pathlib.Path, prepared: pathlib.Path, tmp_path):
    seen = []
    run("redweb", folder, tmp_path, workers=2, shard_bytes=30_000,
        progress=lambda *state: seen.append(state))  # fmt: skip
    assert described(tmp_path) == described(prepared)
    assert seen[-1] == ("train", 40, 40)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_the_fingerprint_is_that_of_its_definition(folder: pathlib.Path, prepared: pathlib.Path):
    digests = b""
    for number in range(40):
        name = f"ReDWeb_V1/Imgs/{number:04}.jpg"
        jpeg = (folder / name).read_bytes()
        rd = np.asarray(Image.open(folder / f"ReDWeb_V1/RDs/{number:04}.png"))
        rd = rd[..., 0] if rd.ndim == 3 else rd
        text = b"".join(
            [f"name {len(name)}\n{name}image {len(jpeg)}\n".encode(), jpeg,
             b"map rd |u1 (48, 64) 3072\n", rd.tobytes(), b"pairs <i4 (0, 5) 0\n"]
        )  # fmt: skip
        digests += hashlib.sha256(text).digest()
    assert described(prepared) == (40, hashlib.sha256(digests).hexdigest())


def test_tfds_by_itself_prepares_the_same(folder: pathlib.Path, prepared: pathlib.Path, tmp_path):
    builder = builders.builder("redweb")(data_dir=tmp_path, file_format=shards.FILE_FORMAT)
    builder.shard_bytes = 30_000
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=os.fspath(folder))
    )
    assert described(tmp_path) == described(prepared)
    records = shards.read_part("redweb", str(tmp_path), "train")
    assert isinstance(records, shards.ShardRecords)
    assert [count for _, count in records.shards] == [13, 13, 14]


def test_already_prepared_changes_nothing(folder: pathlib.Path, prepared: pathlib.Path, script):
    def state() -> list[tuple[str, int]]:
        return sorted((str(p), p.stat().st_mtime_ns) for p in prepared.rglob("*"))

    before = state()
    result = script("redweb", "--manual-dir", folder, "--data-dir", prepared)
    assert "already prepared" in result.out
    assert "40 of 3600 published" in result.out
    assert state() == before


def test_counts_differ(folder: pathlib.Path, tmp_path: pathlib.Path, script):
    result = script("redweb", "--manual-dir", folder, "--data-dir", tmp_path / "p", code=2)
    (line,) = result.err.strip().splitlines()
    assert line.startswith("error: redweb: train has 40 records, published are 3600")
    assert not (tmp_path / "p").exists()
    result = script(
        "redweb", "--manual-dir", folder, "--data-dir", tmp_path / "p", "--partial", "--workers", 0
    )
    assert "partial: train has 40 records, published are 3600" in result.out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_found_and_nothing_is_left(workers: int, tmp_path: pathlib.Path):
    root, data_dir = tmp_path / "folder", tmp_path / "prepared"
    redweb.write(root, 50)
    victim = root / "ReDWeb_V1/Imgs/0033.jpg"
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(UnreadableFile, match=r"0033\.jpg.*truncated"):
        run("redweb", root, data_dir, workers=workers)
    assert [path.name for path in (data_dir / "redweb").iterdir()] == [".lock"]
    with pytest.raises(DataError, match="holds no prepared redweb; run reldepth prepare"):
        shards.read_part("redweb", str(data_dir), "train")
    redweb.write(root, 50)
    run("redweb", root, data_dir)


def test_not_enough_space(folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    with pytest.raises(DataError, match=r"has 0\.00 GB free, the shards of redweb take about"):
        run("redweb", folder, tmp_path)
    assert [path.name for path in (tmp_path / "redweb").iterdir()] == [".lock"]


def test_the_disk_becomes_full(folder: pathlib.Path, tmp_path: pathlib.Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, before[1]))
    try:
        with pytest.raises(DataError, match="cannot be written: .*File too large"):
            run("redweb", folder, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "redweb").iterdir()] == [".lock"]


def test_two_at_once(folder: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "redweb").mkdir()
    with open(tmp_path / "redweb/.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another preparation is writing into"):
            run("redweb", folder, tmp_path)
    run("redweb", folder, tmp_path)


def test_two_processes_at_once(folder: pathlib.Path, tmp_path: pathlib.Path):
    line = [sys.executable, SCRIPT, "redweb", "--manual-dir", folder, "--data-dir", tmp_path,
               "--partial", "--workers", "0"]  # fmt: skip
    both = [subprocess.Popen([*map(str, line)], stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    for process, error in zip(both, errors, strict=True):
        assert process.returncode == 0 or b"another preparation" in error
    assert 0 in [process.returncode for process in both]
    writing.verify("redweb", str(tmp_path), str(folder), say=lambda line: None)


def test_killed_at_any_moment_the_same_command_succeeds(tmp_path: pathlib.Path):
    root, data_dir = tmp_path / "folder", tmp_path / "prepared"
    redweb.write(root, 3)
    # Many names for few files: enough work to be killed in.
    for number in range(3, 2000):
        for kind, suffix in (("Imgs", "jpg"), ("RDs", "png")):
            place = root / "ReDWeb_V1" / kind
            os.link(place / f"{number % 3:04}.{suffix}", place / f"{number:04}.{suffix}")
    line = [sys.executable, SCRIPT, "redweb", "--manual-dir", str(root), "--data-dir",
               str(data_dir), "--partial", "--workers", "1"]  # fmt: skip
    rng, caught = random.Random(0), 0
    for _ in range(4):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(data_dir.glob("redweb/incomplete*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.8))
        children = _children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (data_dir / "redweb/1.0.0").exists():
            break
        caught += 1
        assert len(list(data_dir.glob("redweb/incomplete*"))) == 1
        with pytest.raises(DataError, match="holds no prepared redweb"):
            shards.read_part("redweb", str(data_dir), "train")
        deadline = time.monotonic() + 10
        while any(map(_alive, children)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(_alive, children))
    print(f"killed {caught} times while shards were written")
    assert caught >= 2
    subprocess.run(line, check=True, capture_output=True, timeout=120)
    assert sorted(path.name for path in (data_dir / "redweb").iterdir()) == [".lock", "1.0.0"]
    writing.verify("redweb", str(data_dir), str(root), say=lambda line: None)


def _children(number: int) -> list[int]:
    path = pathlib.Path(f"/proc/{number}/task/{number}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _alive(number: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_parts_left_out_are_not_held_out_of_training(tmp_path: pathlib.Path):
    root = tmp_path / "folder"
    hr_wsi.write(root, train=6, val=2)
    run("hr_wsi", root, tmp_path / "p", parts=["train"])
    source = SOURCES.create("hr_wsi", split="train", size=(1, 1), prepared=str(tmp_path / "p"))
    assert len(source) == 6
    with pytest.raises(DataError, match=r"was prepared without the part 'val'"):
        SOURCES.create("hr_wsi", split="val", size=(1, 1), prepared=str(tmp_path / "p"))
    with pytest.raises(DataError, match="is prepared without val, test|is prepared without val;"):
        run("hr_wsi", root, tmp_path / "p")
    with pytest.raises(DataError, match=r"no part 'vla'\. Did you mean 'val'"):
        run("hr_wsi", root, tmp_path / "p", parts=["vla"])
    # ReDWeb has no validation part, prepared or not.
    redweb.write(root, 6)
    run("redweb", root, tmp_path / "p", parts=["train"])
    assert shards.read_part("redweb", str(tmp_path / "p"), "val") is None


def read_all(data_dir: pathlib.Path) -> str:
    """Return "same", or the message of the error; fail where records differ silently."""
    records = shards.read_part("redweb", str(data_dir), "train")
    assert records is not None
    return shards.fingerprint(shards.digest(records[i]) for i in range(len(records)))


def test_a_missing_or_truncated_shard_is_named(prepared: pathlib.Path, tmp_path: pathlib.Path):
    data_dir, files = copied(prepared, tmp_path)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"{files[1].name} has {len(whole) - 1} bytes instead"):
        read_all(data_dir)
    files[1].unlink()
    with pytest.raises(DataError, match=f"{files[1].name} is missing"):
        read_all(data_dir)
    files[1].write_bytes(bytes(len(whole)))
    with pytest.raises(UnreadableFile, match=files[1].name):
        read_all(data_dir)


def test_a_flipped_bit_is_found_or_harmless(prepared: pathlib.Path, tmp_path: pathlib.Path):
    data_dir, files = copied(prepared, tmp_path)
    whole, intact = files[0].read_bytes(), read_all(data_dir)
    rng, found = random.Random(0), {"error": 0, "same": 0}
    for _ in range(80):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        files[0].write_bytes(damaged)
        try:
            got = read_all(data_dir)
        except UnreadableFile as error:
            got = str(error)
        if got == intact:
            found["same"] += 1
        else:
            assert f"{files[0].name}: is damaged" in got
            assert "\n" not in got
            found["error"] += 1
    print(f"of 80 flipped bits {found['error']} were reported, {found['same']} changed nothing")
    assert found["error"] > 10


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"\xff{"])
def test_damaged_descriptions(prepared, tmp_path, name: str, content: bytes | None):
    data_dir, _ = copied(prepared, tmp_path)
    path = data_dir / "redweb/1.0.0" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged, delete it and prepare again") as error:
        read_all(data_dir)
    assert "\n" not in str(error.value)


def test_verify_finds_what_changed(
    folder: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path, script
):
    lines: list[str] = []
    writing.verify("redweb", str(prepared), str(folder), say=lines.append)
    assert lines == [
        "redweb train: 40 records, fingerprint as written",
        f"redweb train: identical to {folder}",
    ]
    shutil.copytree(folder, tmp_path / "folder")
    (tmp_path / "folder/ReDWeb_V1/Imgs/0012.jpg").write_bytes(
        (folder / "ReDWeb_V1/Imgs/0011.jpg").read_bytes()
    )
    with pytest.raises(DataError, match=r"at record 12, ReDWeb_V1/Imgs/0012\.jpg"):
        writing.verify("redweb", str(prepared), str(tmp_path / "folder"), say=lines.append)
    # A whole shard in the place of another, of the same size: nothing else would notice.
    data_dir, _ = copied(prepared, tmp_path)
    path = data_dir / "redweb/1.0.0/metadata.json"
    content = json.loads(path.read_text())
    content["parts"]["train"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(content))
    result = script("redweb", "--data-dir", data_dir, "--verify", "--workers", 0, code=2)
    assert "train differs from what was written" in result.err


def test_versions(prepared: pathlib.Path, tmp_path: pathlib.Path):
    data_dir, _ = copied(prepared, tmp_path)
    home = data_dir / "redweb"
    (home / "incomplete.ABCDEF_1.9.0").mkdir()
    shutil.copytree(home / "1.0.0", home / "1.0.10")
    shutil.copytree(home / "1.0.0", home / "1.0.9")
    shutil.copytree(home / "1.0.0", home / "2.0.0")
    assert shards.newest("redweb", data_dir) == home / "1.0.10"
    records = shards.read_part("redweb", str(data_dir), "train")
    assert isinstance(records, shards.ShardRecords)
    assert all("/1.0.10/" in path for path, _ in records.shards)
    for name in ("1.0.0", "1.0.9", "1.0.10"):
        shutil.rmtree(home / name)
    with pytest.raises(DataError, match=r"holds version 2\.0\.0 .* reads version 1\.0\.0"):
        shards.read_part("redweb", str(data_dir), "train")


def test_without_tfds_the_extra_is_named(prepared: pathlib.Path, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r'pip install "reldepth-jax\[tfds\]"'):
        shards.read_part("redweb", str(prepared), "train")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["redwep", "--data-dir", "p"], "invalid choice: 'redwep'"),
        (["redweb", "--data-dir", "p"], "--manual-dir is needed"),
        (["redweb", "--manual-dir", "x", "--data-dir", "p", "--partail"], "--partial"),
        (["redweb", "--manual-dir", "x", "--data-dir", "p", "--workers=-1"], "at least 0, got -1"),
        (["redweb", "--manual-dir", "nowhere", "--data-dir", "p"], "nowhere is no folder"),
        (["redweb", "--data-dir", "p", "--verify"], "p holds no prepared redweb"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, script):
    result = script(*arguments, code=2)
    assert expected in result.err
    assert "Traceback" not in result.err
    assert not pathlib.Path("p").exists()


def test_help_and_mistakes_import_neither_jax_nor_tfds():
    code = (
        "import sys, runpy; sys.argv = ['prepare_data.py', 'redweb', '--data-dir', 'p']\n"
        "try: runpy.run_path('scripts/prepare_data.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'jax', 'tensorflow_datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_one_record_is_held_at_a_time(tmp_path: pathlib.Path):
    """Each record is let go before the one after the next is read."""
    alive: list[weakref.ref] = []

    class Watched:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Record:
            assert sum(each() is not None for each in alive) <= 1
            pairs = np.zeros((0, 5), np.int32)
            alive.append(weakref.ref(pairs))
            return {"name": "", "image": png, "maps": {}, "pairs": pairs}

    file = memory.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    png = file.getvalue()
    job = writing.Job(Watched(), "", {})
    digests = writing.run(job, [(range(20), str(tmp_path / "shard"))], 0, lambda done: None)
    assert len(digests) == len(alive) == 20
