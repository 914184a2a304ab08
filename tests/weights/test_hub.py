"""Folders as the Hugging Face hub has them: written, loaded, uploaded and fetched, on this machine.

The hub is a server of this test (`Hub`) that keeps what is uploaded: no network is touched.
"""

import argparse
import base64
import contextlib
import hashlib
import http.server
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.numpy

import reldepth_jax
from reldepth_jax.cli import convert, evaluate, export, predict, which_network
from reldepth_jax.config import Config, ConfigError
from reldepth_jax.errors import UserError
from reldepth_jax.weights import hub, init_from
from reldepth_jax.weights.download import DownloadError

REPOSITORY = "someone/depth"


class Hub(http.server.BaseHTTPRequestHandler):
    """What of the hub's interface an upload without Xet and a download take."""

    files: dict[str, bytes]
    blobs: dict[str, bytes]

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        name = self.path.partition("/resolve/main/")[2].partition("?")[0]
        if self.path.startswith(f"/{REPOSITORY}/resolve") and name in self.files:
            digest = hashlib.sha256(self.files[name]).hexdigest()
            self._send(200, self.files[name], ETag=f'"{digest}"', X_Repo_Commit="c" * 40)
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            self._json({"id": REPOSITORY, "sha": "c" * 40, "siblings": []})
        else:
            self._send(404, X_Error_Code="RepoNotFound", X_Error_Message="no such repository")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.blobs[hashlib.sha256(body).hexdigest()] = body
        self._send(200, ETag='"1"')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        here = f"http://127.0.0.1:{self.server.server_address[1]}"  # pyright: ignore[reportIndexIssue]: an address of IPv4
        if self.headers["Authorization"] != "Bearer hf_test":
            self._json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._json({"url": f"{here}/{REPOSITORY}", "name": REPOSITORY})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith("s") else "regular",
                    "shouldIgnore": False,
                }
                for each in asked
            ]
            self._json({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{here}/put/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.blobs[value["oid"]]
            self._json(
                {"commitUrl": f"{here}/{REPOSITORY}/commit/{'c' * 40}", "commitOid": "c" * 40}
            )
        else:
            self._json({}, 200)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, dict[str, bytes]]]:
    handler = type("Bound", (Hub,), {"files": {}, "blobs": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler.files
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def model() -> reldepth_jax.Model:
    return reldepth_jax.load_model()


def same(a: reldepth_jax.Model, b: reldepth_jax.Model) -> bool:
    facts = ("config", "preprocessing", "temperature", "larger_is", "unit", "digest")
    return all(getattr(a, name) == getattr(b, name) for name in facts)


def test_a_folder_comes_back_as_the_same_network(model: reldepth_jax.Model, tmp_path: pathlib.Path):
    folder = tmp_path / "new" / "mine"
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    for loaded in (reldepth_jax.load_model(folder), reldepth_jax.Model.from_pretrained(folder)):
        assert same(loaded, model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "reldepth_jax"
    assert config["larger_is"] == "farther"
    with pytest.raises(UserError, match="exists; name a new folder"):
        model.save_pretrained(folder)


def test_the_card_has_what_the_hub_reads(model: reldepth_jax.Model, tmp_path: pathlib.Path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    model.save_pretrained(tmp_path / "mine", half=True)
    card = huggingface_hub.ModelCard.load(tmp_path / "mine" / "README.md")
    told = card.data.to_dict()
    assert told["license"] == "other"
    assert told["pipeline_tag"] == "depth-estimation"
    assert told["library_name"] == "reldepth_jax"
    assert "research use only" in card.text
    assert "shorter side is 192" in card.text


@pytest.mark.parametrize(
    ("licence", "id"), [("MIT", "mit"), ("CC-BY-NC 4.0", "cc-by-nc-4.0"), ("as MIT", "other")]
)
def test_licences_have_the_names_of_the_hub(licence: str, id: str, model: reldepth_jax.Model):
    from reldepth_jax.weights.facts import facts

    about = facts(model.weights(), "x") | {"licence": licence}
    assert f"license: {id}\n" in hub.card(about)


UPLOAD = """
import sys, reldepth_jax
from reldepth_jax.weights import hub
from reldepth_jax.weights.download import DownloadError
address = reldepth_jax.load_model(sys.argv[1]).push_to_hub("someone/depth", half=True)
print(address)
print(reldepth_jax.Model.from_pretrained("someone/depth").digest)
print(reldepth_jax.load_model("hub:someone/depth").digest)
for words in (["nobody/nothing"], ["someone/depth", "no-such-revision"]):
    try:
        hub.fetch(*words)
    except DownloadError as error:
        print(error)
"""


def test_uploaded_and_fetched_it_is_the_same(model: reldepth_jax.Model, tmp_path: pathlib.Path):
    model.save_pretrained(tmp_path / "mine")
    with serving() as (url, files):
        environment = os.environ | {
            "HF_ENDPOINT": url, "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        words = [sys.executable, "-c", UPLOAD, str(tmp_path / "mine")]
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        address, *digests, unknown, revision = done.stdout.splitlines()
    assert REPOSITORY in address
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert len(files["model.safetensors"]) < 12e6
    # Its numbers are float16 already: nothing is lost.
    assert digests == [model.digest] * 2
    assert unknown.startswith("hub:nobody/nothing: 404")
    assert revision.startswith("hub:someone/depth: 404")


def test_without_a_network_what_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RELDEPTH_OFFLINE", "1")
    with pytest.raises(DownloadError, match="hub:nobody/nothing: "):
        reldepth_jax.load_model("hub:nobody/nothing")


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "a/b\n", "../x y"])
def test_other_names_are_refused(name: str):
    with pytest.raises(UserError, match="expected USER/REPOSITORY"):
        hub.fetch(name)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    missing = "huggingface_hub"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    with pytest.raises(UserError, match=r"huggingface_hub is not installed: .*jax\[hub\]"):
        hub.fetch(REPOSITORY)


def test_a_folder_is_a_network_wherever_one_is_named(
    model: reldepth_jax.Model, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    folder, copy = tmp_path / "mine", tmp_path / "copy.safetensors"
    model.save_pretrained(folder)
    assert convert.main([str(folder), str(copy)]) == 0
    assert same(reldepth_jax.load_model(copy), model)
    start = init_from.load(Config(model=model.config, init_from=str(folder)))
    assert start is not None
    assert start.description.startswith(f"{folder} (reldepth_small")
    few = ["--num-images", "1", "--config.data.crop=32,32", "--config.eval.image_size=32"]
    assert evaluate.main(["--weights", str(folder), *few]) == 0
    # Where `predict` looks for the temperature.
    options = argparse.Namespace(workdir=None, weights=str(folder), model=None)
    assert (which_network.evaluation(options) / "test.json").exists()


def test_a_name_of_the_hub_is_one_wherever_a_network_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RELDEPTH_OFFLINE", "1")
    name = "hub:nobody/nothing"
    for start in (
        lambda: convert.main([name, str(tmp_path / "copy.safetensors")]),
        lambda: evaluate.main(["--model", name]),
        lambda: init_from.load(Config(init_from=name)),
    ):
        with pytest.raises(DownloadError, match=f"^{name}: "):
            start()


def test_the_command_writes_a_folder_and_predict_takes_it(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "mine"
    assert export.main(["--output", str(folder), "--format", "hub", "--float16"]) == 0
    assert "written: " in capsys.readouterr().out
    held = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {array.dtype for array in held.values()} == {np.dtype(np.float16)}
    assert same(reldepth_jax.load_model(folder), reldepth_jax.load_model())
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        export.main(["--output", str(folder), "--format", "hub"])
    with pytest.raises(ConfigError, match="ends in neither"):
        export.main(["--output", str(tmp_path / "other")])
    assert predict.main(["nowhere.jpg", f"--weights={folder}", f"--output={tmp_path}/out"]) == 1
