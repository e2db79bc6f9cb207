"""What `empatheia plan --topology` does, in its order: the machine, the plan, a change where it does not fit."""

import sys
from pathlib import Path

from empatheia_jax.atomic import write_json
from empatheia_jax.config import Config
from empatheia_jax.pods.topologies import find_topology


def plan_topology(config: Config, name: str, number: int, sweep: bool, output: Path | None) -> int:
    """Print a plan, or the best of a sweep, and keep it in `output`; 0 where it fits, else 1."""
    topology = find_topology(name)  # before anything else starts JAX
    from empatheia_jax.pods import report
    from empatheia_jax.pods.changes import smallest_change
    from empatheia_jax.pods.plan import make_plan
    from empatheia_jax.pods.sweep import sweep_text, try_meshes

    if sweep:
        found = try_meshes(config, number, topology, _say)
        text = sweep_text(found, topology)
        saved = [{"flags": one.flags, "predicted_s": one.seconds, **report.facts(one.plan)} for one in found]
        fits = any(one.plan.fits for one in found)
    else:
        plan = make_plan(config, number, topology, _say)
        change = None if plan.fits else smallest_change(config, number, topology, plan, _say)
        text, saved, fits = report.text(plan, change), report.facts(plan, change), plan.fits
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "plan.json", saved)
        (output / "plan.txt").write_text(text + "\n")
    print(text)
    return 0 if fits else 1


def _say(text: str) -> None:
    print(f"plan  {text}", file=sys.stderr, flush=True)
