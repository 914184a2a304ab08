"""MiDaS v3: DPT-Large and DPT-Hybrid.

Source: Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, and the released code
(v3.1, which shares its weights with v3.0 and the DPT repository).

`transformers` normalises with epsilon 1e-12 instead of 1e-6 (3e-5 of the deviation of the map),
takes square images only, the hybrid only 384x384, and chooses other input sizes.
"""

import functools

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.config.schema import DPT_DECODER
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets import hugging_face
from reldepth_jax.weights.presets.base import Names, Preset, substitute
from reldepth_jax.weights.presets.midas_v21 import dead_unit, decoder_names

_NAMES = {"encoder": "pretrained.model", **decoder_names()}
for _k in range(4):
    _post = f"pretrained.act_postprocess{_k + 1}"
    _NAMES[f"decoder.reassemble.{_k}.readout"] = f"{_post}.0.project.0"
    _NAMES[f"decoder.reassemble.{_k}.project"] = f"{_post}.3"
    _NAMES[f"decoder.reassemble.{_k}.resize"] = f"{_post}.4"

_HF_NAMES = {
    "encoder.cls_token": "dpt.embeddings.cls_token",
    "encoder.pos_embed": "dpt.embeddings.position_embeddings",
    **hugging_face.decoder_names(),
    "head.conv1": "head.head.0",
    "head.conv2": "head.head.2",
    "head.conv3": "head.head.4",
}
_LARGE = {"encoder.patch_embed.proj": "dpt.embeddings.patch_embeddings.projection"}
_BIT = "dpt.embeddings.backbone.bit"
_HYBRID = {
    "encoder.patch_embed.proj": "dpt.embeddings.projection",
    "encoder.patch_embed.backbone.stem.conv": f"{_BIT}.embedder.convolution",
    "encoder.patch_embed.backbone.stem.norm": f"{_BIT}.embedder.norm",
    **{
        f"encoder.patch_embed.backbone.stages.{k}.blocks": f"{_BIT}.encoder.stages.{k}.layers"
        for k in range(3)
    },
}
_HF_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def _hugging_face(key: str, hybrid: bool) -> Names:
    found = hugging_face.names(
        key,
        prefixes=_HF_NAMES | (_HYBRID if hybrid else _LARGE),
        layer="dpt.encoder.layer",
        block=_HF_BLOCK,
    )
    return hugging_face.unit_names(key, found) if isinstance(found, str) else found


def _preset(
    name: str,
    encoder: str,
    width: int,
    reassembly: tuple[int, int, int, int],
    digest: str,
    size: int = 0,
) -> Preset:
    model = "pretrained.model"
    releases = "https://github.com/isl-org/DPT/releases/download"
    return Preset(
        name=name,
        model=ModelConfig(
            encoder=Choice(encoder),
            reassembly=reassembly,
            readout="project",
            non_negative=True,
            output="disparity",
            normalisation="half",
            **DPT_DECODER,
        ),
        key_maps=(
            functools.partial(substitute, prefixes=_NAMES),
            functools.partial(_hugging_face, hybrid=name == "dpt_hybrid"),
        ),
        dead={
            f"{model}.norm.weight": (width,),
            f"{model}.norm.bias": (width,),
            f"{model}.head.weight": (1000, width),
            f"{model}.head.bias": (1000,),
            **dead_unit(256),
        },
        superfluous=("dpt.layernorm.", *hugging_face.DEAD),
        preprocessing=Preprocessing(fit="minimal", size=384, shrink="cubic", enlarge="cubic"),
        files=(
            PublicFile(
                name=name,
                url=f"{releases}/1_0/{name}-midas-{digest[:8]}.pt",
                sha256=digest,
                size=size,
            ),
        ),
        source="github.com/isl-org/MiDaS",
        licence="MIT (the repository's)",
        paper="Ranftl et al., ICCV 2021",
    )


@PRESETS.register("dpt_large")
def dpt_large() -> Preset:
    """ViT-L on patches of 16 pixels."""
    return _preset(
        "dpt_large",
        "vit_large_patch16_384",
        1024,
        (2, 4, 8, 8),
        "2f21e586477d90cb9624c7eef5df7891edca49a1c4795ee2cb631fd4daa6ca69",
        1_376_378_527,
    )


@PRESETS.register("dpt_hybrid")
def dpt_hybrid() -> Preset:
    """ViT-B behind three stages of a ResNet-50."""
    return _preset(
        "dpt_hybrid",
        "vit_base_resnet50_384",
        768,
        (1, 2, 8, 8),
        "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
    )
