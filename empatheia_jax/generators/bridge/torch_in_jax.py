"""A torch function in a JAX program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from empatheia_jax.generators.bridge.errors import BridgeError, remembered
from empatheia_jax.generators.bridge.exchange import as_arrays, as_numpy, as_tensor, conjugate, lend
from empatheia_jax.generators.bridge.randomness import drawing_from, random_state
from empatheia_jax.generators.bridge.signature import Signature


def from_torch(
    function: Callable, *, device: str | torch.device | None = None, copy: bool = False, shapes: Callable | None = None
) -> Callable:
    """A torch module or function of tensors as a function of JAX arrays.

    It works eagerly, under `jit`, `grad` (by torch's autograd), `vmap` (one by one) and in `shard_map` (a call for each
    device's part), on trees of arrays; what is no array (numbers, text, None) is handed over as it is. float64 and
    int64 results become float32 and int32 unless jax_enable_x64 is set, as everywhere in JAX. `grad` computes forward
    once more, with the random numbers of the first time and on copies of a module's buffers: nothing is updated twice.

    Args:
      device: where torch computes; default: where the parameters of a module are, else where the arguments are.
      copy: give torch copies of its arguments. Without, they share JAX's memory on a CPU, and every operator is
        watched for one that writes to them (about 10 us an operator); with it, nothing is watched.
      shapes: of the results: called with a `jax.ShapeDtypeStruct` for every array, returns the tree of results. `jit`
        must know them; without `shapes` the function is run once on zeros to see.
    Returns:
      a function that raises BridgeError for what cannot cross. What torch raises passes unchanged; under `jit` it is
      text in an error of JAX's, and `last_error()`.
    """
    if device is None and isinstance(function, torch.nn.Module):
        device = next((p.device for p in (*function.parameters(), *function.buffers())), None)
    return TorchFunction(function, None if device is None else torch.device(device), copy, shapes)


class TorchFunction:
    """What `from_torch` returns."""

    def __init__(self, function: Callable, device: torch.device | None, copy: bool, shapes: Callable | None):
        self.function, self.copy, self.shapes = function, copy, shapes
        self.device = None if device is None else torch.empty(0, device=device).device  # "cuda" is "cuda:0"
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self._takes = False  # whether torch has written to an argument, or kept one: from then on it gets copies
        self._traced: dict[Signature, Callable] = {}
        self._known: dict = {}  # shapes of results

    def __call__(self, *args, **kwargs):
        """As the torch function, on arrays."""
        signature, arrays = Signature.of((args, kwargs), _is_array)
        if not _is_traced(arrays):
            return self._now(signature, arrays)
        return signature.once(self._traced, self._differentiable)(*_alike(arrays))

    def _differentiable(self, signature: Signature) -> Callable:
        @jax.custom_vjp
        def function(*arrays):
            return forward(*arrays)[0]

        def forward(*arrays):
            if not _is_traced(arrays):
                state = random_state(self.device)
                return self._now(signature, arrays), (arrays, state)
            structure, shapes = self._results(signature, arrays)
            wide = jax.config.jax_enable_x64
            state = jax.ShapeDtypeStruct(random_state(self.device).shape, np.uint8)
            *found, state = _callback(
                lambda *arrays: remembered(self._called, signature, wide, shapes, arrays), (*shapes, state), arrays
            )
            return jax.tree.unflatten(structure, found), (arrays, state)

        def backward(kept, cotangents):
            arrays, state = kept
            floats = [_is_float(array.dtype) for array in arrays]
            given = [one for one in jax.tree.leaves(cotangents) if one.dtype != jax.dtypes.float0]
            if not _is_traced((*arrays, *given)):
                found = _at(_home(arrays), self._gradients(signature, arrays, given, state, as_arrays))
            else:
                shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays if _is_float(array.dtype)]
                count = len(arrays)
                found = _callback(
                    lambda state, *both: tuple(
                        remembered(self._gradients, signature, both[:count], both[count:], np.asarray(state), _for_xla)
                    ),
                    shapes,
                    (state, *arrays, *given),
                )
            remaining = iter(found)
            none = jax.dtypes.float0
            return tuple(
                next(remaining) if one else np.zeros(array.shape, none)
                for one, array in zip(floats, arrays, strict=True)
            )

        function.defvjp(forward, backward)
        return function

    # What torch does

    def _now(self, signature: Signature, arrays: Sequence):
        tensors = self._tensors(arrays)
        with lend(tensors) as lent:
            found, structure = _flat(self._apply(signature, tensors))
            tensors.clear()
            made = as_arrays(found)
        self._takes |= lent.taken > 0
        return jax.tree.unflatten(structure, _at(_home(arrays), made))

    def _called(self, signature: Signature, wide: bool, promised: Sequence, arrays: Sequence) -> tuple[np.ndarray, ...]:
        """In a callback: the results, and the random state before."""
        state = random_state(self.device)
        tensors = self._tensors(arrays)
        with lend(tensors) as lent:
            found, _ = _flat(self._apply(signature, tensors))
            tensors.clear()
            made = _for_xla(found, wide)
        self._takes |= lent.taken > 0
        told, seen = ([(one.shape, str(one.dtype)) for one in some] for some in (made, promised))
        if told != seen:
            raise BridgeError(
                f"{self.__name__} returned {told} where {seen} was expected: results of changing shape need a call "
                "outside of jit"
            )
        return (*made, state)

    def _gradients(self, signature: Signature, arrays: Sequence, cotangents: Sequence, state, convert: Callable):
        """Gradients of the floating arguments, `convert`ed: a list of tensors, which it empties."""
        tensors, given = self._tensors(arrays), self._tensors(cotangents)
        with lend([*tensors, *given]), drawing_from(self.device, np.asarray(state)), torch.enable_grad():
            inputs = [one.detach().requires_grad_(_differs(one)) for one in tensors]
            tensors.clear()
            # Torch must not write to what gradients are asked for; to a copy it may.
            handed = [one.clone() if self._takes and one.requires_grad else one for one in inputs]
            found, _ = _flat(self._apply(signature, handed, quietly=True))
            handed.clear()
            inputs = [one for one in inputs if one.requires_grad]
            results = [one for one in found if _differs(one)]
            found.clear()
            weights = [conjugate(one).to(result.dtype) for one, result in zip(given, results, strict=True)]
            given.clear()
            gradients = _pulled_back(results, weights, inputs)
            results.clear(), weights.clear(), inputs.clear()
            return convert(gradients)

    def _results(self, signature: Signature, arrays: Sequence) -> tuple[Any, Sequence]:
        """(structure, shapes and dtypes of the leaves) of what is returned for such arrays."""
        given = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)
        key = signature, given, jax.config.jax_enable_x64
        if key not in self._known:
            if self.shapes is not None:
                args, kwargs = signature.together(given)
                shapes, structure = jax.tree.flatten(self.shapes(*args, **kwargs))
            else:
                shapes, structure = self._tried(signature, given)
            self._known[key] = structure, shapes
        return self._known[key]

    def _tried(self, signature: Signature, given: Sequence) -> tuple[Sequence, Any]:
        def run():
            with drawing_from(self.device):
                tensors = self._tensors([np.zeros(one.shape, one.dtype) for one in given])
                return _flat(self._apply(signature, tensors, quietly=True))

        try:
            found, structure = remembered(run)
        except Exception as error:
            raise BridgeError(
                f"{self.__name__} was run on zeros, to see what it returns, and failed ({type(error).__name__}: "
                f"{error}): pass shapes= to from_torch"
            ) from error
        made = [as_numpy(one, jax.config.jax_enable_x64) for one in found]
        return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in made], structure

    def _tensors(self, arrays: Sequence) -> list[torch.Tensor]:
        copy = self.copy or self._takes
        return [as_tensor(array, self.device, copy or not _is_watched(array)) for array in arrays]

    def _apply(self, signature: Signature, tensors: Sequence[torch.Tensor], quietly: bool = False):
        """Call it; `quietly` on copies of a module's buffers."""
        args, kwargs = signature.together(tensors)
        if quietly and isinstance(self.function, torch.nn.Module):
            buffers = {name: buffer.clone() for name, buffer in self.function.named_buffers()}
            return torch.func.functional_call(self.function, buffers, args, kwargs)
        return self.function(*args, **kwargs)


# Results of torch -----------------------------------------------------------------------------------------------------


def _flat(result) -> tuple[list[torch.Tensor], Any]:
    """Leaves of what torch returned, as tensors, and their structure."""
    leaves, structure = jax.tree.flatten(_plain(result))
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic):
            leaves[number] = torch.as_tensor(leaf)
        elif not isinstance(leaf, torch.Tensor):
            raise BridgeError(f"torch returned a {type(leaf).__name__}: JAX needs tensors in tuples, lists or dicts")
    return leaves, structure


