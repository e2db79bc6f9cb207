"""HuBERT against transformers' HubertModel: random shapes from $EMPATHEIA_SEED, error <= 1e-4 of the scale."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from support.comparison import relative_error
from support.torch_twins import TOLERANCE, Loader, abstract_size, assert_close, in_bfloat16, make_pair

HARMLESS = {"masked_spec_embed"}  # used by SpecAugment in training only
GAIN = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
BASE = {"feat_extract_norm": "group", "pre_norm": False, "conv_bias": False}
LARGE = {"feat_extract_norm": "layer", "pre_norm": True, "conv_bias": True}
CASES = {
    "base": BASE,
    "large": LARGE,
    "base_without_feature_norm": BASE | {"feat_proj_layer_norm": False},
    "base_odd_window": BASE | {"num_conv_pos_embeddings": 7},
    "large_other_epsilon": LARGE | {"norm_epsilon": 1e-3},
    "base_published_strides": BASE
    | {"conv_dim": (12,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)},
}
LAYER = {
    "q_proj": "attention.q_proj",
    "k_proj": "attention.k_proj",
    "v_proj": "attention.v_proj",
    "o_proj": "attention.out_proj",
    "attention_norm": "layer_norm",
    "up_proj": "feed_forward.intermediate_dense",
    "down_proj": "feed_forward.output_dense",
    "mlp_norm": "final_layer_norm",
}


def random_config(rng: np.random.Generator, **fixed) -> HubertConfig:
    heads, groups, convolutions = (int(rng.integers(low, high)) for low, high in ((1, 5), (1, 4), (2, 5)))
    fields = {
        "width": math.lcm(heads, groups) * int(rng.integers(3, 8)),
        "layers": int(rng.integers(2, 5)),
        "heads": heads,
        "mlp_width": int(rng.integers(20, 90)),
        "conv_dim": tuple(int(rng.integers(8, 24)) for _ in range(convolutions)),
        "conv_kernel": (10, *(int(rng.integers(2, 4)) for _ in range(convolutions - 1))),
        "conv_stride": (5, *(int(rng.integers(1, 3)) for _ in range(convolutions - 1))),
        "num_conv_pos_embeddings": 2 * int(rng.integers(2, 10)),
        "num_conv_pos_embedding_groups": groups,
    }
    return HubertConfig(**fields | fixed)


def torch_twin(config: HubertConfig):
    twin_config = transformers.HubertConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        layer_norm_eps=config.norm_epsilon,
        conv_dim=list(config.conv_dim),
        conv_kernel=list(config.conv_kernel),
        conv_stride=list(config.conv_stride),
        conv_bias=config.conv_bias,
        feat_extract_norm=config.feat_extract_norm,
        feat_proj_layer_norm=config.feat_proj_layer_norm,
        num_conv_pos_embeddings=config.num_conv_pos_embeddings,
        do_stable_layer_norm=config.pre_norm,
        num_conv_pos_embedding_groups=config.num_conv_pos_embedding_groups,
        attn_implementation="eager",
    )
    return transformers.HubertModel(twin_config)


def load(model: Hubert, state_dict: dict) -> None:
    loader = Loader(model, state_dict, HARMLESS)
    for index, convolution in enumerate(model.convolutions):
        name = f"feature_extractor.conv_layers.{index}"
        loader.put(convolution.kernel, loader.take(f"{name}.conv.weight").transpose(2, 1, 0))
        if convolution.bias is not None:
            loader.put(convolution.bias, loader.take(f"{name}.conv.bias"))
        if convolution.norm is not None:
            loader.norm(convolution.norm, f"{name}.layer_norm")
    if model.feature_norm is not None:
        loader.norm(model.feature_norm, "feature_projection.layer_norm")
    projection = model.feature_projection
    loader.put(projection.kernel, loader.take("feature_projection.projection.weight").T)
    loader.put(projection.bias, loader.take("feature_projection.projection.bias"))
    direction = loader.take(GAIN.replace("original0", "original1"))
    loader.put(model.position_direction, direction.transpose(2, 1, 0))
    loader.put(model.position_gain, loader.take(GAIN)[0, 0])
    loader.put(model.position_bias, loader.take("encoder.pos_conv_embed.conv.bias"))
    loader.norm(model.norm, "encoder.layer_norm")
    loader.layers("encoder.layers", LAYER)
    loader.finish()


BUILDERS = {"random_config": random_config, "torch_twin": torch_twin, "model_class": Hubert, "load": load}


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, seed):
    return make_pair(request.param, CASES, seed, **BUILDERS)


def run_twin(twin, waveform):
    with torch.no_grad():
        return twin(torch.tensor(waveform), output_hidden_states=True)


def run(model, waveform, lengths):
    call = jax.jit(lambda waveform, lengths: (model(waveform, lengths), model.hidden_states(waveform, lengths)[0]))
    (hidden, mask), states = call(jnp.asarray(waveform), jnp.asarray(lengths, jnp.int32))
    return np.asarray(hidden), np.asarray(mask), np.asarray(states)


def test_whole_batch(pair, seed, record_property):
    model, twin = pair
    rng = np.random.default_rng(seed)
    samples = int(rng.integers(3000, 5000))
    waveform = rng.normal(0.1, 1.0, (3, samples)).astype(np.float32)
    hidden, mask, states = run(model, waveform, [samples] * 3)
    outputs = run_twin(twin, waveform)
    assert mask.all() and mask.shape[1] == model.config.frame_count(samples)
    expected_states = [state.numpy() for state in outputs.hidden_states[: model.config.layers]]
    assert_close(hidden, outputs.last_hidden_state.numpy(), states, expected_states, record=record_property)


def test_a_failure_names_the_first_layer_that_differs(seed):
    model, twin = make_pair("base", CASES, seed, **BUILDERS)
    kernel = model.layers.up_proj.kernel
    kernel[...] = kernel[...].at[0].multiply(1.05)
    waveform = np.random.default_rng(seed).normal(0.1, 1.0, (1, 3000)).astype(np.float32)
    hidden, _, states = run(model, waveform, [3000])
    outputs = run_twin(twin, waveform)
    expected_states = [state.numpy() for state in outputs.hidden_states[: model.config.layers]]
    with pytest.raises(AssertionError, match="first in layer 0"):
        assert_close(hidden, outputs.last_hidden_state.numpy(), states, expected_states, record=lambda *_: None)


def test_padded_batch_equals_each_alone(pair, seed, record_property):
    """Every utterance in a batch gives torch's output for it alone, whatever the padding contains."""
    model, twin = pair
    rng = np.random.default_rng(seed + 1)
    lengths = [3000, *(int(length) for length in rng.integers(900, 2900, 2))]
    waveform = np.full((3, 3000), np.nan, np.float32)  # the worst possible padding
    for index, length in enumerate(lengths):
        waveform[index, :length] = rng.normal(0.1, 1.0 + index, length)
    hidden, mask, states = run(model, waveform, lengths)
    for index, length in enumerate(lengths):
        frames = model.config.frame_count(length)
        assert mask[index].tolist() == [frame < frames for frame in range(mask.shape[1])]
        outputs = run_twin(twin, waveform[index : index + 1, :length])
        expected_states = [state[0].numpy() for state in outputs.hidden_states[: model.config.layers]]
        actual, expected = hidden[index, :frames], outputs.last_hidden_state[0].numpy()
        assert_close(actual, expected, states[:, index, :frames], expected_states, record=record_property)
        assert not hidden[index, frames:].any()


