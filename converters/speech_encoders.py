"""What HuBERT and wav2vec 2.0 have in common: one network, two names.

transformers' HubertModel and Wav2Vec2Model differ in how they were trained, not in what they compute; both become
`encoders.hubert.Hubert`.
"""

from converters.readers import ConversionError
from converters.rules import CONV1D, FLAT, Rule, affine, linear, moved, transformer
from empatheia_jax.encoders.hubert import Hubert, HubertConfig

NETWORK = Hubert
SPEC_EMBED = "masked_spec_embed"  # of SpecAugment: training only
_GAIN = moved(
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
_ONLY = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "conv_pos_batch_norm": False, "add_adapter": False}
_NAMES = {
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


def config_of(settings: dict, preprocessor: dict | None) -> HubertConfig:
    """transformers' config.json (and preprocessor_config.json) -> ours; what is absent has transformers' default.

    Raises:
      ConversionError: something that `Hubert` or `HubertAudio` does otherwise.
    """
    for name, wanted in _ONLY.items():
        if settings.get(name, wanted) != wanted:
            raise ConversionError(f"config.json: {name} is {settings[name]!r}; only {wanted!r} is known")
    for name, wanted in (("do_normalize", True), ("sampling_rate", 16_000)):
        if preprocessor is not None and preprocessor.get(name, wanted) != wanted:
            raise ConversionError(
                f"preprocessor_config.json: {name} is {preprocessor[name]!r}; only {wanted!r} is known"
            )
    base = {"width": 768, "layers": 12, "heads": 12, "mlp_width": 3072, "pre_norm": False}
    given = {ours: settings[theirs] for ours, theirs in _NAMES.items() if theirs in settings}
    return HubertConfig(**base | {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})


def settings_of(config: HubertConfig) -> dict:
    """transformers' settings of an architecture: the way back of `config_of`."""
    return _ONLY | {theirs: getattr(config, ours) for ours, theirs in _NAMES.items()}


def rules(config: HubertConfig, prefix: str) -> list[Rule]:
    """The table; `prefix` is what a model with a task head has before every name."""
    table: list[Rule] = []
    for index in range(len(config.conv_dim)):
        source = f"{prefix}feature_extractor.conv_layers.{index}"
        kernel, bias = affine(f"convolutions/{index}", f"{source}.conv", CONV1D)
        table += [kernel, bias] if config.conv_bias else [kernel]
        if config.feat_extract_norm == "layer" or index == 0:
            table += affine(f"convolutions/{index}/norm", f"{source}.layer_norm")
    if config.feat_proj_layer_norm:
        table += affine("feature_norm", f"{prefix}feature_projection.layer_norm")
    positions = f"{prefix}encoder.pos_conv_embed.conv"
    for gain, direction in (
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ("weight_g", "weight_v"),
    ):
        table.append(Rule(f"{positions}.{gain}", "position_gain", _GAIN))
        table.append(Rule(f"{positions}.{direction}", "position_direction", CONV1D))
    return table + [
        *affine("feature_projection", f"{prefix}feature_projection.projection", linear(), FLAT),
        Rule(f"{positions}.bias", "position_bias"),
        *affine("norm", f"{prefix}encoder.layer_norm"),
        *transformer(f"{prefix}encoder.layers", _PARTS),
    ]
