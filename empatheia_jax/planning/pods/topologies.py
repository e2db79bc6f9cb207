"""Machines that a run can be planned for: chips by name, and meshes of devices that are not at hand.

Numbers are the vendors': cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e (HBM, its bandwidth, bidirectional interchip
bandwidth a chip) and NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM (memory, its bandwidth, NVLink) and
of DGX A100 and DGX H100 (network a GPU: 200 and 400 Gb/s). Peak FLOP/s are those of `flops.PEAKS`.
"""

import dataclasses
import os
import re

import jax
import numpy as np
from jax.sharding import Mesh

from empatheia_jax.config import ConfigError
from empatheia_jax.planning.flops import PEAKS

GB = 10**9
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. Bandwidths are in bytes/s."""

    kind: str  # JAX's name, a key of `flops.PEAKS`
    memory: int  # bytes
    memory_bandwidth: float
    link: float  # bandwidth in one direction: of one link of a TPU, or of a GPU's whole NVLink
    links: int  # links of a TPU, two for each axis of its torus; 0 for a GPU, behind a switch
    wraps: int = 0  # TPU: an axis of the torus is a ring where its length is a multiple of this
    network: float = 0.0  # GPU: its share, in one direction, of the network between nodes
    slice: str = ""  # TPU: Google Cloud's name of the smallest machine

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s."""
        return PEAKS[self.kind]


CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 1228 * GB, 50 * GB, 6, wraps=4, slice="v4-8"),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 819 * GB, 50 * GB, 4, wraps=16, slice="v5litepod-4"),
    "v5p": Chip("TPU v5", 95 * GIB, 2765 * GB, 100 * GB, 6, wraps=4, slice="v5p-8"),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 1638 * GB, 100 * GB, 4, wraps=16, slice="v6e-4"),
    "a100": Chip("NVIDIA A100", 80 * GB, 2039 * GB, 300 * GB, 0, network=25 * GB),
    "h100": Chip("NVIDIA H100", 80 * GB, 3350 * GB, 450 * GB, 0, network=50 * GB),
    "h200": Chip("NVIDIA H200", 141 * GB, 4800 * GB, 450 * GB, 0, network=50 * GB),
}
CHIPS["gpu"] = CHIPS["h100"]
NODE = 8  # GPUs behind one NVSwitch
SHARE = {
    "tpu": 0.98,
    "gpu": 0.92,
}  # of the memory that a program can use: the TPU compiler's limit, the GPU allocator's


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine's devices as JAX objects: descriptions of TPU devices, or CPU devices that simulate GPUs."""

    name: str
    chip: Chip
    devices: tuple
    simulated: bool

    @property
    def memory(self) -> int:
        """Bytes of a device that a program can use."""
        return int(self.chip.memory * SHARE["gpu" if self.simulated else "tpu"])


def find_topology(name: str) -> Topology:
    """Return the machine called KIND:SHAPE, as v5e:4x4, v5p:4x4x4, h100:8. Call before any other function of JAX.

    GPUs are simulated on the CPU: `jax_num_cpu_devices` is set to their number.

    Raises:
      ConfigError: no such machine, libtpu is missing or held by another process, or JAX has started with fewer CPU
        devices.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape):
        kinds = ", ".join(CHIPS)
        raise ConfigError(f"topology {name!r}: give KIND:SHAPE as v5e:4x4, v5p:4x4x4 or h100:8; kinds: {kinds}")
    sizes = [int(size) for size in shape.split("x")]
    if CHIPS[kind].links:
        return Topology(name, CHIPS[kind], _describe_tpu(name, len(sizes), CHIPS[kind]), False)
    count = int(np.prod(sizes))
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX has started already; its number of devices is checked below
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ConfigError(f"topology {name}: {count} simulated devices wanted, JAX started with {len(devices)}")
    return Topology(name, CHIPS[kind], tuple(devices[:count]), True)


def _describe_tpu(name: str, dimensions: int, chip: Chip) -> tuple:
    """Return the devices of a TPU by libtpu's description of it."""
    if dimensions != chip.links // 2:
        raise ConfigError(f"topology {name}: {chip.kind} has {chip.links // 2} dimensions, as 4x4x4 has three")
    # Without these libtpu queries Google Cloud's metadata, and reports the failure on stderr.
    settings = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": chip.slice}
    for variable, value in settings.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    cores = {"chip_config_name": "megacore"} if chip.kind == "TPU v4" else {}  # JAX takes its two cores as one device
    try:
        return tuple(topologies.get_topology_desc(name, platform="tpu", **cores).devices)
    except Exception as error:
        hint = "install the extra `tpu` (libtpu), and let no other process hold it (ALLOW_MULTIPLE_LIBTPU_LOAD=1)"
        raise ConfigError(f"topology {name}: {' '.join(str(error).split())[:300]}; {hint}") from error


def ring_bandwidth(topology: Topology, mesh: Mesh, axes: tuple[str, ...]) -> float:
    """Return the bytes/s that a device can send in a ring over some axes of a mesh.

    TPU: both directions of every physical axis that the group spans, or half of that where the axis is no ring within
    the group. GPU: NVLink within a node of 8, the network beyond.

    Args:
      topology: the machine.
      mesh: mesh over its devices.
      axes: axes of the mesh that the ring spans.
    """
    chip = topology.chip
    group_axes = [mesh.axis_names.index(axis) for axis in axes]
    size = np.prod([mesh.devices.shape[axis] for axis in group_axes], dtype=int)
    group = np.moveaxis(mesh.devices, group_axes, range(len(group_axes))).reshape(size, -1)[:, 0]
    if not chip.links:
        return chip.link if len({device.id // NODE for device in group}) == 1 else chip.network
    extents = np.array([device.coords for device in mesh.devices.flat]).max(axis=0) + 1
    coordinates = np.array([device.coords for device in group])
    total = 0.0
    for axis, extent in enumerate(extents):
        spanned = len(set(coordinates[:, axis]))
        if spanned > 1:
            is_ring = spanned == extent and extent % chip.wraps == 0
            total += 2 * chip.link * (1.0 if is_ring else 0.5)
    return total
