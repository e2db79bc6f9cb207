"""The CLIP vision tower against transformers' CLIPVisionModel: random shapes, error <= 1e-4 of the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig
from support.comparison import relative_error
from support.torch_twins import TOLERANCE, Loader, abstract_size, assert_close, in_bfloat16, make_pair

HARMLESS = {"embeddings.position_ids"}  # 0, 1, 2, ...: in older checkpoints only
CASES = {
    "quick_gelu": {"activation": "quick_gelu"},
    "gelu": {"activation": "gelu"},
    "one_patch_row_left_over": {"image_size": 29, "patch_size": 7},
    "other_epsilon": {"norm_epsilon": 1e-3},
    "random": {},
}
LAYER = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "up_proj": "mlp.fc1",
    "down_proj": "mlp.fc2",
    "mlp_norm": "layer_norm2",
}


def random_config(rng: np.random.Generator, **fixed) -> ClipVisionConfig:
    heads, patch = int(rng.integers(1, 5)), int(rng.integers(4, 9))
    fields = {
        "width": heads * int(rng.integers(5, 12)),
        "layers": int(rng.integers(2, 5)),
        "heads": heads,
        "mlp_width": int(rng.integers(20, 90)),
        "image_size": patch * int(rng.integers(2, 6)),
        "patch_size": patch,
    }
    return ClipVisionConfig(**fields | fixed)


def torch_twin(config: ClipVisionConfig):
    twin_config = transformers.CLIPVisionConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        layer_norm_eps=config.norm_epsilon,
        hidden_act=config.activation,
        image_size=config.image_size,
        patch_size=config.patch_size,
        attn_implementation="eager",
    )
    return transformers.CLIPVisionModel(twin_config)


def load(model: ClipVision, state_dict: dict) -> None:
    # Older releases of transformers put "vision_model." before every name.
    state_dict = {name.removeprefix("vision_model."): value for name, value in state_dict.items()}
    loader = Loader(model, state_dict, HARMLESS)
    loader.put(model.patch_kernel, loader.take("embeddings.patch_embedding.weight").transpose(2, 3, 1, 0))
    loader.put(model.class_embedding, loader.take("embeddings.class_embedding"))
    loader.put(model.position_embedding, loader.take("embeddings.position_embedding.weight"))
    loader.norm(model.pre_norm, "pre_layrnorm")  # the spelling of the checkpoint
    loader.norm(model.post_norm, "post_layernorm")
    loader.layers("encoder.layers", LAYER)
    loader.finish()


BUILDERS = {
    "random_config": random_config,
    "torch_twin": torch_twin,
    "model_class": ClipVision,
    "load": load,
}


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, seed):
    return make_pair(request.param, CASES, seed, **BUILDERS)


def random_pixels(config, seed):
    size = config.image_size
    return np.random.default_rng(seed).normal(size=(3, size, size, 3)).astype(np.float32)


def test_images(pair, seed, record_property):
    model, twin = pair
    pixels = random_pixels(model.config, seed)
    (hidden, pooled), states = jax.jit(lambda pixels: (model(pixels), model.hidden_states(pixels)))(pixels)
    with torch.no_grad():
        outputs = twin(torch.tensor(pixels.transpose(0, 3, 1, 2)), output_hidden_states=True)
    expected_states = [state.numpy() for state in outputs.hidden_states[: model.config.layers]]
    assert hidden.shape[1] == 1 + model.config.patches
    assert_close(hidden, outputs.last_hidden_state.numpy(), states, expected_states, record=record_property)
    assert_close(pooled, outputs.pooler_output.numpy(), states, expected_states, record=record_property)


def test_wrong_size(seed):
    model = ClipVision(ClipVisionConfig.tiny(), rngs=nnx.Rngs(seed))
    with pytest.raises(ValueError, match="wanted \\(24, 24, 3\\)"):
        model(jnp.ones((1, 24, 16, 3)))


def test_bfloat16(seed):
    """Parameters and computation in bfloat16 come close, and the outputs stay float32."""
    model = ClipVision(ClipVisionConfig.tiny(), rngs=nnx.Rngs(seed))
    half = in_bfloat16(model)
    pixels = random_pixels(model.config, seed)
    assert half.layers.q_proj.kernel.dtype == jnp.bfloat16
    for actual, expected in zip(jax.jit(half)(pixels), jax.jit(model)(pixels), strict=True):
        assert actual.dtype == jnp.float32 and TOLERANCE < relative_error(actual, expected) < 0.15


def test_published_size():
    config = ClipVisionConfig.vit_l_14_336()
    with torch.device("meta"):
        twin = torch_twin(config)
    model = nnx.eval_shape(lambda: ClipVision(config, rngs=nnx.Rngs(0)))
    assert abstract_size(model) == sum(value.numel() for value in twin.parameters())
