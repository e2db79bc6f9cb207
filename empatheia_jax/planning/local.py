"""`empatheia plan --local`: parameters and bytes of every part of the model, from abstract shapes."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.schema import SYMBOL_COUNT, Widths
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import generator_widths
from empatheia_jax.llm.quantized import parameter_count
from empatheia_jax.llm.remat import residual_bytes
from empatheia_jax.model.empatheia import Empatheia
from empatheia_jax.model.parameter_groups import group_of
from empatheia_jax.training.stages import choose_stages, resolve_stages

GIB = 2**30
PARTS = {
    "base": "LLM, frozen",
    "lora": "LoRA",
    "new_tokens": "new tokens",
    "projectors": "projectors",
    "content": "content synchronizer",
    "style": "style disentangler",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the model; `bytes` is the sum of both kinds."""

    name: str
    parameters: int
    weights: int  # bytes of the parameters
    training: int  # bytes of gradients and AdamW's moments, float32 each, where a stage trains the part

    @property
    def bytes(self) -> int:
        return self.weights + self.training


def config_widths(config: Config) -> Widths | None:
    """Return the widths of the config's encoders and generators, reading no weights; None for a text-only model."""
    if not config.modalities:
        return None
    encoders = build_encoders(config.encoders)
    (content_speech, style_speech), (content_video, style_video) = generator_widths(config.generators)
    return Widths(
        audio=encoders["audio"].feature_shape,
        video=encoders["video"].feature_shape,
        symbols=SYMBOL_COUNT,
        content_speech=content_speech,
        content_video=content_video,
        style_speech=style_speech,
        style_video=style_video,
    )


def model_parts(config: Config) -> list[Part]:
    """Return the parts of `Empatheia`, with their sizes in the stage that trains most of them."""
    abstract = nnx.eval_shape(lambda: Empatheia(config, config_widths(config), rngs=nnx.Rngs(0)))
    trained = set(choose_stages(config)[-1].trains)
    if base_trains := config.base == "scratch" and config.llm.quantization == "none":
        trained.add("base")
    sizes: dict[str, np.ndarray] = {}
    for path, variable in nnx.to_flat_state(nnx.state(abstract)):
        group, count = group_of(path, isinstance(variable, nnx.LoRAParam)), parameter_count(variable)
        # A stage trains in float32: weight, gradient, two moments.
        itemsize = 4 if group in trained else np.dtype(variable.dtype).itemsize
        size = np.array([count, int(np.prod(variable.shape)) * itemsize, 12 * count if group in trained else 0])
        sizes[group] = sizes.get(group, 0) + size
    names = PARTS | ({"base": "LLM (stage 0)"} if base_trains else {})
    if config.llm.quantization != "none":
        names |= {"base": f"{PARTS['base']}, {config.llm.quantization}"}
    return [Part(names[group], *sizes[group].tolist()) for group in PARTS if group in sizes]


def encoder_parts(config: Config) -> list[Part]:
    """Return the encoders that `extract` runs, where they are networks."""
    parts = []
    for encoder in build_encoders(config.encoders).values() if config.modalities else ():
        if (network := encoder.network) is not None:
            leaves = jax.tree.leaves(network.abstract())
            count, weights = sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
            parts.append(Part(encoder.name.replace("_", " "), count, weights, 0))
    return parts


def kept_activations(config: Config) -> int:
    """Return the bytes of residuals that a micro-batch keeps for the backward pass through the LLM.

    They depend on `llm.remat` (llm/remat.py). The stage with the largest `rows` x `row_tokens` counts.
    """
    itemsize = np.dtype(config.llm.compute_dtype).itemsize
    tokens = max(stage.data.rows * stage.data.row_tokens for stage in resolve_stages(config))
    return tokens * config.llm.layers * residual_bytes(config.llm, itemsize)


def local_plan(config: Config) -> str:
    """Return a table of the bytes that training holds on one device, and of those that `extract` holds before."""
    parts, encoders = model_parts(config), encoder_parts(config)
    lines = [f"{config.name}: one device, bytes in GiB", ""]
    lines += _table("training", parts)
    activations = kept_activations(config)
    lines.append(f"  {'activations kept for the backward pass, about':58s} {activations / GIB:10.3f}")
    total = sum(part.bytes for part in parts) + activations
    lines.append(f"  {'together, without workspace and logits':58s} {total / GIB:10.3f}")
    if encoders:
        lines += ["", *_table("extract (before training, not beside it)", encoders)]
    return "\n".join(lines)


def _table(title: str, parts: list[Part]) -> list[str]:
    lines = [f"  {title:42s} {'parameters':>15s} {'weights':>10s} {'gradient + AdamW':>17s}"]
    sums = (sum(getattr(part, name) for part in parts) for name in ("parameters", "weights", "training"))
    for part in (*parts, Part("sum", *sums)):
        lines.append(f"  {part.name:42s} {part.parameters:15,d} {part.weights / GIB:10.3f} {part.training / GIB:17.3f}")
    return lines
