"""What can be set, and its meaning."""

import dataclasses
from typing import Any, Literal

from reldepth_jax import registry
from reldepth_jax.errors import UserError


class ConfigError(UserError):
    """A mistake in a configuration, in one line for the person who made it."""


class Choice:
    """A plug-in by name with the options that differ from its defaults."""

    def __init__(self, name: str, **options: Any):
        self.name = name
        self.options = options

    def __repr__(self) -> str:
        return ", ".join([repr(self.name), *(f"{k}={v!r}" for k, v in self.options.items())])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedSource:
    """A further source of training images."""

    source: Choice
    share: float
    """Share of the training examples that come from it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelNoise:
    """Errors put on the depth of training examples, as maps from web stereo have them; 0: none.

    Never on validation. `reldepth_jax.data.label_noise` says how they are drawn.
    """

    gain: float = 0.0
    """Inverse depth of each image is multiplied by a factor from 1 / (1 + gain) to 1 + gain."""
    offset: float = 0.0
    """To inverse depth is added up to this share of its largest value in the image."""
    levels: int = 0
    """Inverse depth is rounded to that many values, of which the lowest is sky; 8 bits: 256."""
    wrong: float = 0.0
    """Share of the area that shows the depth of another place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and what is done to them before the step."""

    source: Choice = Choice("synthetic")
    """Training, validation and test images."""
    mix: tuple[MixedSource, ...] = ()
    """Further sources to train on; `source` gives the rest of the examples and alone validates.
    On the command line `data.mix.0.share=…`, `data.mix.0.source.root=…`."""
    validation: Choice | None = None
    """Validation images, where they are not those of `source`: the paper trains on all of ReDWeb
    and validates on DIW. On the command line `data.validation.name=diw`."""
    subset: int = 0
    """Train on that many images of `source`, a fixed choice, smaller ones within larger ones
    (paper, Figure 5b: 360, 900, 1800, 2700, 3600; the last leaves none to hold out); 0: all."""
    crop: tuple[int, int] = (384, 384)
    """Height and width that the network is trained at, multiples of 32 (paper: 384x384)."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the random enlargement over the smallest resize that covers the crop."""
    flip: bool = True
    """Mirror left to right with probability one half (paper)."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    gamma_jitter: float = 0.0
    """Values of RGB in [0, 1] are raised to a power from 1 / (1 + this) to 1 + this."""
    label_noise: LabelNoise = LabelNoise()
    batch_size: int = 4
    """Images a step, over all devices (paper: 4)."""
    workers: int = 0
    """Processes that prepare batches; 0: threads of this process."""
    threads: int = 2
    """Threads that prepare batches (in each worker)."""
    prefetch: int = 4
    """Batches prepared ahead."""
    timeout: float = 300.0
    """Seconds without a batch after which training gives up: the file system hangs."""
    max_bad: float = 0.01
    """Share of the training samples (but at least 10) that may be unreadable. Such a sample keeps
    its place in the batch, without ground truth; it is counted and named once. 0: none may."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network of the paper's Figure 4; the defaults are our reading of it.

    Where the paper is silent the field says why its default was chosen.
    """

    encoder: Choice = Choice("resnet50")
    decoder_width: int = 256
    """Channels of every decoder stage (paper: 256)."""
    widening: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Channels of each stage, finest first, as multiples of `decoder_width` (the authors' later
    code: 1, 1, 1, 2; MiDaS small: 1, 2, 4, 8)."""
    narrowing: Literal["none", "conv3x3", "conv1x1"] = "none"
    """How a stage gets to the width of the next finer one: a 3x3 convolution before the enlargement
    where the widths differ (the authors' later code), or a 1x1 convolution after it in every stage
    (MiDaS small)."""
    transition: Literal["taps", "every_block"] = "taps"
    """Where the transitional 3x3 convolutions stand: before the residual unit of each encoder tap
    (the figure: only taps need another width), or before every residual unit (the sentence "before
    each residual convolution block")."""
    transition_bias: bool = True
    """Bias of the transitional convolutions; MiDaS has none."""
    decoder_norm: Literal["none", "batch"] = "none"
    """Normalisation inside residual units and the head: none is drawn in the figure."""
    shared_units: bool = False
    """One residual unit for both places of a fusion stage, as in MiDaS v1; the figure draws two."""
    unit_last_bias: bool = True
    """Bias of the second convolution of residual units; MiDaS v1 has none."""
    unit_relu: bool = False
    """ReLU after the sum of a residual unit, as in the authors' later code."""
    skip_relu: bool = False
    """Add relu(x), not x, in residual units: what in-place ReLU makes of published code."""
    fusion_align_corners: bool = True
    """Corner-aligned bilinear upsampling in fusion, as all derived codes have it."""
    head: Literal["paper", "midas"] = "paper"
    """Two 3x3 convolutions and upsampling (the figure), or a 3x3 convolution, upsampling, a 3x3
    convolution to 32 channels, ReLU and a 1x1 convolution (MiDaS from v2 on)."""
    head_relu: bool = False
    """ReLU between the two convolutions of the paper's head: none is drawn; the authors' later code
    has one."""
    head_align_corners: bool = True
    """Corner-aligned upsampling in the head; MiDaS has it off, the authors' later code on."""
    non_negative: bool = False
    """ReLU at the end of the head, as in MiDaS from v2 on."""
    output: Literal["depth", "disparity"] = "depth"
    """What the head gives: larger is farther (paper), or nearer (MiDaS, the authors' later code).
    The score is the head's output or its negative: it grows with distance in either case."""
    normalisation: Literal["imagenet", "none", "tf"] = "imagenet"
    """What the encoder's weights expect of RGB in [0, 1]: ImageNet's mean and deviation removed,
    nothing (MiDaS v1), or (255 x - 127) / 128 (EfficientNet-Lite)."""
    init: Literal["gaussian", "he"] = "gaussian"
    """New layers: N(0, 0.01) ("simple random Gaussian", deviation from the authors' later code), or
    He (but the last convolution of each unit), which starts faster from scratch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions; parameters, BatchNorm, loss and metrics stay float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Parameters that learn at a rate of their own, or not at all."""

    prefix: str
    """Of their dotted paths, in whole parts: `encoder.layer4`, `decoder.fusion.0`, `head`."""
    lr_scale: float
    """Rate relative to `optim.learning_rate`. 0: frozen, with neither update, weight decay nor
    optimiser state; what lies below the lowest trained layer is not differentiated either."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule; the paper names SGD and the smaller encoder rate, no numbers."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    """Peak rate of the new layers."""
    encoder_lr_scale: float = 0.1
    """Rate of the encoder relative to that (paper: 10 times smaller; for pre-trained encoders). 0:
    frozen, as a group with that rate."""
    groups: tuple[LayerGroup, ...] = ()
    """Of the groups that hold a parameter the one with the longest prefix decides its rate, also
    over `encoder_lr_scale`. Parameters in none have rate 1, those of the encoder
    `encoder_lr_scale`. On the command line `optim.groups.0.lr_scale=…`."""
    frozen_statistics: Literal["none", "encoder", "all"] = "none"
    """Where BatchNorm normalises with the statistics that it came with, in training too, and leaves
    them as they are. `none` from scratch, and with large batches. `encoder` for a pre-trained
    encoder that is frozen (its features then do not depend on the other images of the batch) or
    trained with a few images a step, whose statistics are noisy. `all` where the decoder is
    pre-trained too; never for new layers, whose statistics are not those of any data yet."""
    momentum: float = 0.9
    """Of SGD (Nesterov off); AdamW uses (0.9, 0.999)."""
    weight_decay: float = 1e-4
    """On convolution kernels only; decoupled for AdamW, added to the gradient for SGD."""
    warmup_steps: int = 0
    """Linear from zero."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or half a cosine to `final_lr_scale` at the last step."""
    final_lr_scale: float = 0.01
    max_grad_norm: float = 0.0
    """Clip the global gradient norm, of what is trained, to this; 0: do not clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and what is written on the way."""

    steps: int = 1000
    epochs: float = 0.0
    """Passes over the training images of `data.source`, instead of `steps`; 0: `steps` counts."""
    max_minutes: float = 0.0
    """Save and end the session (exit code 75) when the process is that old, for platforms that
    would kill it; the same command continues. 0: no limit."""
    grace_seconds: float = 25.0
    """How long after a stop signal the platform kills us: by then the state must be saved."""
    max_skipped: int = 10
    """Stop when so many steps in a row were not finite, or so many and 1 % of all steps."""
    seed: int = 0
    """Of parameters, data order, augmentation and pairs."""
    accumulate: int = 1
    """Parts in which a batch is taken, one after the other, where the whole does not fit into
    memory. BatchNorm and the choice of the easiest pairs see one part."""
    remat: bool = False
    """Keep only what passes from block to block for the gradient and compute each block again.
    For accelerators: on CPU XLA finds the copies and computes them once."""
    winograd: bool = True
    """On CPU in float32, take wide 3x3 convolutions and their gradients by Winograd's algorithm:
    less time, more memory, and half a decimal digit less in the gradients (`models.fast`)."""
    log_every: int = 20
    eval_every: int = 500
    """Steps between validations with a picture; there is one before the first and after the last
    step."""
    eval_images: int = 100
    """First images of the validation split that they use; 0: all."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is one after each validation, at the end and at an
    interruption in any case."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is also due when the last one is this old."""
    keep: int = 2
    """Newest checkpoints kept, and beside them the one with the lowest validation WHDR."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """The fixed held-out pairs: the same for every model, run and machine.

    See `reldepth_jax.metrics.ordinal` for the protocol.
    """

    num_images: int = 200
    """First images of the split that are used; 0: all."""
    pairs_per_image: int = 2000
    """Drawn uniformly, and as many again within rows."""
    seed: int = 0
    sigma: float = 0.02
    """Depths whose ratio is within 1 + sigma are equal (paper, Eq. 1)."""
    image_size: int = 0
    """Shorter side that images are resized to; 0: shorter side of `data.crop`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: Choice = Choice("ranking")
    pairs: Choice = Choice("uniform", num_pairs=3000)
    """Point pairs of each step (paper: 3000 random pairs an image): the loss compares them, and
    every run logs its error on them."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    init_from: str = ""
    """Weights to start from: a run directory (its newest checkpoint), a `.safetensors` file that
    `scripts/convert_weights.py` wrote, or `pretrained:efficientnet_lite0` (extra `pretrained`)."""
    init_part: Literal["network", "encoder"] = "network"
    """What of them is taken: all, of the very same network, or the encoder alone."""

    @property
    def prediction_size(self) -> int:
        """The shorter side at which images are predicted."""
        return self.eval.image_size or min(self.data.crop)


_REGISTRIES = {
    "data.source": registry.SOURCES,
    "data.mix.source": registry.SOURCES,
    "data.validation": registry.SOURCES,
    "model.encoder": registry.ENCODERS,
    "loss": registry.LOSSES,
    "pairs": registry.PAIR_SAMPLERS,
}


def registry_of(path: str) -> registry.Registry:
    """Return the registry in which the `Choice` at `path` is looked up; positions do not matter."""
    return _REGISTRIES[".".join(part for part in path.split(".") if not part.isdigit())]
