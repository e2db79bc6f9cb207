"""A frozen network behind an encoder: its weights, loaded when first used, and its compiled forward pass.

Weights are a folder, FOLDER/config.json and FOLDER/params (Orbax), that `save_weights` writes and converters will; or
`RANDOM`, drawn from a fixed seed, for tests and dry runs: random encoders carry almost no emotion (DESIGN decision 4).
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from empatheia_jax.checkpoint import load_base, save_base, state_hash, write_json
from empatheia_jax.config import ConfigError

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """`forward(module, *arrays)` of a module that `create` makes, with the weights of a folder (or RANDOM).

    Building one reads nothing; `identity` reads the folder's config.json; weights come to the device with the first
    call.
    """

    config: object  # dataclass; the architecture
    create: Callable[..., nnx.Module]  # (config, rngs=)
    forward: Callable
    weights: str
    field: str  # the setting that names the weights, for errors: "encoders.hubert_weights"

    @property
    def identity(self) -> dict:
        """What its outputs depend on, as JSON values.

        Raises:
          ConfigError: no such weights, or weights of another architecture than `config`.
        """
        architecture = _architecture(self.config)
        if not self.weights:
            raise ConfigError(
                f"{self.field} is empty: give the folder of converted weights, or {RANDOM!r} for a dry run without any"
            )
        if self.weights == RANDOM:
            return {"architecture": architecture, "weights": RANDOM, "dtype": self.config.compute_dtype}
        path = Path(self.weights) / "config.json"
        if not path.exists():
            raise ConfigError(f"{self.field}: {path} is not there; convert the weights first, or use {RANDOM!r}")
        saved = json.loads(path.read_text())
        found = saved["architecture"]
        if found != architecture:
            changed = sorted(n for n in found.keys() | architecture.keys() if found.get(n) != architecture.get(n))
            raise ConfigError(f"{self.field}: {self.weights} has another architecture ({', '.join(changed)})")
        return {"architecture": architecture, "weights": saved["sha256"], "dtype": self.config.compute_dtype}

    def abstract(self) -> nnx.State:
        """Shapes and dtypes of every parameter."""
        return nnx.split(self._shapes(self.config))[1]

    def _shapes(self, config) -> nnx.Module:
        return nnx.eval_shape(lambda: self.create(config, rngs=nnx.Rngs(0)))

    def __call__(self, *arrays: np.ndarray):
        """Outputs of `forward` as numpy arrays; compiled once for each set of shapes."""
        compiled, state = self._loaded
        return jax.device_get(compiled(state, *arrays))

    @functools.cached_property
    def _loaded(self):
        self.identity  # noqa: B018 - refuses weights that do not fit
        graphdef, abstract = nnx.split(self._shapes(self.config))
        if self.weights == RANDOM:
            state = jax.jit(lambda: nnx.split(self.create(self.config, rngs=nnx.Rngs(0)))[1])()
        else:
            here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            dtype = json.loads((Path(self.weights) / "config.json").read_text())["dtype"]
            saved = nnx.split(self._shapes(dataclasses.replace(self.config, param_dtype=dtype)))[1]
            placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved)
            state = load_base(Path(self.weights) / "params", placed)
            state = jax.tree.map(lambda x, like: x.astype(like.dtype), state, abstract)
        return jax.jit(lambda state, *arrays: self.forward(nnx.merge(graphdef, state), *arrays)), state


def save_weights(folder: Path, config, state: nnx.State) -> None:
    """Write a network's weights as `FrozenNetwork` reads them; config.json comes last and makes the folder complete."""
    save_base(Path(folder) / "params", state)
    facts = {"architecture": _architecture(config), "dtype": config.param_dtype, "sha256": state_hash(state)}
    write_json(Path(folder) / "config.json", facts)


def _architecture(config) -> dict:
    """The config as JSON gives it back, without the number formats: weights of one serve in another."""
    fields = {"family": type(config).__name__} | dataclasses.asdict(config)
    return json.loads(json.dumps({n: v for n, v in fields.items() if n not in ("compute_dtype", "param_dtype")}))


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least` >= 1: few shapes, so few compilations."""
    return 1 << (least - 1).bit_length()
