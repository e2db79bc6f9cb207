"""The bridge: torch functions in JAX programs (`from_torch`), JAX functions in torch programs (`to_torch`).

In eager calls arrays pass from device to device (`exchange`); under `jit` they pass through the host, by a callback. In
`empatheia_jax`, only this package and `torch_backend`, which is built on it, import torch.
"""

from empatheia_jax.generators.bridge.errors import BridgeError, last_error
from empatheia_jax.generators.bridge.exchange import copies, reset_copies
from empatheia_jax.generators.bridge.jax_in_torch import to_torch
from empatheia_jax.generators.bridge.torch_in_jax import from_torch

__all__ = ["BridgeError", "copies", "from_torch", "last_error", "reset_copies", "to_torch"]
