"""A family of checkpoints as a table of rules, and the check that it fits: tensors used once, arrays filled once."""

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import ml_dtypes
import numpy as np
from flax import nnx

from converters.tensors import ConversionError, Tensor
from empatheia_jax.checkpoints.weights import stored_arrays

Shape = tuple[int, ...]
MAX_SHOWN = 40  # problems that an error lists; searching for similar names takes time
FLOATS = tuple(np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16))


def _refuse_to_invert(array: np.ndarray) -> np.ndarray:
    raise ConversionError("an array that was computed from its tensors cannot be converted back")


@dataclasses.dataclass(frozen=True)
class Transform:
    """How torch lays an array out: the shapes of its tensors for the array's shape, and their conversion to the array.

    `invert` converts back, where that is possible: numbers are only rearranged and come back equal bit for bit.
    """

    sources: Callable[[Shape], list[Shape]]
    apply: Callable[[list[np.ndarray], Shape], np.ndarray]
    invert: Callable[[np.ndarray], np.ndarray] = _refuse_to_invert


def rearrangement(
    source: Callable[[Shape], Shape],
    apply: Callable[[np.ndarray, Shape], np.ndarray],
    invert: Callable[[np.ndarray], np.ndarray],
) -> Transform:
    """Return a transform of one tensor that only rearranges numbers."""
    return Transform(lambda shape: [source(shape)], lambda arrays, shape: apply(arrays[0], shape), invert)


def transpose(matrix: np.ndarray) -> np.ndarray:
    """Return the contiguous transpose [b, a] of [a, b]; ten times as fast as numpy's copy of a view."""
    matrix = np.ascontiguousarray(matrix)
    if not matrix.size:
        return np.ascontiguousarray(matrix.T)
    bits = matrix.view(
        {2: np.uint16, 4: np.int32}[matrix.itemsize]
    )  # weights have 2 or 4 bytes; OpenCV takes these dtypes
    return cv2.transpose(bits).view(matrix.dtype).reshape(matrix.shape[::-1])


IDENTITY = rearrangement(lambda shape: shape, lambda array, shape: array, lambda array: array)
FLATTEN = rearrangement(
    lambda shape: (math.prod(shape),), lambda array, shape: array.reshape(shape), lambda array: array.reshape(-1)
)
CONV1D = rearrangement(
    lambda s: (s[2], s[1], s[0]), lambda array, shape: array.transpose(2, 1, 0), lambda array: array.transpose(2, 1, 0)
)
CONV2D = rearrangement(
    lambda s: (s[3], s[2], s[0], s[1]),
    lambda array, shape: array.transpose(2, 3, 1, 0),
    lambda array: array.transpose(3, 2, 0, 1),
)


