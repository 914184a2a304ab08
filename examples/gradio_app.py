"""The same question by Gradio, where a server may compute: Hugging Face Spaces and the like.

pip install . gradio                  # in a clone
python examples/gradio_app.py

Unlike `reldepth demo`, photographs are sent to the server. Gradio pins an older Pillow: give it an
environment of its own.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio
import numpy as np

import reldepth_jax
from reldepth_jax.data.images import pictures
from reldepth_jax.inference.order import order

MODEL = reldepth_jax.load_model()
LICENCE = MODEL.provenance.get("licence", "not stated")


def show(photograph: np.ndarray | None):
    """Return the map in colours, the scores, and no points."""
    if photograph is None:
        return None, None, [], "Choose a photograph."
    score = MODEL.predictor()(photograph)
    return pictures.colorize(score), score, [], "Click two points in the photograph."


def click(score: np.ndarray | None, points: list[tuple[int, int]], event: gradio.SelectData):
    """Take a point; answer at the second."""
    if score is None:
        return [], "Choose a photograph."
    points = [*points[:1], tuple(event.index)] if len(points) < 2 else [tuple(event.index)]
    if len(points) < 2:
        return points, "Now the second point."
    found = order(score, points[0], points[1], MODEL.temperature)
    if found.nearer is None:
        return points, "Both are equally far for the network."
    sure = "" if found.confidence is None else f" The network is {found.confidence:.0%} sure."
    return points, f"The {found.nearer} point is nearer.{sure}"


def app() -> gradio.Blocks:
    """Return the page."""
    with gradio.Blocks(title="Relative depth", analytics_enabled=False) as blocks:
        gradio.Markdown("# Which of two points is nearer?")
        answer = gradio.Markdown("Choose a photograph.")
        score, points = gradio.State(None), gradio.State([])
        with gradio.Row():
            photograph = gradio.Image(label="Photograph", type="numpy", image_mode="RGB")
            colours = gradio.Image(label="Bright is near; ranks, no unit", interactive=False)
        photograph.change(show, photograph, [colours, score, points, answer])
        photograph.select(click, [score, points], [points, answer])
        gradio.Markdown(f"Licence of the weights: {LICENCE}.")
    return blocks


if __name__ == "__main__":
    app().launch()
