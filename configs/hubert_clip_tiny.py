# python train.py configs/hubert_clip_tiny.py --workdir runs/hubert_clip_tiny  # after `empatheia extract`
"""The demo with the paper's kinds of encoders, small and with random weights, to try out the extraction of features.

Features of random encoders carry almost no emotion, so such a run learns nothing useful from them. Set
`encoders.hubert_weights` and `encoders.clip_weights` to converted weights for a useful run.
"""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config, EncoderConfig
from empatheia_jax.config.load import load_config


def get_config() -> Config:
    encoders = EncoderConfig(
        audio="hubert", video="clip", hubert="small", hubert_weights="random", clip="small", clip_weights="random"
    )
    tiny = load_config(str(Path(__file__).with_name("tiny.py")))
    return dataclasses.replace(tiny, name="hubert_clip_tiny", encoders=encoders)
