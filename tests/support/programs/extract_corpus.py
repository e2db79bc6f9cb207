"""Extract a corpus in shards of three utterances: ... CORPUS OUTPUT."""

import sys

from empatheia_jax.config import Config
from empatheia_jax.preparation import extract as module

if __name__ == "__main__":
    module.SHARD_UTTERANCES = 3
    module.extract(Config(), sys.argv[1], sys.argv[2], workers=2, progress=False)
