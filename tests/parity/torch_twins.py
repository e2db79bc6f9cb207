"""What the encoders' parity tests share: random torch weights, loading that accounts for every tensor, comparison."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

TOLERANCE = 1e-4  # of the compared array's scale


def randomise(twin, seed: int):
    """Draw every weight of a torch model, norms and biases too (ones and zeros would hide a mistake), in eval mode."""
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


def pair_of(case: str, cases: dict[str, dict], seed: int, draw, twin, ours, load) -> tuple:
    """(our model, torch's) of one of `cases`: `draw(rng, **case)` is the config, `twin(config)` torch's model,
    `ours` the class of ours, `load(model, state_dict)` moves the weights.
    """
    salt = list(cases).index(case)
    config = draw(np.random.default_rng([seed, salt]), **cases[case])
    reference = randomise(twin(config), seed + salt)
    model = nnx.eval_shape(lambda: ours(config, rngs=nnx.Rngs(0)))
    load(model, reference.state_dict())
    return model, reference


def in_bfloat16(model):
    """The same model with parameters and computation in bfloat16."""
    config = dataclasses.replace(model.config, compute_dtype="bfloat16", param_dtype="bfloat16")
    half = nnx.eval_shape(lambda: type(model)(config, rngs=nnx.Rngs(0)))
    nnx.update(half, jax.tree.map(lambda to, value: value.astype(to.dtype), nnx.state(half), nnx.state(model)))
    return half


class Loader:
    """Moves a torch state dict into an abstract model and keeps account of names on both sides.

    `harmless` names need no counterpart.
    """

    def __init__(self, model, state_dict: dict, harmless: set[str]):
        self.model, self.harmless = model, harmless
        self.weights = {name: value.detach().numpy() for name, value in state_dict.items()}
        self.used, self.filled = set(), set()

    def take(self, name: str) -> np.ndarray:
        assert name not in self.used, f"{name} is read twice"
        self.used.add(name)
        return self.weights[name]

    def put(self, parameter: nnx.Param, value: np.ndarray) -> None:
        assert id(parameter) not in self.filled, "a parameter is filled twice"
        self.filled.add(id(parameter))
        assert parameter.shape == value.shape, f"{parameter.shape} is not {value.shape}"
        parameter.set_value(jnp.asarray(value))

    def norm(self, norm, name: str) -> None:
        self.put(norm.scale, self.take(f"{name}.weight"))
        self.put(norm.bias, self.take(f"{name}.bias"))

    def layers(self, prefix: str, names: dict[str, str]) -> None:
        """Stacked layers; `names` gives the torch name below `prefix`.N. of each of our parts."""
        layers = self.model.layers
        for ours, theirs in names.items():
            part = getattr(layers, ours)
            paths = [f"{prefix}.{index}.{theirs}" for index in range(self.model.config.layers)]
            weight = np.stack([self.take(f"{path}.weight") for path in paths])
            bias = np.stack([self.take(f"{path}.bias") for path in paths])
            if ours.endswith("norm"):
                self.put(part.scale, weight)
            else:
                self.put(part.kernel, weight.swapaxes(1, 2).reshape(part.kernel.shape))
            self.put(part.bias, bias.reshape(part.bias.shape))

    def finish(self) -> None:
        """Every torch name is used or harmless; every parameter of ours is filled."""
        assert self.used | self.harmless >= set(self.weights), f"left over: {set(self.weights) - self.used}"
        assert not self.used & self.harmless
        flat = nnx.to_flat_state(nnx.state(self.model, nnx.Param))
        unfilled = ["/".join(map(str, path)) for path, value in flat if not isinstance(value.get_value(), jax.Array)]
        assert not unfilled, f"ours alone: {unfilled}"
        assert len(self.filled) == len(flat), "filled something that is no parameter of the model"


def relative_error(ours, theirs) -> float:
    """Largest difference, as a part of the largest value of `theirs`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    assert np.isfinite(theirs).all()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_close(ours, theirs, states, their_states, record) -> None:
    """`ours` within TOLERANCE of `theirs`; if not, names the first of the hidden states that is not.

    `their_states` may be shorter: torch's last one can be before or after the final norm.
    """
    error = relative_error(ours, theirs)
    record("relative_error", f"{error:.1e}")
    if error <= TOLERANCE:
        return
    names = ["embedding", *(f"layer {index}" for index in range(len(their_states) - 1))]
    errors = [relative_error(a, b) for a, b in zip(states, their_states, strict=False)]
    first = next((name for name, value in zip(names, errors, strict=True) if not value <= TOLERANCE), "the output")
    raise AssertionError(f"error {error:.2e} of the scale, first in {first}: {[f'{value:.1e}' for value in errors]}")


def abstract_size(model) -> int:
    """Numbers in the parameters of a possibly abstract model."""
    return sum(int(np.prod(value.shape)) for _, value in nnx.to_flat_state(nnx.state(model, nnx.Param)))
