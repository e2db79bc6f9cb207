"""torch in a sharded step, where every device processes its own shard; and torch is imported by the bridge only."""

import pytest

from support.programs import ROOT, run_program


def test_on_eight_devices_every_part_by_itself(seed):
    pytest.importorskip("torch")
    assert run_program("torch_on_eight_devices", seed, devices=8).endswith("passed\n")


def test_torch_is_imported_by_the_bridge_alone():
    """Imports every module of the package but the bridge and `torch_backend`, and runs `train.py --help`."""
    files = sorted((ROOT / "empatheia_jax").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    torch_packages = ("empatheia_jax.generators.bridge", "empatheia_jax.generators.torch_")
    torch_free = [name for name in names if not name.startswith(torch_packages)]
    assert 100 < len(torch_free) < len(names)
    run_program("import_without_torch", *torch_free)
