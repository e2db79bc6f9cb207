"""JAX functions as torch modules."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from empatheia_jax.generators.bridge.errors import BridgeError
from empatheia_jax.generators.bridge.exchange import as_array, as_owned_tensors, as_tensor, conjugate
from empatheia_jax.generators.bridge.signature import Signature


def to_torch(function: Callable, params: Any = None) -> torch.nn.Module:
    """Wrap a function of JAX arrays as a torch module, differentiable by torch's autograd.

    It is compiled once for every shape. Arguments and results are trees of tensors. Results are new tensors; arguments
    are not copied. Other values (numbers, text, None) are passed unchanged, as compile-time constants.

    Args:
      function: `function(*args)`, or `function(params, *args)` if there are `params`; pure, as for `jax.jit`.
      params: tree of arrays. Copies of them become parameters of the module (buffers, if not floating), named by their
        path ("layers.0.kernel") and trainable by a torch optimizer; `module.tree()` returns their values as a tree.

    Returns:
      A module that raises BridgeError for values that cannot pass; exceptions of JAX are not changed.

    Raises:
      BridgeError: names of parameters that collide, or that a torch module does not allow.
    """
    return JaxModule(function, params)


class JaxModule(torch.nn.Module):
    """The module that `to_torch` returns."""

    def __init__(self, function: Callable, params: Any = None):
        super().__init__()
        self._function, self._programs = function, {}
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(params)
        self._names = [_parameter_name(path) for path, _ in leaves]
        if len(set(self._names)) < len(self._names):
            raise BridgeError("two parameters have the same name")
        for name, (_, leaf) in zip(self._names, leaves, strict=True):
            *branches, last = name.split(".")
            owner: torch.nn.Module = self
            for branch in branches:
                if branch not in owner._modules and hasattr(owner, branch):
                    raise BridgeError(f"parameter {name!r}: a torch module has a {branch!r} of its own; rename it")
                if branch not in owner._modules:
                    owner.add_module(branch, torch.nn.Module())
                owner = owner.get_submodule(branch)
            if hasattr(owner, last):
                raise BridgeError(f"parameter {name!r}: a torch module has something of that name; rename it")
            tensor = as_tensor(jnp.asarray(leaf), copy=True)
            if tensor.is_floating_point() or tensor.is_complex():
                owner.register_parameter(last, torch.nn.Parameter(tensor))
            else:
                owner.register_buffer(last, tensor)

    def tree(self) -> Any:
        """Return copies of the parameters as JAX arrays, in the structure of `params`."""
        arrays = [jnp.array(as_array(tensor), copy=True) for tensor in self._tensors()]
        return jax.tree.unflatten(self._structure, arrays)

    def forward(self, *args, **kwargs):
        """Call the JAX function on tensors."""
        tree = (jax.tree.unflatten(self._structure, self._tensors()), args) if self._names else (args,)
        signature, tensors = Signature.split((*tree, kwargs), lambda leaf: isinstance(leaf, torch.Tensor))
        call = _Call(signature.cached(self._programs, self._make_program), torch.is_grad_enabled())
        results = _Function.apply(call, *tensors)
        return jax.tree.unflatten(call.structure, results)

    def _make_program(self, signature: Signature) -> "_Program":
        def flat(*arrays):
            *params, args, kwargs = signature.merge(arrays)
            return self._function(*params, *args, **kwargs)

        return _Program(flat)

    def _tensors(self) -> list[torch.Tensor]:
        tensors = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        return [tensors[name] for name in self._names]


def _parameter_name(path: tuple) -> str:
    """Return a parameter's path as a name that torch allows."""
    keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
    keys = [key for number, key in enumerate(keys) if not (number and key == "value")]  # attribute of nnx.Variable
    return ".".join(key.replace(".", "_") for key in keys) or "params"


class _Program:
    """A compiled function of arrays, without gradients and with the residuals of its gradient."""

    def __init__(self, flat: Callable):
        self._flat = flat
        self.plain = jax.jit(self._copied)
        self._linear: dict[tuple[bool, ...], Callable] = {}
        self.pull_back = jax.jit(self._pull_back, static_argnums=(1, 2))

    def _copied(self, *arrays) -> Any:
        """Return the results, copied so that no leaf is an argument or a constant."""
        return jax.tree.map(jnp.copy, self._flat(*arrays))

    def linear(self, needs_gradient: tuple[bool, ...]) -> Callable:
        """Return the compiled function from arrays to results and their vjp for the arguments that need a gradient."""
        if needs_gradient not in self._linear:

            def run(*arrays):
                def differentiable(*arguments):
                    remaining = iter(arguments)
                    merged = [next(remaining) if need else a for need, a in zip(needs_gradient, arrays, strict=True)]
                    return self._copied(*merged)

                return jax.vjp(differentiable, *(a for need, a in zip(needs_gradient, arrays, strict=True) if need))

            self._linear[needs_gradient] = jax.jit(run)
        return self._linear[needs_gradient]

    @staticmethod
    def _pull_back(vjp: Callable, structure, shapes: tuple, cotangents: list) -> tuple:
        """Apply `vjp` to the cotangents of those results that are floating."""
        remaining = iter(cotangents)
        leaves = [
            next(remaining) if jnp.issubdtype(dtype, jnp.inexact) else np.zeros(shape, jax.dtypes.float0)
            for shape, dtype in shapes
        ]
        return vjp(jax.tree.unflatten(structure, leaves))


@dataclasses.dataclass
class _Call:
    """One call of a program, which sets the `structure` of its results."""

    program: _Program
    with_gradient: bool
    structure: Any = None


class _Function(torch.autograd.Function):
    """The autograd function of a call."""

    @staticmethod
    def forward(ctx, call: _Call, *tensors: torch.Tensor):
        arrays = [as_array(tensor) for tensor in tensors]
        needs_gradient = tuple(
            call.with_gradient and need and jnp.issubdtype(array.dtype, jnp.inexact)
            for need, array in zip(ctx.needs_input_grad[1:], arrays, strict=True)
        )
        residuals = ()
        if not any(needs_gradient):
            results = jax.block_until_ready(call.program.plain(*arrays))  # torch may change the arguments afterwards
        else:
            results, ctx.vjp = jax.block_until_ready(call.program.linear(needs_gradient)(*arrays))
            ctx.call, ctx.needs_gradient, residuals = call, needs_gradient, jax.tree.leaves(ctx.vjp)
            ctx.save_for_backward(*tensors)  # so that torch raises an error if they are changed before backward
        leaves, call.structure = jax.tree.flatten(results)
        ctx.shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        owned = as_owned_tensors(leaves, residuals)
        ctx.mark_non_differentiable(*(leaf for leaf in owned if not (leaf.is_floating_point() or leaf.is_complex())))
        return tuple(owned)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: torch.Tensor):
        tensors = ctx.saved_tensors
        cotangents = [
            as_array(conjugate(gradient).contiguous())
            for gradient, (_, dtype) in zip(gradients, ctx.shapes, strict=True)
            if jnp.issubdtype(dtype, jnp.inexact)
        ]
        pulled = ctx.call.program.pull_back(ctx.vjp, ctx.call.structure, ctx.shapes, cotangents)
        owned = as_owned_tensors(jax.block_until_ready(pulled), (*cotangents, *jax.tree.leaves(ctx.vjp)))
        remaining = iter(owned)
        arguments = zip(ctx.needs_gradient, tensors, strict=True)
        return None, *(conjugate(next(remaining)).to(tensor.dtype) if need else None for need, tensor in arguments)
