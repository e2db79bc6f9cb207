"""Build StyleTTS 2 from a checkout of the original: ... CHECKOUT CONFIG_YML."""

import sys
from pathlib import Path

import yaml

from empatheia_jax.generators.torch_backend.styletts2 import build

build(Path(sys.argv[1]), yaml.safe_load(Path(sys.argv[2]).read_text())["model_params"], any_commit=True)
