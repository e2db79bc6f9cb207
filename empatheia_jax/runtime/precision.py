"""The precision of products of float32 arrays, which accelerators round by default: TPUs to bfloat16, NVIDIA's to TF32.

docs/scaling.md has a table of which part runs at which precision.
"""

import contextlib

import jax


def float32_products() -> contextlib.AbstractContextManager:
    """Trace products and convolutions of float32 arrays to be computed in float32 on every device.

    Those of bfloat16 arrays are what they are without it: their operands are exact, their sums float32. Gradients are
    computed in the same precision.
    """
    return jax.default_matmul_precision("highest")
