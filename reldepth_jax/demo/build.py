"""Makes again what lies in this folder and was not written by hand. For maintainers.

python -m reldepth_jax.demo.build runtime    fetches ONNX Runtime Web; change VERSION for another
python -m reldepth_jax.demo.build graph      for another network of the package; extra `export`
"""

import gzip
import pathlib
import sys
import tarfile
import tempfile

from reldepth_jax.demo import graphs
from reldepth_jax.demo.folder import PAGE
from reldepth_jax.public_files import PublicFile

VERSION = "1.30.0"
RUNTIME = PublicFile(
    name="onnxruntime-web",
    url=f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz",
    sha256="d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    size=33_106_585,
    licence="MIT",
)
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""SHA-256 of the files that are taken from it; the last one is kept as .gz."""
PLACE = PAGE / "runtime"


def runtime() -> None:
    """Fetch the pinned package and take its three files."""
    from reldepth_jax.weights import download

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / RUNTIME.file
        download.fetch(RUNTIME, path, RUNTIME.sha256, locked=False)
        with tarfile.open(path) as archive:
            for name in FILES:
                taken = archive.extractfile(f"package/dist/{name}")
                assert taken is not None
                data = taken.read()
                if name.endswith(".wasm"):
                    name, data = f"{name}.gz", gzip.compress(data, 9, mtime=0)
                (PLACE / name).write_bytes(data)


def graph() -> None:
    """Export the network of the package and take out what the second file has."""
    import onnx

    import reldepth_jax
    from reldepth_jax.export import onnx_file
    from reldepth_jax.public_files import SHIPPED

    model = reldepth_jax.load_model()
    made = onnx.load_from_string(onnx_file.export(model, SHIPPED, half=True)[0])
    _, starts = graphs.arrays(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            told = {
                "location": graphs.ARRAYS,
                "offset": starts[tensor.raw_data],
                "length": len(tensor.raw_data),
            }
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in told.items():
                tensor.external_data.add(key=key, value=str(value))
    graphs.FOLDER.mkdir(exist_ok=True)
    for old in graphs.FOLDER.glob("*.onnx"):
        old.unlink()
    graphs.path_of(model).write_bytes(made.SerializeToString())


if __name__ == "__main__":
    {"runtime": runtime, "graph": graph}[sys.argv[1]]()
