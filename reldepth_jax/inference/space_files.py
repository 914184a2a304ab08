"""Surfaces as PLY and GLB (binary glTF 2.0), with NumPy and Pillow alone.

Formats: Turk, "The PLY polygon file format" (1994); Khronos, "glTF 2.0 specification".
"""

import io
import json
import os
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.errors import UserError
from reldepth_jax.inference.space import Surface

_TEXTURE = 4096
"""Longest side of the picture in a GLB: not every viewer takes larger ones."""
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963
_POINTS, _TRIANGLES = 0, 4
_LINEAR, _LINEAR_MIPMAP, _CLAMP = 9729, 9987, 33071


def write_ply(
    path: str | os.PathLike[str], surface: Surface, notes: str, *, cloud: bool = False
) -> None:
    """Write points with sRGB colours and, unless it is a `cloud`, the triangles.

    Raises UserError if there are no points.
    """
    _require_points(surface)
    vertices = np.zeros(len(surface.points), [("point", "<f4", 3), ("color", "u1", 3)])
    vertices["point"], vertices["color"] = surface.points, surface.colors
    faces = np.zeros(0 if cloud else len(surface.triangles), [("n", "u1"), ("at", "<i4", 3)])
    if not cloud:
        faces["n"], faces["at"] = 3, surface.triangles
    lines = ["ply", "format binary_little_endian 1.0", f"comment {notes}"]
    lines += [f"element vertex {len(vertices)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {color}" for color in ("red", "green", "blue")]
    if not cloud:
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    with atomic_write(path) as file:
        file.write("\n".join([*lines, "end_header", ""]).encode("ascii"))
        file.write(vertices.tobytes())
        file.write(faces.tobytes())


def write_glb(
    path: str | os.PathLike[str],
    surface: Surface,
    image: UInt8[np.ndarray, "h w 3"],
    notes: str,
    *,
    cloud: bool = False,
) -> None:
    """Write triangles with the photograph as their texture, or a `cloud` of coloured points.

    Viewers show the colours as they are, without a lamp (KHR_materials_unlit). Raises UserError if
    there are no points.
    """
    _require_points(surface)
    parts = _Parts()
    attributes = {"POSITION": parts.array(surface.points, _FLOAT, bounds=True)}
    material: dict[str, Any] = {
        "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
        "extensions": {"KHR_materials_unlit": {}},
    }
    primitive: dict[str, Any] = {"attributes": attributes, "material": 0}
    whole: dict[str, Any] = {}
    if cloud:
        primitive["mode"] = _POINTS
        colors = np.full((len(surface.colors), 4), 65535, np.uint16)
        colors[:, :3] = _linear()[surface.colors]
        attributes["COLOR_0"] = parts.array(colors, _USHORT, normalized=True)
    else:
        primitive["mode"] = _TRIANGLES
        attributes["TEXCOORD_0"] = parts.array(surface.places, _FLOAT)
        indices = surface.triangles.reshape(-1).astype(np.uint32)
        primitive["indices"] = parts.array(indices, _UINT, target=_INDICES)
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        whole = {
            "images": [{"bufferView": parts.bytes(_jpeg(image)), "mimeType": "image/jpeg"}],
            "samplers": [
                {
                    "magFilter": _LINEAR,
                    "minFilter": _LINEAR_MIPMAP,
                    "wrapS": _CLAMP,
                    "wrapT": _CLAMP,
                }
            ],
            "textures": [{"source": 0, "sampler": 0}],
        }
    content = {
        "asset": {"version": "2.0", "generator": "reldepth_jax", "extras": {"assumed": notes}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "extensionsUsed": ["KHR_materials_unlit"],
        **whole,
        "accessors": parts.accessors,
        "bufferViews": parts.views,
        "buffers": [{"byteLength": len(parts.data)}],
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(parts.data)
    with atomic_write(path) as file:
        file.write(b"glTF" + np.array([2, size, len(text)], "<u4").tobytes() + b"JSON" + text)
        file.write(np.array([len(parts.data)], "<u4").tobytes() + b"BIN\0")
        file.write(parts.data)


class _Parts:
    """The binary part of a GLB, and what says where things lie in it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def bytes(self, content: bytes, target: int = 0) -> int:
        """Append `content`; return the number of its view."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.views.append(view | ({"target": target} if target else {}))
        self.data += content + bytes(-len(content) % 4)
        return len(self.views) - 1

    def array(
        self,
        values: np.ndarray,
        kind: int,
        *,
        target: int = _VERTICES,
        bounds: bool = False,
        normalized: bool = False,
    ) -> int:
        """Append an array of one number or of rows of numbers; return that of its accessor."""
        shape = "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}"
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        accessor: dict[str, Any] = {
            "bufferView": self.bytes(little.tobytes(), target),
            "componentType": kind,
            "count": len(values),
            "type": shape,
        }
        if bounds:
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        if normalized:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _require_points(surface: Surface) -> None:
    if not len(surface.points):
        raise UserError("no surface is left: every pixel is in an edge, or infinitely far")


def _linear() -> UInt16[np.ndarray, "256"]:
    """Return for each sRGB value the light that it stands for, as glTF wants colours of points."""
    s: Float[np.ndarray, 256] = np.arange(256) / 255
    light = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    return np.round(65535 * light).astype(np.uint16)


def _jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((_TEXTURE, _TEXTURE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=92)
    return data.getvalue()
