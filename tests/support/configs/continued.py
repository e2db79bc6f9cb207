"""`text_only.py` tuned further from a converted base and adapter: `base/` and `adapter/` of the current folder."""

import dataclasses

from empatheia_jax.config import Config
from empatheia_jax.config.load import load_llm_config
from support.configs import text_only


def get_config() -> Config:
    """Return the config."""
    first = text_only.get_config()
    length = first.llm.max_length
    return dataclasses.replace(
        first,
        base="base",
        adapter="adapter",
        stages=first.stages | {"1": dataclasses.replace(first.stages["1"], epochs=2)},
        llm=load_llm_config("base", compute_dtype="float32", param_dtype="float32", max_length=length),
    )
