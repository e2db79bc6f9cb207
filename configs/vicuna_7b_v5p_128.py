# python train.py configs/vicuna_7b_v5p_128.py --workdir runs/vicuna_7b --distributed
"""vicuna_7b on TPU v5p-128 (64 chips): 16 rows, a batch of 64, twice the paper's at its learning rate.

Sizes: empatheia plan configs/vicuna_7b_v5p_128.py --topology v5p:4x4x4
"""

from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config
from empatheia_jax.config.presets import for_machine


def get_config() -> Config:
    return for_machine(load_config(str(Path(__file__).with_name("vicuna_7b.py"))), "v5p_128")
