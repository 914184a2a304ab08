"""The commands as a person runs them: train, interrupt, continue, evaluate, predict, compare.

Most run in this process; one run of each kind, and what depends on a process, is one of its own.
"""

import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.cli import command
from reldepth_jax.cli import main as reldepth
from tests.fixtures import diw, nyu_pairs

SMOKE = ["train", "--config", "smoke"]
TRAIN = [sys.executable, "scripts/train.py", "--config", "configs/smoke.py"]


def run(*words: object, code: int = 0) -> tuple[str, str]:
    """Run a command in this process; return what it prints and what it says on stderr."""
    name, *arguments = map(str, words)
    main = importlib.import_module(f"reldepth_jax.cli.{name}").main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.raises(SystemExit) as stop:
            command.run(lambda: main(arguments))
    assert stop.value.code == code, out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


def process(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == code, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    out, _ = run(*SMOKE, "--workdir", workdir)
    assert "validation WHDR" in out
    return workdir


def records(workdir: pathlib.Path, group: str) -> list[dict[str, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["group"] == group]


def test_training_writes_config_records_pictures_and_a_checkpoint(smoke: pathlib.Path):
    assert json.loads((smoke / "config.json").read_text())["train"]["steps"] == 8
    assert {"loss", "whdr", "images_per_second"} <= set(records(smoke, "train")[0])
    assert {"whdr", "rule_whdr", "same_row"} <= set(records(smoke, "val")[0])
    assert [r["step"] for r in records(smoke, "val")] == [0, 8]
    assert (smoke / "pictures/00000008.png").exists()
    kept = sorted(path.name for path in (smoke / "checkpoints").iterdir())
    assert kept == ["00000004", "00000004.json", "00000008", "00000008.json"]
    events = map(json.loads, (smoke / "history.jsonl").read_text().splitlines())
    assert [event["event"] for event in events] == ["start", "saved", "saved", "finished"]
    assert list((smoke / "tensorboard").iterdir())


def test_a_finished_run_says_so_and_keeps_its_weights(smoke: pathlib.Path):
    out, _ = run(*SMOKE, "--workdir", smoke)
    assert "continuing at step 8" in out
    assert "0 steps" in out


def test_evaluate_prints_a_table_and_writes_json_and_picture(smoke: pathlib.Path):
    out = process("scripts/evaluate.py", "--workdir", smoke).stdout
    assert "lower is nearer" in out
    assert "WKDR" in out
    report = json.loads((smoke / "eval/test.json").read_text())
    assert report["protocol"]["images"] == 4
    assert 0 < report["model"]["whdr"]["rate"] < 1
    assert len(report["model"]["whdr"]["wrong"]) == 4
    with Image.open(smoke / "eval/test.png") as sheet:
        assert sheet.width >= 3 * 192


@pytest.mark.parametrize(("name", "fixture"), [("diw", diw), ("nyu", nyu_pairs)])
def test_evaluate_by_a_published_protocol(
    smoke: pathlib.Path, tmp_path: pathlib.Path, name: str, fixture: ModuleType
):
    fixture.write(tmp_path)
    out, _ = run("evaluate", "--workdir", smoke, "--dataset", name, "--data-dir", tmp_path)
    assert "official" in out
    assert "lower is nearer" in out
    assert "Xian 2018" in out
    assert "Not comparable with published numbers" in out
    report = json.loads((smoke / f"eval/{name}.json").read_text())
    assert report["ours"][0]["name"] == "official"
    assert report["run"]["step"] == 8
    assert report["run"]["fast"] is False
    assert (smoke / f"eval/{name}.png").exists()


def test_predict_keeps_sizes_and_reports_bad_files(smoke: pathlib.Path, tmp_path: pathlib.Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to display"
    Image.fromarray(picture).save(photos / "portrait.jpg", exif=exif)
    Image.fromarray(picture[..., 0]).save(photos / "gray.png")
    Image.fromarray(np.dstack([picture, picture[..., :1]])).save(photos / "alpha.png")
    Image.fromarray(np.tile(picture[:30], (1, 7, 1))).save(photos / "strip.png")
    whole = (photos / "portrait.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.jpg").write_text("no picture")
    out = tmp_path / "out"
    result = process(
        "scripts/predict.py", photos, "--workdir", smoke, "--output", out, "--npy", code=1
    )
    assert len(result.stderr.strip().splitlines()) == 2
    assert "cut.jpg" in result.stderr
    assert "text.jpg" in result.stderr
    for name, shape in (
        ("portrait", (80, 50)), ("gray", (50, 80)), ("alpha", (50, 80)), ("strip", (30, 560)),
    ):  # fmt: skip
        depth = np.asarray(Image.open(out / f"{name}.png"))
        assert (depth.dtype, depth.shape) == (np.uint16, shape)
        score = np.load(out / f"{name}.npy")
        assert score.shape == shape
        # Larger stays farther, and the stretch to 16 bits keeps the order.
        assert depth.ravel()[score.argmax()] == 65535
        assert depth.ravel()[score.argmin()] == 0
    listed = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {entry["larger_is"] for entry in listed} == {"farther"}
    assert len(listed) == 4


def test_compare_shows_both_runs_on_the_same_images(smoke: pathlib.Path, tmp_path: pathlib.Path):
    other, output = tmp_path / "other", tmp_path / "compare"
    run(*SMOKE, "--workdir", other, "--config.train.seed=1", "--config.train.steps=4")
    out, _ = run("compare", other, smoke, "--output", output)
    assert "Errors in percent" in out
    assert (output / "compare.png").exists()
    text = (output / "compare.md").read_text()
    assert "| other" in text
    assert "| smoke" in text
    assert "| lower is nearer" in text
    steps = json.loads((output / "compare.json").read_text())["steps"]
    assert steps == {"other": {str(other): 4}, "smoke": {str(smoke): 8}}


def test_an_interrupted_run_continues_at_its_step(tmp_path: pathlib.Path):
    """By SIGTERM; a process that gets SIGINT: `test_quick_start`."""
    workdir = tmp_path / "run"
    long = [*TRAIN, "--workdir", str(workdir), "--config.train.steps=100000"]
    long += ["--config.train.log_every=1", "--config.train.eval_every=1000"]
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    log = workdir / "metrics.jsonl"
    while not (log.exists() and len(records(workdir, "train")) >= 3):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
    match = re.search(r"saved at step (\d+) of 100000; the same command continues", output)
    assert match, output
    step = int(match[1])
    newest = sorted(path.name for path in (workdir / "checkpoints").iterdir())[-2:]
    assert newest == [f"{step:08d}", f"{step:08d}.json"]

    more = [f"--config.train.steps={step + 2}", "--config.train.log_every=1"]
    out, _ = run(*SMOKE, "--workdir", workdir, *more)
    assert f"continuing at step {step}" in out
    assert "2 steps" in out
    assert [r["step"] for r in records(workdir, "train")][-3:] == [step, step + 1, step + 2]


MISTAKES = {
    "typo in a field": (["--config.optim.lerning_rate=1"], "'learning_rate'"),
    "typo in a group": (["--config.optin.learning_rate=1"], "'optim'"),
    "unknown encoder": (["--config.model.encoder.name=resnet5O"], "'resnet50'"),
    "unknown loss": (["--config.loss.name=rankin"], "'ranking'"),
    "unknown source": (["--config.data.source.name=sintetic"], "'synthetic'"),
    "negative batch size": (["--config.data.batch_size=-4"], "at least 1"),
    "crop no multiple of 32": (["--config.data.crop=100,128"], "96 or 128"),
    "unknown argument": (["--workdirr=x"], "--workdir"),
    "override without value": (["--config.train.steps"], "--config.train.steps=…"),
    "missing config": (["--config", "configs/rankin.py"], "configs/ranking.py"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: pathlib.Path):
    mistake, hint = MISTAKES[name]
    out, err = run("train", "--config", "ranking", "--workdir", tmp_path / "run", *mistake, code=2)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert hint in err
    assert not (tmp_path / "run").exists()


def test_a_mistake_is_reported_within_two_seconds(tmp_path: pathlib.Path):
    # User and system time of the child: what the wall clock would show on a machine of its own.
    before = os.times()
    mistake, hint = MISTAKES["unknown encoder"]
    result = process(*TRAIN[1:], "--workdir", tmp_path / "run", *mistake, code=2)
    after = os.times()
    spent = after.children_user - before.children_user
    spent += after.children_system - before.children_system
    assert spent < 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert hint in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "--config.pairs.num_pairs=0"], "pairs.num_pairs"),
        (["train", "--config.loss.drop_easiest=1"], "loss.drop_easiest"),
        (["train", "--config.init_from=nowhere"], "nowhere: no such file"),
        (
            ["train", "--config.data.source.name=folder",
             "--config.data.source.root=nowhere"],
            "nowhere",
        ),
        (["evaluate", "--workdir", "nowhere"], "nowhere: no config.json"),
        (["evaluate", "--dataset", "diww", "--data-dir", "x"], "Did you mean 'diw'"),
        (["evaluate", "--dataset", "diw"], "give both"),
        (
            ["evaluate", "--dataset", "diw", "--data-dir", "x", "--split", "val"],
            "--split does not go with --dataset",
        ),
        (["predict", "x.jpg", "--workdir", "nowhere"], "nowhere: no config.json"),
        (["compare", "nowhere", "nowhere2"], "nowhere: no config.json"),
    ],
    ids=str,
)  # fmt: skip
def test_later_mistakes_are_one_line_too(arguments: list[str], hint: str, tmp_path: pathlib.Path):
    workdir = tmp_path / "run"
    if arguments[0] == "train":
        arguments = [*arguments, "--config", "smoke", "--workdir", str(workdir)]
    _, err = run(*arguments, code=2)
    assert len(err.splitlines()) == 1
    assert hint in err
    assert not workdir.exists()


