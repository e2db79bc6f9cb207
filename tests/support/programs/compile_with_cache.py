"""Compile a function through the cache and print what came from it."""

import jax
import numpy as np

from empatheia_jax.runtime.compile_cache import use_cache
from empatheia_jax.runtime.compile_report import compilations, compile_ahead_of_time

folder = use_cache()
compiled, program = compile_ahead_of_time("f", jax.jit(lambda x: x @ x + 1), np.ones((8, 8), np.float32))
assert np.all(np.asarray(compiled(np.ones((8, 8), np.float32))) == 9)
print(folder, program.from_cache, compilations().from_cache, compilations().programs)
