# python train.py configs/vicuna_7b_v5p_2048.py --workdir runs/vicuna_7b --distributed
"""vicuna_7b on TPU v5p-2048 (1024 chips): 256 rows, a batch of 1024, 32 times the paper's at its learning rate.

Sizes: empatheia plan configs/vicuna_7b_v5p_2048.py --topology v5p:8x8x16
"""

from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config
from empatheia_jax.config.presets import for_machine


def get_config() -> Config:
    return for_machine(load_config(str(Path(__file__).with_name("vicuna_7b.py"))), "v5p_2048")
