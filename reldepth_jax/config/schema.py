"""What can be set, and its meaning.

`setting` declares, beside each field, its range, whether a continued run may change it and whether
the compiled training step sees it.
"""

import dataclasses
from typing import Any, Literal

from reldepth_jax.config.choice import Choice, option_defaults
from reldepth_jax.config.setting import Rule, group, require_step_declared, setting
from reldepth_jax.registry import ENCODERS, LOSSES, PAIR_SAMPLERS, SOURCES

PLACES = ("root", "prepared")
"""Options of a source: where its files are, which may differ between sessions of one run. That the
data are the same is checked by their fingerprint."""


PYRAMID = 32
"""Stride of the coarsest of an encoder's maps, where it declares nothing else."""
_LARGEST_SEED = 2**32 - 1_000_000
"""Seeds are 32 bits; those of the sources of a mixture are counted on from this one."""


@group
class MixedSource:
    """A further source of training images."""

    source: Choice = dataclasses.field(metadata=Rule(registry=SOURCES, free_options=PLACES))
    share: float = dataclasses.field(metadata=Rule(above=0))
    """Share of the training examples that come from it."""


@group
class LabelNoise:
    """Errors added to the depth of training examples, like those of web stereo; 0: none.

    Validation has none. See `reldepth_jax.data.label_noise`.
    """

    gain: float = setting(0.0, least=0)
    """Inverse depth of each image is multiplied by a factor from 1 / (1 + gain) to 1 + gain."""
    offset: float = setting(0.0, least=0)
    """Up to this share of its largest value in the image is added to inverse depth."""
    levels: int = setting(0, least=0)
    """Inverse depth is rounded to this many values, the lowest of which is sky; 8 bits: 256."""
    wrong: float = setting(0.0, least=0, below=1)
    """Share of the area with the depth of another place."""


@group
class Degradation:
    """What cameras and files do to photographs, done to training images; 0: none.

    Validation has none. See `reldepth_jax.data.degradation`.
    """

    blur: float = setting(0.0, least=0, most=100)
    """Largest deviation of a Gaussian blur, in pixels of the crop."""
    noise: float = setting(0.0, least=0, most=1)
    """Largest deviation of Gaussian noise, as a share of the full range."""
    jpeg: int = setting(0, least=0, most=100)
    """Lowest quality of a JPEG file that the image is saved to and read from."""


@group
class DataConfig:
    """Where the images come from and what is done to them before the step."""

    source: Choice = setting(Choice("synthetic"), registry=SOURCES, free_options=PLACES, step=False)
    """Training, validation and test images."""
    mix: tuple[MixedSource, ...] = setting((), step=False)
    """Further sources to train on; `source` gives the rest of the examples, and validation.
    On the command line `data.mix.0.share=…`, `data.mix.0.source.root=…`."""
    validation: Choice | None = setting(None, registry=SOURCES, free_options=PLACES, step=False)
    """Validation images, if not those of `source`: the paper trains on all of ReDWeb and validates
    on DIW. On the command line `data.validation.name=diw`."""
    subset: int = setting(0, least=0, most=2**31 - 1, step=False)
    """Train on this many images of `source`; a smaller subset is part of a larger one
    (paper, Figure 5b: 360, 900, 1800, 2700, 3600; the last leaves none to hold out); 0: all."""
    crop: tuple[int, int] = setting((384, 384), step=False)
    """Height and width of training images, multiples of what the encoder needs: 32, or the side of
    its patches (paper: 384x384)."""
    zoom: tuple[float, float] = setting((1.0, 1.0), step=False)
    """Range of the random enlargement over the smallest resize that covers the crop."""
    flip: bool = setting(True, step=False)
    """Mirror left to right with probability one half (paper)."""
    color_jitter: float = setting(0.0, least=0, below=1, step=False)
    """Largest relative change of brightness, contrast and saturation."""
    gamma_jitter: float = setting(0.0, least=0, step=False)
    """RGB values in [0, 1] are raised to a power from 1 / (1 + this) to 1 + this."""
    degradation: Degradation = setting(Degradation(), step=False)
    label_noise: LabelNoise = setting(LabelNoise(), step=False)
    batch_size: int = setting(4, least=1, most=65536, step=False)
    """Images a step, over all devices (paper: 4)."""
    workers: int = setting(0, least=0, most=1024, step=False, resume="free")
    """Processes that prepare batches; 0: threads of this process."""
    threads: int = setting(2, least=1, most=1024, step=False, resume="free")
    """Threads that prepare batches (in each worker)."""
    prefetch: int = setting(4, least=1, most=10_000, step=False, resume="free")
    """Batches prepared ahead."""
    timeout: float = setting(300.0, above=0, step=False, resume="free")
    """Seconds without a batch after which training gives up because the file system hangs."""
    max_unreadable: float = setting(0.01, least=0, below=1, step=False, resume="free")
    """Share of the training samples (but at least 10) that may be unreadable. Such a sample stays
    in the batch without ground truth; it is counted, and listed once. 0: none may."""


