"""Public weights by name: a tiny network that a server on this machine publishes."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reldepth_jax
from reldepth_jax import config as configs
from reldepth_jax import registry, runtime
from reldepth_jax.cli import evaluate
from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.errors import UserError
from reldepth_jax.weights import by_name, catalogue, convert, download, init_from, presets
from reldepth_jax.weights.arrays import Arrays
from reldepth_jax.weights.download import CacheError, DownloadError
from reldepth_jax.weights.tensors import WeightsError
from tests.fixtures import server, training
from tests.fixtures.server import Server, status
from tests.weights.test_weights import random_arrays, run

pytestmark = pytest.mark.usefixtures("strides_encoder")

TINY = """
from reldepth_jax.cli import evaluate
from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets import Preset

@PRESETS.register("tiny")
def tiny():
    return Preset(
        name="tiny",
        model=ModelConfig(encoder=Choice("strides"), decoder_width=8, output="disparity"),
        preprocessing=Preprocessing(fit="long_side_floor", size=64),
        files=({files},),
        source="a test",
        licence="MIT",
        paper="-",
    )
"""
MODEL = ModelConfig(encoder=Choice("strides"), decoder_width=8, output="disparity")


def torch_file(tensors: Arrays) -> bytes:
    held = io.BytesIO()
    torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, held)
    return held.getvalue()


@pytest.fixture(scope="module")
def tensors(strides_encoder: None) -> Arrays:
    return random_arrays(MODEL, seed=3)


@pytest.fixture
def served(tensors: Arrays) -> Iterator[Server]:
    with server.serve(torch_file(tensors)) as found:
        yield found


@pytest.fixture
def digest(served: Server) -> str:
    return hashlib.sha256(served.body).hexdigest()


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("RELDEPTH_CACHE", str(tmp_path / "cache"))
    # Set, so that what `--offline` sets is gone after the test.
    monkeypatch.setenv(by_name.OFFLINE, "0")
    monkeypatch.setattr(download, "WAITS", (0.01,) * 4)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def publish(plugin_folder: pathlib.Path, cache: pathlib.Path, served: Server, digest: str):
    """Register the network with what `facts` say of its file, by default all."""

    def register(**facts: Any) -> None:
        facts = {"name": "tiny", "url": served.url, "sha256": digest} | facts
        words = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        (plugin_folder / "tiny.py").write_text(TINY.replace("{files}", f"PublicFile({words})"))
        registry.extend(plugin_folder)

    return register


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_a_photograph_is_predicted_by_name(
    publish: Any,
    served: Server,
    digest: str,
    cache: pathlib.Path,
    tensors: Arrays,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
):
    publish()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    command = ("predict", tmp_path / "photo.png", "--model", "tiny", "--npy", "--output")
    assert run(*command, tmp_path / "one") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"tiny: fetching {served.url}"
    assert told[1].startswith(f"tiny: saved {cache / 'tiny.pt'} (")
    assert told[2:] == [f"tiny: licence MIT; {served.url}"]
    assert sorted(each.name for each in cache.iterdir()) == [
        f"tiny-{digest[:8]}.safetensors", "tiny.pt", "tiny.pt.lock",
    ]  # fmt: skip
    listed = (tmp_path / "one" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in listed] == ["tiny"]

    # The second time neither the server nor the publisher's file is needed.
    (cache / "tiny.pt").unlink()
    assert run(*command, tmp_path / "two", "--offline") == 0
    assert capsys.readouterr().err == ""
    assert len(served.asked) == 1
    first, second = (np.load(tmp_path / name / "photo.npy") for name in ("one", "two"))
    np.testing.assert_array_equal(first, second)
    model = reldepth_jax.load_model("tiny")
    np.testing.assert_array_equal(first, -model.predict(pixels))
    assert same(model.weights().arrays, tensors)
    assert model.provenance["sha256"] == digest


def test_a_network_is_evaluated_by_name(
    publish: Any, tensors: Arrays, monkeypatch: pytest.MonkeyPatch
):
    publish()
    # The evaluation itself is that of `--weights`.
    judged: list[Any] = []
    monkeypatch.setattr(evaluate, "_evaluate_heldout", lambda *given: judged.append(given) or 0)
    assert run("evaluate", "--model", "tiny") == 0
    ((options, _),) = judged
    model, own = evaluate._network(options)
    assert same(model.weights().arrays, tensors)
    assert (own.model, own.data.crop) == (MODEL, (384, 384))
    assert evaluate._origin(options, model) == {"model": "tiny"}
    assert str(options.output) == "tiny_eval"


def test_a_file_of_that_name_goes_before(
    publish: Any, served: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    publish()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_bytes(b"mine")
    with pytest.raises(WeightsError, match="tiny: is neither safetensors nor"):
        reldepth_jax.load_model("tiny")
    assert served.asked == []


def test_a_misspelt_name_is_told_the_right_one():
    with pytest.raises(WeightsError) as caught:
        reldepth_jax.load_model("midas_v21_smal")
    assert str(caught.value) == (
        "midas_v21_smal: no such file, and no public weights of that name. Did you mean"
        " 'midas_v21_small'?"
    )
    with pytest.raises(WeightsError, match="runs/mine.safetensors: no such file$"):
        reldepth_jax.load_model("runs/mine.safetensors")


def refused(name: str = "tiny", kind: type[UserError] = DownloadError) -> str:
    with pytest.raises(kind) as caught:
        by_name.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", ["the variable", "the option"])
def test_offline_nothing_is_fetched(
    how: str,
    publish: Any,
    served: Server,
    cache: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    publish()
    said = (
        "tiny: not there yet, and --offline or RELDEPTH_OFFLINE forbids to fetch it. By hand: save"
        f" {served.url} as {cache / 'tiny.pt'}"
    )
    if how == "the variable":
        monkeypatch.setenv(by_name.OFFLINE, "1")
        assert refused() == said
    else:
        with pytest.raises(DownloadError, match=re.escape(said)):
            run("predict", tmp_path, "--model", "tiny", "--offline")
    assert served.asked == []


def test_failures_say_where_the_file_belongs(publish: Any, served: Server, cache: pathlib.Path):
    publish()
    served.plan = [status(404)]
    assert refused() == (
        "tiny: 127.0.0.1 answers 404 (Not Found). By hand: save"
        f" {served.url} as {cache / 'tiny.pt'}"
    )


def test_a_file_put_there_by_hand_is_used(
    publish: Any, served: Server, cache: pathlib.Path, tensors: Arrays
):
    publish()
    cache.mkdir(parents=True)
    (cache / "tiny.pt").write_bytes(served.body)
    assert same(by_name.load("tiny").arrays, tensors)
    assert served.asked == []


def test_a_wrong_file_put_there_by_hand_is_refused_and_stays(
    publish: Any, served: Server, digest: str, cache: pathlib.Path
):
    publish()
    cache.mkdir(parents=True)
    (cache / "tiny.pt").write_bytes(served.body[:-1])
    wrong = hashlib.sha256(served.body[:-1]).hexdigest()
    assert refused() == (
        f"{cache / 'tiny.pt'} is not the published file: its SHA-256 is {wrong}, expected {digest};"
        " is it whole? Remove it, and run this again. By hand: save"
        f" {served.url} as {cache / 'tiny.pt'}"
    )
    assert (cache / "tiny.pt").read_bytes() == served.body[:-1]


def test_without_an_address_the_place_is_told_and_the_first_digest_holds(
    publish: Any,
    served: Server,
    digest: str,
    cache: pathlib.Path,
    tensors: Arrays,
    capsys: pytest.CaptureFixture[str],
):
    publish(url="", page="https://drive.example/1", file="theirs.pt", sha256="")
    path = cache / "theirs.pt"
    assert refused() == (
        "tiny: its publisher gives no direct address. Get it from https://drive.example/1"
        f" and save it as {path}; then run this again"
    )
    path.write_bytes(served.body)
    assert same(by_name.load("tiny").arrays, tensors)
    assert capsys.readouterr().err.splitlines()[0] == (
        f"tiny: its SHA-256 is not public, it is {digest}; noted in {path}.sha256 and required"
        " from now on"
    )
    # As sha256sum --check reads it.
    assert path.with_name("theirs.pt.sha256").read_text() == f"{digest}  theirs.pt\n"
    by_name.load("tiny")
    assert capsys.readouterr().err == ""
    assert by_name.load("tiny").provenance["source"] == "a test"

    (cache / f"tiny-{digest[:8]}.safetensors").unlink()
    path.write_bytes(torch_file({key: 2 * value for key, value in tensors.items()}))
    assert f"expected {digest}; is it whole? Remove it, or {path}.sha256, and run" in refused()


def test_where_the_publisher_gives_eight_digits_the_rest_is_noted(
    publish: Any, served: Server, digest: str, cache: pathlib.Path, capsys
):
    publish(sha256=digest[:8])
    by_name.load("tiny")
    said = f"tiny: 8 digits of its SHA-256 are public, it is {digest}; noted in {cache}"
    assert said in capsys.readouterr().err
    assert (cache / "tiny.pt.sha256").read_text().startswith(digest)
    # All of it is required when the file has to be fetched again.
    for each in ("tiny.pt", f"tiny-{digest[:8]}.safetensors"):
        (cache / each).unlink()
    served.body = served.body[:-1]
    assert f"not {digest} as published" in refused()


@pytest.mark.parametrize("damage", ["cut", "outdated"])
def test_a_damaged_or_outdated_conversion_is_made_again(
    damage: str, publish: Any, served: Server, digest: str, cache: pathlib.Path, tensors: Arrays
):
    publish()
    weights = by_name.load("tiny")
    kept = cache / f"tiny-{digest[:8]}.safetensors"
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-1])
    else:
        weights.provenance["sha256"] = "0" * 64  # type: ignore[index]: a dict, seen as a mapping
        by_name.file.write(kept, weights)
    assert same(by_name.load("tiny").arrays, tensors)
    assert by_name.file.read(kept).provenance["sha256"] == digest
    assert len(served.asked) == 1


def test_what_is_converted_is_used_where_nothing_can_be_written(
    publish: Any, monkeypatch: pytest.MonkeyPatch
):
    publish()
    by_name.load("tiny")
    monkeypatch.setattr(download, "alone", None)
    monkeypatch.setattr(pathlib.Path, "mkdir", None)
    by_name.load("tiny")


def test_a_conversion_that_cannot_be_kept_is_used_all_the_same(
    publish: Any,
    cache: pathlib.Path,
    digest: str,
    tensors: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish()
    monkeypatch.setattr(by_name.file, "write", full)
    assert same(by_name.load("tiny").arrays, tensors)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{cache / f'tiny-{digest[:8]}.safetensors'} cannot be written (No space left on device);"
        " next time it is converted again"
    )


def loaded_by_three_at_once() -> list[Arrays]:
    found: list[Arrays] = []
    threads = [
        threading.Thread(target=lambda: found.append(by_name.load("tiny").arrays)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    return found


def test_two_at_the_same_time_fetch_and_convert_once(
    publish: Any,
    served: Server,
    tensors: Arrays,
    capsys: pytest.CaptureFixture[str],
):
    publish()
    assert all(same(each, tensors) for each in loaded_by_three_at_once())
    assert len(served.asked) == 1
    assert capsys.readouterr().err.count("licence") == 1


def test_two_at_the_same_time_without_locks_do_not_harm_each_other(
    publish: Any, cache: pathlib.Path, tensors: Arrays, monkeypatch: pytest.MonkeyPatch
):
    publish()
    monkeypatch.setattr(download, "alone", lambda path: contextlib.nullcontext(False))
    assert all(same(each, tensors) for each in loaded_by_three_at_once())
    assert [
        each.name for each in cache.iterdir() if each.suffix not in (".pt", ".safetensors")
    ] == []


ENCODER = """
from reldepth_jax.models.layers import BatchNorm
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import ENCODERS
from tests.kills.plugins import Strides

