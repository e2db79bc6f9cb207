"""Configs that differ from another in the machine alone."""

import dataclasses
from pathlib import Path

import pytest

from empatheia_jax.config.load import load_config
from empatheia_jax.config.presets import MACHINES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", MACHINES)
def test_a_machines_config_is_the_papers_but_for_the_machine(name):
    base, config = (load_config(str(CONFIGS / f"vicuna_7b{suffix}.py")) for suffix in ("", f"_{name}"))
    assert config.name == f"vicuna_7b_{name}" and config.data.rows % (config.mesh.fsdp * max(config.mesh.data, 1)) == 0
    changed = {field.name for field in dataclasses.fields(config)}
    changed = {field for field in changed if getattr(config, field) != getattr(base, field)}
    assert changed <= {"name", "llm", "mesh", "data", "optim"}


def test_every_config_begins_with_its_command():
    for path in CONFIGS.glob("*.py"):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# ") and f"train.py configs/{path.name} --workdir" in first, path
