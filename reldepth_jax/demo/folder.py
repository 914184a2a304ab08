"""The page as a folder of static files, with a network in it."""

import json
import pathlib
from typing import Any

import reldepth_jax
from reldepth_jax.data.images import decoding, pictures
from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.demo import graphs
from reldepth_jax.errors import UserError
from reldepth_jax.inference.networks import Model
from reldepth_jax.public_files import SHIPPED

PAGE = pathlib.Path(__file__).with_name("page")
NETWORK = "network.onnx"
FACTS = "network.json"
"""What the page must know of the network; `page/network.js` reads it."""

_NOTES = {
    SHIPPED: "The network of the package learnt from few photographs, mostly of rooms. It errs: of"
    " the pairs in rooms that it never saw it misorders a twelfth, of other photographs more."
}


def require_room(folder: pathlib.Path, *, replace: bool) -> None:
    """Raise UserError for a file, and for a folder that holds anything but a page to `replace`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not replace:
            raise UserError(f"{folder} is not empty; name another folder, or --force")
        if not (folder / FACTS).exists():
            raise UserError(f"{folder} holds other files than a page; name another folder")


def write(folder: pathlib.Path, model: Model, name: str) -> int:
    """Write the page and a network into `folder`; return the number of bytes.

    The folder is made. Files of the same names are replaced, others stay.

    Args:
      name: of the network, for the page.

    Raises, for another network than that of the package, what `export.onnx_file.export` raises.
    """
    files = _network(model, name)
    told = facts(model, name) | {"arrays": graphs.ARRAYS if graphs.ARRAYS in files else None}
    for source in sorted(PAGE.rglob("*")):
        if source.is_file():
            files[source.relative_to(PAGE).as_posix()] = source.read_bytes()
    # The facts last: a page without them says that they are missing.
    files[FACTS] = json.dumps(told).encode()
    for place, data in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(data)
    return sum(map(len, files.values()))


def facts(model: Model, name: str) -> dict[str, Any]:
    """Return what the page must know beside the arrays, as plain values."""
    return {
        "name": name,
        "version": reldepth_jax.__version__,
        "step": model.step,
        "licence": model.provenance.get("licence", ""),
        "note": _NOTES.get(model.weights().architecture, "Networks err, this one too."),
        "larger_is": model.larger_is,
        "temperature": model.temperature,
        "preprocessing": model.preprocessing.to_dict(),
        "max_pixels": decoding.MAX_PIXELS,
        "colours": pictures.colors().ravel().tolist(),
    }


def _network(model: Model, name: str) -> dict[str, bytes]:
    graph = graphs.path_of(model)
    if graph.exists():
        return {NETWORK: graph.read_bytes(), graphs.ARRAYS: graphs.arrays(model)[0]}
    # Imported late: it needs an extra.
    from reldepth_jax.export import onnx_file

    return {NETWORK: onnx_file.export(model, name)[0]}
