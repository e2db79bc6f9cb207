"""Hold a file half written, and print the name it has meanwhile: ... FILE."""

import sys
import time
from pathlib import Path

from empatheia_jax.runtime.atomic import replacing

with replacing(Path(sys.argv[1])) as path:
    print(path.name, flush=True)
    time.sleep(60)
