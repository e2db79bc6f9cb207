"""A family as a table of rules, and the proof that it fits: every tensor used once, every array filled once."""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping

import cv2
import ml_dtypes
import numpy as np

from converters.readers import ConversionError, Tensor

Shape = tuple[int, ...]
SHOWN = 40  # problems that an error lists; looking for near names takes time
FLOATS = tuple(np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16))


@dataclasses.dataclass(frozen=True)
class Transform:
    """How torch lays an array out: the shapes of its tensors there for a shape of ours, and the way over.

    `invert` is the way back, where there is one: numbers are only moved, and come back equal bit for bit.
    """

    sources: Callable[[Shape], list[Shape]]
    apply: Callable[[list[np.ndarray], Shape], np.ndarray]
    invert: Callable[[np.ndarray], np.ndarray] | None = None


def moved(
    source: Callable[[Shape], Shape],
    apply: Callable[[np.ndarray, Shape], np.ndarray],
    invert: Callable[[np.ndarray], np.ndarray],
) -> Transform:
    """A transform of one tensor that only moves numbers."""
    return Transform(lambda shape: [source(shape)], lambda arrays, shape: apply(arrays[0], shape), invert)


def transposed(matrix: np.ndarray) -> np.ndarray:
    """The transpose [b, a] of [a, b], laid out in memory: ten times as fast as numpy's copy of a view."""
    matrix = np.ascontiguousarray(matrix)
    if not matrix.size:
        return np.ascontiguousarray(matrix.T)
    bits = matrix.view({2: np.uint16, 4: np.int32}[matrix.itemsize])  # weights have 2 or 4 bytes; OpenCV knows these
    return cv2.transpose(bits).view(matrix.dtype).reshape(matrix.shape[::-1])


SAME = moved(lambda shape: shape, lambda array, shape: array, lambda array: array)
FLAT = moved(
    lambda shape: (math.prod(shape),), lambda array, shape: array.reshape(shape), lambda array: array.reshape(-1)
)
CONV1D = moved(
    lambda s: (s[2], s[1], s[0]), lambda array, shape: array.transpose(2, 1, 0), lambda array: array.transpose(2, 1, 0)
)
CONV2D = moved(
    lambda s: (s[3], s[2], s[0], s[1]),
    lambda array, shape: array.transpose(2, 3, 1, 0),
    lambda array: array.transpose(3, 2, 0, 1),
)