@pytest.mark.slow
def test_too_short(seed):
    """An utterance without one frame has an empty mask and zeros; a batch without one frame is an error."""
    model = Hubert(HubertConfig.tiny(), rngs=nnx.Rngs(seed))
    waveform = np.ones((2, 400), np.float32)
    hidden, mask, _ = run(model, waveform, [400, 5])
    assert mask[0].all() and not mask[1].any() and np.isfinite(hidden).all() and not hidden[1].any()
    with pytest.raises(ValueError, match="too few"):
        model(jnp.ones((1, 9)), jnp.array([9]))


@pytest.mark.parametrize("variant", [BASE, LARGE], ids=["base", "large"])
def test_bfloat16(variant, seed):
    """Parameters and computation in bfloat16 come close, and the output stays float32."""
    tiny = dataclasses.replace(HubertConfig.tiny(), **variant)
    model = Hubert(tiny, rngs=nnx.Rngs(seed))
    half = in_bfloat16(model)
    waveform = np.random.default_rng(seed).normal(size=(1, 400)).astype(np.float32)
    actual, expected = run(half, waveform, [400])[0], run(model, waveform, [400])[0]
    assert half.layers.q_proj.kernel.dtype == jnp.bfloat16 and actual.dtype == np.float32
    assert TOLERANCE < relative_error(actual, expected) < 0.15


@pytest.mark.parametrize("size", ["base", "large"])
def test_published_sizes(size):
    """The model has as many parameters as transformers', without SpecAugment's."""
    config = getattr(HubertConfig, size)()
    with torch.device("meta"):
        twin = torch_twin(config)
    missing = {name: value.numel() for name, value in twin.named_parameters() if name in HARMLESS}
    assert missing == {"masked_spec_embed": config.width}
    total = sum(value.numel() for value in twin.parameters())
    model = nnx.eval_shape(lambda: Hubert(config, rngs=nnx.Rngs(0)))
    assert abstract_size(model) == total - sum(missing.values())
