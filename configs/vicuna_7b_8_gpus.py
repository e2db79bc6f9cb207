# python train.py configs/vicuna_7b_8_gpus.py --workdir runs/vicuna_7b
"""vicuna_7b on one node of 8 GPUs of 80 GB: the paper's batch of 32 without accumulation, 8 rows of up to 4 Examples.

Sizes: empatheia plan configs/vicuna_7b_8_gpus.py --topology h100:8
"""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.config.load import load_config


def get_config() -> Config:
    base = load_config(str(Path(__file__).with_name("vicuna_7b.py")))
    return dataclasses.replace(
        base,
        name="vicuna_7b_8_gpus",
        mesh=MeshConfig(data=1, fsdp=8, tensor=1),
        data=dataclasses.replace(base.data, rows=8),
        optim=dataclasses.replace(base.optim, accumulate=1),
    )
