"""Measure what a chip sends as a TPU pod grows, from the compiled step; no TPU is needed.

python benchmarks/weak_scaling.py [--config configs/vicuna_7b_v5p_128.py] [--plans DIR] [--plot docs/weak_scaling.png]
    [--record] [--smoke] [--OPTION-OF-THE-CONFIG ...]

`fsdp` and `tensor` are the config's; `data` grows with the chips and so does the batch: rows a chip stay the same.
One JSON line a topology: bytes that a chip sends in a step, by mesh axis, FLOPs, memory, and the compiler's seconds
(minutes of two cores). --plans keeps each line and the plan's page as DIR/TOPOLOGY.json and .txt; a call that was
stopped resumes from those of the same config.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import measure

from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.config.load import load_config
from empatheia_jax.planning.pods.topologies import Topology, find_topology
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.outputs import check_outputs
from empatheia_jax.training.stages import replace_stage, resolve_stages

FULL = ("v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8", "v5p:8x8x8", "v5p:8x8x16")
SMOKE = ("v5e:2x2", "v5e:2x4")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vicuna_7b_v5p_128.py")
    parser.add_argument("--stage", type=int, default=4)
    parser.add_argument("--topologies", nargs="+", help="default: v5p of 64 to 1024 chips")
    parser.add_argument("--smoke", action="store_true", help="4 and 8 chips of v5e, and configs/tiny.py on them")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--plans", type=Path)
    measure.add_record_flag(parser)
    args, overrides = parser.parse_known_args()
    check_outputs([("--plot", args.plot), ("--plans", args.plans)], [("--config", args.config)])
    if args.smoke:
        overrides += ["--mesh.data", "2", "--mesh.fsdp", "2", "--data.rows", "8", f"--stages.{args.stage}.rows", "8"]
    config, rows = load_config("configs/tiny.py" if args.smoke else args.config, overrides), []
    for name in args.topologies or (SMOKE if args.smoke else FULL):
        rows.append(load_or_compile(config, args.stage, find_topology(name), args.plans))
        print(f"{name}: {rows[-1]['value']:.3f} GB", file=sys.stderr, flush=True)
    measure.report(rows, args)
    if args.plot:
        plot(rows, args.plot)


def load_or_compile(config: Config, number: int, topology: Topology, folder: Path | None) -> dict:
    """Return a topology's row for stage `number`, from `folder` or compiled."""
    config = scale_config(config, number, len(topology.devices))
    if folder is None:
        return compile_row(config, number, topology)[0]
    folder.mkdir(parents=True, exist_ok=True)
    config_hash = hashlib.sha256(repr((config, number)).encode()).hexdigest()[:16]
    path = folder / f"{topology.name.replace(':', '_')}.json"
    if path.exists() and (kept := json.loads(path.read_text()))["config"] == config_hash:
        return kept["row"]
    row, page = compile_row(config, number, topology)
    path.with_suffix(".txt").write_text(page + "\n")
    write_json(path, {"config": config_hash, "row": row})
    return row


def scale_config(config: Config, number: int, chips: int) -> Config:
    """Return the config for a number of chips: `data` and the rows of stage `number` grow alike."""
    mesh, rows = config.mesh, resolve_stages(config)[number].data.rows
    data = chips // (mesh.fsdp * mesh.tensor)
    scaled = replace_stage(config, number, rows=rows // mesh.data * data)
    return dataclasses.replace(scaled, mesh=MeshConfig(data, mesh.fsdp, mesh.tensor))


def compile_row(config: Config, number: int, topology: Topology) -> tuple[dict, str]:
    """Compile the step of stage `number`; return the topology's row and its plan's page."""
    from empatheia_jax.planning.pods import report
    from empatheia_jax.planning.pods.plan import make_plan

    plan = make_plan(config, number, topology)
    if plan.refused:
        raise SystemExit(f"{topology.name}: {plan.refused}")
    by_axis: dict[str, float] = {}
    for collective in plan.collectives:
        name = " x ".join(collective.axes)
        by_axis[name] = by_axis.get(name, 0.0) + collective.bytes_sent / 1e9
    row = {
        "name": topology.name,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "rows": plan.stage.data.rows,
        "value": round(plan.bytes_sent / 1e9, 4),
        "unit": "GB sent a chip and step",
        "by_axis": {axis: round(sent, 4) for axis, sent in by_axis.items()},
        "collectives": sum(collective.count for collective in plan.collectives),
        "flops_per_chip": plan.model_flops / plan.chips,
        "compiler_flops": plan.compiler_flops,
        "peak_bytes": plan.peak,
        "fits": plan.fits,
        "trace_s": round(plan.seconds["lower"], 1),
        "compile_s": round(plan.seconds["compile"], 1),
        "device": f"{plan.topology.chip.kind}, compiled for, not run",
        "versions": report.versions(plan),
    }
    return row, report.text(plan)


def plot(rows: list[dict], path: Path) -> None:
    """Plot the bytes a chip sends by mesh axis, and the compiler's seconds, over the number of chips."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    chips, bottom = [str(row["chips"]) for row in rows], [0.0] * len(rows)
    for axis in sorted({axis for row in rows for axis, sent in row["by_axis"].items() if sent > 1e-3 * row["value"]}):
        heights = [row["by_axis"].get(axis, 0.0) for row in rows]
        left.bar(chips, heights, 0.6, bottom, label=axis)
        bottom = [lower + height for lower, height in zip(bottom, heights, strict=True)]
    left.set(xlabel="chips", ylabel="GB a chip and step", title="bytes a chip sends, by mesh axis")
    left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    right.bar(chips, [row["compile_s"] for row in rows], 0.6, color="0.6")
    right.set(xlabel="chips", ylabel="seconds", title="compile time")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
