"""How HuggingFace's `transformers` names the arrays of Depth Anything and DPT, rule by rule.

Read off its modules; names and shapes have the digests of its files (`test_transformer_presets`).
"""

import re

import torch

RULES = [
    # Pattern of a whole name of the originals, the name there; * is query, key and value.
    (r"pretrained\.(cls_token|mask_token)", r"backbone.embeddings.\1"),
    (r"pretrained\.pos_embed", "backbone.embeddings.position_embeddings"),
    (
        r"pretrained\.patch_embed\.proj\.(.*)",
        r"backbone.embeddings.patch_embeddings.projection.\1",
    ),
    (
        r"pretrained\.blocks\.(\d+)\.attn\.proj\.(.*)",
        r"backbone.encoder.layer.\1.attention.output.dense.\2",
    ),
    (
        r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(.*)",
        r"backbone.encoder.layer.\1.attention.attention.*.\2",
    ),
    (
        r"pretrained\.blocks\.(\d+)\.ls(\d)\.gamma",
        r"backbone.encoder.layer.\1.layer_scale\2.lambda1",
    ),
    (r"pretrained\.blocks\.(.*)", r"backbone.encoder.layer.\1"),
    (r"pretrained\.norm\.(.*)", r"backbone.layernorm.\1"),
    (r"depth_head\.projects\.(\d)\.(.*)", r"neck.reassemble_stage.layers.\1.projection.\2"),
    (r"depth_head\.resize_layers\.(\d)\.(.*)", r"neck.reassemble_stage.layers.\1.resize.\2"),
    (r"depth_head\.scratch\.output_conv1\.(.*)", r"head.conv1.\1"),
    (r"depth_head\.scratch\.output_conv2\.0\.(.*)", r"head.conv2.\1"),
    (r"depth_head\.scratch\.output_conv2\.2\.(.*)", r"head.conv3.\1"),
    (r"depth_head\.scratch\.(.*)", r"\1"),
    (r"pretrained\.model\.cls_token", "dpt.embeddings.cls_token"),
    (r"pretrained\.model\.pos_embed", "dpt.embeddings.position_embeddings"),
    (
        r"pretrained\.model\.patch_embed\.backbone\.stem\.conv\.(.*)",
        r"dpt.embeddings.backbone.bit.embedder.convolution.\1",
    ),
    (
        r"pretrained\.model\.patch_embed\.backbone\.stem\.norm\.(.*)",
        r"dpt.embeddings.backbone.bit.embedder.norm.\1",
    ),
    (
        r"pretrained\.model\.patch_embed\.backbone\.stages\.(\d)\.blocks\.(.*)",
        r"dpt.embeddings.backbone.bit.encoder.stages.\1.layers.\2",
    ),
    (r"pretrained\.model\.patch_embed\.proj\.(.*)", r"dpt.embeddings.PROJECTION.\1"),
    (
        r"pretrained\.model\.blocks\.(\d+)\.attn\.qkv\.(.*)",
        r"dpt.encoder.layer.\1.attention.attention.*.\2",
    ),
    (
        r"pretrained\.model\.blocks\.(\d+)\.attn\.proj\.(.*)",
        r"dpt.encoder.layer.\1.attention.output.dense.\2",
    ),
    (r"pretrained\.model\.blocks\.(\d+)\.norm1\.(.*)", r"dpt.encoder.layer.\1.layernorm_before.\2"),
    (r"pretrained\.model\.blocks\.(\d+)\.norm2\.(.*)", r"dpt.encoder.layer.\1.layernorm_after.\2"),
    (
        r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.(.*)",
        r"dpt.encoder.layer.\1.intermediate.dense.\2",
    ),
    (r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.(.*)", r"dpt.encoder.layer.\1.output.dense.\2"),
    (r"pretrained\.model\.norm\.(.*)", r"dpt.layernorm.\1"),
    (r"scratch\.output_conv\.(\d)\.(.*)", r"head.head.\1.\2"),
    (r"scratch\.(.*)", r"\1"),
]


def tensors(state: dict[str, torch.Tensor], *, hybrid: bool = False) -> dict[str, torch.Tensor]:
    """Return a state dict of the originals as `transformers` writes it."""
    theirs = {}
    for key, value in state.items():
        if key.startswith("pretrained.model.head."):
            continue  # the classifier, which they leave out
        pieces = names(key, hybrid=hybrid)
        for name, piece in zip(pieces, value.chunk(len(pieces)), strict=True):
            theirs[name] = piece.clone()
    return theirs


def names(original: str, *, hybrid: bool = False) -> list[str]:
    """Return the names for one of the originals: three of the queries, keys and values."""
    if post := re.fullmatch(r"pretrained\.act_postprocess(\d)\.(.*)", original):
        place, rest = int(post[1]) - 1, post[2]
        inner = {"0": f"readout_projects.{place}.0", "3": f"layers.{place}.projection"}
        inner["4"] = f"layers.{place}.resize"
        return [f"neck.reassemble_stage.{inner[rest[0]]}.{rest.rsplit('.', 1)[1]}"]
    name = next(
        re.sub(pattern, theirs, original)
        for pattern, theirs in RULES
        if re.fullmatch(pattern, original)
    )
    if lateral := re.fullmatch(r"layer(\d)_rn\.weight", name):
        name = f"neck.convs.{int(lateral[1]) - 1}.weight"
    elif stage := re.fullmatch(r"refinenet(\d)\.(.*)", name):
        inner = re.sub(r"resConfUnit(\d)\.conv(\d)", r"residual_layer\1.convolution\2", stage[2])
        inner = inner.replace("out_conv", "projection")
        name = f"neck.fusion_stage.layers.{4 - int(stage[1])}.{inner}"
    projection = "projection" if hybrid else "patch_embeddings.projection"
    name = name.replace("PROJECTION", projection)
    if "*" in name:
        return [name.replace("*", part) for part in ("query", "key", "value")]
    return [name]
