"""What differs between the machines that one experiment is trained on: a row of `MACHINES` each."""

import dataclasses
from typing import Literal

from empatheia_jax.config import Config, MeshConfig


@dataclasses.dataclass(frozen=True)
class Machine:
    """The settings of a 7B run that depend on the machine; `rows` x `accumulate` rows are a step."""

    rows: int
    accumulate: int = 1
    mesh: MeshConfig = MeshConfig()
    attention: Literal["xla", "cudnn", "splash"] = "xla"
    quantization: Literal["none", "int8", "nf4"] = "none"


MACHINES = {
    "24gb": Machine(1, 8, quantization="nf4"),
    "8_gpus": Machine(8, mesh=MeshConfig(data=1, fsdp=8, tensor=1)),
    "v5e_16": Machine(8, mesh=MeshConfig(data=1, fsdp=8, tensor=2), attention="splash"),
    "v5p_128": Machine(16, mesh=MeshConfig(data=2, fsdp=8, tensor=4), attention="splash"),
    "v5p_2048": Machine(256, mesh=MeshConfig(data=32, fsdp=8, tensor=4), attention="splash"),
}


def for_machine(config: Config, name: str) -> Config:
    """Return `config` with the settings of the machine `name`, which is appended to the config's own name."""
    machine = MACHINES[name]
    return dataclasses.replace(
        config,
        name=f"{config.name}_{name}",
        llm=dataclasses.replace(config.llm, attention=machine.attention, quantization=machine.quantization),
        mesh=machine.mesh,
        data=dataclasses.replace(config.data, rows=machine.rows),
        optim=dataclasses.replace(config.optim, accumulate=machine.accumulate),
    )
