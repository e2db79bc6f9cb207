"""CLIP: transformers' CLIPVisionModel, or the vision tower of a whole CLIPModel -> `encoders.clip.ClipVision`."""

from converters.rules import CONV2D, Rule, TransformersFamily, affine_rules, transformer_rules
from converters.tensors import ConversionError
from empatheia_jax.encoders.clip import DEVIATION, MEAN, ClipVision, ClipVisionConfig

_PARTS = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.out_proj",
    "up_proj": "mlp.fc1",
    "down_proj": "mlp.fc2",
    "attention_norm": "layer_norm1",
    "mlp_norm": "layer_norm2",
}

_SETTINGS = {  # our field -> transformers' name and default
    "width": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "mlp_width": ("intermediate_size", 3072),
    "activation": ("hidden_act", "quick_gelu"),
    "norm_epsilon": ("layer_norm_eps", 1e-5),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
}


def parse_config(settings: dict, preprocessor: dict | None) -> ClipVisionConfig:
    """Convert transformers' settings to our config; an absent setting has transformers' default.

    Args:
      settings: config.json of a CLIPVisionModel or a CLIPModel.
      preprocessor: preprocessor_config.json, where there is one.
    Raises:
      ConversionError: a setting that `ClipVision` or `ClipVideo` does not support.
    """
    vision = settings.get("vision_config", settings)
    for name, supported in (("image_mean", MEAN), ("image_std", DEVIATION)):
        value = (preprocessor or {}).get(name, supported)
        if max(abs(a - b) for a, b in zip(value, supported, strict=True)) > 1e-4:
            raise ConversionError(f"preprocessor_config.json: {name} is {value}; only CLIP's own {supported} is known")
    return ClipVisionConfig(**{field: vision.get(name, default) for field, (name, default) in _SETTINGS.items()})


def export_settings(config: ClipVisionConfig) -> dict:
    """Return transformers' settings of an architecture, the inverse of `parse_config`."""
    return {name: getattr(config, field) for field, (name, _) in _SETTINGS.items()}


def rules(config: ClipVisionConfig, prefix: str) -> list[Rule]:
    """Return the table of rules; `prefix` stands before every name in the checkpoint."""
    return [
        Rule(f"{prefix}embeddings.patch_embedding.weight", "patch_kernel", CONV2D),
        Rule(f"{prefix}embeddings.class_embedding", "class_embedding"),
        Rule(f"{prefix}embeddings.position_embedding.weight", "position_embedding"),
        *affine_rules("pre_norm", f"{prefix}pre_layrnorm"),  # transformers' spelling
        *affine_rules("post_norm", f"{prefix}post_layernorm"),
        *transformer_rules(f"{prefix}encoder.layers", _PARTS),
    ]


FAMILY = TransformersFamily(
    ClipVision,
    rules,
    (
        r"(vision_model\.)?embeddings\.position_ids",
        r"text_model\..*",
        r"logit_scale",
        r"(visual|text)_projection\.weight",
    ),
    model_types=("clip", "clip_vision_model"),
    prefix="vision_model.",  # in a whole CLIP and in older releases
    model_class="CLIPVisionModel",
    parse_config=parse_config,
    export_settings=export_settings,
)