def linear(inputs: int = 1) -> Transform:
    """torch's [out, in] -> ours [*in, *out], of which the first `inputs` axes go in."""
    return moved(
        lambda shape: (math.prod(shape[inputs:]), math.prod(shape[:inputs])),
        lambda array, shape: transposed(array).reshape(shape),
        lambda array: transposed(array.reshape(math.prod(array.shape[:inputs]), -1)),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """Tensor `source` ("{layer}" counts the layers), or several -> the parameter `target`, a layer's array of it.

    Several rules may have one target: spellings of different versions, of which a checkpoint has one; the first is the
    newest, and what an export writes.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Transform = SAME

    def names(self, layer: int | str | None) -> tuple[str, ...]:
        """The sources of one layer."""
        sources = (self.source,) if isinstance(self.source, str) else self.source
        return tuple(source.replace("{layer}", str(layer)) for source in sources)


def prefix_of(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """`prefix` where the checkpoint's names begin with it (a model inside another), else nothing."""
    return prefix if any(name.startswith(prefix) for name in tensors) else ""


def affine(target: str, source: str, transform: Transform = SAME, bias: Transform = SAME) -> list[Rule]:
    """Weight and bias of one torch module -> our kernel (a norm's: scale) and bias."""
    weight = "scale" if target.endswith("norm") else "kernel"
    return [Rule(f"{source}.weight", f"{target}/{weight}", transform), Rule(f"{source}.bias", f"{target}/bias", bias)]


def transformer(source: str, parts: Mapping[str, str]) -> list[Rule]:
    """The layers of `encoders.transformer.Layers`; `parts` has torch's name below `source`.N. of each of ours."""
    table = []
    for ours, theirs in parts.items():
        transform = SAME if ours.endswith("norm") else linear(2 if ours == "o_proj" else 1)
        table += affine(f"layers/{ours}", f"{source}.{{layer}}.{theirs}", transform, FLAT)
    return table


Slots = Mapping[str, tuple[str, int | None, Shape]]  # array on disk -> (parameter, layer or None, shape)


@dataclasses.dataclass(frozen=True)
class Fit:
    """One array on disk: the tensors it comes from, and how."""

    name: str
    sources: tuple[str, ...]
    transform: Transform
    shape: Shape

    def read(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        """The array, as it is to lie on disk."""
        return np.ascontiguousarray(self.transform.apply([tensors[name].read() for name in self.sources], self.shape))


def fit(
    rules: list[Rule],
    slots: Slots,
    tensors: Mapping[str, Tensor],
    harmless: tuple[str, ...] = (),
    problems: list[str] | None = None,
) -> list[Fit]:
    """Fit a table to a checkpoint, by names, shapes and dtypes alone, in the order of the checkpoint's bytes.

    Args:
      slots: of the abstract model (`empatheia_jax.weights.slots`).
      harmless: patterns (regular expressions, whole names) of tensors that a checkpoint may hold and we do not need.
      problems: what else is known to be wrong.
    Raises:
      ConversionError: all that does not fit, in one message.
    """
    problems, found, used = list(problems or ()), [], {}
    by_target: dict[str, list[Rule]] = {}
    for rule in rules:
        by_target.setdefault(rule.target, []).append(rule)
    parameters = {parameter for parameter, _, _ in slots.values()}
    problems += [f"no parameter {name!r} in the model (a fault of the table)" for name in by_target.keys() - parameters]
    for name, (parameter, layer, shape) in slots.items():
        choices = by_target.get(parameter, [])
        having = [rule for rule in choices if all(source in tensors for source in rule.names(layer))]
        if len(having) != 1:
            problems.append(_unfilled(name, layer, choices, having, tensors, len(problems) < SHOWN))
            continue
        names, transform = having[0].names(layer), having[0].transform
        for source, needed in zip(names, transform.sources(shape), strict=True):
            tensor = tensors[source]
            if tensor.shape != needed:
                problems.append(f"{source} has shape {list(tensor.shape)}, {name} needs {list(needed)}")
            if tensor.dtype not in FLOATS:
                problems.append(f"{source} is {tensor.dtype}; weights are bfloat16, float16 or float32")
            if source in used:
                problems.append(f"{source} is used for {used[source]} and for {name} (a fault of the table)")
            used[source] = name
        found.append(Fit(name, names, transform, shape))
    known = [re.compile(pattern) for pattern in harmless]
    for name in sorted(tensors.keys() - used.keys()):
        if not any(pattern.fullmatch(name) for pattern in known):
            table = [source for rule in rules for source in rule.names("{layer}")] if len(problems) < SHOWN else []
            nearest = difflib.get_close_matches(name, table, 1, 0.3)
            problems.append(f"{name} is used by no rule" + (f" (nearest: {nearest[0]})" if nearest else ""))
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ConversionError(f"{len(problems)} problems, nothing was written:\n  {shown}{more}")
    return sorted(found, key=lambda one: min((str(tensors[n].file), tensors[n].offset) for n in one.sources))


def sources(rules: list[Rule], slots: Slots) -> dict[str, tuple[str, Transform]]:
    """The way back: array on disk -> (tensor, transform), by the first rule of each parameter."""
    first: dict[str, Rule] = {}
    for rule in rules:
        first.setdefault(rule.target, rule)
    found = {name: (first[target], layer) for name, (target, layer, _) in slots.items()}
    return {name: (rule.names(layer)[0], rule.transform) for name, (rule, layer) in found.items()}


def _unfilled(name, layer, choices: list[Rule], having: list[Rule], tensors: Mapping[str, Tensor], hint: bool) -> str:
    if len(having) > 1:
        return f"{name} could be filled twice, by {having[0].names(layer)} and by {having[1].names(layer)}"
    if not choices:
        return f"{name} has no rule (a fault of the table)"
    closest = max(choices, key=lambda rule: sum(source in tensors for source in rule.names(layer)))
    missing = [source for source in closest.names(layer) if source not in tensors]
    near = difflib.get_close_matches(missing[0], list(tensors), 1, 0.6) if hint else []
    return f"{', '.join(missing)} is missing, for {name}" + (f" (nearest there: {near[0]})" if near else "")