def test_no_training_image_that_can_be_read_is_one_line(tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in "abc":
        photo = tmp_path / f"data/rgb/{name}.jpg"
        Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(photo)
        np.save(tmp_path / f"data/depth/{name}.npy", rng.uniform(1, 9, (32, 64)))
    photo = tmp_path / "data/rgb/a.jpg"
    photo.write_bytes(photo.read_bytes()[:-100])
    _, err = run(
        *SMOKE, "--workdir", tmp_path / "run", "--config.data.source.name=folder",
        f"--config.data.source.root={tmp_path / 'data'}", "--config.data.source.train=0:1",
        "--config.data.source.val=1:2", "--config.data.source.test=2:3", code=3,
    )  # fmt: skip
    assert err.startswith("error: 1 of 1 samples cannot be read")
    assert f"{photo}: " in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("path", sorted(pathlib.Path("scripts").glob("*.py")), ids=str)
def test_every_script_is_a_command(path: pathlib.Path):
    usage = process(path, "--help").stdout.split()
    assert usage[:2] == ["usage:", "reldepth"]
    assert usage[2] in reldepth.COMMANDS


def test_training_does_not_import_torch_though_it_is_installed():
    code = (
        "import sys, reldepth_jax.training.run, importlib.util\n"
        "print('torch' in sys.modules, bool(importlib.util.find_spec('torch')))"
    )
    assert process("-c", code).stdout.split() == ["False", "True"]


def test_what_is_compiled_is_kept_for_the_next_process(tmp_path: pathlib.Path):
    code = textwrap.dedent("""
        import jax
        from reldepth_jax import runtime
        runtime.keep_compiled()
        jax.jit(lambda x: x + 1)(1.0)
        print(jax.config.jax_compilation_cache_dir)
    """)
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}

    def folder(**changed: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | changed,
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.strip()

    kept = folder(XDG_CACHE_HOME=str(tmp_path))
    assert pathlib.Path(kept).parent == tmp_path / "reldepth_jax"
    assert list(pathlib.Path(kept).iterdir())
    assert folder(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == str(tmp_path / "own")
    (tmp_path / "file").write_text("")
    assert folder(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"
