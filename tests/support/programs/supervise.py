"""Run a program in the place of `train.py` under the supervisor: ... PROGRAM FLAGS..."""

import sys
from pathlib import Path

from empatheia_jax.runtime import supervisor

supervisor.TRAIN = Path(sys.argv[1])
sys.exit(supervisor.main(sys.argv[2:]))
