"""What a training step holds on one device, by hand: quick enough to try a hundred meshes before one is compiled.

Arguments are exact: they are the shards of known arrays. Temporaries are a model of what XLA keeps at the worst moment:
all that the LLM's forward pass left, and beside it the backward pass of the latents, which comes first, or of a layer.
Tests and `docs/scaling.md` compare it with compiled programs.
"""

import dataclasses

import jax
import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.flops import projections
from empatheia_jax.llm.block_attention import BLOCK, MAX_BLOCKS
from empatheia_jax.llm.remat import kept_bytes
from empatheia_jax.sharding import BATCH_AXES
from empatheia_jax.training.stages import Stage
from empatheia_jax.training.target_nll import CHUNK


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device. `parts` is the model's account of the temporaries."""

    arguments: int
    temporaries: int
    output: int  # that takes no argument's place
    parts: dict[str, int]

    @property
    def peak(self) -> int:
        return self.arguments + self.temporaries + self.output


def shard_bytes(leaf) -> int:
    """Bytes of an abstract array on one device."""
    where = getattr(leaf, "sharding", None)
    shape = where.shard_shape(leaf.shape) if where is not None else leaf.shape
    itemsize = 16 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize  # a key's
    return int(np.prod(shape)) * itemsize


def modelled(config: Config, stage: Stage, trainable, frozen, batch, mesh) -> Memory:
    """The memory of a stage's step.

    Args:
      config: with the shapes of the stage. trainable, frozen, batch: abstract and placed (`training.prepare`).
    """
    learned = sum(map(shard_bytes, jax.tree.leaves(trainable)))
    given = sum(map(shard_bytes, jax.tree.leaves(frozen)))
    arrays = sum(map(shard_bytes, jax.tree.leaves(batch)))
    # AdamW's two moments beside what is learned.
    arguments = 3 * learned + given + arrays
    rows = config.data.rows // int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    # Gradients of a micro-batch beside those accumulated, and their updates.
    parts = {"gradients": learned * (2 if config.optim.accumulate > 1 else 1)}
    if not stage.cached:
        parts |= llm_parts(config, stage, rows, mesh)
    held = parts["gradients"] + parts.get("residuals", 0)
    layer, latents = sum(parts.values()) - held, _latents(config, stage, rows, mesh.shape["tensor"])
    if latents:
        parts["latents"] = latents
    return Memory(arguments, held + max(layer, latents), 0, parts)


def layer_residuals(config: Config, tensor: int = 1) -> int:
    """Bytes a token and layer that the forward pass keeps for the backward pass under `llm.remat`."""
    llm, size = config.llm, np.dtype(config.llm.compute_dtype).itemsize
    kept = kept_bytes(llm, size, tensor)
    if llm.remat == "none":  # and what lies between: normed inputs, rotated and activated, some of it float32
        kept = 2 * kept + (2 * llm.width + 2 * llm.mlp_width // tensor) * size
    return kept


def llm_parts(config: Config, stage: Stage, rows: int, mesh) -> dict[str, int]:
    """Of the LLM and its head, for `rows` rows on a device."""
    llm, data, tensor = config.llm, config.data, mesh.shape["tensor"]
    size, stored = np.dtype(llm.compute_dtype).itemsize, np.dtype(llm.param_dtype).itemsize
    tokens, flows = rows * data.row_tokens, stage.number != 2
    weights = sum(width_in * width_out for width_in, width_out in projections(llm).values()) // tensor
    parts = {"residuals": tokens * llm.layers * layer_residuals(config, tensor) if flows else 0}
    if mesh.shape["fsdp"] > 1:  # a layer's weights gathered, and those of the next on their way
        parts["gathered weights"] = 2 * weights * stored
        parts["gathered vocabulary"] = 2 * llm.vocab_size * llm.width // tensor * stored
    block = max(BLOCK, -(-data.row_tokens // MAX_BLOCKS))
    inner = (2 * (llm.heads + 2 * llm.kv_heads) * llm.head_dim + 5 * llm.mlp_width) // tensor + 4 * llm.width
    parts["one layer"] = tokens * inner * size
    if llm.attention == "xla":  # float32 logits of a block and of its gradient, weights in the compute type
        parts["attention"] = rows * llm.heads // tensor * block * data.row_tokens * (2 * 4 + size)
    if "emp" in stage.weights:  # float32 logits, their softmax and gradient
        parts["logits"] = rows * min(data.row_targets, CHUNK) * llm.vocab_size // tensor * 3 * 4
    return parts


def _latents(config: Config, stage: Stage, rows: int, tensor: int) -> int:
    """Of the VAEs, float32 and kept whole: per position and layer some ten widths and two FFNs, and attention."""
    if not stage.content:
        return 0  # style alone: 16 positions an Example
    latents, data = config.latents, config.data
    examples, layers = rows * data.row_examples, latents.encoder_layers + 2 * latents.decoder_layers
    positions = 2 * data.response_tokens + data.phonemes + data.frames
    square = (data.phonemes**2 + data.frames**2) + (data.phonemes + data.frames) * data.response_tokens
    kept = positions * layers // 2 * (10 * latents.width + 2 * latents.mlp_width // tensor)
    kept += square * latents.heads // tensor * latents.decoder_layers * 2
    return examples * kept * 4
