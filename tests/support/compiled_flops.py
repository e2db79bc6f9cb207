"""The compiler's count of a program's FLOPs, from abstract shapes: nothing is allocated or run."""

import functools

import jax
from flax import nnx


def unroll_loops(monkeypatch) -> None:
    """Unroll loops of known length, because the compiler counts the body of a loop once."""
    for name in ("scan", "fori_loop"):
        monkeypatch.setattr(jax.lax, name, functools.partial(getattr(jax.lax, name), unroll=True))


def count_flops(create, call, *arrays) -> float:
    """Return the FLOPs of `call(create(rngs), *arrays)`; the arrays may be `jax.ShapeDtypeStruct`."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: create(nnx.Rngs(0))))
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    lowered = jax.jit(lambda state, *arrays: call(nnx.merge(graphdef, state), *arrays)).lower(state, *shapes)
    # The count is that of XLA's optimised program; optimising the machine code would only take longer.
    return lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()["flops"]
