"""Whatever the remat, attention, packing and accumulation of a step, its loss and gradient are the plain model's.

The plain model reads one Example at a time, without packing, and its loss is computed by hand.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.testing.tiny import WIDTHS, make_examples, make_model, make_tokenizer, replace_fields, small_config
from empatheia_jax.training.stages import resolve_stages
from empatheia_jax.training.step import make_step, split

EXAMPLES = 4
LONGEST = 512  # more tokens than any Example has


@pytest.fixture(scope="module")
def drawn(seed):
    """Return (Examples of random lengths, tokenizer, random shape of the LLM)."""
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.choice([1, 2, 4]))
    head_dim = int(rng.choice([8, 16]))
    shape = dict(heads=4, kv_heads=kv_heads, head_dim=head_dim, mlp_width=int(rng.integers(20, 60)))
    examples = make_examples(EXAMPLES // 2, seed=seed)
    return examples, make_tokenizer(), shape


def make_config(drawn, rows=2, accumulate=1, spare=0, **llm):
    config = small_config(modalities=())
    config = replace_fields(config, "llm", **drawn[2] | llm)
    config = replace_fields(config, "lora", targets=("q_proj", "v_proj", "o_proj", "up_proj"))
    per_row = EXAMPLES // rows // accumulate
    config = replace_fields(
        config,
        "data",
        rows=rows,
        row_tokens=LONGEST * per_row + spare,
        row_examples=per_row,
        row_targets=LONGEST * per_row,
    )
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=accumulate))


def packed_step(drawn, seed, config):
    """Return (loss, gradient of the adapters) of one step over all Examples."""
    examples, tokenizer, _ = drawn
    first = resolve_stages(config)[1]
    rows = BatchBuilder(
        examples, "text", config, tokenizer, store=None, widths=WIDTHS, train=False, seed=0, content=False
    )
    graphdef, trainable, frozen = split(make_model(config, None, seed=seed), first)
    tx = optax.sgd(1.0)  # the update is the negative gradient
    step = jax.jit(make_step(graphdef, first, tx, rows.bounds))
    count, per_row = config.data.rows * config.optim.accumulate, config.data.row_examples
    plan = [(0, list(range(row * per_row, (row + 1) * per_row))) for row in range(count)]
    batch = rows.batch(plan, accumulate=config.optim.accumulate)
    after, _, metrics = step(trainable, tx.init(trainable), frozen, batch, jax.random.key(0))
    gradient = jax.tree.map(lambda before, after: np.asarray(before - after), trainable, after)
    return float(metrics["loss"]), jax.tree.leaves(gradient)


@pytest.fixture(scope="module")
def plain(drawn, seed):
    """Return the same, computed one Example at a time."""
    examples, tokenizer, _ = drawn
    config = make_config(drawn, rows=1, remat="none")
    encoded = BatchBuilder(
        examples, "text", config, tokenizer, store=None, widths=WIDTHS, train=False, seed=0, content=False
    ).encoded
    graphdef, trainable, frozen = split(make_model(config, None, seed=seed), resolve_stages(config)[1])

    def loss(trainable, tokens, positions, loss_mask):
        llm = nnx.merge(graphdef, trainable, frozen).llm
        hidden, _ = llm(llm.embed(tokens[None]), positions[None])
        scores = jax.nn.log_softmax(llm.logits(hidden)[0])
        target_scores = jnp.take_along_axis(scores[:-1], tokens[1:, None], axis=-1)[:, 0]
        return -jnp.sum(jnp.where(loss_mask[1:], target_scores, 0.0))

    total, gradient, count = 0.0, None, sum(int(example.loss_mask[1:].sum()) for example in encoded)
    longest = max(len(example.ids) for example in encoded)
    step = jax.jit(jax.value_and_grad(loss))
    for example in encoded:
        tokens, loss_mask = np.zeros(longest, np.int32), np.zeros(longest, bool)
        tokens[: len(example.ids)], loss_mask[: len(example.ids)] = example.ids, example.loss_mask
        value, example_gradient = step(trainable, tokens, np.arange(longest), loss_mask)
        total += float(value) / count
        example_gradient = jax.tree.map(lambda g: g / count, example_gradient)
        gradient = example_gradient if gradient is None else jax.tree.map(jnp.add, gradient, example_gradient)
    return total, [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]


@pytest.mark.parametrize(
    "settings",
    [
        dict(remat="lora", rows=1, accumulate=2),
        pytest.param(dict(remat="lora"), marks=pytest.mark.slow),
        pytest.param(dict(remat="none"), marks=pytest.mark.slow),
        pytest.param(dict(remat="attention", rows=1), marks=pytest.mark.slow),
        pytest.param(dict(remat="full", rows=1, accumulate=4), marks=pytest.mark.slow),
        pytest.param(dict(remat="lora", rows=4, spare=77), marks=pytest.mark.slow),
        pytest.param(dict(remat="lora", attention="splash", head_dim=128), marks=pytest.mark.slow),
    ],
    ids=lambda settings: "-".join(f"{name}_{value}" for name, value in settings.items()),
)
def test_the_step_is_the_plain_models(drawn, plain, seed, settings):
    if "head_dim" in settings:  # splash's kernels need wide heads: another model, compared with a plain path of its own
        plain = packed_step(drawn, seed, make_config(drawn, head_dim=128, remat="none"))
    loss, gradient = packed_step(drawn, seed, make_config(drawn, **settings))
    assert abs(loss - plain[0]) < 1e-5 * abs(plain[0])
    for leaf, expected in zip(gradient, plain[1], strict=True):
        np.testing.assert_allclose(leaf, expected, atol=2e-5 * max(np.abs(expected).max(), 1e-3))
