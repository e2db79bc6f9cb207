"""All trainable parameters as one vector, where one device holds them all.

AdamW over two hundred small arrays is a thousand small kernels to compile and to launch; over one vector it is a few.
Checkpoints keep the tree, so a run may move between one device and many.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec


class FlatLayout:
    """The conversion between a tree of float32 arrays and one vector float32 [n], in the order of the tree's leaves."""

    def __init__(self, tree):
        leaves, self._structure = jax.tree.flatten(tree)
        self._shapes, self._shardings = [leaf.shape for leaf in leaves], [leaf.sharding for leaf in leaves]
        self._ends = list(itertools.accumulate(math.prod(shape) for shape in self._shapes))

    def abstract(self) -> jax.ShapeDtypeStruct:
        """Return the vector's shape, dtype and sharding."""
        sharding = NamedSharding(self._shardings[0].mesh, PartitionSpec())
        return jax.ShapeDtypeStruct((self._ends[-1],), jnp.float32, sharding=sharding)

    def fill(self, tree) -> np.ndarray:
        """Return float32 [n] from a tree of one number a leaf, each repeated as often as its leaf has elements."""
        pairs = zip(self._shapes, jax.tree.leaves(tree), strict=True)
        return np.concatenate([np.full(math.prod(shape), value, np.float32) for shape, value in pairs])

    def ravel(self, tree) -> jax.Array:
        """Concatenate the tree's leaves to float32 [n]."""
        return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)])

    def unravel(self, vector: jax.Array):
        """Cut the vector [n] into the tree; traceable."""
        pieces = jnp.split(vector, self._ends[:-1])
        leaves = [piece.reshape(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)

    def unravel_on_host(self, vector: jax.Array):
        """Cut the vector [n] into the tree on the host: on the device two hundred slices would be compiled."""
        pieces = np.split(np.array(vector), self._ends[:-1])
        arrays = [piece.reshape(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return jax.tree.unflatten(self._structure, jax.device_put(arrays, self._shardings))

    def expand(self, opt_state):
        """Turn an optimizer state over the vector into one over the tree, as checkpoints hold it."""
        size = self._ends[-1]
        return jax.tree.map(lambda leaf: self.unravel_on_host(leaf) if leaf.shape == (size,) else leaf, opt_state)

    def collapse(self, opt_state):
        """Turn an optimizer state over the tree into one over the vector."""

        def is_state(node) -> bool:
            return isinstance(node, nnx.State)

        return jax.tree.map(lambda node: self.ravel(node) if is_state(node) else node, opt_state, is_leaf=is_state)
