"""`empatheia plan --topology`: find the machine, plan, and search for a change where the plan does not fit."""

import sys
from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.planning.pods.topologies import find_topology
from empatheia_jax.runtime.atomic import write_json


def plan_topology(config: Config, name: str, number: int, *, sweep: bool, output: Path | None) -> int:
    """Print the plan of a stage's step.

    Args:
      config: settings of the run.
      name: name of the machine, as v5e:4x4.
      number: number of the stage.
      sweep: compare meshes and batch sizes instead of planning the config's own.
      output: folder for plan.json and plan.txt; None: nothing is written.
    Returns:
      The exit code: 0 where the step fits, else 1.
    """
    topology = find_topology(name)  # before anything else starts JAX
    from empatheia_jax.planning.pods import report
    from empatheia_jax.planning.pods.changes import find_smallest_change
    from empatheia_jax.planning.pods.plan import make_plan
    from empatheia_jax.planning.pods.sweep import sweep_meshes, sweep_text

    if sweep:
        best = sweep_meshes(config, number, topology, _log)
        text = sweep_text(best, topology)
        saved = [{"flags": c.flags, "predicted_s": c.seconds, **report.facts(c.plan)} for c in best]
        fits = any(candidate.plan.fits for candidate in best)
    else:
        plan = make_plan(config, number, topology, _log)
        change = None if plan.fits else find_smallest_change(config, number, topology, plan, log=_log)
        text, saved, fits = report.text(plan, change), report.facts(plan, change), plan.fits
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "plan.json", saved)
        (output / "plan.txt").write_text(text + "\n")
    print(text)
    return 0 if fits else 1


def _log(text: str) -> None:
    print(f"plan  {text}", file=sys.stderr, flush=True)
