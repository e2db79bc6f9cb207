# python train.py configs/vicuna_7b_8_gpus.py --workdir runs/vicuna_7b
"""vicuna_7b on one node of 8 GPUs of 80 GB: the paper's batch of 32 without accumulation, 8 rows of up to 4 Examples.

Sizes: empatheia plan configs/vicuna_7b_8_gpus.py --topology h100:8
"""

from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config
from empatheia_jax.config.presets import for_machine


def get_config() -> Config:
    return for_machine(load_config(str(Path(__file__).with_name("vicuna_7b.py"))), "8_gpus")
