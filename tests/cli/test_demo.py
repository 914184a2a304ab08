"""`reldepth demo`: the folder that it writes, the server, and mistakes. The page: tests/demo."""

import dataclasses
import gzip
import hashlib
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import reldepth_jax
from reldepth_jax.cli import demo
from reldepth_jax.config import ConfigError
from reldepth_jax.demo import build, folder, graphs
from reldepth_jax.demo.server import server
from reldepth_jax.errors import UserError
from reldepth_jax.export import onnx_file


def run(*words: object) -> int:
    return demo.main([*map(str, words)])


def test_a_page_is_written_whole_and_replaced_on_request(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    place = tmp_path / "new" / "page"
    assert run("--export", place) == 0
    out = capsys.readouterr().out
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    assert f"written: {place} ({size / 1e6:.1f} MB)" in out
    assert "licence of the weights: research use only" in out
    facts = json.loads((place / folder.FACTS).read_text())
    model = reldepth_jax.load_model()
    assert facts["temperature"] == model.temperature
    assert facts["preprocessing"] == model.preprocessing.to_dict()
    assert (facts["name"], facts["larger_is"]) == ("reldepth_small", "farther")
    for name in re.findall(r'(?:src|href)="([^"]+)"', (place / "index.html").read_text()):
        assert (place / name).is_file()
    (place / "index.html").write_text("old")
    (place / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is not empty; name another folder, or --force"):
        run("--export", place)
    assert (place / "index.html").read_text() == "old"
    assert run("--export", place, "--force") == 0
    assert (place / "index.html").read_bytes() == (folder.PAGE / "index.html").read_bytes()
    assert (place / "mine.txt").read_text() == "kept"


def test_a_folder_of_other_things_is_not_written_into(tmp_path: pathlib.Path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match="holds other files than a page; name another folder"):
        run("--export", tmp_path, "--force")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_the_network_of_the_package_needs_no_exporter():
    model = reldepth_jax.load_model()
    (graph,) = graphs.FOLDER.iterdir()
    # Of another network the graph would name wrong places: build.py makes it again.
    assert graphs.path_of(model) == graph


def test_another_network_is_exported_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    # Not the digest of any graph; the exporter itself is tested in tests/export.
    shipped = reldepth_jax.load_model()
    monkeypatch.setattr(type(shipped), "digest", "0" * 16)
    monkeypatch.setattr(onnx_file, "export", lambda model, name: (f"ONNX of {name}".encode(), 0.0))
    folder.write(tmp_path, dataclasses.replace(shipped, temperature=None), "mine")
    assert (tmp_path / folder.NETWORK).read_bytes() == b"ONNX of mine"
    assert not (tmp_path / graphs.ARRAYS).exists()
    facts = json.loads((tmp_path / folder.FACTS).read_text())
    assert (facts["arrays"], facts["temperature"]) == (None, None)


def test_the_runtime_is_the_pinned_one():
    lying = {path.name.removesuffix(".gz"): path for path in build.PLACE.iterdir()}
    assert set(lying) == {*build.FILES, "LICENSE", "README.md"}
    for name, digest in build.FILES.items():
        data = lying[name].read_bytes()
        data = gzip.decompress(data) if lying[name].suffix == ".gz" else data
        assert hashlib.sha256(data).hexdigest() == digest
    assert build.VERSION in lying["README.md"].read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--export", "x", "--port", "1"], "--port and --no-browser belong to the server"),
        (["--force"], "--force belongs to --export"),
        (["--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        (["--model", "midas_v2_small"], "Did you mean 'midas_v21_small'"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str):
    with pytest.raises(UserError, match=re.escape(said)):
        run(*words)


def test_a_file_is_no_folder(tmp_path: pathlib.Path):
    (tmp_path / "page").write_text("kept")
    with pytest.raises(UserError, match="is a file; name a folder"):
        run("--export", tmp_path / "page", "--force")


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used .*; name another one"):
            run("--port", port)


def test_the_server_isolates_the_page_and_stays_in_its_folder(tmp_path: pathlib.Path):
    (tmp_path / "secret.txt").write_text("secret")
    place = tmp_path / "page"
    place.mkdir()
    (place / "a.mjs").write_text("export {};")
    with server(place) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        assert made.server_address[0] == "127.0.0.1"
        connection = http.client.HTTPConnection("127.0.0.1", made.server_port, timeout=10)
        connection.request("GET", "/a.mjs")
        answer = connection.getresponse()
        assert answer.read() == b"export {};"
        assert answer.headers["Content-Type"] == "text/javascript"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/missing"):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 404
            assert b"secret" not in answer.read().replace(b"secret.txt", b"")
        made.shutdown()


def test_it_serves_until_ctrl_c(tmp_path: pathlib.Path):
    command = [sys.executable, "-m", "reldepth_jax", "demo", "--no-browser", "--port", "0"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    line = started.stdout.readline()
    found = re.fullmatch(r"reldepth_small is at http://127\.0\.0\.1:(\d+)/; Ctrl-C ends it\n", line)
    assert found
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)
    connection.request("GET", "/")
    assert b"Which of two points" in connection.getresponse().read()
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, "")