def _plain(result):
    """The outputs of transformers and the like are mappings that JAX does not know."""
    if isinstance(result, Mapping):
        return {key: _plain(value) for key, value in result.items()}
    if type(result) in (list, tuple):
        return type(result)(map(_plain, result))
    return result


def _pulled_back(results: list, weights: list, inputs: list) -> list[torch.Tensor]:
    """Gradients of the inputs, each with memory of its own; zeros where nothing flows back."""
    pairs = [(result, weight) for result, weight in zip(results, weights, strict=True) if result.requires_grad]
    found: Sequence = [None] * len(inputs)
    if pairs and inputs:
        found = torch.autograd.grad([one for one, _ in pairs], inputs, [one for _, one in pairs], allow_unused=True)
    return [torch.zeros_like(x) if g is None else conjugate(g) for x, g in zip(inputs, found, strict=True)]


def _differs(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _for_xla(tensors: list[torch.Tensor], wide: bool = True) -> list[np.ndarray]:
    """For XLA, which copies them; until then they must not be memory that was lent."""
    made = [as_numpy(one if one.untyped_storage().resizable() else one.clone(), wide) for one in tensors]
    tensors.clear()
    return made


# Arrays of JAX --------------------------------------------------------------------------------------------------------


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _is_watched(array) -> bool:
    """Whether `lend` could help it: within an accelerator a copy costs less than watching would."""
    return not isinstance(array, jax.Array) or all(one.platform == "cpu" for one in array.devices())


def _is_traced(arrays: Sequence) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def _is_float(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _home(arrays: Sequence) -> jax.Device | None:
    """The device of the first array; None for arrays on the host, and for such as are on many."""
    found = next((array.device for array in arrays if isinstance(array, jax.Array)), None)
    return found if isinstance(found, jax.Device) else None


def _at(home: jax.Device | None, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    return [one if home is None or one.device == home else jax.device_put(one, home) for one in arrays]


def _axes(array) -> frozenset:
    """Mesh axes over which the parts of an array differ, within `shard_map`."""
    kind = jax.typeof(array)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def _alike(arrays: Sequence, axes: frozenset = frozenset()) -> list:
    """Within `shard_map`: all differ over the axes over which any does, so that gradients of the others are summed."""
    axes = axes.union(*map(_axes, arrays))
    missing = [tuple(sorted(axes - _axes(array))) for array in arrays]
    return [
        jax.lax.pcast(array, names, to="varying") if names else array
        for array, names in zip(arrays, missing, strict=True)
    ]


def _callback(function: Callable, shapes: Sequence, arrays: Sequence) -> Sequence:
    found = jax.pure_callback(function, tuple(shapes), *arrays, vmap_method="sequential")
    return _alike(found, frozenset().union(*map(_axes, arrays)))  # of which a callback says nothing
