"""Bounds of a step's time: arithmetic, memory and network, each at the vendor's peak.

`overlapped` assumes that the three overlap entirely, `one_by_one` that they do not at all. A step at peak rates lies
between, and nearer to the first the more XLA's scheduler hides the network behind the arithmetic.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from empatheia_jax.config import Config
from empatheia_jax.model.sharding import rows_per_shard
from empatheia_jax.planning.flops import projections
from empatheia_jax.planning.pods.collectives import Collective
from empatheia_jax.planning.pods.memory_model import Memory
from empatheia_jax.planning.pods.topologies import Topology, ring_bandwidth
from empatheia_jax.training.stages import Stage


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds that a step takes on one device."""

    arithmetic: float
    memory: float
    network: float
    mfu_scale: float  # model FLOPs of one device over its peak; divided by a step's seconds it is the MFU

    @property
    def overlapped(self) -> float:
        return max(self.arithmetic, self.memory, self.network)

    @property
    def one_by_one(self) -> float:
        return self.arithmetic + self.memory + self.network

    def mfu(self, seconds: float) -> float:
        """Return the model FLOPs utilisation of a step that takes `seconds`."""
        return self.mfu_scale / seconds


def estimate_time(
    config: Config,
    stage: Stage,
    *,
    model_flops: float,
    recomputed: float,
    collectives: list[Collective],
    memory: Memory,
    topology: Topology,
    mesh: Mesh,
) -> Estimate:
    """Estimate the bounds of a step's time.

    Args:
      config: settings of the run.
      stage: the stage.
      model_flops: model FLOPs of a step, all devices together.
      recomputed: FLOPs that the backward pass recomputes, all devices together.
      collectives: collectives of a step.
      memory: memory of a step on one device.
      topology: the machine.
      mesh: mesh over its devices.
    """
    chip, devices = topology.chip, mesh.devices.size
    network = sum(c.bytes_sent / ring_bandwidth(topology, mesh, c.axes) for c in collectives)
    return Estimate(
        arithmetic=(model_flops + recomputed) / devices / chip.peak,
        memory=memory_traffic(config, stage, memory, mesh) / chip.memory_bandwidth,
        network=network,
        mfu_scale=model_flops / devices / chip.peak,
    )


def memory_traffic(config: Config, stage: Stage, memory: Memory, mesh: Mesh) -> float:
    """Estimate the bytes that a device reads and writes in a step.

    Each pass over a micro-batch (forward, backward, a second forward with remat "full") reads the LLM's weights, writes
    and reads them once more where they are gathered, and reads and writes the inputs and outputs of every product.
    Residuals are written and read. The optimizer reads and writes its arguments. Fusion may save some of this, spilling
    may add to it.
    """
    arguments = 2.0 * memory.arguments
    if stage.cached:
        return arguments
    llm, tensor = config.llm, mesh.shape["tensor"]
    itemsize = np.dtype(llm.compute_dtype).itemsize
    tokens = rows_per_shard(stage.data.rows, mesh) * stage.data.row_tokens
    shapes = list(projections(llm).values())
    passes = (2 if stage.backprops_through_llm else 1) + (llm.remat == "full")
    weights = llm.layers * sum(a * b for a, b in shapes) / tensor * itemsize * (3 if mesh.shape["fsdp"] > 1 else 1)
    activations = llm.layers * tokens * sum(a + b for a, b in shapes) / tensor * itemsize
    micro = passes * (weights + activations) + 2 * memory.parts.get("residuals", 0)
    return arguments + config.optim.accumulate * micro
