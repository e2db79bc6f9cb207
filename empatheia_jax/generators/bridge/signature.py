"""Separation of a call's arguments into arrays and static values."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from empatheia_jax.generators.bridge.errors import BridgeError


@dataclasses.dataclass(frozen=True)
class Signature:
    """A tree of arguments without its arrays; hashable if all other leaves are."""

    structure: Any  # a jax.tree_util.PyTreeDef
    static_leaves: tuple[tuple[Hashable] | None, ...]  # None in the place of an array

    @classmethod
    def split(cls, tree: Any, is_array: Callable[[Any], bool]) -> tuple["Signature", list]:
        """Return the signature of a tree and its arrays in order."""
        leaves, structure = jax.tree.flatten(tree)
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        return cls(structure, tuple(None if is_array(leaf) else (leaf,) for leaf in leaves)), arrays

    def merge(self, arrays: Sequence) -> Any:
        """Return the tree with other arrays in it."""
        remaining = iter(arrays)
        leaves = [next(remaining) if leaf is None else leaf[0] for leaf in self.static_leaves]
        return jax.tree.unflatten(self.structure, leaves)

    def cached(self, table: dict, make: Callable[["Signature"], Any]) -> Any:
        """Return the entry of this signature in `table`, adding `make(self)` if it is missing.

        Raises:
          BridgeError: an argument that is neither an array nor hashable.
        """
        try:
            entry = table.get(self)
        except TypeError as error:
            raise BridgeError(f"arguments that are no arrays must be hashable: {error}") from error
        if entry is None:
            entry = table[self] = make(self)
        return entry
