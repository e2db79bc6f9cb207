"""The compiler's count of a program's FLOPs, from shapes alone: nothing is allocated, nothing is run."""

import functools

import jax
from flax import nnx


def unroll(monkeypatch) -> None:
    """Loops of a known length from now on a body each time: the compiler counts the body of a loop once."""
    for name in ("scan", "fori_loop"):
        monkeypatch.setattr(jax.lax, name, functools.partial(getattr(jax.lax, name), unroll=True))


def counted(create, call, *arrays) -> float:
    """FLOPs of `call(create(rngs), *arrays)`, which may be of shapes instead."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: create(nnx.Rngs(0))))
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    lowered = jax.jit(lambda state, *arrays: call(nnx.merge(graphdef, state), *arrays)).lower(state, *shapes)
    # The count is of XLA's own optimised program; what machine code becomes of it changes nothing but the time.
    return lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()["flops"]
