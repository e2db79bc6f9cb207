"""The bridge: torch functions in JAX programs (`from_torch`), JAX functions in torch programs (`to_torch`).

Called eagerly, arrays go from device to device (`exchange`); under `jit` a callback goes through the host. Nothing else
in this package imports torch, but the torch generators, which are built on it.
"""

from empatheia_jax.generators.bridge.errors import BridgeError, last_error
from empatheia_jax.generators.bridge.exchange import copies, reset_copies
from empatheia_jax.generators.bridge.jax_in_torch import to_torch
from empatheia_jax.generators.bridge.torch_in_jax import from_torch

__all__ = ["BridgeError", "copies", "from_torch", "last_error", "reset_copies", "to_torch"]
