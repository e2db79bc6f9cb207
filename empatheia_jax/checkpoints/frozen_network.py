"""A frozen network of an encoder or a generator: its weights, loaded when first used, and its compiled functions.

Weights are a folder that converters write (`checkpoints/weights.py`), or `RANDOM`: drawn from a fixed seed, for tests
and dry runs, because random encoders carry almost no emotion.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.weights import architecture, differing_fields, is_weights, load_weights, read_metadata
from empatheia_jax.config import ConfigError
from empatheia_jax.runtime.precision import float32_products

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """A module with the weights of a folder, or RANDOM ones.

    Creating one reads nothing; `identity` reads the folder's config.json; the first call loads the weights.
    """

    config: object  # dataclass; the architecture
    create: Callable[..., nnx.Module]  # (config, rngs=)
    weights: str
    field: str  # the setting that names the weights, for errors: "encoders.hubert_weights"

    @property
    def identity(self) -> dict:
        """What the network's outputs depend on, as JSON values.

        Raises:
          ConfigError: no such weights, or weights of another architecture than `config`.
        """
        expected = architecture(self.config)
        if not self.weights:
            raise ConfigError(
                f"{self.field} is empty: give the folder of converted weights, or {RANDOM!r} for a dry run without any"
            )
        dtype = getattr(self.config, "compute_dtype", "float32")
        if self.weights == RANDOM:
            return {"architecture": expected, "weights": RANDOM, "dtype": dtype}
        if not is_weights(self.weights):
            raise ConfigError(
                f"{self.field}: no weights in {self.weights}; convert them first, or use {RANDOM!r} for a dry run"
            )
        metadata = read_metadata(self.weights)
        if metadata["architecture"] != expected:
            differences = ", ".join(differing_fields(metadata["architecture"], expected))
            raise ConfigError(f"{self.field}: {self.weights} has another architecture ({differences})")
        return {"architecture": expected, "weights": metadata["sha256"], "dtype": dtype}

    def abstract(self) -> nnx.State:
        """Return the shape and dtype of every parameter."""
        return self._shapes[1]

    @functools.cached_property
    def _shapes(self) -> tuple[nnx.GraphDef, nnx.State]:
        return nnx.split(nnx.eval_shape(lambda: self.create(self.config, rngs=nnx.Rngs(0))))

    def compile(self, forward: Callable) -> Callable:
        """Turn `forward(module, *arrays)` into a function of arrays that returns numpy arrays, compiled once a shape.

        Arrays whose first axis the number of this process's devices divides are spread over them.
        """
        traced = self.trace(forward)
        return lambda *arrays: jax.device_get(traced(self._loaded, *map(_spread, arrays)))

    def trace(self, forward: Callable) -> jax.stages.Wrapped:
        """Turn `forward(module, *arrays)` into a jitted function (parameters, *arrays) -> result.

        Where the network computes in float32, products are float32 on accelerators too: pitch, durations, coefficients
        and features are compared with published ones, and features and golds of one store come from any machine.
        """

        def run(state: nnx.State, *arrays):
            with float32_products():
                return forward(nnx.merge(self._shapes[0], state), *arrays)

        return jax.jit(run)

    @functools.cached_property
    def _loaded(self) -> nnx.State:
        self.identity  # noqa: B018 - raises for weights that do not fit
        abstract = self.abstract()
        if self.weights == RANDOM:
            create = jax.jit(
                lambda: nnx.split(self.create(self.config, rngs=nnx.Rngs(0)))[1], out_shardings=_local_sharding()
            )
            return create()
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_local_sharding()), abstract)
        return load_weights(self.weights, abstract)


def _local_sharding(split: bool = False) -> jax.sharding.Sharding:
    """Return the sharding of a copy on each local device, or with `split` of a part of the first axis on each."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return jax.sharding.SingleDeviceSharding(devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch" if split else None))


def _spread(array):
    """Put an array on all devices of this process, split over them where their number divides its first axis."""
    if not isinstance(array, np.ndarray | jax.Array) or len(jax.local_devices()) == 1:
        return array
    return jax.device_put(array, _local_sharding(array.ndim > 0 and array.shape[0] % len(jax.local_devices()) == 0))


def batch_over_devices(per_device: int) -> int:
    """Return the batch size over all of this process's devices, from that of one."""
    return per_device * len(jax.local_devices())
