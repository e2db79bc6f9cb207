# python train.py configs/vicuna_7b_v5e_16.py --workdir runs/vicuna_7b --distributed
"""vicuna_7b on 16 chips of TPU v5e: the paper's batch of 32, 8 rows of up to 4 Examples.

Sizes: empatheia plan configs/vicuna_7b_v5e_16.py --topology v5e:4x4
"""

from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config
from empatheia_jax.config.presets import for_machine


def get_config() -> Config:
    return for_machine(load_config(str(Path(__file__).with_name("vicuna_7b.py"))), "v5e_16")
