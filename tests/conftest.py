"""Fixtures of all tests: folders of goldens and of real data, the random seed, and checks of shapes."""

import os
import re
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # commands would use the user's folder

import jaxtyping
import pytest

# Shapes in annotations of these modules are checked at every call (under jit at every trace).
jaxtyping.install_import_hook(
    [f"empatheia_jax.{name}" for name in ("model", "llm", "latents", "training.losses", "training.target_nll")],
    "beartype.beartype",
)

ROOT = Path(__file__).resolve().parent.parent


def _mark_absl_flags_parsed():
    """Mark absl's flags as parsed: Grain reads them, and pytest does not parse them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


_mark_absl_flags_parsed()


def pytest_configure(config):
    """Hide trained parts that were fetched on this machine, unless tests that need them were asked for."""
    if not re.search(r"(?<!not )\btrained\b", config.getoption("markexpr")):
        os.environ["EMPATHEIA_HOME"] = str(ROOT / "tests" / "no_trained_parts")


# The files that take longest; with `--dist loadfile --no-loadscope-reorder` no worker then ends long after the other.
LONGEST = ("test_eight_devices", "test_train_resume", "test_two_processes", "test_styletts2", "test_dreamtalk")


def pytest_collection_modifyitems(items):
    """Put the longest files first; otherwise the order stays."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def seed() -> int:
    """Return the seed of random shapes and inputs."""
    return int(os.environ.get("EMPATHEIA_SEED", "0"))


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Return the folder of reference inputs and outputs."""
    for folder in (os.environ.get("EMPATHEIA_GOLDENS"), ROOT / "tests" / "goldens", ROOT.parent / "shared" / "goldens"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.fail("no goldens found: set EMPATHEIA_GOLDENS to their folder")


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return a function that finds a folder of real data by its name, or skips the test."""

    def find(name: str) -> Path:
        for folder in (os.environ.get("EMPATHEIA_DATA"), ROOT.parent / "shared" / "data"):
            if folder and (Path(folder) / name).is_dir():
                return Path(folder) / name
        pytest.skip(f"no real data {name}: set EMPATHEIA_DATA to the folder that holds it")

    return find


@pytest.fixture(scope="module")
def compiled_quickly():
    """Compile with less optimisation, for small networks that take longer to compile than to run."""
    import functools

    import jax

    from empatheia_jax.testing.tiny import FAST

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.jit", functools.partial(jax.jit, compiler_options=FAST))
        yield
