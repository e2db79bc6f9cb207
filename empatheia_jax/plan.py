"""`empatheia plan --local`: parameters and bytes of every part, from abstract shapes, before anything is allocated."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.schema import SYMBOL_COUNT, Widths
from empatheia_jax.empatheia import Empatheia
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import generator_widths
from empatheia_jax.llm.quantized import parameters
from empatheia_jax.llm.remat import kept_bytes
from empatheia_jax.training.stages import group_of, stage

GIB = 2**30
PARTS = {
    "base": "LLM, frozen",
    "lora": "LoRA",
    "rows": "new tokens",
    "projectors": "projectors",
    "content": "content synchronizer",
    "style": "style disentangler",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the model."""

    name: str
    parameters: int
    weights: int  # bytes at rest
    training: int  # bytes of gradients and AdamW's moments where a stage trains it, float32 each

    @property
    def bytes(self) -> int:
        return self.weights + self.training


def config_widths(config: Config) -> Widths | None:
    """The widths that the config's encoders and generators set; None for a text-only model. Reads no weights."""
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
    """Every part of `Empatheia`, sized for the stage that trains most of it."""
    abstract = nnx.eval_shape(lambda: Empatheia(config, config_widths(config), rngs=nnx.Rngs(0)))
    trained = set(stage(4 if config.modalities else 1, config).trains)
    if base_trains := config.base == "scratch" and config.llm.quantization == "none":
        trained.add("base")
    sizes: dict[str, np.ndarray] = {}
    for path, variable in nnx.to_flat_state(nnx.state(abstract)):
        group, count = group_of(path, isinstance(variable, nnx.LoRAParam)), parameters(variable)
        # What a stage trains is float32 while it does: weight, gradient, two moments.
        held = 4 if group in trained else np.dtype(variable.dtype).itemsize
        size = np.array([count, int(np.prod(variable.shape)) * held, 12 * count if group in trained else 0])
        sizes[group] = sizes.get(group, 0) + size
    names = PARTS | ({"base": "LLM (stage 0)"} if base_trains else {})
    if config.llm.quantization != "none":
        names |= {"base": f"{PARTS['base']}, {config.llm.quantization}"}
    return [Part(names[group], *sizes[group].tolist()) for group in PARTS if group in sizes]


def encoder_parts(config: Config) -> list[Part]:
    """The encoders that `extract` runs, where they are networks."""
    parts = []
    for encoder in build_encoders(config.encoders).values() if config.modalities else ():
        if encoder.on_device:
            leaves = jax.tree.leaves(encoder.network.abstract())
            count, held = sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
            parts.append(Part(encoder.name.replace("_", " "), count, held, 0))
    return parts


def kept_activations(config: Config) -> int:
    """Bytes of residuals that one micro-batch leaves for its backward pass through the LLM.

    By `llm.remat` (llm/remat.py). The largest `rows` x `row_tokens` of the stages counts.
    """
    size = np.dtype(config.llm.compute_dtype).itemsize
    tokens = max(
        (s.rows or config.data.rows) * (s.row_tokens or config.data.row_tokens) for s in config.stages.values()
    )
    return tokens * config.llm.layers * kept_bytes(config.llm, size)


def local_plan(config: Config) -> str:
    """A table for people: what training holds on one device, and what `extract` holds before."""
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
    everything = Part("sum", *(sum(getattr(p, name) for p in parts) for name in ("parameters", "weights", "training")))
    for part in (*parts, everything):
        lines.append(f"  {part.name:42s} {part.parameters:15,d} {part.weights / GIB:10.3f} {part.training / GIB:17.3f}")
    return lines
