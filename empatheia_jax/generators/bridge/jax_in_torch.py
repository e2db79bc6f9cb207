"""A JAX function in a torch program."""

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
    """A function of JAX arrays as a torch module, differentiable by torch's autograd.

    It is compiled once for every shape. Results are new tensors; arguments are read where they are. Trees of tensors
    pass in and out; what is no tensor (numbers, text, None) is handed over as it is and compiled in.

    Args:
      function: `function(*args)`, or `function(params, *args)` where there are `params`; pure, as for `jax.jit`.
      params: tree of arrays. They become parameters of the module (those that are not floating: buffers), copied, named
        by their place ("layers.0.kernel"), and are what an optimizer of torch changes; `module.tree()` gives them back.
    Returns:
      a module that raises BridgeError for what cannot cross; what JAX raises passes unchanged.
    """
    return JaxModule(function, params)


class JaxModule(torch.nn.Module):
    """What `to_torch` returns."""

    def __init__(self, function: Callable, params: Any = None):
        super().__init__()
        self._function, self._programs = function, {}
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(params)
        self._names = [_name(path) for path, _ in leaves]
        if len(set(self._names)) < len(self._names):
            raise BridgeError("two parameters have one name")
        for name, (_, leaf) in zip(self._names, leaves, strict=True):
            *branches, last = name.split(".")
            place = self
            for branch in branches:
                if branch not in place._modules and hasattr(place, branch):
                    raise BridgeError(f"parameter {name!r}: a torch module has a {branch!r} of its own; rename it")
                if branch not in place._modules:
                    place.add_module(branch, torch.nn.Module())
                place = place._modules[branch]
            if hasattr(place, last):
                raise BridgeError(f"parameter {name!r}: a torch module has something of that name; rename it")
            tensor = as_tensor(jnp.asarray(leaf), copy=True)
            if tensor.is_floating_point() or tensor.is_complex():
                place.register_parameter(last, torch.nn.Parameter(tensor))
            else:
                place.register_buffer(last, tensor)

    def tree(self) -> Any:
        """The parameters as JAX arrays, copied, in the tree that they came in."""
        arrays = [jnp.array(as_array(tensor), copy=True) for tensor in self._tensors()]
        return jax.tree.unflatten(self._structure, arrays)

    def forward(self, *args, **kwargs):
        """As the JAX function, on tensors."""
        tree = (jax.tree.unflatten(self._structure, self._tensors()), args) if self._names else (args,)
        signature, tensors = Signature.of((*tree, kwargs), lambda leaf: isinstance(leaf, torch.Tensor))
        call = _Call(signature.once(self._programs, self._program), torch.is_grad_enabled())
        found = _Function.apply(call, *tensors)
        return jax.tree.unflatten(call.structure, found)

    def _program(self, signature: Signature) -> "_Program":
        def flat(*arrays):
            *params, args, kwargs = signature.together(arrays)
            return self._function(*params, *args, **kwargs)

        return _Program(flat)

    def _tensors(self) -> list[torch.Tensor]:
        found = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        return [found[name] for name in self._names]


def _name(path: tuple) -> str:
    """Where a parameter is, in words that torch takes for one."""
    words = [jax.tree_util.keystr((key,), simple=True) for key in path]
    words = [word for number, word in enumerate(words) if not (number and word == "value")]  # of nnx.Variable
    return ".".join(word.replace(".", "_") for word in words) or "params"


class _Program:
    """A function of arrays, compiled: alone, and with what its gradient needs."""

    def __init__(self, flat: Callable):
        self._flat = flat
        self.plain = jax.jit(self._fresh)
        self._linear: dict[tuple[bool, ...], Callable] = {}
        self.pull = jax.jit(self._pull, static_argnums=(1, 2))

    def _fresh(self, *arrays) -> Any:
        """The results, of which no leaf is an argument or a constant."""
        return jax.tree.map(jnp.copy, self._flat(*arrays))

    def linear(self, wanted: tuple[bool, ...]) -> Callable:
        """(results, function to pull cotangents back) of the arrays; `wanted`: whose gradient."""
        if wanted not in self._linear:

            def run(*arrays):
                def of(*some):
                    remaining = iter(some)
                    whole = [next(remaining) if one else a for one, a in zip(wanted, arrays, strict=True)]
                    return self._fresh(*whole)

                return jax.vjp(of, *(a for one, a in zip(wanted, arrays, strict=True) if one))

            self._linear[wanted] = jax.jit(run)
        return self._linear[wanted]

    @staticmethod
    def _pull(back: Callable, structure, shapes: tuple, cotangents: list) -> tuple:
        """`back` for the leaves of the results that are floating."""
        remaining = iter(cotangents)
        whole = [
            next(remaining) if jnp.issubdtype(dtype, jnp.inexact) else np.zeros(shape, jax.dtypes.float0)
            for shape, dtype in shapes
        ]
        return back(jax.tree.unflatten(structure, whole))


@dataclasses.dataclass
class _Call:
    """One call of a program; `structure` of its results is known afterwards."""

    program: _Program
    with_gradient: bool
    structure: Any = None


class _Function(torch.autograd.Function):
    """A call, as torch's autograd sees it."""

    @staticmethod
    def forward(ctx, call: _Call, *tensors: torch.Tensor):
        arrays = [as_array(tensor) for tensor in tensors]
        wanted = tuple(
            call.with_gradient and need and jnp.issubdtype(array.dtype, jnp.inexact)
            for need, array in zip(ctx.needs_input_grad[1:], arrays, strict=True)
        )
        kept = ()
        if not any(wanted):
            results = jax.block_until_ready(call.program.plain(*arrays))  # torch may change the arguments afterwards
        else:
            results, ctx.back = jax.block_until_ready(call.program.linear(wanted)(*arrays))
            ctx.call, ctx.wanted, kept = call, wanted, jax.tree.leaves(ctx.back)
            ctx.save_for_backward(*tensors)  # so that torch tells whoever changes them before backward
        leaves, call.structure = jax.tree.flatten(results)
        ctx.shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        found = as_owned_tensors(leaves, kept)
        ctx.mark_non_differentiable(*(one for one in found if not (one.is_floating_point() or one.is_complex())))
        return tuple(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: torch.Tensor):
        tensors = ctx.saved_tensors
        given = [
            as_array(conjugate(gradient).contiguous())
            for gradient, (_, dtype) in zip(gradients, ctx.shapes, strict=True)
            if jnp.issubdtype(dtype, jnp.inexact)
        ]
        pulled = ctx.call.program.pull(ctx.back, ctx.call.structure, ctx.shapes, given)
        found = as_owned_tensors(jax.block_until_ready(pulled), (*given, *jax.tree.leaves(ctx.back)))
        remaining = iter(found)
        wanted = zip(ctx.wanted, tensors, strict=True)
        return None, *(conjugate(next(remaining)).to(tensor.dtype) if one else None for one, tensor in wanted)
