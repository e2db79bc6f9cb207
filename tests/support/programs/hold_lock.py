"""hold_lock.py LOCK: holds a lock file until it is killed, and says when it does."""

import sys
import time
from pathlib import Path

from empatheia_jax.runtime.one_writer import one_writer

with one_writer(Path(sys.argv[1]), "the test's"):
    print("held", flush=True)
    time.sleep(600)
