"""Torch functions in JAX programs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.core import Tracer

from empatheia_jax.generators.bridge.errors import BridgeError, record_error
from empatheia_jax.generators.bridge.exchange import as_arrays, as_numpy, as_tensor, conjugate, is_x64_enabled, lend
from empatheia_jax.generators.bridge.randomness import random_state, restored_generators
from empatheia_jax.generators.bridge.signature import Signature


def from_torch(
    function: Callable, *, device: str | torch.device | None = None, copy: bool = False, shapes: Callable | None = None
) -> Callable:
    """Wrap a torch module or a function of tensors as a function of JAX arrays.

    It works eagerly, under `jit`, `grad` (by torch's autograd), `vmap` (sequentially) and in `shard_map` (one call per
    device, with its shard). Arguments and results are trees of arrays; other values (numbers, text, None) are passed
    unchanged. float64 and int64 results become float32 and int32 unless jax_enable_x64 is set, as everywhere in JAX.
    `grad` repeats the forward pass, with the random numbers of the first and on copies of a module's buffers, so that
    nothing is updated twice.

    Args:
      function: the torch module or function.
      device: where torch computes; by default where the module's parameters are, else where the arguments are.
      copy: pass copies of the arguments. Otherwise they share JAX's memory on a CPU, and every operator is checked for
        writes to it, which takes about 10 us per operator.
      shapes: the results' shapes, which `jit` must know: called with a `jax.ShapeDtypeStruct` for every array, returns
        the tree of results. By default the function is run once on zeros to find them.

    Returns:
      A function that raises BridgeError for values that cannot pass. Called eagerly it raises torch's exceptions
      unchanged; under `jit` they are text in an error of JAX, and `last_error()`.
    """
    if device is None and isinstance(function, torch.nn.Module):
        device = next((p.device for p in (*function.parameters(), *function.buffers())), None)
    return TorchFunction(function, None if device is None else torch.device(device), copy, shapes)


class TorchFunction:
    """The function that `from_torch` returns."""

    def __init__(self, function: Callable, device: torch.device | None, copy: bool, shapes: Callable | None):
        self.function, self.copy, self.shapes = function, copy, shapes
        self.device = None if device is None else torch.empty(0, device=device).device  # "cuda" is "cuda:0"
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self._needs_copies = False  # set when torch has written to an argument or kept one: from then on it gets copies
        self._differentiable: dict[Signature, Callable] = {}
        self._result_shapes: dict = {}

    def __call__(self, *args, **kwargs):
        """Call the torch function on arrays."""
        signature, arrays = Signature.split((args, kwargs), _is_array)
        if not _is_traced(arrays):
            return self._call_eagerly(signature, arrays)
        return signature.cached(self._differentiable, self._make_differentiable)(*_with_common_axes(arrays))

    def _make_differentiable(self, signature: Signature) -> Callable:
        @jax.custom_vjp
        def function(*arrays):
            return forward(*arrays)[0]

        def forward(*arrays):
            if not _is_traced(arrays):
                state = random_state(self.device)
                return self._call_eagerly(signature, arrays), (arrays, state)
            structure, shapes = self._find_shapes(signature, arrays)
            enable_x64 = is_x64_enabled()
            state = jax.ShapeDtypeStruct(random_state(self.device).shape, np.uint8)
            *leaves, state = _callback(
                lambda *arrays: record_error(self._call_on_host, signature, enable_x64, shapes, arrays),
                (*shapes, state),
                arrays,
            )
            return jax.tree.unflatten(structure, leaves), (arrays, state)

        def backward(residuals, cotangents):
            arrays, state = residuals
            has_gradient = [_is_float(array.dtype) for array in arrays]
            cotangents = [leaf for leaf in jax.tree.leaves(cotangents) if leaf.dtype != jax.dtypes.float0]
            if not _is_traced((*arrays, *cotangents)):
                gradients = _put_on(
                    _first_device(arrays), self._gradients(signature, arrays, cotangents, state, convert=as_arrays)
                )
            else:
                shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays if _is_float(array.dtype)]
                count = len(arrays)
                gradients = _callback(
                    lambda state, *leaves: tuple(
                        record_error(
                            lambda: self._gradients(
                                signature, leaves[:count], leaves[count:], np.asarray(state), convert=_to_host
                            )
                        )
                    ),
                    shapes,
                    (state, *arrays, *cotangents),
                )
            remaining = iter(gradients)
            return tuple(
                next(remaining) if floating else np.zeros(array.shape, jax.dtypes.float0)
                for floating, array in zip(has_gradient, arrays, strict=True)
            )

        function.defvjp(forward, backward)
        return function

    # Calls of torch

    def _call_eagerly(self, signature: Signature, arrays: Sequence):
        tensors = self._tensors(arrays)
        with lend(tensors) as lent:
            leaves, structure = _flatten(self._apply(signature, tensors))
            tensors.clear()
            results = as_arrays(leaves)
        self._needs_copies |= lent.unshared > 0
        return jax.tree.unflatten(structure, _put_on(_first_device(arrays), results))

    def _call_on_host(
        self, signature: Signature, enable_x64: bool, promised: Sequence, arrays: Sequence
    ) -> tuple[np.ndarray, ...]:
        """Return, in a callback, the results and the random state before the call."""
        state = random_state(self.device)
        tensors = self._tensors(arrays)
        with lend(tensors) as lent:
            leaves, _ = _flatten(self._apply(signature, tensors))
            tensors.clear()
            results = _to_host(leaves, enable_x64)
        self._needs_copies |= lent.unshared > 0
        returned, expected = ([(leaf.shape, str(leaf.dtype)) for leaf in leaves] for leaves in (results, promised))
        if returned != expected:
            raise BridgeError(
                f"{self.__name__} returned {returned} where {expected} was expected: results of changing shape need a "
                "call outside of jit"
            )
        return (*results, state)

    def _gradients(self, signature: Signature, arrays: Sequence, cotangents: Sequence, state, *, convert: Callable):
        """Compute the gradients of the floating arguments.

        References to tensors are dropped as early as possible, as `lend` demands.

        Args:
          signature: of the call.
          arrays: its arguments.
          cotangents: those of the floating results.
          state: the random state before the call.
          convert: converts a list of tensors, which it empties.
        """
        tensors, weights = self._tensors(arrays), self._tensors(cotangents)
        with lend([*tensors, *weights]), restored_generators(self.device, np.asarray(state)), torch.enable_grad():
            inputs = [tensor.detach().requires_grad_(_is_differentiable(tensor)) for tensor in tensors]
            tensors.clear()
            # A function that writes to its arguments gets copies: autograd forbids writes to its inputs.
            arguments = [leaf.clone() if self._needs_copies and leaf.requires_grad else leaf for leaf in inputs]
            leaves, _ = _flatten(self._apply(signature, arguments, copy_buffers=True))
            arguments.clear()
            inputs = [leaf for leaf in inputs if leaf.requires_grad]
            results = [leaf for leaf in leaves if _is_differentiable(leaf)]
            leaves.clear()
            weights = [conjugate(weight).to(result.dtype) for weight, result in zip(weights, results, strict=True)]
            gradients = _vjp(results, weights, inputs)
            results.clear(), weights.clear(), inputs.clear()
            return convert(gradients)

    def _find_shapes(self, signature: Signature, arrays: Sequence) -> tuple[Any, Sequence]:
        """Return the structure of the results for such arrays, and the shapes and dtypes of its leaves."""
        abstract = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)
        key = signature, abstract, is_x64_enabled()
        if key not in self._result_shapes:
            if self.shapes is not None:
                args, kwargs = signature.merge(abstract)
                shapes, structure = jax.tree.flatten(self.shapes(*args, **kwargs))
            else:
                shapes, structure = self._run_on_zeros(signature, abstract)
            self._result_shapes[key] = structure, shapes
        return self._result_shapes[key]

    def _run_on_zeros(self, signature: Signature, abstract: Sequence) -> tuple[Sequence, Any]:
        def run():
            with restored_generators(self.device):
                tensors = self._tensors([np.zeros(array.shape, array.dtype) for array in abstract])
                return _flatten(self._apply(signature, tensors, copy_buffers=True))

        try:
            leaves, structure = record_error(run)
        except Exception as error:
            raise BridgeError(
                f"{self.__name__} was run on zeros, to find the shapes of its results, and failed "
                f"({type(error).__name__}: {error}): pass shapes= to from_torch"
            ) from error
        results = [as_numpy(leaf, is_x64_enabled()) for leaf in leaves]
        return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in results], structure

    def _tensors(self, arrays: Sequence) -> list[torch.Tensor]:
        copy = self.copy or self._needs_copies
        return [as_tensor(array, self.device, copy or not _is_watched(array)) for array in arrays]

    def _apply(self, signature: Signature, tensors: Sequence[torch.Tensor], copy_buffers: bool = False):
        """Call the function; with `copy_buffers` a module's buffers are not changed."""
        args, kwargs = signature.merge(tensors)
        if copy_buffers and isinstance(self.function, torch.nn.Module):
            buffers = {name: buffer.clone() for name, buffer in self.function.named_buffers()}
            return torch.func.functional_call(self.function, buffers, args, kwargs)
        return self.function(*args, **kwargs)