def linear(inputs: int = 1) -> Transform:
    """Return the transform of torch's [out, in] to our [*in, *out], whose first `inputs` axes are inputs."""
    return rearrangement(
        lambda shape: (math.prod(shape[inputs:]), math.prod(shape[:inputs])),
        lambda array, shape: transpose(array).reshape(shape),
        lambda array: transpose(array.reshape(math.prod(array.shape[:inputs]), -1)),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """The tensors `source` ("{layer}" stands for the layer's number) -> the parameter `target`, or one layer of it.

    Several rules may have the same target: spellings of different versions, of which a checkpoint has one. The first
    is the newest, and is what an export writes.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Transform = IDENTITY

    def names(self, layer: int | str | None) -> tuple[str, ...]:
        """Return the names of one layer's source tensors."""
        sources = (self.source,) if isinstance(self.source, str) else self.source
        return tuple(source.replace("{layer}", str(layer)) for source in sources)


def find_prefix(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """Return `prefix` if names of the checkpoint begin with it (a model inside another), else ""."""
    return prefix if any(name.startswith(prefix) for name in tensors) else ""


def affine_rules(target: str, source: str, transform: Transform = IDENTITY, bias: Transform = IDENTITY) -> list[Rule]:
    """Return rules for weight and bias of one torch module -> our kernel (for a norm: scale) and bias."""
    weight = "scale" if target.endswith("norm") else "kernel"
    return [Rule(f"{source}.weight", f"{target}/{weight}", transform), Rule(f"{source}.bias", f"{target}/bias", bias)]


def transformer_rules(source: str, parts: Mapping[str, str]) -> list[Rule]:
    """Return rules for the layers of `encoders.transformer.Layers`.

    Args:
      source: torch's name of the list of layers.
      parts: name of a part in our layer -> its name in torch's layer.
    """
    table = []
    for name, torch_name in parts.items():
        transform = IDENTITY if name.endswith("norm") else linear(2 if name == "o_proj" else 1)
        table += affine_rules(f"layers/{name}", f"{source}.{{layer}}.{torch_name}", transform, FLATTEN)
    return table


StoredArrays = Mapping[str, tuple[str, int | None, Shape]]  # array on disk -> (parameter, layer or None, shape)


@dataclasses.dataclass(frozen=True)
class Fit:
    """One array on disk, the tensors it comes from and their transform."""

    name: str
    sources: tuple[str, ...]
    transform: Transform
    shape: Shape

    def read(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        """Return the array as it is stored."""
        return np.ascontiguousarray(self.transform.apply([tensors[name].read() for name in self.sources], self.shape))


def fit(
    rules: list[Rule],
    targets: StoredArrays,
    tensors: Mapping[str, Tensor],
    harmless: tuple[str, ...] = (),
    *,
    problems: list[str] | None = None,
) -> list[Fit]:
    """Fit a table to a checkpoint by names, shapes and dtypes alone.

    Args:
      rules: the family's table.
      targets: the arrays to fill (`empatheia_jax.checkpoints.weights.stored_arrays` of the abstract parameters).
      tensors: the checkpoint's, by name.
      harmless: regular expressions for whole names of tensors that a checkpoint may hold and our network does not need.
      problems: what is known to be wrong already; listed in the same error.
    Returns:
      One entry an array, in the order of the checkpoint's bytes.
    Raises:
      ConversionError: everything that does not fit, in one message.
    """
    problems, fits, used = list(problems or ()), [], {}
    by_target: dict[str, list[Rule]] = {}
    for rule in rules:
        by_target.setdefault(rule.target, []).append(rule)
    parameters = {parameter for parameter, _, _ in targets.values()}
    problems += [f"no parameter {name!r} in the model (a fault of the table)" for name in by_target.keys() - parameters]
    for name, (parameter, layer, shape) in targets.items():
        choices = by_target.get(parameter, [])
        matches = [rule for rule in choices if all(source in tensors for source in rule.names(layer))]
        if len(matches) != 1:
            source_names = [rule.names(layer) for rule in choices]
            problems.append(_describe_unfilled(name, source_names, tensors, suggest=len(problems) < MAX_SHOWN))
            continue
        names, transform = matches[0].names(layer), matches[0].transform
        for source, expected_shape in zip(names, transform.sources(shape), strict=True):
            tensor = tensors[source]
            if tensor.shape != expected_shape:
                problems.append(f"{source} has shape {list(tensor.shape)}, {name} needs {list(expected_shape)}")
            if tensor.dtype not in FLOATS:
                problems.append(f"{source} is {tensor.dtype}; weights are bfloat16, float16 or float32")
            if source in used:
                problems.append(f"{source} is used for {used[source]} and for {name} (a fault of the table)")
            used[source] = name
        fits.append(Fit(name, names, transform, shape))
    harmless_patterns = [re.compile(pattern) for pattern in harmless]
    for name in sorted(tensors.keys() - used.keys()):
        if not any(pattern.fullmatch(name) for pattern in harmless_patterns):
            table = [source for rule in rules for source in rule.names("{layer}")] if len(problems) < MAX_SHOWN else []
            nearest = difflib.get_close_matches(name, table, 1, 0.3)
            problems.append(f"{name} is used by no rule" + (f" (nearest: {nearest[0]})" if nearest else ""))
    if problems:
        shown = "\n  ".join(problems[:MAX_SHOWN])
        more = f"\n  and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise ConversionError(f"{len(problems)} problems, nothing was written:\n  {shown}{more}")
    return sorted(fits, key=lambda entry: min((str(tensors[n].file), tensors[n].offset) for n in entry.sources))


def inverse_rules(rules: list[Rule], targets: StoredArrays) -> dict[str, tuple[str, Transform]]:
    """Return array on disk -> (tensor it is exported to, transform), by the first rule of each parameter."""
    first: dict[str, Rule] = {}
    for rule in rules:
        first.setdefault(rule.target, rule)
    chosen = {name: (first[target], layer) for name, (target, layer, _) in targets.items()}
    return {name: (rule.names(layer)[0], rule.transform) for name, (rule, layer) in chosen.items()}


def _describe_unfilled(
    name: str, choices: list[tuple[str, ...]], tensors: Mapping[str, Tensor], *, suggest: bool
) -> str:
    """Say why an array is filled by none or by several of its rules, whose source tensors are `choices`."""
    complete = [sources for sources in choices if all(source in tensors for source in sources)]
    if len(complete) > 1:
        return f"{name} could be filled twice, by {complete[0]} and by {complete[1]}"
    if not choices:
        return f"{name} has no rule (a fault of the table)"
    closest = max(choices, key=lambda sources: sum(source in tensors for source in sources))
    missing = [source for source in closest if source not in tensors]
    nearest = difflib.get_close_matches(missing[0], list(tensors), 1, 0.6) if suggest else []
    return f"{', '.join(missing)} is missing, for {name}" + (f" (nearest there: {nearest[0]})" if nearest else "")


# Families -------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def abstract_network(network: Callable[..., nnx.Module], config) -> tuple[nnx.GraphDef, nnx.State]:
    """Return a network's structure and the shapes and dtypes of its parameters; no array is created."""
    return nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))


@dataclasses.dataclass(frozen=True)
class Family:
    """Checkpoints that become one network of ours, by one table of rules.

    Attributes:
      network: our module.
      rules: (config, prefix before every tensor's name) -> the table.
      harmless: regular expressions for names of tensors that our network does not need (`fit`).
      check: (config, tensors) -> problems of the tensors that no rule uses.
    """

    network: Callable[..., nnx.Module]
    rules: Callable[[Any, str], list[Rule]]
    harmless: tuple[str, ...] = ()
    check: Callable[[Any, Mapping[str, Tensor]], list[str]] = lambda config, tensors: []

    def parameters(self, config) -> nnx.State:
        """Return the shapes and dtypes of all parameters of the network."""
        return abstract_network(self.network, config)[1]

    def fit(self, config, tensors: Mapping[str, Tensor], prefix: str = "") -> list[Fit]:
        """Fit the table to a checkpoint.

        Raises:
          ConversionError: everything that does not fit, in one message.
        """
        targets, problems = stored_arrays(self.parameters(config)), self.check(config, tensors)
        return fit(self.rules(config, prefix), targets, tensors, self.harmless, problems=problems)

    def inverse(self, config, prefix: str = "") -> dict[str, tuple[str, Transform]]:
        """Return array on disk -> (tensor it is exported to, transform)."""
        return inverse_rules(self.rules(config, prefix), stored_arrays(self.parameters(config)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformersFamily(Family):
    """A family whose checkpoints are directories as transformers writes them.

    Attributes:
      model_types: its names in config.json; the last is the one that an export writes.
      prefix: what stands before every tensor's name in a model inside another.
      model_class: transformers' class of the network.
      parse_config: (config.json, preprocessor_config.json or None) -> our config.
      export_settings: our config -> config.json.
      carried_tensors: tensors without a parameter of ours that an export must have.
    """

    model_types: tuple[str, ...]
    prefix: str
    model_class: str
    parse_config: Callable[[dict, dict | None], Any]
    export_settings: Callable[..., dict]
    carried_tensors: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that fits a family: its settings and tensors, and the tensors that each array on disk comes from.

    `generated` are files to write beside the weights, name -> contents; None: those beside the checkpoint are copied.
    `counts` is what to report besides the counts of tensors.
    """

    family: str
    folder: Path
    settings: dict  # as published: transformers' config.json, say
    config: Any  # of our network
    tensors: dict[str, Tensor]
    prefix: str  # before every name
    fits: list[Fit]
    generated: Mapping[str, bytes] | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
