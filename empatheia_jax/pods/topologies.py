"""Machines that a run may be planned for: chips by name, and meshes of devices that need not be there.

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
from empatheia_jax.flops import peak

GB = 10**9
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. Bandwidths are bytes a second."""

    kind: str  # as JAX names it: key of `flops.PEAKS`
    memory: int  # bytes that a program may use
    memory_bandwidth: float
    link: float  # one way: of one of a TPU's links, or of all of a GPU's NVLink
    links: int  # of a TPU: two for each axis of its torus; 0: GPUs behind one switch
    wraps: int = 0  # an axis of the torus closes to a ring where its length is a multiple of this
    network: float = 0.0  # one way, a GPU's share of what joins nodes
    slice: str = ""  # a TPU's smallest machine, as Google Cloud names it

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s."""
        return peak(self.kind)


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
SHARE = {"tpu": 0.98, "gpu": 0.92}  # of the memory that programs get: the compiler's own limit; the GPU allocator's


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine's devices as JAX knows them: described ones of a TPU, or simulated ones in a GPU's place."""

    name: str
    chip: Chip
    devices: tuple
    simulated: bool

    @property
    def memory(self) -> int:
        """Bytes of a device that a program may fill."""
        return int(self.chip.memory * SHARE["gpu" if self.simulated else "tpu"])


def find_topology(name: str) -> Topology:
    """The machine called KIND:SHAPE, as v5e:4x4, v5p:4x4x4, h100:8; call before any other JAX.

    GPUs are simulated on the CPU: `jax_num_cpu_devices` is set to their number.

    Raises:
      ConfigError: no such machine, no libtpu, libtpu held by another process, or another number of CPU devices.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape):
        kinds = ", ".join(CHIPS)
        raise ConfigError(f"topology {name!r}: give KIND:SHAPE as v5e:4x4, v5p:4x4x4 or h100:8; kinds: {kinds}")
    sizes = [int(size) for size in shape.split("x")]
    if CHIPS[kind].links:
        return Topology(name, CHIPS[kind], _described(name, len(sizes), CHIPS[kind]), False)
    count = int(np.prod(sizes))
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX has begun: what it has must do
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ConfigError(f"topology {name}: {count} simulated devices wanted, JAX began with {len(devices)}")
    return Topology(name, CHIPS[kind], tuple(devices[:count]), True)


def _described(name: str, dimensions: int, chip: Chip) -> tuple:
    if dimensions != chip.links // 2:
        raise ConfigError(f"topology {name}: {chip.kind} has {chip.links // 2} dimensions, as 4x4x4 has three")
    # Else libtpu asks Google Cloud where it is, and says on stderr that it does not know.
    here = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": chip.slice}
    for variable, value in here.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    cores = {"chip_config_name": "megacore"} if chip.kind == "TPU v4" else {}  # its two cores are one device of JAX
    try:
        return tuple(topologies.get_topology_desc(name, platform="tpu", **cores).devices)
    except Exception as error:
        hint = "install the extra `tpu` (libtpu), and let no other process hold it (ALLOW_MULTIPLE_LIBTPU_LOAD=1)"
        raise ConfigError(f"topology {name}: {' '.join(str(error).split())[:300]}; {hint}") from error


def bandwidth(topology: Topology, mesh: Mesh, axes: tuple[str, ...]) -> float:
    """Bytes a second that a device can send in a ring over some axes of a mesh.

    TPU: both directions of every physical axis that the group spans; half of it where that axis does not close to a
    ring within the group. GPU: NVLink within a node of 8, the network beyond.
    """
    chip = topology.chip
    moved = [mesh.axis_names.index(axis) for axis in axes]
    group = np.moveaxis(mesh.devices, moved, range(len(moved)))
    group = group.reshape(-1, mesh.devices.size // np.prod([mesh.devices.shape[one] for one in moved], dtype=int))[:, 0]
    if not chip.links:
        numbers = [device.id for device in group]
        return chip.link if len({number // NODE for number in numbers}) == 1 else chip.network
    extents = np.array([device.coords for device in mesh.devices.flat]).max(axis=0) + 1
    places = np.array([device.coords for device in group])
    total = 0.0
    for axis, extent in enumerate(extents):
        spanned = len(set(places[:, axis]))
        if spanned > 1:
            ring = spanned == extent and extent % chip.wraps == 0
            total += 2 * chip.link * (1.0 if ring else 0.5)
    return total
