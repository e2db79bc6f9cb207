"""HuBERT: transformers' HubertModel (or a task head on it) -> `encoders.hubert.Hubert`."""

from collections.abc import Mapping

from converters.readers import ConversionError, Tensor
from converters.rules import CONV1D, Rule, Transform, affine, linear, prefix_of, transformer
from empatheia_jax.encoders.hubert import Hubert, HubertConfig, fold_weight_norm

NETWORK = Hubert
HARMLESS = (r"(hubert\.)?masked_spec_embed", r"lm_head\.(weight|bias)")  # of SpecAugment and of CTC
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
    prefix = prefix_of(tensors, "hubert.")
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
    newer = "parametrizations.weight.original0", "parametrizations.weight.original1"
    for spelling in (newer, ("weight_g", "weight_v")):
        table.append(Rule(tuple(f"{positions}.{name}" for name in spelling), "position_kernel", _WEIGHT_NORM))
    return table + [
        *affine("feature_projection", f"{prefix}feature_projection.projection", linear()),
        Rule((f"{positions}.bias",), "position_bias"),
        *affine("norm", f"{prefix}encoder.layer_norm"),
        *transformer(f"{prefix}encoder.layers", _PARTS),
    ]