DPT_DECODER: dict[str, Any] = {
    "narrowing": "conv1x1",
    "transition_bias": False,
    "head": "midas",
}
"""The decoder of DPT and Depth Anything behind any encoder: `ModelConfig(**DPT_DECODER)`."""


@group
class ModelConfig:
    """The network of the paper's Figure 4; the defaults are our reading of it."""

    encoder: Choice = setting(Choice("resnet50"), registry=ENCODERS, step=True)
    reassembly: tuple[int, int, int, int] = setting((1, 2, 4, 8), least=1, most=64, step=True)
    """Channels of the maps that are made of a transformer's tokens, finest first, in eighths of its
    width (Depth Anything S and B; L and DPT-Large: 2, 4, 8, 8)."""
    readout: Literal["ignore", "project"] = setting("ignore", step=True)
    """Of a transformer's class token: nothing (Depth Anything), or a layer that joins it to every
    other token (DPT)."""
    decoder_width: int = setting(256, least=2, most=8192, step=True)
    """Channels of every decoder stage (paper: 256)."""
    widening: tuple[int, int, int, int] = setting((1, 1, 1, 1), least=1, most=64, step=True)
    """Channels of each stage, finest first, as multiples of `decoder_width` (the authors' later
    code: 1, 1, 1, 2; MiDaS small: 1, 2, 4, 8)."""
    narrowing: Literal["none", "conv3x3", "conv1x1"] = setting("none", step=True)
    """How a stage gets the width of the next finer one: a 3x3 convolution before the upsampling
    where the widths differ (the authors' later code), or a 1x1 convolution after it in every stage
    (MiDaS small; DPT and Depth Anything, where the width stays)."""
    transition: Literal["taps", "every_block"] = setting("taps", step=True)
    """Where the transitional 3x3 convolutions stand: before the residual unit of each encoder tap
    (the figure: only taps need another width), or before every residual unit (the sentence "before
    each residual convolution block")."""
    transition_bias: bool = setting(True, step=True)
    """Bias of the transitional convolutions; MiDaS has none."""
    decoder_norm: Literal["none", "batch"] = setting("none", step=True)
    """Normalisation inside residual units and the head; the figure has none."""
    shared_units: bool = setting(False, step=True)
    """One residual unit used twice in a fusion stage, as in MiDaS v1; the figure has two."""
    unit_last_bias: bool = setting(True, step=True)
    """Bias of the second convolution of residual units; MiDaS v1 has none."""
    unit_relu: bool = setting(False, step=True)
    """ReLU after the sum of a residual unit, as in the authors' later code."""
    skip_relu: bool = setting(False, step=True)
    """Add relu(x), not x, in residual units: the effect of in-place ReLU in published code."""
    fusion_align_corners: bool = setting(True, step=True)
    """Corner-aligned bilinear upsampling in fusion, as in all derived code."""
    head: Literal["paper", "midas"] = setting("paper", step=True)
    """Two 3x3 convolutions and upsampling (the figure), or a 3x3 convolution, upsampling, a 3x3
    convolution to 32 channels, ReLU and a 1x1 convolution (MiDaS from v2 on, Depth Anything)."""
    head_relu: bool = setting(False, step=True)
    """ReLU between the two convolutions of the paper's head: the figure has none, the authors'
    later code has one."""
    head_align_corners: bool = setting(True, step=True)
    """Corner-aligned upsampling in the head, as in the authors' later code, not in MiDaS."""
    non_negative: bool = setting(False, step=True)
    """ReLU at the end of the head, as in MiDaS from v2 on."""
    max_depth: float = setting(0.0, least=0, step=True)
    """Sigmoid at the end of the head, times this: depth in metres up to this one, as in Depth
    Anything's metric networks. 0: none."""
    output: Literal["depth", "disparity"] = setting("depth", step=True)
    """Of the head: larger is farther (paper), or nearer (MiDaS, the authors' later code). The score
    is this output or its negative, so that it always grows with distance."""
    normalisation: Literal["imagenet", "none", "tf", "half"] = setting("imagenet", step=True)
    """What the encoder's weights expect of RGB in [0, 1]: ImageNet's mean and deviation removed,
    nothing (MiDaS v1), (255 x - 127) / 128 (EfficientNet-Lite), or 2 x - 1 (DPT)."""
    mirrored: bool = setting(False, step=True)
    """Give the mean of the output and of the mirror image's output: no side is preferred, for twice
    the time. Meant for prediction (`reldepth convert --mirrored`)."""
    init: Literal["gaussian", "he"] = setting("gaussian", step=True)
    """New layers: N(0, 0.01) ("simple random Gaussian", deviation from the authors' later code), or
    He (but the last convolution of each unit), which starts faster from scratch."""
    dtype: Literal["float32", "bfloat16"] = setting("float32", step=True)
    """Of convolutions and linear layers; parameters, normalisation, softmax, loss and metrics stay
    float32."""

    def __post_init__(self) -> None:
        # An option at its default is left out, so that equal networks compare equal.
        held = self.encoder.options if isinstance(self.encoder, Choice) else {}
        if held and self.encoder.name in ENCODERS.entries:
            defaults = option_defaults(ENCODERS.lookup(self.encoder.name))
            options = {
                name: value
                for name, value in held.items()
                if name not in defaults or defaults[name] != value
            }
            object.__setattr__(self, "encoder", Choice(self.encoder.name, **options))

    @property
    def blocks(self) -> int:
        """How many blocks the encoder has, if it is a transformer; 0: it is none."""
        return ENCODERS.lookup(self.encoder.name).facts.get("blocks", 0)

    @property
    def patch(self) -> int:
        """Side of the patches that a transformer makes tokens of; 0: the encoder is none."""
        return ENCODERS.lookup(self.encoder.name).facts.get("patch", 0)

    @property
    def multiple(self) -> int:
        """What height and width of images must be multiples of, as the encoder declares."""
        facts = ENCODERS.lookup(self.encoder.name).facts
        return self.patch or facts.get("multiple", PYRAMID)


