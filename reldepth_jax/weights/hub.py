"""Folders as the Hugging Face hub has them, and networks from there (extra `hub`).

A folder holds `model.safetensors`, the file of `weights.file`, which alone is read; `config.json`,
the same facts for people and for the hub's counts; and `README.md`, a card to go on writing.
"""

import json
import os
import pathlib
import re
import shutil
import tempfile
import uuid

from reldepth_jax.errors import UserError, printable, require
from reldepth_jax.weights import file
from reldepth_jax.weights.by_name import OFFLINE
from reldepth_jax.weights.download import DownloadError
from reldepth_jax.weights.facts import facts
from reldepth_jax.weights.file import Weights

FILE = "model.safetensors"
PREFIX = "hub:"
"""In front of USER/REPOSITORY wherever a network is named."""

# The hub's names of licences; any other one is told in the card.
_LICENCES = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "BSD-3": "bsd-3-clause",
    "CC-BY-NC 4.0": "cc-by-nc-4.0",
}
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")

_CARD = """\
---
license: {licence_id}
library_name: reldepth_jax
pipeline_tag: depth-estimation
tags:
- depth-estimation
- monocular-depth-estimation
- relative-depth
- jax
---

# {name}

Depth from one photograph, by [reldepth_jax](https://pypi.org/project/reldepth-jax/).

```python
import reldepth_jax

model = reldepth_jax.Model.from_pretrained("USER/REPOSITORY")  # or this folder
depth = model.predict("photo.jpg")  # float32 (h, w); larger is {larger_is}
```

| | |
| --- | --- |
| architecture | {architecture} |
| larger values are | {larger_is} |
| unit | {unit} |
| input | {input}. {size_rule} |
| temperature of the confidence | {confidence_temperature} |
| licence of the weights | {licence} |
| source | {source} |
| started from | {started_from} |
| digest of the weights | {weights_digest} |
| written by | {made_by} |

Not stated here: what it was trained on, how well it does, and where it fails.
"""


def write_folder(
    folder: str | os.PathLike[str], weights: Weights, name: str, *, half: bool = False
) -> None:
    """Write a new folder, whole or not at all; `half` as in `weights.file.write`.

    Raises UserError if the folder is there already.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise UserError(f"{printable(folder)} exists; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.parent / f".{uuid.uuid4().hex}.tmp"
    made.mkdir()
    try:
        about = facts(weights, name)
        file.write(made / FILE, weights, half=half)
        config = {"model_type": "reldepth_jax", **file.metadata(weights)}
        (made / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (made / "README.md").write_text(card(about), encoding="utf-8")
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def card(about: dict[str, str]) -> str:
    """Return the card of a network with these facts (`weights.facts`)."""
    licence = _LICENCES.get(about["licence"], "other")
    shown = {key: printable(value).replace("|", r"\|") for key, value in about.items()}
    return _CARD.format(**{"started_from": "-", **shown}, licence_id=licence)


def fetch(repository: str, revision: str | None = None) -> pathlib.Path:
    """Return the file of weights of USER/REPOSITORY, fetched once into the hub's own cache.

    Raises UserError without huggingface_hub or for another name, DownloadError for what cannot be
    fetched.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{printable(repository)}: expected USER/REPOSITORY of the hub")
    require("hub", "huggingface_hub")
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.hf_hub_download(
            repository,
            FILE,
            revision=revision,
            local_files_only=os.environ.get(OFFLINE, "0") not in ("", "0"),
        )
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DownloadError(f"{PREFIX}{repository}: {printable(reason)}") from None
    return pathlib.Path(found)


def located(origin: str) -> str:
    """Return the file of weights of a folder as `write_folder` makes it, or of `hub:…`, fetched.

    Whatever else is named is returned as it is. Raises as `fetch`.
    """
    if origin.startswith(PREFIX) and not os.path.exists(origin):
        return os.fspath(fetch(origin.removeprefix(PREFIX)))
    inside = os.path.join(origin, FILE)
    return inside if os.path.isfile(inside) else origin


def push(
    weights: Weights,
    repository: str,
    *,
    name: str = "",
    half: bool = False,
    private: bool = False,
    message: str = "Upload of reldepth_jax",
) -> str:
    """Upload the folder to USER/REPOSITORY, which is made if it is not there; return its address.

    Raises UserError without huggingface_hub or for another name, DownloadError if the hub refuses,
    as without a token (`hf auth login`, or the variable HF_TOKEN).
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{printable(repository)}: expected USER/REPOSITORY of the hub")
    require("hub", "huggingface_hub")
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi()
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place, "folder")
        write_folder(folder, weights, name or repository.rpartition("/")[2], half=half)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DownloadError(f"{PREFIX}{repository}: {printable(reason)}") from None
    return str(done)
