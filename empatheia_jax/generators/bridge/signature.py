"""Arguments of a call, taken apart: arrays on the one hand, all else on the other."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from empatheia_jax.generators.bridge.errors import BridgeError


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a tree of arguments is without its arrays; hashable if everything else is."""

    structure: jax.tree_util.PyTreeDef
    rest: tuple[tuple[Hashable] | None, ...]  # None in the place of an array

    @classmethod
    def of(cls, tree: Any, is_array: Callable[[Any], bool]) -> tuple["Signature", list]:
        """(the signature, the arrays in order)."""
        leaves, structure = jax.tree.flatten(tree)
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        return cls(structure, tuple(None if is_array(leaf) else (leaf,) for leaf in leaves)), arrays

    def together(self, arrays: Sequence) -> Any:
        """The tree with other arrays."""
        remaining = iter(arrays)
        leaves = [next(remaining) if one is None else one[0] for one in self.rest]
        return jax.tree.unflatten(self.structure, leaves)

    def once(self, table: dict, make: Callable[["Signature"], Any]) -> Any:
        """`make(self)`, the first time; then what is in the table.

        Raises:
          BridgeError: an argument that is no array and cannot be hashed.
        """
        try:
            found = table.get(self)
        except TypeError as error:
            raise BridgeError(f"arguments that are no arrays must be hashable: {error}") from error
        if found is None:
            found = table[self] = make(self)
        return found
