"""The files of a predicted photograph."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

import reldepth_jax
from reldepth_jax.data.images import io, pictures
from reldepth_jax.data.images.bands import bands
from reldepth_jax.inference import space_files
from reldepth_jax.inference.space import Space, surface
from reldepth_jax.metrics.confidence import PARTNERS, confidence_map
from reldepth_jax.types import LARGER_IS, Polarity, with_polarity

SOFTWARE = "reldepth_jax"
"""In the text of what is written, by which it is known again."""


def is_prediction(path: str | os.PathLike[str]) -> bool:
    """Return whether a PNG was written here, by its text; True for files of another ending."""
    if not os.fspath(path).lower().endswith(".png"):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(300)
    except OSError:
        return False
    return head.startswith(b"\x89PNG") and b"tEXtSoftware\0%s " % SOFTWARE.encode() in head


def stretched(
    values: Float32[np.ndarray, "h w"], low: float, high: float
) -> UInt16[np.ndarray, "h w"]:
    """Return 0 for `low`, 65535 for `high` and what lies between, rounded."""
    stretched = np.empty(values.shape, np.uint16)
    for rows in bands(*values.shape):
        unit = (values[rows].astype(np.float64) - low) / ((high - low) or 1.0)
        stretched[rows] = np.round(65535 * unit)
    return stretched


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes the files of each photograph `name`.

    `name.png`: the score as 16-bit PNG, stretched over 0..65535 (a constant score gives 0).
    `name_color.png`: colours by rank, bright is near. On request `name.npy` and `name.pfm`: the
    score itself, float32; `name.ply` and `name.glb`: its surface in space. `larger_is` in the PNG
    text and in the manifest states the sign. With a temperature `name_confidence.png`:
    `confidence_map`, 0.5 to 1 as gray 0 to 255.
    """

    output: pathlib.Path
    npy: bool = False
    pfm: bool = False
    ply: bool = False
    glb: bool = False
    cloud: bool = False
    """Points without triangles in these two."""
    space: Space | None = None
    """How points are made, for these two."""
    polarity: Polarity = "depth"
    """Sign of the values written; `disparity`: larger is nearer. The colours stay the same."""
    unit: Literal["metre"] | None = None
    """Of the score, for the manifest, where it has one."""
    temperature: float | None = None
    """Of the confidence, in units of the score; None: no confidence map."""
    run: str = ""
    """Run directory or file of the network, for the manifest."""
    step: int = 0
    """Training step of the network, for the manifest."""
    made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Whatever else decides the result, for the manifest: weights, preprocessing, …"""

    @property
    def settings(self) -> dict[str, Any]:
        """What the entries of all photographs have in common."""
        unit = {} if self.unit is None else {"unit": self.unit}
        confidence = {} if self.temperature is None else {"temperature": self.temperature}
        space = self.space and {"space": {"cloud": self.cloud, **self.space.to_dict()}}
        return {
            "larger_is": LARGER_IS[self.polarity],
            **unit,
            "run": io.printable(self.run),
            "step": self.step,
            **confidence,
            **(space or {}),
            **self.made_by,
            "version": reldepth_jax.__version__,
        }

    @property
    def endings(self) -> list[str]:
        """What is appended to the name of a photograph, for each of its files."""
        optional = {
            ".npy": self.npy,
            ".pfm": self.pfm,
            ".ply": self.ply,
            ".glb": self.glb,
            "_confidence.png": self.temperature is not None,
        }
        return [".png", "_color.png", *(ending for ending, wanted in optional.items() if wanted)]

    def write(
        self,
        name: str,
        score: Float32[np.ndarray, "h w"],
        image: UInt8[np.ndarray, "h w 3"] | None = None,
    ) -> dict[str, Any]:
        """Write the files of one photograph; `score` grows with distance.

        `image` is needed with a `space`. Returns the entry of the manifest. Raises UserError if no
        surface is left in space.
        """
        values = with_polarity(score, self.polarity)
        low, high = float(values.min()), float(values.max())
        facts = {"score_minimum": low, "score_maximum": high}
        software = {"Software": f"{SOFTWARE} {reldepth_jax.__version__}"}
        told = {key: self.settings[key] for key in ("larger_is", "run", "step")}
        notes = software | {key: str(value) for key, value in (told | facts).items()}
        base = self.output / name
        base.parent.mkdir(parents=True, exist_ok=True)
        io.write_png(f"{base}.png", stretched(values, low, high), notes)
        colors = software | {"colors": "by rank; bright is near, dark is far"}
        io.write_png(f"{base}_color.png", pictures.colorize(score), colors)
        if self.npy:
            io.write_npy(f"{base}.npy", values)
        if self.pfm:
            io.write_pfm(f"{base}.pfm", values)
        if self.space is not None and image is not None:
            found, assumed = surface(score, image, self.space), self.space.assumed
            if self.ply:
                space_files.write_ply(f"{base}.ply", found, assumed, cloud=self.cloud)
            if self.glb:
                space_files.write_glb(f"{base}.glb", found, image, assumed, cloud=self.cloud)
        if self.temperature is not None:
            gray = np.round(510 * (confidence_map(score, self.temperature) - 0.5)).astype(np.uint8)
            meaning = {
                "confidence": "gray 0 to 255 is 0.5 to 1: mean of max(p, 1 - p),"
                " p = sigmoid((z - z') / T), over the centres z' of"
                f" {PARTNERS}x{PARTNERS} cells",
                "temperature": str(self.temperature),
            }
            io.write_png(f"{base}_confidence.png", gray, software | meaning)
        outputs = [name + ending for ending in self.endings]
        size = {"height": score.shape[0], "width": score.shape[1]}
        return {"outputs": outputs, **size, **facts, **self.settings}
