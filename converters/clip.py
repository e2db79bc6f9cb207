"""CLIP: transformers' CLIPVisionModel, or the vision tower out of a whole CLIPModel -> `encoders.clip.ClipVision`."""

from converters.readers import ConversionError
from converters.rules import CONV2D, Rule, affine, transformer
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig
from empatheia_jax.encoders.clip_video import DEVIATION, MEAN

MODEL_TYPES = ("clip", "clip_vision_model")
PREFIX = "vision_model."  # a whole CLIP, and older releases, have it before every name
NETWORK = ClipVision
CLASS = "CLIPVisionModel"
KEPT = ()
HARMLESS = (
    r"(vision_model\.)?embeddings\.position_ids",
    r"text_model\..*",
    r"logit_scale",
    r"(visual|text)_projection\.weight",
)
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

_SETTINGS = {  # ours -> transformers' name and default
    "width": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "mlp_width": ("intermediate_size", 3072),
    "activation": ("hidden_act", "quick_gelu"),
    "norm_epsilon": ("layer_norm_eps", 1e-5),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
}


def config_of(settings: dict, preprocessor: dict | None) -> ClipVisionConfig:
    """transformers' config.json (and preprocessor_config.json) -> ours; what is absent has transformers' default.

    Raises:
      ConversionError: something that `ClipVision` or `ClipVideo` does otherwise.
    """
    vision = settings.get("vision_config", settings)
    for name, ours in (("image_mean", MEAN), ("image_std", DEVIATION)):
        found = (preprocessor or {}).get(name, ours)
        if max(abs(a - b) for a, b in zip(found, ours, strict=True)) > 1e-4:
            raise ConversionError(f"preprocessor_config.json: {name} is {found}; only CLIP's own {ours} is known")
    return ClipVisionConfig(**{ours: vision.get(theirs, default) for ours, (theirs, default) in _SETTINGS.items()})


def settings_of(config: ClipVisionConfig) -> dict:
    """transformers' settings of an architecture: the way back of `config_of`."""
    return {theirs: getattr(config, ours) for ours, (theirs, _) in _SETTINGS.items()}


def rules(config: ClipVisionConfig, prefix: str) -> list[Rule]:
    """The table."""
    return [
        Rule(f"{prefix}embeddings.patch_embedding.weight", "patch_kernel", CONV2D),
        Rule(f"{prefix}embeddings.class_embedding", "class_embedding"),
        Rule(f"{prefix}embeddings.position_embedding.weight", "position_embedding"),
        *affine("pre_norm", f"{prefix}pre_layrnorm"),  # their spelling
        *affine("post_norm", f"{prefix}post_layernorm"),
        *transformer(f"{prefix}encoder.layers", _PARTS),
    ]
