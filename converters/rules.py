"""A family as a table of rules, and the proof that it fits: every tensor used once, every parameter filled once."""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from converters.readers import ConversionError, Tensor

Shape = tuple[int, ...]
FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Transform:
    """How torch lays a parameter out: the shapes of its sources for a target's shape, and the way over."""

    sources: Callable[[Shape], list[Shape]]
    apply: Callable[[list[np.ndarray], Shape], np.ndarray]


SAME = Transform(lambda shape: [shape], lambda arrays, shape: arrays[0])
FLAT = Transform(lambda shape: [(math.prod(shape),)], lambda arrays, shape: arrays[0].reshape(shape))
CONV1D = Transform(lambda s: [(s[2], s[1], s[0])], lambda arrays, shape: arrays[0].transpose(2, 1, 0))
CONV2D = Transform(lambda s: [(s[3], s[2], s[0], s[1])], lambda arrays, shape: arrays[0].transpose(2, 3, 1, 0))


def linear(inputs: int = 1) -> Transform:
    """torch's [out, in] -> ours [*in, *out], of which the first `inputs` axes go in."""
    return Transform(
        lambda shape: [(math.prod(shape[inputs:]), math.prod(shape[:inputs]))],
        lambda arrays, shape: arrays[0].T.reshape(shape),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """`sources` (names; "{layer}" counts the target's first axis) -> the parameter `target`.

    Several rules may have one target: spellings of different versions, of which a checkpoint has one.
    """

    sources: tuple[str, ...]
    target: str
    transform: Transform = SAME

    def names(self, layer: int | None) -> list[str]:
        """The sources of one layer."""
        return [name.format(layer=layer) for name in self.sources]


def prefix_of(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """`prefix` where the checkpoint's names begin with it (a model inside another), else nothing."""
    return prefix if any(name.startswith(prefix) for name in tensors) else ""


def affine(target: str, source: str, transform: Transform = SAME, bias: Transform = SAME) -> list[Rule]:
    """Weight and bias of one torch module -> our kernel (a norm's: scale) and bias."""
    weight = "scale" if target.endswith("norm") else "kernel"
    return [
        Rule((f"{source}.weight",), f"{target}/{weight}", transform), Rule((f"{source}.bias",), f"{target}/bias", bias)
    ]  # fmt: skip


def transformer(source: str, parts: Mapping[str, str]) -> list[Rule]:
    """The layers of `encoders.transformer.Layers`; `parts` has torch's name below `source`.N. of each of ours."""
    table = []
    for ours, theirs in parts.items():
        transform = SAME if ours.endswith("norm") else linear(2 if ours == "o_proj" else 1)
        table += affine(f"layers/{ours}", f"{source}.{{layer}}.{theirs}", transform, FLAT)
    return table


@dataclasses.dataclass(frozen=True)
class Plan:
    """What fills each parameter: for each layer (one None where the parameter is not stacked) its rule."""

    fill: dict[str, list[tuple[Rule, int | None]]]
    targets: dict[str, Shape]
    tensors: Mapping[str, Tensor]

    def array(self, target: str, dtype) -> np.ndarray:
        """The parameter `target`, whole."""
        rules, shape = self.fill[target], self.targets[target]
        if rules[0][1] is None:
            return np.ascontiguousarray(self._one(*rules[0], shape)).astype(dtype)
        stacked = np.empty(shape, dtype)
        for rule, layer in rules:
            stacked[layer] = self._one(rule, layer, shape[1:])
        return stacked

    def _one(self, rule: Rule, layer: int | None, shape: Shape) -> np.ndarray:
        return rule.transform.apply([self.tensors[name].read() for name in rule.names(layer)], shape)


def plan(
    rules: list[Rule], targets: dict[str, Shape], tensors: Mapping[str, Tensor], harmless: tuple[str, ...] = ()
) -> Plan:
    """Fit a table to a checkpoint, by names and shapes alone.

    Args:
      targets: parameter name -> shape, of the abstract model.
      harmless: patterns (regular expressions, whole names) of tensors that a checkpoint may hold and we do not need.
    Raises:
      ConversionError: all that does not fit, in one message.
    """
    problems: list[str] = []
    fill: dict[str, list[tuple[Rule, int | None]]] = {}
    used: set[str] = set()
    by_target: dict[str, list[Rule]] = {}
    for rule in rules:
        by_target.setdefault(rule.target, []).append(rule)
    problems += [f"no parameter {name!r} in the model (a fault of the table)" for name in by_target.keys() - targets]
    for target, shape in targets.items():
        choices = by_target.get(target, [])
        stacked = bool(choices) and any("{layer}" in name for rule in choices for name in rule.sources)
        fill[target] = []
        for layer in range(shape[0]) if stacked else (None,):
            having = [rule for rule in choices if all(name in tensors for name in rule.names(layer))]
            if len(having) != 1:
                problems.append(_unfilled(target, layer, choices, having, tensors))
                continue
            names = having[0].names(layer)
            wanted = having[0].transform.sources(shape[1:] if stacked else shape)
            for name, needed in zip(names, wanted, strict=True):
                tensor = tensors[name]
                if tensor.shape != needed:
                    problems.append(f"{name} has shape {list(tensor.shape)}, {target} needs {list(needed)}")
                if tensor.dtype not in [np.dtype(kind) for kind in FLOATS]:
                    problems.append(f"{name} is {tensor.dtype}; weights are bfloat16, float16 or float32")
            used.update(names)
            fill[target].append((having[0], layer))
    known = [re.compile(pattern) for pattern in harmless]
    for name in sorted(tensors.keys() - used):
        if not any(pattern.fullmatch(name) for pattern in known):
            nearest = difflib.get_close_matches(name, [source for rule in rules for source in rule.sources], 1, 0.3)
            problems.append(f"{name} is used by no rule" + (f" (nearest: {nearest[0]})" if nearest else ""))
    if problems:
        shown = "\n  ".join(problems[:40])
        more = f"\n  and {len(problems) - 40} more" if len(problems) > 40 else ""
        raise ConversionError(f"{len(problems)} problems, nothing was written:\n  {shown}{more}")
    return Plan(fill, targets, tensors)


def _unfilled(target, layer, choices: list[Rule], having: list[Rule], tensors: Mapping[str, Tensor]) -> str:
    if len(having) > 1:
        return f"{target} could be filled twice, by {having[0].names(layer)} and by {having[1].names(layer)}"
    if not choices:
        return f"{target} has no rule (a fault of the table)"
    wanted = choices[0].names(layer)
    missing = [name for name in wanted if name not in tensors]
    near = difflib.get_close_matches(missing[0], list(tensors), 1, 0.6)
    return f"{', '.join(missing)} is missing, for {target}" + (f" (nearest there: {near[0]})" if near else "")
