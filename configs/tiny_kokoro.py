# python train.py configs/tiny_kokoro.py --workdir runs/tiny_kokoro  # after `empatheia fetch kokoro` and `extract`
"""The demo with a trained voice: Kokoro's content and constructed styles in the place of the classical ones."""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config


def get_config() -> Config:
    tiny = load_config(str(Path(__file__).with_name("tiny.py")))
    generators = dataclasses.replace(tiny.generators, speech="kokoro")
    return dataclasses.replace(tiny, name="tiny_kokoro", generators=generators)
