"""How long a step could take: arithmetic, memory and network, each at the vendor's peak.

A bound, not a forecast. `overlapped` supposes that the three hide each other entirely, `one_by_one` that none does; a
step lies between, and nearer to the first the more XLA's scheduler hides the network behind the arithmetic.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from empatheia_jax.config import Config
from empatheia_jax.flops import projections
from empatheia_jax.pods.collectives import Collective
from empatheia_jax.pods.memory_model import Memory
from empatheia_jax.pods.topologies import Topology, bandwidth
from empatheia_jax.sharding import BATCH_AXES
from empatheia_jax.training.stages import Stage


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step on one device."""

    arithmetic: float
    memory: float
    network: float
    mfu_scale: float  # model FLOPs of one device over its peak: over seconds, MFU

    @property
    def overlapped(self) -> float:
        return max(self.arithmetic, self.memory, self.network)

    @property
    def one_by_one(self) -> float:
        return self.arithmetic + self.memory + self.network

    def mfu(self, seconds: float) -> float:
        """Model FLOPs utilisation of a step that takes so long."""
        return self.mfu_scale / seconds


def estimate(
    config: Config,
    stage: Stage,
    model_flops: float,
    recomputed: float,
    collectives: list[Collective],
    memory: Memory,
    topology: Topology,
    mesh: Mesh,
) -> Estimate:
    """Bounds of a step's time.

    Args:
      config: with the shapes of the stage. model_flops, recomputed: of all devices together.
    """
    chip, devices = topology.chip, mesh.devices.size
    network = sum(one.moved / bandwidth(topology, mesh, one.axes) for one in collectives)
    return Estimate(
        arithmetic=(model_flops + recomputed) / devices / chip.peak,
        memory=memory_traffic(config, stage, memory, mesh) / chip.memory_bandwidth,
        network=network,
        mfu_scale=model_flops / devices / chip.peak,
    )


def memory_traffic(config: Config, stage: Stage, memory: Memory, mesh: Mesh) -> float:
    """Bytes that a device reads and writes in a step: an account of what cannot stay in registers.

    Each pass over a micro-batch (forward, backward, and again with remat "full") reads the LLM's weights, once more
    written and read where they are gathered, and reads and writes what goes in and out of every product; residuals are
    written and read; the optimizer reads and writes all it holds. Fusion may save, spilling may add.
    """
    held = 2.0 * memory.arguments
    if stage.cached:
        return held
    llm, tensor = config.llm, mesh.shape["tensor"]
    size = np.dtype(llm.compute_dtype).itemsize
    rows = config.data.rows / np.prod([mesh.shape[axis] for axis in BATCH_AXES])
    tokens, shapes = rows * config.data.row_tokens, list(projections(llm).values())
    passes = (1 if stage.number == 2 else 2) + (llm.remat == "full")
    weights = llm.layers * sum(a * b for a, b in shapes) / tensor * size * (3 if mesh.shape["fsdp"] > 1 else 1)
    flowing = llm.layers * tokens * sum(a + b for a, b in shapes) / tensor * size
    micro = passes * (weights + flowing) + 2 * memory.parts.get("residuals", 0)
    return held + config.optim.accumulate * micro