@group
class LayerGroup:
    """Parameters with their own learning rate, or frozen ones."""

    prefix: str
    """Of their dotted paths, in whole parts: `encoder.layer4`, `decoder.fusion.0`, `head`."""
    lr_scale: float = dataclasses.field(metadata=Rule(least=0))
    """Rate relative to `optim.learning_rate`. 0: frozen, without update, weight decay and optimiser
    state; layers below the lowest trained one are not differentiated."""


@group
class OptimConfig:
    """Optimiser and schedule; the paper names SGD and the smaller encoder rate, no numbers."""

    name: Literal["sgd", "adamw"] = setting("sgd", step=True)
    learning_rate: float = setting(0.01, above=0, step=True)
    """Peak rate of the new layers."""
    encoder_lr_scale: float = setting(0.1, least=0, step=True)
    """Rate of the encoder relative to that (paper: 10 times smaller; for pre-trained encoders). 0:
    frozen, as a group with that rate."""
    layer_decay: float = setting(1.0, above=0, most=1, step=True)
    """Of a transformer as encoder: the rate of each block relative to that of the next one. The
    encoder's own rate is that of its last norm; its embedding has the smallest. 1: one rate."""
    groups: tuple[LayerGroup, ...] = setting((), step=True)
    """The group with the longest prefix that fits a parameter gives its rate; it overrides
    `encoder_lr_scale`. Without a group the scale is 1, in the encoder `encoder_lr_scale`. On the
    command line `optim.groups.0.lr_scale=…`."""
    frozen_batch_norm: Literal["none", "encoder", "all"] = setting("none", step=True)
    """Where BatchNorm uses its initial statistics in training too, and does not update them. `none`
    from scratch, and with large batches. `encoder` for a pre-trained encoder that is frozen (its
    features then do not depend on the other images of the batch) or trained with small batches,
    whose statistics are noisy. `all` if the decoder is pre-trained too; not for new layers, whose
    initial statistics fit no data."""
    momentum: float = setting(0.9, least=0, step=True)
    """Of SGD (Nesterov off); AdamW uses (0.9, 0.999)."""
    weight_decay: float = setting(1e-4, least=0, step=True)
    """On the kernels of convolutions and linear layers only; decoupled for AdamW, added to the
    gradient for SGD."""
    warmup_steps: int = setting(0, least=0, most=2**31 - 1, step=True)
    """Linear; the first of n such steps has 1 / (n + 1) of the rate."""
    schedule: Literal["constant", "cosine"] = setting("cosine", step=True)
    """After warm-up: constant, or half a cosine to `final_lr_scale` at the last step."""
    final_lr_scale: float = setting(0.01, least=0, step=True)
    max_grad_norm: float = setting(0.0, least=0, step=True)
    """Clip the global gradient norm, of what is trained, to this; 0: do not clip."""


