"""Rules for networks whose modules have the names of a published file's tensors (`generators.layers`).

The table is made from the model: a parameter's path is its tensor's name; its `layout` and the tensor's spelling
determine the transform. Weight and spectral norm are folded into the kernels.
"""

from collections.abc import Callable

import numpy as np
from flax import nnx

from converters.rules import CONV1D, CONV2D, IDENTITY, Rule, Transform, abstract_network, linear

# Layouts --------------------------------------------------------------------------------------------------------------


def _flip(array: np.ndarray) -> np.ndarray:
    """Convert torch's transposed convolution [in, out, *window] to our [*window, in, out], the window reversed."""
    return np.moveaxis(np.flip(array, tuple(range(2, array.ndim))), (0, 1), (-2, -1))


_TRANSPOSED = Transform(lambda shape: [(*shape[-2:], *shape[:-2])], lambda arrays, shape: _flip(arrays[0]))
_LAYOUTS: dict[str, Transform] = {
    "linear": linear(),
    "conv": CONV1D,
    "conv2d": CONV2D,
    "conv_transpose": _TRANSPOSED,
    "depthwise_transpose": Transform(
        lambda shape: [(shape[2], 1, shape[0])], lambda arrays, shape: arrays[0][..., ::-1].transpose(2, 1, 0)
    ),
}
_CHANNEL = Transform(lambda shape: [(*shape, 1, 1)], lambda arrays, shape: arrays[0].reshape(shape))
_SUM = Transform(
    lambda shape: [shape, shape], lambda arrays, shape: arrays[0].astype(np.float32) + arrays[1].astype(np.float32)
)


def _weight_norm(layout: Transform) -> Transform:
    """Return the transform of (g, v): each slice of v's first axis scaled to length g, in float64."""

    def sources(shape):
        (torch_shape,) = layout.sources(shape)
        return [(torch_shape[0], *(1,) * (len(torch_shape) - 1)), torch_shape]

    def apply(arrays, shape):
        gain, direction = (array.astype(np.float64) for array in arrays)
        norm = np.sqrt(np.sum(np.square(direction), axis=tuple(range(1, direction.ndim)), keepdims=True))
        return layout.apply([(gain * direction / norm).astype(np.float32)], shape)

    return Transform(sources, apply)


def _spectral_norm(layout: Transform) -> Transform:
    """Return the transform of (W, u, v): W / (u W v) with the stored vectors, as in torch's evaluation mode."""

    def sources(shape):
        (torch_shape,) = layout.sources(shape)
        return [torch_shape, (torch_shape[0],), (int(np.prod(torch_shape[1:])),)]

    def apply(arrays, shape):
        weight, u, v = (array.astype(np.float64) for array in arrays)
        sigma = u @ weight.reshape(weight.shape[0], -1) @ v
        return layout.apply([(weight / sigma).astype(np.float32)], shape)

    return Transform(sources, apply)


# Tables ---------------------------------------------------------------------------------------------------------------


def rules_from_network(
    network: type[nnx.Module], config, rename: Callable[[str], str] = lambda name: name
) -> list[Rule]:
    """Return the table of rules for a network; `rename` converts a parameter's dotted path to a tensor's name."""
    table: list[Rule] = []
    for path, variable in nnx.to_flat_state(abstract_network(network, config)[1]):
        target, leaf = "/".join(map(str, path)), str(path[-1])
        name = rename(".".join(map(str, path)))
        module = name.rpartition(".")[0]
        layout = variable.get_metadata().get("layout")
        if path[-2] in ("forward", "backward"):
            table += _lstm_rules(module, target, leaf)
        elif layout == "channel":
            table.append(Rule(f"{module}.{'weight' if leaf == 'scale' else leaf}", target, _CHANNEL))
        elif layout is not None:
            kind = "conv2d" if layout == "conv" and len(variable.shape) == 4 else layout
            table += _kernel_rules(module, target, _LAYOUTS[kind])
        elif leaf == "table":
            table.append(Rule(f"{module}.weight", target))
        elif leaf == "scale":
            table += [Rule(f"{module}.weight", target), Rule(f"{module}.gamma", target)]
        elif leaf == "bias":
            table += [Rule(f"{module}{_separator(module)}bias", target), Rule(f"{module}.beta", target)]
        elif any(str(part).startswith("alpha") for part in path):
            table.append(Rule(name, target, Transform(lambda s: [(1, *s, 1)], lambda arrays, s: arrays[0].reshape(s))))
        else:
            table.append(Rule(name, target, IDENTITY))
    return table


def _kernel_rules(name: str, target: str, layout: Transform) -> list[Rule]:
    new = f"{name}.parametrizations.weight"
    return [
        Rule(f"{name}{_separator(name)}weight", target, layout),
        Rule((f"{name}.weight_g", f"{name}.weight_v"), target, _weight_norm(layout)),
        Rule((f"{new}.original0", f"{new}.original1"), target, _weight_norm(layout)),
        Rule((f"{name}.weight_orig", f"{name}.weight_u", f"{name}.weight_v"), target, _spectral_norm(layout)),
        Rule((f"{new}.original", f"{new}.0._u", f"{new}.0._v"), target, _spectral_norm(layout)),
    ]


def _separator(module: str) -> str:
    """Return what joins a module's name and "weight"; torch's attention has in_proj_weight, not in_proj.weight."""
    return "_" if module.endswith(".in_proj") else "."


def _lstm_rules(name: str, target: str, leaf: str) -> list[Rule]:
    name, _, direction = name.rpartition(".")
    suffix = "_l0_reverse" if direction == "backward" else "_l0"
    if leaf == "bias":
        return [Rule((f"{name}.bias_ih{suffix}", f"{name}.bias_hh{suffix}"), target, _SUM)]
    return [Rule(f"{name}.weight_{'ih' if leaf == 'input_kernel' else 'hh'}{suffix}", target, linear())]
