"""Shared by all tests: where the goldens are, and the random seed (DESIGN "Verification interface")."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # commands would use the folder of whoever tests

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def _mark_absl_flags_parsed():
    """Grain reads absl flags, which nobody parses under pytest."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


_mark_absl_flags_parsed()


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of random shapes and inputs."""
    return int(os.environ.get("EMPATHEIA_SEED", "0"))


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of reference inputs and outputs."""
    for folder in (os.environ.get("EMPATHEIA_GOLDENS"), ROOT / "tests" / "goldens", ROOT.parent / "shared" / "goldens"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.fail("no goldens found: set EMPATHEIA_GOLDENS to their folder")


@pytest.fixture(scope="module")
def compiled_quickly():
    """For networks so small that they take longer to compile than to run: less optimisation, in this process."""
    import functools

    import jax
    from small import FAST

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.jit", functools.partial(jax.jit, compiler_options=FAST))
        yield
