# python train.py configs/vicuna_7b_24gb.py --workdir runs/vicuna_7b_24gb  # pip install -e '.[quant]'
"""The paper's system on one GPU of 24 GB: Vicuna-7B frozen in nf4 (QLoRA), one row at a time; otherwise vicuna_7b.py.

A step still learns from 8 rows. Sizes: empatheia plan configs/vicuna_7b_24gb.py --local
"""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config_io import load_config


def get_config() -> Config:
    full = load_config(str(Path(__file__).with_name("vicuna_7b.py")))
    return dataclasses.replace(
        full,
        name="vicuna_7b_24gb",
        llm=dataclasses.replace(full.llm, quantization="nf4"),
        data=dataclasses.replace(full.data, rows=1),
        optim=dataclasses.replace(full.optim, accumulate=full.optim.accumulate * full.data.rows),
    )
