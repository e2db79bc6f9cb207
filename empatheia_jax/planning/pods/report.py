"""`empatheia plan --topology`: find the machine, plan, search for a change where the plan does not fit, and report.

A plan is reported as text, for people, and as JSON.
"""

import dataclasses
import sys
from importlib import metadata
from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.planning.pods.changes import Change, find_smallest_change
from empatheia_jax.planning.pods.memory_model import Memory
from empatheia_jax.planning.pods.plan import Plan, make_plan
from empatheia_jax.planning.pods.sweep import sweep_meshes, sweep_text
from empatheia_jax.planning.pods.topologies import find_topology
from empatheia_jax.runtime.atomic import write_json

GIB = 2**30


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
    if sweep:
        best = sweep_meshes(config, number, topology, _log)
        printed = sweep_text(best, topology)
        saved = [{"flags": c.flags, "predicted_s": c.seconds, **facts(c.plan)} for c in best]
        fits = any(candidate.plan.fits for candidate in best)
    else:
        plan = make_plan(config, number, topology, _log)
        change = None if plan.fits else find_smallest_change(config, number, topology, plan, log=_log)
        printed, saved, fits = text(plan, change), facts(plan, change), plan.fits
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "plan.json", saved)
        (output / "plan.txt").write_text(printed + "\n")
    print(printed)
    return 0 if fits else 1


def verdict(plan: Plan, change: Change | None = None) -> str:
    """Return one line: "fits" or "does not fit", the memory, and the smallest change that fits."""
    memory = f"{plan.peak / GIB:.2f} of {plan.topology.memory / GIB:.2f} GiB a chip"
    if plan.fits:
        return f"fits: {memory}"
    if change is None:
        return f"does not fit: {memory}; no change of rows, remat or mesh that was tried fits: take more chips"
    changed_memory = f"{change.plan.peak / GIB:.2f} GiB, planned again"
    return f"does not fit: {memory}; {' '.join(change.flags)} would ({changed_memory})"


def versions(plan: Plan) -> dict[str, str]:
    """Return the versions of the compilers: others schedule and count differently."""
    return {name: metadata.version(name) for name in ("jax", *(() if plan.topology.simulated else ("libtpu",)))}


def facts(plan: Plan, change: Change | None = None) -> dict:
    """Return a plan as JSON, as `--output` writes it; bytes and FLOPs are those of one chip."""
    estimate, chip = plan.estimate, plan.topology.chip
    return {
        "config": plan.config.name,
        "stage": plan.stage.number,
        "topology": plan.topology.name,
        "chip": dataclasses.asdict(chip) | {"peak": chip.peak, "usable_memory": plan.topology.memory},
        "simulated": plan.topology.simulated,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "rows": plan.stage.data.rows,
        "row_tokens": plan.stage.data.row_tokens,
        "accumulate": plan.config.optim.accumulate,
        "attention": plan.config.llm.attention,
        "remat": plan.config.llm.remat,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "memory": {
            "compiled": _memory(plan.compiled_memory),
            "model": _memory(plan.estimated_memory),
            "peak": plan.peak,
        },
        "flops": {
            "model": plan.model_flops / plan.chips,
            "recomputed": plan.recomputed / plan.chips,
            "compiler_loop_bodies_once": plan.compiler_flops,
        },
        "collectives": [
            dataclasses.asdict(collective) | {"axes": list(collective.axes), "moved": collective.bytes_sent}
            for collective in plan.collectives
        ],
        "bytes_communicated": plan.bytes_sent,
        "seconds": plan.seconds,
        "versions": versions(plan),
        "estimate": {
            "arithmetic_s": estimate.arithmetic,
            "memory_s": estimate.memory,
            "network_s": estimate.network,
            "overlapped_s": estimate.overlapped,
            "one_by_one_s": estimate.one_by_one,
            "mfu_overlapped": estimate.mfu(estimate.overlapped),
            "mfu_one_by_one": estimate.mfu(estimate.one_by_one),
            "tokens_per_second_per_chip_overlapped": plan.tokens / plan.chips / estimate.overlapped,
        },
        "replicated": [{"parameter": name, "bytes": size} for name, size in plan.replicated],
        "refused": plan.refused,
        "fits": plan.fits,
        "change": None if change is None else {"flags": change.flags, "peak": change.plan.peak},
        "verdict": verdict(plan, change),
    }


def _memory(memory: Memory | None) -> dict | None:
    return None if memory is None else dataclasses.asdict(memory) | {"peak": memory.peak}


