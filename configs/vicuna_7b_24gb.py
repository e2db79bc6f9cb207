# python train.py configs/vicuna_7b_24gb.py --workdir runs/vicuna_7b_24gb  # pip install -e '.[quant]'
"""The paper's system on one GPU of 24 GB: as vicuna_7b.py, with Vicuna-7B frozen in nf4 (QLoRA) and one row at a time.

A step still has 8 rows. Sizes: empatheia plan configs/vicuna_7b_24gb.py --local
"""

from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config
from empatheia_jax.config.presets import for_machine


def get_config() -> Config:
    return for_machine(load_config(str(Path(__file__).with_name("vicuna_7b.py"))), "24gb")