# Results of torch -----------------------------------------------------------------------------------------------------


def _flatten(result) -> tuple[list[torch.Tensor], Any]:
    """Return the leaves of a result of torch as tensors, and its structure."""
    leaves, structure = jax.tree.flatten(_to_builtin(result))
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic):
            leaves[number] = torch.as_tensor(leaf)
        elif not isinstance(leaf, torch.Tensor):
            raise BridgeError(f"torch returned a {type(leaf).__name__}: JAX needs tensors in tuples, lists or dicts")
    return leaves, structure


def _to_builtin(result):
    """Convert mappings that JAX does not know, such as transformers' outputs, to dicts."""
    if isinstance(result, Mapping):
        return {key: _to_builtin(value) for key, value in result.items()}
    if type(result) in (list, tuple):
        return type(result)(map(_to_builtin, result))
    return result


def _vjp(results: list, weights: list, inputs: list) -> list[torch.Tensor]:
    """Return the gradients of the inputs, in new memory; zeros for inputs that the results do not depend on."""
    pairs = [(result, weight) for result, weight in zip(results, weights, strict=True) if result.requires_grad]
    gradients: Sequence = [None] * len(inputs)
    if pairs and inputs:
        outputs, output_weights = zip(*pairs, strict=True)
        gradients = torch.autograd.grad(outputs, inputs, output_weights, allow_unused=True)
    return [torch.zeros_like(x) if g is None else conjugate(g) for x, g in zip(inputs, gradients, strict=True)]


