# python train.py configs/vicuna_7b_24gb.py --workdir runs/vicuna_7b_24gb  # pip install -e '.[quant]'
"""The paper's system on one GPU of 24 GB: as vicuna_7b.py, with Vicuna-7B frozen in nf4 (QLoRA) and one row at a time.

A step still has 8 rows. Sizes: empatheia plan configs/vicuna_7b_24gb.py --local
"""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config


def get_config() -> Config:
    base = load_config(str(Path(__file__).with_name("vicuna_7b.py")))
    return dataclasses.replace(
        base,
        name="vicuna_7b_24gb",
        llm=dataclasses.replace(base.llm, quantization="nf4"),
        data=dataclasses.replace(base.data, rows=1),
        optim=dataclasses.replace(base.optim, accumulate=base.optim.accumulate * base.data.rows),
    )
