# python train.py configs/vicuna_7b_v5e_16.py --workdir runs/vicuna_7b --distributed
"""vicuna_7b on 16 chips of TPU v5e: the paper's batch of 32, 8 rows of up to 4 Examples.

Sizes: empatheia plan configs/vicuna_7b_v5e_16.py --topology v5e:4x4
"""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.config.load import load_config


def get_config() -> Config:
    base = load_config(str(Path(__file__).with_name("vicuna_7b.py")))
    return dataclasses.replace(
        base,
        name="vicuna_7b_v5e_16",
        llm=dataclasses.replace(base.llm, attention="splash"),
        mesh=MeshConfig(data=1, fsdp=8, tensor=2),
        data=dataclasses.replace(base.data, rows=8),
        optim=dataclasses.replace(base.optim, accumulate=1),
    )
