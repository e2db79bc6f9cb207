"""A frozen network behind an encoder or a generator: its weights, loaded when first used, and what it is compiled to.

Weights are a folder that converters write (`empatheia_jax/weights.py`), or
`RANDOM`, drawn from a fixed seed, for tests and dry runs: random encoders carry almost no emotion (DESIGN decision 4).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from empatheia_jax.config import ConfigError
from empatheia_jax.weights import architecture, changed_fields, is_weights, load_weights, read_facts

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """A module that `create` makes, with the weights of a folder (or RANDOM).

    Building one reads nothing; `identity` reads the folder's config.json; weights come to the device with the first
    call.
    """

    config: object  # dataclass; the architecture
    create: Callable[..., nnx.Module]  # (config, rngs=)
    weights: str
    field: str  # the setting that names the weights, for errors: "encoders.hubert_weights"

    @property
    def identity(self) -> dict:
        """What its outputs depend on, as JSON values.

        Raises:
          ConfigError: no such weights, or weights of another architecture than `config`.
        """
        wanted = architecture(self.config)
        if not self.weights:
            raise ConfigError(
                f"{self.field} is empty: give the folder of converted weights, or {RANDOM!r} for a dry run without any"
            )
        dtype = getattr(self.config, "compute_dtype", "float32")
        if self.weights == RANDOM:
            return {"architecture": wanted, "weights": RANDOM, "dtype": dtype}
        if not is_weights(self.weights):
            raise ConfigError(
                f"{self.field}: no weights in {self.weights}; convert them first, or use {RANDOM!r} for a dry run"
            )
        saved = read_facts(self.weights)
        found = saved["architecture"]
        if found != wanted:
            changed = ", ".join(changed_fields(found, wanted))
            raise ConfigError(f"{self.field}: {self.weights} has another architecture ({changed})")
        return {"architecture": wanted, "weights": saved["sha256"], "dtype": dtype}

    def abstract(self) -> nnx.State:
        """Shapes and dtypes of every parameter."""
        return nnx.split(self._shapes(self.config))[1]

    def _shapes(self, config) -> nnx.Module:
        return nnx.eval_shape(lambda: self.create(config, rngs=nnx.Rngs(0)))

    def compiled(self, forward: Callable) -> Callable:
        """`forward(module, *arrays)` as a function of arrays that gives numpy arrays; compiled once a set of shapes.

        Arrays whose first axis the number of this process's devices divides are spread over them.
        """
        traced = jax.jit(lambda state, *arrays: forward(nnx.merge(self._loaded[0], state), *arrays))
        return lambda *arrays: jax.device_get(traced(self._loaded[1], *map(_spread, arrays)))

    @functools.cached_property
    def _loaded(self) -> tuple[nnx.GraphDef, nnx.State]:
        self.identity  # noqa: B018 - refuses weights that do not fit
        graphdef, abstract = nnx.split(self._shapes(self.config))
        if self.weights == RANDOM:
            create = jax.jit(lambda: nnx.split(self.create(self.config, rngs=nnx.Rngs(0)))[1], out_shardings=_on_all())
            return graphdef, create()
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_on_all()), abstract)
        return graphdef, load_weights(self.weights, placed)


def _on_all(split: bool = False) -> jax.sharding.Sharding:
    """A copy on every device of this process, or with `split` a part of the first axis on each."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return jax.sharding.SingleDeviceSharding(devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch" if split else None))


def _spread(array):
    if not isinstance(array, np.ndarray | jax.Array) or len(jax.local_devices()) == 1:
        return array
    return jax.device_put(array, _on_all(array.ndim > 0 and array.shape[0] % len(jax.local_devices()) == 0))


def spread_batch(most: int) -> int:
    """How much goes through a network at once, where `most` does on one of this process's devices."""
    return most * len(jax.local_devices())
