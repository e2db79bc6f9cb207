"""What does the bridge cost, beside a plain call of the other framework?

python benchmarks/bridge.py [--smoke] [--record]

Values are calls a second through the bridge; the peer is the same function called directly, on torch's tensors by torch
or on JAX's arrays by a compiled function, in turn on the same cores. Rows: from_torch (`x * 2` by torch on 16 numbers:
all is overhead), from_torch_jit (a callback in a compiled function), from_torch_grad (forward, and backward by
autograd); the same on 64 MiB (what bytes cost: eagerly none are copied, a callback copies them in and out);
from_torch_layers (ten convolutions, where 10 us an operator are little) and the same with copy=True; to_torch and
to_torch_grad on 16 numbers and 64 MiB. `overhead_us` is a call's time minus the plain one's; `copied_mb` what
`bridge.copies()` counted in a call.
"""

import os
import statistics
import sys
from pathlib import Path

import measure

if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    ARGS = measure.build_parser(__doc__).parse_args()

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402

from empatheia_jax.generators.bridge import copies, from_torch, reset_copies, to_torch  # noqa: E402

SIZES = {"small": 16, "64MiB": 2**24}


def main(args) -> list[dict]:
    rows = []

    def add_row(name: str, ours, plain, calls: int) -> None:
        print(f"{name} ...", file=sys.stderr, flush=True)
        calls = 2 if args.smoke else calls

        def repeated(function):
            def run():
                for _ in range(calls):
                    function()

            return run

        programs = {"ours": repeated(ours), "peer": repeated(plain)}
        seconds = measure.time_in_turn(programs, 1 if args.smoke else measure.REPETITIONS)
        reset_copies()
        ours()
        medians = {program: statistics.median(times) / calls for program, times in seconds.items()}
        facts = {
            "overhead_us": round(1e6 * (medians["ours"] - medians["peer"]), 1),
            "copied_mb": round(copies().bytes / 1e6, 2),
        }
        rows.append(measure.rate_row(name, calls, "calls/s", seconds, **facts))

    for size, count in SIZES.items():
        for name, (ours, plain) in _pairs(count).items():
            add_row(f"{name}_{size}", ours, plain, 1000 if size == "small" else 5)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Conv1d(64, 64, 5, padding=2) for _ in range(10))).requires_grad_(False)
    x, t = jnp.ones((1, 64, 2000)), torch.ones(1, 64, 2000)
    for name, copy in (("from_torch_layers", False), ("from_torch_layers_copy", True)):
        bridged = from_torch(layers, copy=copy)
        add_row(name, lambda f=bridged: f(x).block_until_ready(), lambda: layers(t), 50)
    return rows


def _pairs(count: int) -> dict:
    """Return for each row a call through the bridge and a plain one, on arrays of `count` numbers."""
    array, tensor, leaf = jnp.ones(count), torch.ones(count), torch.ones(count, requires_grad=True)
    double, module, compiled = from_torch(lambda t: t * 2), to_torch(lambda x: x * 2), jax.jit(lambda x: x * 2)
    jitted, gradient = jax.jit(double), jax.jit(jax.grad(lambda x: (double(x) * x).sum()))
    plain_gradient = jax.jit(jax.grad(lambda x: (x * 2 * x).sum()))

    def backward(function):
        leaf.grad = None
        (function(leaf) * leaf).sum().backward()

    def plain():
        return compiled(array).block_until_ready()

    return {
        "from_torch": (lambda: double(array).block_until_ready(), lambda: tensor * 2),
        "from_torch_jit": (lambda: jitted(array).block_until_ready(), lambda: tensor * 2),
        "from_torch_grad": (lambda: gradient(array).block_until_ready(), lambda: backward(lambda t: t * 2)),
        "to_torch": (lambda: module(tensor), plain),
        "to_torch_grad": (lambda: backward(module), lambda: plain_gradient(array).block_until_ready()),
    }


if __name__ == "__main__":
    measure.report(main(ARGS), ARGS)