@ENCODERS.register("steps", files=[{files}])
def steps(*, dtype, rngs):
    return Strides(dtype=dtype, rngs=rngs)
"""


@pytest.fixture
def steps(
    plugin_folder: pathlib.Path, cache: pathlib.Path, tensors: Arrays
) -> Iterator[tuple[Server, Arrays]]:
    """An encoder, which is a plug-in too, with its public weights."""
    front = "encoder."
    held = {k.removeprefix(front): v for k, v in tensors.items() if k.startswith(front)}
    with server.serve(torch_file(held)) as served:
        facts = f"name='steps', url={served.url!r}, licence='BSD-3'"
        (plugin_folder / "steps.py").write_text(ENCODER.replace("{files}", f"PublicFile({facts})"))
        registry.extend(plugin_folder)
        yield served, held


def test_a_training_starts_from_an_encoder_by_name(
    steps: tuple[Server, Arrays], capsys: pytest.CaptureFixture[str]
):
    served, held = steps
    config = training.config(model__encoder="steps", init_from="imagenet:steps")
    assert config.init_part == "network"
    start = init_from.load(config)
    assert start is not None
    # That it is the encoder alone goes without saying.
    assert start.part == "encoder"
    assert same(start.arrays, held)
    assert start.description == "imagenet:steps (steps, tiny.pt)"
    assert "steps: licence BSD-3; " in capsys.readouterr().err
    capsys.readouterr()
    init_from.load(config)
    assert capsys.readouterr().err == ""
    assert len(served.asked) == 1


def test_an_encoder_that_does_not_fit_is_not_fetched(steps: tuple[Server, Arrays]):
    config = training.config(model__encoder="resnet18", init_from="imagenet:steps")
    with pytest.raises(UserError, match="model.encoder is 'steps' there and 'resnet18' here"):
        init_from.load(config)
    assert steps[0].asked == []


def test_a_training_that_cannot_fetch_says_what_else_it_can_start_from(
    steps: tuple[Server, Arrays], cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(by_name.OFFLINE, "1")
    config = training.config(model__encoder="steps", init_from="imagenet:steps")
    with pytest.raises(DownloadError) as caught:
        init_from.load(config)
    assert str(caught.value) == (
        "steps: not there yet, and --offline or RELDEPTH_OFFLINE forbids to fetch it. By hand:"
        f" save {steps[0].url} as {cache / 'tiny.pt'}. Or start from a file, --weights FILE, or"
        " from scratch, --config.init_from= --config.init_part=network"
    )
    scratch = configs.override(config, {"init_from": "", "init_part": "network"})
    assert init_from.load(scratch) is None


def test_configurations_start_from_public_weights():
    redweb = configs.load("configs/redweb.py")
    assert (redweb.init_from, redweb.init_part) == ("imagenet:resnet50", "encoder")
    # As the paper has it: the encoder learns at a tenth of the rate.
    assert redweb.optim.encoder_lr_scale == 0.1
    preset, _ = presets.published(redweb.init_from)
    assert preset.model.encoder == redweb.model.encoder
    assert preset.model.normalisation == redweb.model.normalisation
    assert configs.load("configs/redweb_diw.py").init_part == "network"
    for name, (preset, _) in presets.public(encoders=False).items():
        if name == preset.name:
            finetune = configs.load(f"configs/finetune.py:{name}")
            assert (finetune.init_from, finetune.init_part) == (name, "network")
            assert finetune.model == dataclasses.replace(preset.model, mirrored=False)


def test_a_training_starts_from_a_network_by_name(publish: Any, tensors: Arrays):
    publish()
    config = configs.override(
        training.config(init_from="tiny"),
        {"model.encoder": "strides", "model.decoder_width": "8", "model.output": "disparity"},
    )
    start = init_from.load(config)
    assert start is not None
    assert start.part == "network"
    assert same(start.arrays, tensors)


UNKNOWN = {
    "midas_v21_smal": "no public weights are called 'midas_v21_smal'. Did you mean 'midas_v21_sm",
    "redweb": "redweb: no public weights (none public; train it: configs/redweb.py)",
    "resnet50": "resnet50 is an encoder, which gives no depth; a training can start from it:"
    " --config.init_from=imagenet:resnet50",
    "imagenet:resnet51": "no public weights are called 'imagenet:resnet51'. Did you mean"
    " 'imagenet:resnet50'?",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_names_without_public_weights_are_told(name: str, tmp_path: pathlib.Path):
    for command, *rest in (("predict", tmp_path, "--model"), ("evaluate", "--model"),
                           ("models", "--fetch")):  # fmt: skip
        with pytest.raises(UserError) as caught:
            run(command, *rest, name)
        assert str(caught.value).startswith(UNKNOWN[name])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "midas_v21", "--workdir", "x"], "--model takes the place of --workdir"),
        (["--model", "midas_v21", "--weights", "x"], "--weights and --model are two networks"),
    ],
)
def test_options_that_contradict_each_other_are_told(arguments: list[str], said: str):
    with pytest.raises(UserError, match=said):
        run("evaluate", *arguments)


def test_weights_are_fetched_for_later(publish: Any, cache: pathlib.Path, served: Server, capsys):
    publish()
    assert run("models", "--fetch", "tiny") == 0
    assert capsys.readouterr().out == f"tiny is in {cache}\n"
    run("models", "--fetch", "tiny")
    assert len(served.asked) == 1


def test_the_licence_of_a_file_goes_with_its_conversion(
    publish: Any, cache: pathlib.Path, served: Server
):
    """Of a network with files under several licences."""
    publish(licence="CC-BY-NC 4.0")
    by_name.load("tiny")
    provenance = convert.from_file(cache / "tiny.pt", "tiny").provenance
    assert provenance["licence"] == "CC-BY-NC 4.0"
    assert provenance["source"] == served.url


def test_the_cache_is_in_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    monkeypatch.setenv("RELDEPTH_CACHE", str(tmp_path / "own"))
    assert by_name.folder() == tmp_path / "own" / "weights"
    monkeypatch.delenv("RELDEPTH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert by_name.folder() == tmp_path / "xdg" / "reldepth_jax" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert by_name.folder() == tmp_path / ".cache" / "reldepth_jax" / "weights"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert runtime.cache_folder() is None
    with pytest.raises(CacheError, match="no home directory .* let RELDEPTH_CACHE name a folder"):
        by_name.folder()


PUBLIC = {
    name: found
    for name, found in (presets.public(encoders=False) | presets.public(encoders=True)).items()
    if not found[1].packaged
}


def test_public_files_are_on_https_and_have_a_place_of_their_own():
    files = [public for _, public in PUBLIC.values()]
    assert len({each.file for each in files}) == len({each.name for each in files}) == len(PUBLIC)
    for each in files:
        assert urllib.parse.urlsplit(each.url or each.page).scheme == "https"
        # Publishers name a file by the first digits of its digest, which must be those noted.
        named = re.search(r"-([0-9a-f]{8})\.", each.url)
        if named:
            assert each.sha256.startswith(named[1])
    assert {name for name, (_, each) in PUBLIC.items() if not each.url} == {"midas_v1", "sgrl"}
    assert PUBLIC["imagenet:resnext101_32x8d_wsl"][1].licence == "CC-BY-NC 4.0"


def test_the_page_lists_what_is_public():
    rows = []
    for preset, each in PUBLIC.values():
        facts = catalogue.public_facts(preset, each)
        size = f"{each.size / 1e6:.1f} MB" if each.size else "?"
        known = {64: "all", 8: "8 digits", 0: "none"}[len(each.sha256)]
        where = f"<{each.url}>" if each.url else f"by hand: {each.page}"
        rows.append(f"| `{facts['name']}` | {size} | {known} | {facts['licence']} | {where} |")
    page = pathlib.Path("docs/models.md")
    head = "| name | size | SHA-256 | licence | address |\n| --- | --- | --- | --- | --- |\n"
    table = head + "\n".join(rows) + "\n"
    text = page.read_text(encoding="utf-8")
    if os.environ.get("RELDEPTH_WRITE_DOCS"):
        text = re.sub(rf"{re.escape(head)}(\|.*\n)*", lambda _: table, text)
        page.write_text(text, encoding="utf-8")
    assert table in text
