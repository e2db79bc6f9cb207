"""HuBERT and wav2vec 2.0: transformers' models, or task heads on them -> `encoders.hubert.Hubert`.

The two differ in their training, not in what they compute. DreamTalk's speech encoder is a wav2vec 2.0,
`jonatasgrosman/wav2vec2-large-xlsr-53-english`.
"""

from typing import Any

from converters.rules import (
    CONV1D,
    FLATTEN,
    Rule,
    TransformersFamily,
    affine_rules,
    linear,
    rearrangement,
    transformer_rules,
)
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.weights import to_tuples
from empatheia_jax.encoders.hubert import Hubert, HubertConfig

_GAIN = rearrangement(
    lambda shape: (1, 1, *shape), lambda array, shape: array.reshape(shape), lambda array: array.reshape(1, 1, -1)
)
_PARTS = {
    "q_proj": "attention.q_proj",
    "k_proj": "attention.k_proj",
    "v_proj": "attention.v_proj",
    "o_proj": "attention.out_proj",
    "up_proj": "feed_forward.intermediate_dense",
    "down_proj": "feed_forward.output_dense",
    "attention_norm": "layer_norm",
    "mlp_norm": "final_layer_norm",
}
_SUPPORTED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "conv_pos_batch_norm": False,
    "add_adapter": False,
}
_NAMES = {  # our field -> transformers' name
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "pre_norm": "do_stable_layer_norm",
    "norm_epsilon": "layer_norm_eps",
} | {
    name: name
    for name in (
        "conv_dim",
        "conv_kernel",
        "conv_stride",
        "conv_bias",
        "feat_extract_norm",
        "feat_proj_layer_norm",
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
    )
}


def parse_config(settings: dict, preprocessor: dict | None) -> HubertConfig:
    """Convert transformers' settings to our config; an absent setting has transformers' default.

    Args:
      settings: config.json.
      preprocessor: preprocessor_config.json, where there is one.
    Raises:
      ConversionError: a setting that `Hubert` or `HubertAudio` does not support.
    """
    for name, supported in _SUPPORTED.items():
        if settings.get(name, supported) != supported:
            raise ConversionError(f"config.json: {name} is {settings[name]!r}; only {supported!r} is known")
    for name, supported in (("do_normalize", True), ("sampling_rate", 16_000)):
        if preprocessor is not None and preprocessor.get(name, supported) != supported:
            raise ConversionError(
                f"preprocessor_config.json: {name} is {preprocessor[name]!r}; only {supported!r} is known"
            )
    defaults: dict[str, Any] = {"width": 768, "layers": 12, "heads": 12, "mlp_width": 3072, "pre_norm": False}
    given = {field: settings[name] for field, name in _NAMES.items() if name in settings}
    return HubertConfig(**defaults | {name: to_tuples(value) for name, value in given.items()})


def export_settings(config: HubertConfig) -> dict:
    """Return transformers' settings of an architecture, the inverse of `parse_config`."""
    return _SUPPORTED | {name: getattr(config, field) for field, name in _NAMES.items()}


def rules(config: HubertConfig, prefix: str) -> list[Rule]:
    """Return the table of rules; `prefix` stands before every name in a model with a task head."""
    table: list[Rule] = []
    for index in range(len(config.conv_dim)):
        source = f"{prefix}feature_extractor.conv_layers.{index}"
        kernel, bias = affine_rules(f"convolutions/{index}", f"{source}.conv", CONV1D)
        table += [kernel, bias] if config.conv_bias else [kernel]
        if config.feat_extract_norm == "layer" or index == 0:
            table += affine_rules(f"convolutions/{index}/norm", f"{source}.layer_norm")
    if config.feat_proj_layer_norm:
        table += affine_rules("feature_norm", f"{prefix}feature_projection.layer_norm")
    positions = f"{prefix}encoder.pos_conv_embed.conv"
    for gain, direction in (
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ("weight_g", "weight_v"),
    ):
        table.append(Rule(f"{positions}.{gain}", "position_gain", _GAIN))
        table.append(Rule(f"{positions}.{direction}", "position_direction", CONV1D))
    return table + [
        *affine_rules("feature_projection", f"{prefix}feature_projection.projection", linear(), FLATTEN),
        Rule(f"{positions}.bias", "position_bias"),
        *affine_rules("norm", f"{prefix}encoder.layer_norm"),
        *transformer_rules(f"{prefix}encoder.layers", _PARTS),
    ]


def parse_wav2vec2_config(settings: dict, preprocessor: dict | None) -> HubertConfig:
    """Convert settings as for HuBERT; as in transformers, features are always normed before their projection."""
    return parse_config(settings | {"feat_proj_layer_norm": True}, preprocessor)


HUBERT = TransformersFamily(
    Hubert,
    rules,
    (r"(hubert\.)?masked_spec_embed", r"lm_head\.(weight|bias)"),  # for SpecAugment and CTC
    model_types=("hubert",),
    prefix="hubert.",
    model_class="HubertModel",
    parse_config=parse_config,
    export_settings=export_settings,
    carried_tensors=("masked_spec_embed",),
)
WAV2VEC2 = TransformersFamily(
    Hubert,
    rules,
    (
        r"(wav2vec2\.)?masked_spec_embed",
        r"lm_head\.(weight|bias)",
        r"quantizer\.(codevectors|weight_proj\.(weight|bias))",  # for pre-training only
        r"project_(hid|q)\.(weight|bias)",
    ),
    model_types=("wav2vec2",),
    prefix="wav2vec2.",
    model_class="Wav2Vec2Model",
    parse_config=parse_wav2vec2_config,
    export_settings=export_settings,
    carried_tensors=("masked_spec_embed",),
)
