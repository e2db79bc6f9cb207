"""HuBERT: transformers' HubertModel (or a task head on it) -> `encoders.hubert.Hubert`."""

from collections.abc import Mapping

from converters.readers import ConversionError, Tensor
from converters.rules import CONV1D, FLAT, SAME, Rule, Transform, linear
from empatheia_jax.encoders.hubert import Hubert, HubertConfig, fold_weight_norm

NETWORK = Hubert
HARMLESS = (r"(hubert\.)?masked_spec_embed", r"lm_head\.(weight|bias)")  # of SpecAugment and of CTC
_POSITIONS = "encoder.pos_conv_embed.conv"
_WEIGHT_NORM = Transform(
    lambda shape: [(1, 1, shape[0]), (shape[2], shape[1], shape[0])],
    lambda arrays, shape: fold_weight_norm(*(array.astype("float32") for array in arrays)),
)
_PARTS = {
    "q_proj": "attention.q_proj", "k_proj": "attention.k_proj", "v_proj": "attention.v_proj",
    "o_proj": "attention.out_proj", "up_proj": "feed_forward.intermediate_dense",
    "down_proj": "feed_forward.output_dense", "attention_norm": "layer_norm", "mlp_norm": "final_layer_norm",
}  # fmt: skip


def config_of(settings: dict, preprocessor: dict | None) -> HubertConfig:
    """transformers' config.json (and preprocessor_config.json) -> ours; what is absent has transformers' default.

    Raises:
      ConversionError: something that `Hubert` or `HubertAudio` does otherwise.
    """
    for name, wanted in (("hidden_act", "gelu"), ("feat_extract_activation", "gelu"), ("conv_pos_batch_norm", False)):
        if settings.get(name, wanted) != wanted:
            raise ConversionError(f"config.json: {name} is {settings[name]!r}; only {wanted!r} is known")
    for name, wanted in (("do_normalize", True), ("sampling_rate", 16_000)):
        if preprocessor is not None and preprocessor.get(name, wanted) != wanted:
            raise ConversionError(
                f"preprocessor_config.json: {name} is {preprocessor[name]!r}; only {wanted!r} is known"
            )
    names = {
        "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "mlp_width": "intermediate_size", "pre_norm": "do_stable_layer_norm", "norm_epsilon": "layer_norm_eps",
    } | {
        name: name
        for name in (
            "conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "feat_proj_layer_norm",
            "num_conv_pos_embeddings", "num_conv_pos_embedding_groups",
        )
    }  # fmt: skip
    base = {"width": 768, "layers": 12, "heads": 12, "mlp_width": 3072, "pre_norm": False}
    given = {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
    return HubertConfig(**base | {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})


def rules(config: HubertConfig, tensors: Mapping[str, Tensor]) -> list[Rule]:
    """The table. A model with a task head has "hubert." before every name."""
    prefix = "hubert." if any(name.startswith("hubert.") for name in tensors) else ""

    def pair(target: str, source: str, transform: Transform, bias: Transform = SAME) -> list[Rule]:
        weight = "scale" if target.endswith("norm") else "kernel"
        return [
            Rule((f"{prefix}{source}.weight",), f"{target}/{weight}", transform),
            Rule((f"{prefix}{source}.bias",), f"{target}/bias", bias),
        ]

    table: list[Rule] = []
    for index in range(len(config.conv_dim)):
        source = f"feature_extractor.conv_layers.{index}"
        kernel, bias = pair(f"convolutions/{index}", f"{source}.conv", CONV1D)
        table += [kernel, bias] if config.conv_bias else [kernel]
        if config.feat_extract_norm == "layer" or index == 0:
            table += pair(f"convolutions/{index}/norm", f"{source}.layer_norm", SAME)
    if config.feat_proj_layer_norm:
        table += pair("feature_norm", "feature_projection.layer_norm", SAME)
    table += pair("feature_projection", "feature_projection.projection", linear())
    newer = "parametrizations.weight.original0", "parametrizations.weight.original1"
    for spelling in (newer, ("weight_g", "weight_v")):
        sources = tuple(f"{prefix}{_POSITIONS}.{name}" for name in spelling)
        table.append(Rule(sources, "position_kernel", _WEIGHT_NORM))
    table += [Rule((f"{prefix}{_POSITIONS}.bias",), "position_bias"), *pair("norm", "encoder.layer_norm", SAME)]
    for ours, theirs in _PARTS.items():
        transform = SAME if ours.endswith("norm") else linear(2 if ours == "o_proj" else 1)
        table += pair(f"layers/{ours}", f"encoder.layers.{{layer}}.{theirs}", transform, FLAT)
    return table
