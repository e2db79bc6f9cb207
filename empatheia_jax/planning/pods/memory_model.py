"""A model of the memory that a training step takes on one device: a hundred meshes can be tried before one is compiled.

Arguments are exact: they are the shards of known arrays. Temporaries are what XLA holds at the peak: all residuals of
the LLM's forward pass, and the backward pass either of the latents, which comes first, or of one layer. Tests and
`docs/scaling.md` compare the model with compiled programs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.llm.block_attention import BLOCK, MAX_BLOCKS
from empatheia_jax.llm.remat import residual_bytes
from empatheia_jax.model.sharding import rows_per_shard
from empatheia_jax.planning.flops import projections
from empatheia_jax.training.stages import Stage
from empatheia_jax.training.target_nll import CHUNK


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device; `peak` is their sum."""

    arguments: int
    temporaries: int
    output: int  # output that does not reuse the memory of an argument
    parts: dict[str, int]  # temporaries by the memory model

    @property
    def peak(self) -> int:
        return self.arguments + self.temporaries + self.output


def shard_bytes(leaf) -> int:
    """Return the bytes of an abstract array on one device."""
    placement = getattr(leaf, "sharding", None)
    shape = placement.shard_shape(leaf.shape) if placement is not None else leaf.shape
    itemsize = 16 if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize  # of a random key
    return int(np.prod(shape)) * itemsize


def estimate_memory(config: Config, stage: Stage, trainable, frozen, *, batch, mesh) -> Memory:
    """Estimate the memory of a stage's step.

    Args:
      config: settings of the run.
      stage: the stage.
      trainable: abstract parameters that are trained, placed on the mesh.
      frozen: abstract parameters that are not trained, placed on the mesh.
      batch: abstract arrays of a step, placed on the mesh.
      mesh: mesh of the run.
    """
    learned = sum(map(shard_bytes, jax.tree.leaves(trainable)))
    fixed = sum(map(shard_bytes, jax.tree.leaves(frozen)))
    arrays = sum(map(shard_bytes, jax.tree.leaves(batch)))
    # Each trained parameter has two moments of AdamW.
    arguments = 3 * learned + fixed + arrays
    rows = rows_per_shard(stage.data.rows, mesh)
    # With accumulation, gradients of a micro-batch and the accumulated ones.
    parts = {"gradients": learned * (2 if config.optim.accumulate > 1 else 1)}
    if not stage.cached:
        parts |= llm_parts(config, stage, rows, mesh)
    held = parts["gradients"] + parts.get("residuals", 0)
    layer, latents = sum(parts.values()) - held, _latents(config, stage, rows, mesh.shape["tensor"])
    if latents:
        parts["latents"] = latents
    return Memory(arguments, held + max(layer, latents), 0, parts)


def layer_residuals(config: Config, tensor: int = 1) -> int:
    """Return the bytes per token and layer that the forward pass keeps for the backward pass under `llm.remat`."""
    llm, itemsize = config.llm, np.dtype(config.llm.compute_dtype).itemsize
    kept = residual_bytes(llm, itemsize, tensor)
    if llm.remat == "none":  # also normed inputs, rotated queries and keys, activations, some of them float32
        kept = 2 * kept + (2 * llm.width + 2 * llm.mlp_width // tensor) * itemsize
    return kept


def llm_parts(config: Config, stage: Stage, rows: int, mesh) -> dict[str, int]:
    """Return the bytes of the temporaries of the LLM and its head, for `rows` rows on a device."""
    llm, data, tensor = config.llm, stage.data, mesh.shape["tensor"]
    itemsize, stored_itemsize = np.dtype(llm.compute_dtype).itemsize, np.dtype(llm.param_dtype).itemsize
    tokens = rows * data.row_tokens
    weights = sum(width_in * width_out for width_in, width_out in projections(llm).values()) // tensor
    kept = layer_residuals(config, tensor) if stage.backprops_through_llm else 0
    parts = {"residuals": tokens * llm.layers * kept}
    if mesh.shape["fsdp"] > 1:  # the gathered weights of a layer, and of the next one
        parts["gathered weights"] = 2 * weights * stored_itemsize
        parts["gathered vocabulary"] = 2 * llm.vocab_size * llm.width // tensor * stored_itemsize
    block = max(BLOCK, -(-data.row_tokens // MAX_BLOCKS))
    inner = (2 * (llm.heads + 2 * llm.kv_heads) * llm.head_dim + 5 * llm.mlp_width) // tensor + 4 * llm.width
    parts["one layer"] = tokens * inner * itemsize
    if llm.attention == "xla":  # float32 scores of a block and their gradient, weights in the compute dtype
        parts["attention"] = rows * llm.heads // tensor * block * data.row_tokens * (2 * 4 + itemsize)
    if "emp" in stage.weights:  # float32 logits, their softmax and their gradient
        parts["logits"] = rows * min(data.row_targets, CHUNK) * llm.vocab_size // tensor * 3 * 4
    return parts


def _latents(config: Config, stage: Stage, rows: int, tensor: int) -> int:
    """Return the bytes of the VAEs' float32 residuals: per position and layer ten widths, two FFNs, and attention."""
    if not stage.has_content:
        return 0  # the style disentangler has only 16 positions per Example
    latents, data = config.latents, stage.data
    examples, layers = rows * data.row_examples, latents.encoder_layers + 2 * latents.decoder_layers
    positions = 2 * data.response_tokens + data.phonemes + data.frames
    square = (data.phonemes**2 + data.frames**2) + (data.phonemes + data.frames) * data.response_tokens
    kept = positions * layers // 2 * (10 * latents.width + 2 * latents.mlp_width // tensor)
    kept += square * latents.heads // tensor * latents.decoder_layers * 2
    return examples * kept * 4
