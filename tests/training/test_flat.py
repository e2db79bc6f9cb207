"""One vector for all parameters: the same numbers as the tree, and AdamW over it is AdamW over the tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from empatheia_jax.config import OptimConfig, StageConfig
from empatheia_jax.testing.tiny import make_model, small_config
from empatheia_jax.training.flat import FlatLayout
from empatheia_jax.training.optim import decay_mask, optimizer
from empatheia_jax.training.stages import resolve_stages
from empatheia_jax.training.step import split

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.slow
def test_there_and_back_and_the_optimizers_state_too():
    config = small_config()
    _, tree, _ = split(make_model(config), resolve_stages(config)[4])
    flat = FlatLayout(tree)
    vector = flat.ravel(tree)
    assert vector.ndim == 1 and vector.size == sum(leaf.size for leaf in jax.tree.leaves(tree))
    for leaf, restored in zip(jax.tree.leaves(tree), jax.tree.leaves(flat.unravel(vector)), strict=True):
        np.testing.assert_array_equal(leaf, restored)
    mask = decay_mask(tree)
    as_vector = flat.ravel(jax.tree.map(lambda d, p: jnp.full(p.shape, d), mask, tree))
    settings = (OptimConfig(weight_decay=0.1), StageConfig(learning_rate=1e-2), 10)
    over_tree, over_vector = optimizer(*settings, mask), optimizer(*settings, as_vector)
    tree_state, vector_state = over_tree.init(tree), over_vector.init(vector)
    for number in range(3):
        gradient = jax.tree.map(lambda p, n=number: jnp.sin(17.0 * p + n), tree)
        updates, tree_state = over_tree.update(gradient, tree_state, tree)
        tree = optax.apply_updates(tree, updates)
        updates, vector_state = over_vector.update(flat.ravel(gradient), vector_state, vector)
        vector = optax.apply_updates(vector, updates)
    np.testing.assert_allclose(vector, flat.ravel(tree), rtol=1e-5, atol=1e-6)
    expanded = flat.expand(vector_state)
    assert jax.tree.structure(expanded) == jax.tree.structure(tree_state)  # a checkpoint is the same either way
    for leaf, expected in zip(jax.tree.leaves(flat.collapse(expanded)), jax.tree.leaves(vector_state), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_norms_biases_and_gains_are_not_decayed():
    config = small_config()
    _, tree, _ = split(make_model(config), resolve_stages(config)[4])
    for path, decayed in jax.tree_util.tree_leaves_with_path(decay_mask(tree)):
        name = jax.tree_util.keystr(path)
        if "bias" in name or "norm" in name or "gain" in name:
            assert decayed == 0.0, name
        if "kernel" in name or "lora" in name:
            assert decayed == 1.0, name
