"""Helpers of the encoders' parity tests: random torch weights, loading that accounts for every tensor, comparison."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from support.comparison import relative_error

TOLERANCE = 1e-4  # relative to the largest value of the expected array


def randomise(twin, seed: int):
    """Initialise all weights of a torch model at random and return it in eval mode.

    Norms and biases too: ones and zeros would hide a mistake.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if "norm" in name and name.endswith("weight") or name.endswith("original0"):
                weight.uniform_(0.5, 1.5)
            elif weight.ndim < 2:
                weight.normal_(0.0, 0.3)
            else:
                weight.normal_(0.0, 1.0 / weight[0].numel() ** 0.5)
    return twin.eval()


def make_pair(case: str, cases: dict[str, dict], seed: int, *, random_config, torch_twin, model_class, load) -> tuple:
    """Build a Flax model and its torch twin with the same weights.

    Args:
      case: key of `cases`.
      cases: fixed config fields by name.
      seed: seed of shapes and weights.
      random_config: (rng, **fixed) -> config.
      torch_twin: config -> torch model.
      model_class: class of the Flax model.
      load: (model, state_dict) -> None, loads the weights.

    Returns:
      The Flax model and the torch twin.
    """
    salt = list(cases).index(case)
    config = random_config(np.random.default_rng([seed, salt]), **cases[case])
    reference = randomise(torch_twin(config), seed + salt)
    model = nnx.eval_shape(lambda: model_class(config, rngs=nnx.Rngs(0)))
    load(model, reference.state_dict())
    return model, reference


def in_bfloat16(model):
    """Return a copy of a model with parameters and computation in bfloat16."""
    config = dataclasses.replace(model.config, compute_dtype="bfloat16", param_dtype="bfloat16")
    half = nnx.eval_shape(lambda: type(model)(config, rngs=nnx.Rngs(0)))
    nnx.update(half, jax.tree.map(lambda target, value: value.astype(target.dtype), nnx.state(half), nnx.state(model)))
    return half


class Loader:
    """Loads a torch state dict into an abstract model and records the names used on both sides.

    `harmless` names need no counterpart.
    """

    def __init__(self, model, state_dict: dict, harmless: set[str]):
        self.model, self.harmless = model, harmless
        self.weights = {name: value.detach().numpy() for name, value in state_dict.items()}
        self.used, self.filled = set(), set()

    def take(self, name: str) -> np.ndarray:
        """Return a torch tensor as an array, which may be done once."""
        assert name not in self.used, f"{name} is read twice"
        self.used.add(name)
        return self.weights[name]

    def put(self, parameter: nnx.Param, value: np.ndarray) -> None:
        """Fill a parameter, which may be done once."""
        assert id(parameter) not in self.filled, "a parameter is filled twice"
        self.filled.add(id(parameter))
        assert parameter.shape == value.shape, f"{parameter.shape} is not {value.shape}"
        parameter.set_value(jnp.asarray(value))

    def norm(self, norm, name: str) -> None:
        """Load a layer norm."""
        self.put(norm.scale, self.take(f"{name}.weight"))
        self.put(norm.bias, self.take(f"{name}.bias"))

    def layers(self, prefix: str, names: dict[str, str]) -> None:
        """Load stacked layers; `names` maps each part to its name below `prefix`.N in torch."""
        layers = self.model.layers
        for name, torch_name in names.items():
            part = getattr(layers, name)
            paths = [f"{prefix}.{index}.{torch_name}" for index in range(self.model.config.layers)]
            weight = np.stack([self.take(f"{path}.weight") for path in paths])
            bias = np.stack([self.take(f"{path}.bias") for path in paths])
            if name.endswith("norm"):
                self.put(part.scale, weight)
            else:
                self.put(part.kernel, weight.swapaxes(1, 2).reshape(part.kernel.shape))
            self.put(part.bias, bias.reshape(part.bias.shape))

    def finish(self) -> None:
        """Check that every torch tensor is used or harmless, and that every parameter is filled."""
        assert self.used | self.harmless >= set(self.weights), f"left over: {set(self.weights) - self.used}"
        assert not self.used & self.harmless
        flat = nnx.to_flat_state(nnx.state(self.model, nnx.Param))
        unfilled = ["/".join(map(str, path)) for path, value in flat if not isinstance(value.get_value(), jax.Array)]
        assert not unfilled, f"not filled: {unfilled}"
        assert len(self.filled) == len(flat), "filled something that is no parameter of the model"


def assert_close(actual, expected, states, expected_states, *, record) -> None:
    """Assert that `actual` is within TOLERANCE of `expected`; the failure names the first layer that is not.

    Args:
      actual: the output.
      expected: torch's output.
      states: hidden states of all layers.
      expected_states: torch's; possibly fewer, since its last can be before or after the final norm.
      record: pytest's `record_property`.
    """
    error = relative_error(actual, expected)
    record("relative_error", f"{error:.1e}")
    if error <= TOLERANCE:
        return
    names = ["embedding", *(f"layer {index}" for index in range(len(expected_states) - 1))]
    errors = [relative_error(a, b) for a, b in zip(states, expected_states, strict=False)]
    first = next((name for name, value in zip(names, errors, strict=True) if not value <= TOLERANCE), "the output")
    raise AssertionError(f"error {error:.2e} of the scale, first in {first}: {[f'{value:.1e}' for value in errors]}")


def abstract_size(model) -> int:
    """Return the number of parameters of a model, which may be abstract."""
    return sum(int(np.prod(value.shape)) for _, value in nnx.to_flat_state(nnx.state(model, nnx.Param)))