def _is_differentiable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _to_host(tensors: list[torch.Tensor], enable_x64: bool = True) -> list[np.ndarray]:
    """Return a callback's results, none of which may be in lent memory until XLA has copied them; empties the list."""
    arrays = [as_numpy(t if t.untyped_storage().resizable() else t.clone(), enable_x64) for t in tensors]
    tensors.clear()
    return arrays


# Arrays of JAX --------------------------------------------------------------------------------------------------------


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _is_watched(array) -> bool:
    """Return whether `lend` can watch an array's memory: on an accelerator a copy costs less than watching."""
    return not isinstance(array, jax.Array) or all(device.platform == "cpu" for device in array.devices())


def _is_traced(arrays: Sequence) -> bool:
    return any(isinstance(array, Tracer) for array in arrays)


def _is_float(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _first_device(arrays: Sequence) -> Any:
    """Return the `jax.Device` of the first JAX array; None if there is none, or if it is on several devices."""
    device = next((array.device for array in arrays if isinstance(array, jax.Array)), None)
    return device if isinstance(device, jax.Device) else None


def _put_on(device: Any, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    return [a if device is None or a.device == device else jax.device_put(a, device) for a in arrays]


def _varying_axes(array) -> frozenset:
    """Return the mesh axes over which an array's shards differ in `shard_map`."""
    aval = jax.typeof(array)
    return aval.manual_axis_type.varying if hasattr(aval, "manual_axis_type") else aval.vma


def _with_common_axes(arrays: Sequence, axes: frozenset = frozenset()) -> list:
    """Mark all arrays in `shard_map` as varying over the axes of any, so that the others' gradients are summed."""
    axes = axes.union(*map(_varying_axes, arrays))
    missing = [tuple(sorted(axes - _varying_axes(array))) for array in arrays]
    return [
        jax.lax.pcast(array, names, to="varying") if names else array
        for array, names in zip(arrays, missing, strict=True)
    ]


def _callback(function: Callable, shapes: Sequence, arrays: Sequence) -> Sequence:
    results = jax.pure_callback(function, tuple(shapes), *arrays, vmap_method="sequential")
    # A callback's results carry no varying axes of their own.
    return _with_common_axes(results, frozenset().union(*map(_varying_axes, arrays)))
