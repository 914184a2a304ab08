"""The file with the temperature of the confidence: `evaluate` writes it, networks come with it."""

import json
import math
import os
import pathlib

from reldepth_jax.errors import UserError


def load_temperature(path: str | os.PathLike[str], step: int, image_size: int) -> float:
    """Return the temperature that was fitted for the network of `step`, in units of its score.

    Args:
      image_size: at which the network sees photographs; another one changes the scores' scale.

    Raises UserError if the file is missing, unreadable, of another step or of another size.
    """
    remedy = f"run `reldepth evaluate` on this network, or give --temperature (file {path})"
    try:
        facts = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        temperature, fitted = float(facts["temperature"]), int(facts["step"])
        size = int(facts["image_size"])
    except FileNotFoundError:
        raise UserError(f"no temperature for the confidence yet: {remedy}") from None
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(f"the temperature for the confidence cannot be read: {remedy}") from None
    if not (math.isfinite(temperature) and temperature > 0):
        raise UserError(f"the temperature {temperature} is not a number above 0: {remedy}")
    if fitted != step:
        raise UserError(
            f"the temperature is of step {fitted}, the network of step {step}: {remedy}"
        )
    if size != image_size:
        raise UserError(
            f"the temperature is of images of size {size}, the network sees {image_size}: {remedy}"
        )
    return temperature


def fitted_temperature(path: str | os.PathLike[str], step: int, image_size: int) -> float | None:
    """Return the temperature as `load_temperature`, None where none can be used."""
    try:
        return load_temperature(path, step, image_size)
    except UserError:
        return None