def text(plan: Plan, change: Change | None = None) -> str:
    """Return a plan as text; its last line is the verdict."""
    config, chip, estimate = plan.config, plan.topology.chip, plan.estimate
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"{config.name}, stage {plan.stage.number} ({plan.stage.title}) on {plan.topology.name}",
        f"  {plan.chips} x {chip.kind}: {mesh}",
        f"  a step: {config.optim.accumulate} x {plan.stage.data.rows} rows of {plan.stage.data.row_tokens} tokens; "
        f"attention {config.llm.attention}, remat {config.llm.remat}",
        f"  {plan.parameters:,} parameters, {plan.trained:,} trained",
        f"  traced in {plan.seconds['lower']:.0f} s, compiled in {plan.seconds['compile']:.0f} s by "
        + ", ".join(f"{name} {version}" for name, version in versions(plan).items()),
        "",
        f"  {'bytes a chip, GiB':32s} {'compiled':>10s} {'by hand':>10s}",
    ]
    rows = [
        ("arguments", "arguments"),
        ("temporaries", "temporaries"),
        ("output beside arguments", "output"),
        ("peak", "peak"),
    ]
    for title, name in rows:
        compiled = f"{getattr(plan.compiled_memory, name) / GIB:.2f}" if plan.compiled_memory else "refused"
        lines.append(f"  {title:32s} {compiled:>10s} {getattr(plan.estimated_memory, name) / GIB:10.2f}")
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in plan.estimated_memory.parts.items())
    lines.append(f"  temporaries by hand: {parts}")
    lines += ["  (gradients and residuals, and the larger of the latents and the rest)", ""]
    flops = f"{plan.model_flops / plan.chips:.3e} model FLOPs a chip, {plan.recomputed / plan.chips:.3e} recomputed"
    lines.append(f"  {flops}; for rows without padding")
    if plan.compiler_flops is not None:
        lines.append(f"  {plan.compiler_flops:.3e} by the compiler, which counts the body of a loop once")
    lines += ["", *_collectives(plan), ""]
    lines += [
        f"  seconds a step at the vendor's peaks: arithmetic {estimate.arithmetic:.3f}, memory {estimate.memory:.3f}, "
        f"network {estimate.network:.3f}",
        f"  all overlapped {estimate.overlapped:.3f} s, MFU {estimate.mfu(estimate.overlapped):.1%}; one by one "
        f"{estimate.one_by_one:.3f} s, MFU {estimate.mfu(estimate.one_by_one):.1%}",
        f"  {plan.tokens / plan.chips / estimate.overlapped:,.0f} tokens/s a chip at best",
    ]
    for name, size in plan.replicated:
        lines.append(f"  warning: {name} ({size / 2**20:.1f} MiB) is whole on every chip though it would divide")
    lines += [f"  {note}" for note in _notes(plan)]
    return "\n".join([*lines, "", verdict(plan, change)])


def _collectives(plan: Plan) -> list[str]:
    if plan.refused:
        return [f"  the compiler refused: {plan.refused[:200]}"]
    head = f"  {'a step, a chip':20s} {'over':>18s} {'group':>6s} {'times':>7s} {'payload MiB':>12s} {'sent MiB':>10s}"
    lines = [head]
    large = [c for c in plan.collectives if c.bytes_sent >= 0.002 * plan.bytes_sent]
    for c in large:
        lines.append(
            f"  {c.kind:20s} {' x '.join(c.axes):>18s} {c.group:6d} {c.count:7d} {c.payload / 2**20:12.2f} "
            f"{c.bytes_sent / 2**20:10.1f}"
        )
    small = plan.collectives[len(large) :]
    if small:
        sent = sum(c.bytes_sent for c in small)
        lines.append(
            f"  {f'{len(small)} smaller kinds':20s} {'':>18s} {'':6s} {sum(c.count for c in small):7d} "
            f"{'':12s} {sent / 2**20:10.1f}"
        )
    lines.append(
        f"  {'together':20s} {'':>18s} {'':6s} {sum(c.count for c in plan.collectives):7d} {'':12s} "
        f"{plan.bytes_sent / 2**20:10.1f}"
    )
    return lines


def _notes(plan: Plan) -> list[str]:
    if not plan.topology.simulated:
        return []
    return [
        "simulated on CPU devices: collectives are those of XLA's CPU compiler; its memory, with bfloat16 products in "
        "float32 and attention by xla, is not that of a GPU: the verdict goes by the numbers by hand",
    ]


def _log(line: str) -> None:
    print(f"plan  {line}", file=sys.stderr, flush=True)
