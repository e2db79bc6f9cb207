"""All trainable parameters as one vector, where one device holds them all.

AdamW over two hundred small arrays is a thousand small kernels to compile and to start; over one vector it is a few.
Checkpoints keep the tree, so a run may move between one device and many.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec


class Flat:
    """The way between a tree of float32 arrays and one vector float32 [n], in the order of the tree's leaves."""

    def __init__(self, tree):
        leaves, self._structure = jax.tree.flatten(tree)
        self._shapes, self._places = [leaf.shape for leaf in leaves], [leaf.sharding for leaf in leaves]
        self._ends = list(itertools.accumulate(math.prod(shape) for shape in self._shapes))

    def abstract(self) -> jax.ShapeDtypeStruct:
        """Shape and place of the vector."""
        place = NamedSharding(self._places[0].mesh, PartitionSpec())
        return jax.ShapeDtypeStruct((self._ends[-1],), jnp.float32, sharding=place)

    def fill(self, tree) -> np.ndarray:
        """A tree of one number a leaf -> [n], each as often as its leaf has elements."""
        pairs = zip(self._shapes, jax.tree.leaves(tree), strict=True)
        return np.concatenate([np.full(math.prod(shape), value, np.float32) for shape, value in pairs])

    def ravel(self, tree) -> jax.Array:
        """Tree -> [n]."""
        return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)])

    def unravel(self, vector: jax.Array):
        """[n] -> the tree."""
        pieces = jnp.split(vector, self._ends[:-1])
        leaves = [piece.reshape(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)

    def tree(self, vector: jax.Array):
        """[n] -> the tree, cut on the host: two hundred slices would have to be compiled on the device."""
        pieces = np.split(np.array(vector), self._ends[:-1])
        arrays = [piece.reshape(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return jax.tree.unflatten(self._structure, jax.device_put(arrays, self._places))

    def expand(self, opt_state):
        """Optimizer state over the vector -> over the tree: what a checkpoint holds."""
        size = self._ends[-1]
        return jax.tree.map(lambda leaf: self.tree(leaf) if leaf.shape == (size,) else leaf, opt_state)

    def collapse(self, opt_state):
        """Optimizer state over the tree -> over the vector."""

        def whole(node) -> bool:
            return isinstance(node, nnx.State)

        return jax.tree.map(lambda node: self.ravel(node) if whole(node) else node, opt_state, is_leaf=whole)