@group
class TrainConfig:
    """How long to train, and what to log and save."""

    steps: int = setting(1000, least=1, most=2**31 - 1, step=True, resume="free")
    epochs: float = setting(0.0, least=0, step=False, resume="free")
    """Passes over the training images of `data.source`, instead of `steps`; 0: use `steps`."""
    max_minutes: float = setting(0.0, least=0, step=False, resume="free")
    """Save and exit (code 75) when the process is this old, for platforms that would kill it; the
    same command continues. 0: no limit."""
    grace_seconds: float = setting(25.0, least=0, step=False, resume="free")
    """Seconds from a stop signal until the platform kills the process: the time to save."""
    max_skipped: int = setting(10, least=1, most=2**31 - 1, step=False, resume="free")
    """Stop when this many steps in a row were not finite, or this many and 1 % of all steps."""
    seed: int = setting(0, least=0, most=_LARGEST_SEED, step=False)
    """Of parameters, data order, augmentation and pairs."""
    accumulate: int = setting(1, least=1, most=65536, step=True)
    """Parts of a batch that are computed one after the other, if the whole does not fit into
    memory. BatchNorm and the choice of the easiest pairs see one part."""
    remat: bool = setting(False, step=True)
    """Keep only the activations between blocks for the gradient and compute each block again. For
    accelerators: on CPU XLA finds the copies and computes them once."""
    drop_path: float = setting(0.0, least=0, below=1, step=True)
    """Of a transformer as encoder: share of the images for which each branch of its last block is
    left out in training (stochastic depth); it grows linearly from 0 for the first block."""
    ema: float = setting(0.0, least=0, below=1, step=True)
    """Decay, a step, of the exponential moving average of all weights, which is then what is
    validated and used (Polyak averaging); after t steps the decay is at most (1 + t) / (10 + t),
    so that the first weights are soon forgotten. 0: no average."""
    winograd: bool = setting(True, step=True)
    """On CPU in float32, use Winograd's algorithm for wide 3x3 convolutions and their gradients:
    less time, more memory, half a decimal digit less in the gradients (`models.cpu`)."""
    log_every: int = setting(20, least=1, most=2**31 - 1, step=False, resume="free")
    """Steps between the lines of `metrics.jsonl`, which have means over them."""
    writers: tuple[Literal["tensorboard", "csv", "wandb"], ...] = setting(
        ("tensorboard",), step=False, resume="free"
    )
    """What is written beside `metrics.jsonl`: TensorBoard's file, tables of comma-separated values,
    a run of Weights & Biases (extra `wandb`). On the command line `train.writers=csv,wandb`, or
    `none`. One that fails does not stop the training."""
    eval_every: int = setting(500, least=1, most=2**31 - 1, step=False, resume="free")
    """Steps between validations with a picture, which also run before the first and after the last
    step."""
    eval_images: int = setting(100, least=0, most=2**31 - 1, step=False, resume="free")
    """Images of each validation, the first of the split; 0: all."""
    checkpoint_every: int = setting(500, least=1, most=2**31 - 1, step=False, resume="free")
    """Steps between checkpoints. There is also one after each validation, at the end and at an
    interruption."""
    checkpoint_minutes: float = setting(5.0, above=0, step=False, resume="free")
    """Save also when the last checkpoint is this old."""
    keep: int = setting(2, least=1, most=2**31 - 1, step=False, resume="free")
    """Newest checkpoints to keep, besides the one with the lowest validation WHDR."""


@group
class EvalConfig:
    """The fixed held-out pairs: the same for every model, run and machine.

    See `reldepth_jax.metrics.ordinal` for the protocol.
    """

    num_images: int = setting(200, least=0, most=2**31 - 1, step=False, resume="free")
    """Images to use, the first of the split; 0: all."""
    pairs_per_image: int = setting(2000, least=1, most=10**7, step=False, resume="free")
    """Drawn uniformly, and as many again within rows."""
    seed: int = setting(0, least=0, most=_LARGEST_SEED, step=False, resume="free")
    sigma: float = setting(0.02, least=0, step=True, resume="free")
    """Depths whose ratio is within 1 + sigma are equal (paper, Eq. 1)."""
    image_size: int = setting(0, least=0, most=16384, step=False, resume="free")
    """Shorter side of resized images; 0: shorter side of `data.crop`."""


@group
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    # The step gets the loss and the sampler that are made from these, see `training.step`.
    loss: Choice = setting(Choice("ranking"), registry=LOSSES, step=False)
    pairs: Choice = setting(Choice("uniform", num_pairs=3000), registry=PAIR_SAMPLERS, step=False)
    """Point pairs of each step (paper: 3000 random pairs an image). The loss compares them, and the
    log has the WHDR on them."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    init_from: str = setting("", step=False, resume="free")
    """Weights to start from: a run directory (its newest checkpoint), a `.safetensors` file that
    `reldepth convert` wrote, public weights by name (`midas_v21`, `imagenet:resnet50`; fetched
    once), or `pretrained:efficientnet_lite0` (extra `pretrained`)."""
    init_part: Literal["network", "encoder"] = setting("network", step=False, resume="free")
    """Which of these weights to use: all (of the same network), or those of the encoder, as always
    where `init_from` names an encoder."""

    @property
    def prediction_size(self) -> int:
        """The shorter side at which images are predicted."""
        return self.eval.image_size or min(self.data.crop)


require_step_declared(Config)
