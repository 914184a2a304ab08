"""Public weights by name: fetched once, compared with their digest, converted, kept.

They are kept in the folder `weights` of the user's cache (`runtime.cache_folder`): FILE as the
publisher has it, and NAME-DIGEST.safetensors, converted, which alone is needed from then on. A file
that somebody has put there by hand is used as if it had been fetched. Where the publisher does not
give the whole SHA-256, that of the first file is written to FILE.sha256 and required from then on.
"""

import contextlib
import os
import pathlib
import re

from reldepth_jax import runtime
from reldepth_jax.public_files import PublicFile
from reldepth_jax.weights import convert, download, file, presets
from reldepth_jax.weights.download import CacheError, DownloadError, say
from reldepth_jax.weights.file import Weights
from reldepth_jax.weights.presets import Preset
from reldepth_jax.weights.tensors import WeightsError

OFFLINE = "RELDEPTH_OFFLINE"
"""Environment variable: nothing is fetched unless it is empty or 0."""


def offline() -> bool:
    """Return whether the user forbids to fetch anything."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def load(name: str) -> Weights:
    """Return the public weights of that name (`presets.published`).

    Says on stderr what it fetches, and the licence when it converts: once. Raises DownloadError or
    CacheError, one line with what to do by hand; WeightsError for files that cannot be converted;
    UserError for unknown names.
    """
    preset, public = presets.published(name)
    if public.packaged:
        return file.read(pathlib.Path(__file__).with_name("shipped") / public.file)
    path = folder() / public.file
    # Not locked at first: the cache of a group may be read-only.
    weights = _converted(preset, public, path)
    if weights is not None:
        return weights
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with download.alone(path) as locked:
        weights = _converted(preset, public, path)
        if weights is None:
            weights = _convert(preset, public, path, _original(public, path, locked=locked))
    return weights


def folder() -> pathlib.Path:
    """Return where public weights are kept; CacheError if there is no such place."""
    cache = runtime.cache_folder()
    if cache is None:
        raise CacheError("no home directory to keep weights in; let RELDEPTH_CACHE name a folder")
    return cache / "weights"


def _converted(preset: Preset, public: PublicFile, path: pathlib.Path) -> Weights | None:
    """Return what an earlier call has converted; None if it is not there, damaged, or outdated."""
    digest = _expected(public, path)
    kept = _kept(public, path, digest)
    if not digest or not kept.exists():
        return None
    try:
        weights = file.read(kept)
    except WeightsError as error:
        say(f"converting again: {error}")
        return None
    same = weights.model == preset.model and weights.preprocessing == preset.preprocessing
    return weights if same and weights.provenance.get("sha256", "").startswith(digest) else None


def _original(public: PublicFile, path: pathlib.Path, *, locked: bool) -> str:
    """Let the publisher's file be at `path`; return its digest, which is the right one."""
    expected = _expected(public, path)
    if path.exists():
        digest = download.file_digest(path)
        if not digest.startswith(expected):
            raise DownloadError(
                f"{path} is not the published file: its SHA-256 is {digest}, expected {expected};"
                f" is it whole? Remove it{f', or {_record(path)}' * _record(path).exists()}, and"
                f" run this again. {download.by_hand(public, path)}"
            )
    elif not public.url:
        raise DownloadError(
            f"{public.name}: its publisher gives no direct address."
            f" {download.by_hand(public, path)}; then run this again"
        )
    elif offline():
        raise DownloadError(
            f"{public.name}: not there yet, and --offline or {OFFLINE} forbids to fetch it."
            f" {download.by_hand(public, path)}"
        )
    else:
        digest = download.fetch(public, path, expected, locked=locked)
    if len(expected) < 64:
        known = f"8 digits of its SHA-256 are public, it is {digest}"
        if not expected:
            known = f"its SHA-256 is not public, it is {digest}"
        with contextlib.suppress(OSError):
            _record(path).write_text(f"{digest}  {path.name}\n", encoding="ascii")
            say(f"{public.name}: {known}; noted in {_record(path)} and required from now on")
    return digest


def _convert(preset: Preset, public: PublicFile, path: pathlib.Path, digest: str) -> Weights:
    weights = convert.from_file(path, preset.name)
    say(f"{public.name}: licence {weights.provenance['licence']}; {weights.provenance['source']}")
    kept = _kept(public, path, digest)
    try:
        file.write(kept, weights)
    except OSError as error:
        say(f"{kept} cannot be written ({error.strerror}); next time it is converted again")
    return weights


def _kept(public: PublicFile, path: pathlib.Path, digest: str) -> pathlib.Path:
    return path.with_name(f"{public.name}-{digest[:8]}.safetensors")


def _expected(public: PublicFile, path: pathlib.Path) -> str:
    """Return all that is known of the digest: what is public, or that of the first file."""
    if len(public.sha256) == 64:
        return public.sha256
    with contextlib.suppress(OSError, UnicodeDecodeError):
        noted = re.match(r"[0-9a-f]{64}", _record(path).read_text(encoding="ascii"))
        if noted and noted[0].startswith(public.sha256):
            return noted[0]
    return public.sha256


def _record(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.sha256")
