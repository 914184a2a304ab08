"""Fetching public files: from a server on this machine, whatever can go wrong on the way."""

import contextlib
import hashlib
import io
import pathlib
import re
import shutil
import socket
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from reldepth_jax.public_files import PublicFile
from reldepth_jax.weights import download, https
from reldepth_jax.weights.download import CacheError, DownloadError
from tests.fixtures import server
from tests.fixtures.server import Server, cut, page, plain, status, whole

BODY = np.random.default_rng(0).bytes(700_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[:-1] + bytes([BODY[-1] ^ 1])


@pytest.fixture(autouse=True)
def _here_and_soon(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "WAITS", (0.01,) * 4)


@pytest.fixture
def served() -> Iterator[Server]:
    with server.serve(BODY) as found:
        yield found


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache" / "tiny.pt"


def fetch(url: str, path: pathlib.Path, expected: str = DIGEST, *, locked: bool = True) -> str:
    public = PublicFile(name="tiny", url=url, sha256=expected, size=len(BODY))
    return download.fetch(public, path, expected, locked=locked)


def refused(url: str, path: pathlib.Path, **values: Any) -> str:
    """Return the one line that is said; nothing takes the place of the file."""
    with pytest.raises(DownloadError) as caught:
        fetch(url, path, **values)
    assert not path.exists()
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("tiny: ")
    return said


def by_hand(url: str, path: pathlib.Path) -> str:
    return f"By hand: save {url} as {path}"


def test_a_file_is_fetched_and_what_is_done_is_said(
    served: Server, path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    assert fetch(served.url, path) == DIGEST
    assert path.read_bytes() == BODY
    assert [each.name for each in path.parent.iterdir()] == ["tiny.pt"]
    told = capsys.readouterr()
    first, last = told.err.splitlines()
    assert first == f"tiny: fetching {served.url}"
    assert re.fullmatch(rf"tiny: saved {re.escape(str(path))} \(0\.7 MB, \d+ s\)", last)
    assert told.out == ""
    assert "range" not in served.asked[0]
    assert served.asked[0]["user-agent"].startswith("reldepth_jax/")


def test_the_first_digits_of_the_digest_are_enough(served: Server, path: pathlib.Path):
    assert fetch(served.url, path, DIGEST[:8]) == DIGEST


def test_a_server_without_length_and_mark_is_enough(served: Server, path: pathlib.Path):
    served.plan = [plain]
    assert fetch(served.url, path) == DIGEST


def test_a_cut_connection_goes_on_where_it_was_cut(
    served: Server, path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    # More often than it is tried again in vain: each time something is gained.
    cuts = [100_000 * k for k in range(1, 7)]
    served.plan = [*map(cut, cuts), whole]
    assert fetch(served.url, path) == DIGEST
    assert path.read_bytes() == BODY
    asked = [(each.get("range"), each.get("if-range")) for each in served.asked]
    assert asked == [(None, None), *((f"bytes={size}-", '"1"') for size in cuts)]
    told = capsys.readouterr().err
    assert "tiny: 127.0.0.1 ends after 0.2 MB of 0.7 MB; trying again in 0.01 s\n" in told


def test_what_never_comes_whole_is_given_up_and_kept_for_the_next_time(
    served: Server, path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    served.plan = [cut(200_000)]
    said = refused(served.url, path)
    assert said == (
        "tiny: 127.0.0.1 ends after 0.2 MB of 0.7 MB, 5 times. The 0.2 MB that have come are kept:"
        f" the same command goes on. {by_hand(served.url, path)}"
    )
    # The first try gained something.
    assert len(served.asked) == 1 + 4
    capsys.readouterr()
    served.plan = [whole]
    assert fetch(served.url, path) == DIGEST
    assert served.asked[-1]["range"] == "bytes=200000-"
    assert f"tiny: fetching {served.url} from 0.2 MB on" in capsys.readouterr().err
    assert sorted(each.name for each in path.parent.iterdir()) == ["tiny.pt"]


def test_a_file_that_has_changed_meanwhile_is_not_glued(served: Server, path: pathlib.Path):
    served.body, served.plan = OTHER[::-1], [cut(200_000)]
    refused(served.url, path)
    served.body, served.etag, served.plan = BODY, '"2"', [whole]
    assert fetch(served.url, path) == DIGEST
    assert path.read_bytes() == BODY
    # Asked for the rest of the old version once, and given all of the new one.
    assert served.asked[-1]["if-range"] == '"1"'


def test_a_part_without_a_mark_is_fetched_anew(served: Server, path: pathlib.Path):
    path.parent.mkdir()
    path.with_name("tiny.pt.part").write_bytes(OTHER[:3000])
    assert fetch(served.url, path) == DIGEST
    assert "range" not in served.asked[0]


def test_a_weak_mark_is_none(served: Server, path: pathlib.Path):
    """W/"…" says that two versions mean the same, not that their bytes are equal."""
    served.etag, served.plan = 'W/"1"', [cut(200_000), whole]
    assert fetch(served.url, path) == DIGEST
    assert all("range" not in each for each in served.asked)


def test_parts_that_do_not_fit_are_fetched_anew_once(
    served: Server, path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    path.parent.mkdir()
    path.with_name("tiny.pt.part").write_bytes(OTHER[::-1][:3000])
    path.with_name("tiny.pt.part.etag").write_text('"1"')
    assert fetch(served.url, path) == DIGEST
    assert [each.get("range") for each in served.asked] == ["bytes=3000-", None]
    assert "the parts do not make the published file" in capsys.readouterr().err


def test_a_whole_part_is_only_compared(served: Server, path: pathlib.Path):
    """The process was ended between the last byte and the new name."""
    path.parent.mkdir()
    path.with_name("tiny.pt.part").write_bytes(BODY)
    path.with_name("tiny.pt.part.etag").write_text('"1"')
    assert fetch(served.url, path) == DIGEST
    assert served.asked[0]["range"] == "bytes=700000-"
    assert len(served.asked) == 1


def test_a_server_that_sends_another_part_is_asked_for_all(served: Server, path: pathlib.Path):
    def other_part(handler: server.Handler, served: Server) -> None:
        handler.head(206, ETag='"1"', Content_Range="bytes 0-699999/700000", Content_Length=700_000)
        handler.wfile.write(BODY)

    served.plan = [cut(200_000), other_part, whole]
    assert fetch(served.url, path) == DIGEST
    assert "range" not in served.asked[2]


@pytest.mark.parametrize("expected", [DIGEST, DIGEST[:8]])
def test_a_wrong_digest_is_told_and_nothing_is_kept(
    expected: str, served: Server, path: pathlib.Path
):
    served.body = OTHER
    digest, dots = hashlib.sha256(OTHER).hexdigest(), "" if len(expected) == 64 else "…"
    assert refused(served.url, path, expected=expected) == (
        f"tiny: what 127.0.0.1 sends (0.7 MB) has the SHA-256 {digest}, not {expected}{dots} as"
        " published: it was changed, by the publisher or on the way. Nothing is kept."
        f" {by_hand(served.url, path)}"
    )
    assert not path.with_name("tiny.pt.part").exists()


def test_a_passing_failure_is_mended_by_another_try(
    served: Server, path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    served.plan = [status(503), status(429, Retry_After=0), whole]
    assert fetch(served.url, path) == DIGEST
    told = capsys.readouterr().err
    said = "tiny: 127.0.0.1 answers 503 (Service Unavailable); trying again in 0.01 s\n"
    assert said in told
    assert "answers 429 (Too Many Requests); trying again in 0 s\n" in told


def test_a_long_wait_that_a_server_asks_for_is_cut():
    error = urllib.error.HTTPError("u", 503, "", {"Retry-After": "86400"}, io.BytesIO())  # type: ignore[arg-type]: a dict will do

    class Opener:
        def open(self, *_: object, **__: object) -> None:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urllib.request, "build_opener", lambda *_: Opener())
        with pytest.raises(https.Passing) as caught:
            https.get("https://x.invalid/a", 0, "")
    assert caught.value.wait == 60


REFUSED: dict[str, tuple[Callable[..., None], str, int]] = {
    "404": (status(404), "127.0.0.1 answers 404 (Not Found)", 1),
    "403": (status(403), "127.0.0.1 answers 403 (Forbidden)", 1),
    "503": (status(503), "127.0.0.1 answers 503 (Service Unavailable), 5 times", 5),
    "a web page": (
        page,
        "127.0.0.1 answers with a web page in place of the file (does this network ask for a"
        " login?)",
        1,
    ),
    "a redirect to http": (
        status(302, Location="http://example.com/x.pt"),
        "127.0.0.1 redirects to http://example.com/x.pt, which is not https; not followed",
        1,
    ),
    "a redirect to a file": (
        status(302, Location="file:///etc/passwd"),
        "127.0.0.1 answers 302 (Found - Redirection to url 'file:///etc/passwd' is not allowed)",
        1,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_server_refuses_is_one_line(case: str, served: Server, path: pathlib.Path):
    answer, said, times = REFUSED[case]
    served.plan = [answer]
    assert refused(served.url, path) == f"tiny: {said}. {by_hand(served.url, path)}"
    assert len(served.asked) == times


def test_redirects_are_followed_with_what_was_asked_for(served: Server, path: pathlib.Path):
    served.plan = [status(302, Location="/elsewhere"), cut(200_000),
                   status(302, Location="/elsewhere"), whole]  # fmt: skip
    assert fetch(served.url, path) == DIGEST
    assert served.asked[-1]["range"] == "bytes=200000-"


def test_from_https_nothing_leads_to_this_machine():
    request = urllib.request.Request("https://example.com/x.pt")
    with pytest.raises(https.Final, match="redirects to http://127.0.0.1/x, which is not https"):
        https._Redirects().redirect_request(
            request, io.BytesIO(), 302, "", {}, "http://127.0.0.1/x"
        )


def unused() -> int:
    """Return the number of a port where nobody listens."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def test_a_refused_connection_is_one_line(path: pathlib.Path):
    url = f"http://127.0.0.1:{unused()}/tiny.pt"
    said = refused(url, path)
    assert said == f"tiny: 127.0.0.1 refuses the connection. {by_hand(url, path)}"


def test_a_dead_proxy_is_one_line_without_its_password(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    port = unused()
    monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{port}")
    url = "https://weights.example/tiny.pt"
    assert refused(url, path) == (
        f"tiny: the proxy 127.0.0.1:{port} on the way to weights.example refuses the connection."
        f" {by_hand(url, path)}"
    )


def test_a_proxy_that_forbids_is_one_line(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def forbid(handler: server.Handler) -> None:
        handler.send_error(407)

    with server.serve(b"") as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.Handler, "do_CONNECT", forbid, raising=False)
        port = proxy.url.split("/")[2]
        monkeypatch.setenv("https_proxy", f"http://{port}")
        url = "https://weights.example/tiny.pt"
        assert refused(url, path) == (
            f"tiny: the proxy {port} on the way to weights.example cannot be used (Tunnel"
            " connection failed: 407 Proxy Authentication Required)."
            f" {by_hand(url, path)}"
        )


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


WITHOUT_NETWORK = {
    "no name": (
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        "no network, or no such name: weights.example (Name or service not known)",
    ),
    "no route": (
        OSError(101, "Network is unreachable"),
        "no network: weights.example ([Errno 101] Network is unreachable)",
    ),
    "silent": (TimeoutError("timed out"), "weights.example is silent for 30 s, 5 times"),
    "reset": (
        ConnectionResetError(104, "Connection reset by peer"),
        "the connection to weights.example broke ([Errno 104] Connection reset by peer), 5 times",
    ),
}


@pytest.mark.parametrize("case", WITHOUT_NETWORK)
def test_without_a_network_it_is_one_line(
    case: str, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    error, said = WITHOUT_NETWORK[case]
    monkeypatch.setattr(socket, "create_connection", failing(error))
    url = "https://weights.example/tiny.pt"
    assert refused(url, path) == f"tiny: {said}. {by_hand(url, path)}"


def test_a_certificate_that_is_not_trusted_is_one_line(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    monkeypatch.setattr(socket, "create_connection", failing(error))
    url = "https://weights.example/tiny.pt"
    assert refused(url, path) == (
        "tiny: the certificate of weights.example is not trusted here (self-signed certificate);"
        f" SSL_CERT_FILE can name a file of those to trust. {by_hand(url, path)}"
    )


def cache_error(url: str, path: pathlib.Path, reason: str) -> None:
    with pytest.raises(CacheError) as caught:
        fetch(url, path)
    assert caught.value.exit_code == 6
    assert str(caught.value) == (
        f"tiny: {path.parent} {reason}; mend that, or let RELDEPTH_CACHE name another folder"
    )
    assert not path.exists()


def test_too_little_space_is_told_before_anything_comes(
    served: Server, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 600_000))
    cache_error(served.url, path, "has no space left (0.7 MB are needed)")
    assert path.with_name("tiny.pt.part").stat().st_size == 0


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_disk_that_fills_meanwhile_is_one_line(
    served: Server, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    # A device cannot be cut.
    monkeypatch.setattr(download, "_from_start", lambda *_: 0)
    path.parent.mkdir()
    path.with_name("tiny.pt.part").symlink_to("/dev/full")
    cache_error(served.url, path, "has no space left (0.7 MB are needed)")


def test_a_folder_that_cannot_be_written_is_one_line(served: Server, tmp_path: pathlib.Path):
    (tmp_path / "cache").write_text("a file")
    path = tmp_path / "cache" / "weights" / "tiny.pt"
    cache_error(served.url, path, "cannot be written to (Not a directory)")
    assert served.asked == []


def test_without_locks_nothing_is_shared_and_nothing_stays(served: Server, path: pathlib.Path):
    served.plan = [cut(200_000)]
    said = refused(served.url, path, locked=False)
    assert "kept" not in said
    assert list(path.parent.iterdir()) == []
    served.plan = [whole]
    assert fetch(served.url, path, locked=False) == DIGEST
    assert [each.name for each in path.parent.iterdir()] == ["tiny.pt"]


def test_a_platform_without_locks_is_told_so(tmp_path: pathlib.Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with download.alone(tmp_path / "x") as locked:
        assert locked is False
    with contextlib.suppress(KeyError):
        monkeypatch.delitem(sys.modules, "fcntl")


def test_the_second_waits_for_the_first(tmp_path: pathlib.Path, capsys):
    path, inside, done = tmp_path / "x.pt", [], threading.Event()

    def second() -> None:
        with download.alone(path) as locked:
            inside.append(locked)
        done.set()

    with download.alone(path) as locked:
        assert locked is True
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.1)
        assert inside == []
    assert done.wait(10)
    thread.join()
    assert inside == [True]
    said = capsys.readouterr().err
    assert said == f"waiting for another process, which fetches {path}\n"


def test_progress_has_rate_and_time_left(
    served: Server,
    path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(download, "PROGRESS_EVERY", 0.0)
    fetch(served.url, path)
    lines = capsys.readouterr().err.splitlines()[1:-1]
    assert lines
    shown = re.compile(r"tiny: (\d\.\d) of 0\.7 MB, \d+\.\d MB/s, 0 s left")
    assert all(map(shown.fullmatch, lines))
    assert lines[-1].startswith("tiny: 0.7 of 0.7 MB")


def test_progress_of_a_terminal_stays_on_one_line_and_goes(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, now = Terminal(), iter([0.0, 1.0, 1.1, 4.0])
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(download.time, "monotonic", lambda: next(now))
    progress = download._Progress("tiny", 1_000_000)
    for done in (3_000_000, 3_100_000, 9_000_000):
        progress.show(done, 1_209_000_000)
    progress.close()
    first, second, blank = terminal.getvalue().split("\r")[1:4]
    assert first.rstrip() == "tiny: 3.0 of 1209.0 MB, 2.0 MB/s, 10 min left"
    assert second.rstrip() == "tiny: 9.0 of 1209.0 MB, 2.0 MB/s, 10 min left"
    assert blank.strip() == ""
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": "http://example.com/x.pt"}, "is not an https address"),
        ({"url": "ftp://example.com/x.pt"}, "is not an https address"),
        ({}, "give its url, or the page"),
        ({"url": "https://x.org/x.pt", "sha256": "12"}, "64 hexadecimal digits"),
        ({"url": "https://x.org/x.pt?a=1"}, "cannot be the name of a file"),
        ({"url": "https://x.org/x.pt", "file": "../x.pt"}, "cannot be the name of a file"),
    ],
)
def test_facts_that_cannot_be_are_refused_when_registered(values: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        PublicFile(name="x", **values)
