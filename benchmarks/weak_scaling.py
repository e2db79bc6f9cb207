"""Does a chip say more when there are more of them? The compiled step of a growing TPU pod, no TPU needed.

python benchmarks/weak_scaling.py [--config configs/vicuna_7b_v5p_128.py] [--plans DIR] [--plot docs/weak_scaling.png]
    [--record] [--smoke] [--OPTION-OF-THE-CONFIG ...]

`fsdp` and `tensor` are the config's, `data` grows with the chips, and so does the batch: rows a chip stay. One JSON
line a topology: bytes that a chip sends in a step, by mesh axis, FLOPs, memory, and the seconds of the compiler
(minutes of two cores). --plans keeps each line and the plan's page, DIR/TOPOLOGY.json and .txt: a call that was stopped
goes on with what is there for the same config.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import measure

from empatheia_jax.atomic import write_json
from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.config_io import load_config
from empatheia_jax.pods.topologies import Topology, find_topology

FULL = ("v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8", "v5p:8x8x8", "v5p:8x8x16")
SMOKE = ("v5e:2x2", "v5e:2x4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vicuna_7b_v5p_128.py")
    parser.add_argument("--stage", type=int, default=4)
    parser.add_argument("--topologies", nargs="+", help="default: v5p of 64 to 1024 chips")
    parser.add_argument("--smoke", action="store_true", help="4 and 8 chips of v5e, and configs/tiny.py on them")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--plans", type=Path)
    measure.add_record(parser)
    args, overrides = parser.parse_known_args()
    if args.smoke:
        overrides += ["--mesh.data", "2", "--mesh.fsdp", "2", "--data.rows", "8", f"--stages.{args.stage}.rows", "8"]
    config, rows = load_config("configs/tiny.py" if args.smoke else args.config, overrides), []
    for name in args.topologies or (SMOKE if args.smoke else FULL):
        rows.append(kept(config, args.stage, find_topology(name), args.plans))
        print(f"{name}: {rows[-1]['value']:.3f} GB", file=sys.stderr, flush=True)
    measure.report(rows, args)
    if args.plot:
        plot(rows, args.plot)


def kept(config: Config, number: int, topology: Topology, folder: Path | None) -> dict:
    """A topology's line, compiled or as it was kept."""
    config = grown(config, number, len(topology.devices))
    if folder is None:
        return compiled(config, number, topology)[0]
    folder.mkdir(parents=True, exist_ok=True)
    of = hashlib.sha256(repr((config, number)).encode()).hexdigest()[:16]
    path = folder / f"{topology.name.replace(':', '_')}.json"
    if path.exists() and (known := json.loads(path.read_text()))["config"] == of:
        return known["row"]
    row, page = compiled(config, number, topology)
    path.with_suffix(".txt").write_text(page + "\n")
    write_json(path, {"config": of, "row": row})
    return row


def grown(config: Config, number: int, chips: int) -> Config:
    """The config on so many chips: more `data`, and as many more rows."""
    mesh, rows = config.mesh, config.stages[str(number)].rows or config.data.rows
    data = chips // (mesh.fsdp * mesh.tensor)
    settings = dataclasses.replace(config.stages[str(number)], rows=rows // mesh.data * data)
    return dataclasses.replace(
        config, mesh=MeshConfig(data, mesh.fsdp, mesh.tensor), stages=config.stages | {str(number): settings}
    )


def compiled(config: Config, number: int, topology: Topology) -> tuple[dict, str]:
    """(a topology's line, its plan's page)."""
    from empatheia_jax.pods import report
    from empatheia_jax.pods.plan import make_plan

    plan = make_plan(config, number, topology)
    if plan.refused:
        raise SystemExit(f"{topology.name}: {plan.refused}")
    by_axis: dict[str, float] = {}
    for one in plan.collectives:
        name = " x ".join(one.axes)
        by_axis[name] = by_axis.get(name, 0.0) + one.moved / 1e9
    row = {
        "name": topology.name,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "rows": plan.config.data.rows,
        "value": round(plan.moved / 1e9, 4),
        "unit": "GB sent a chip and step",
        "by_axis": {axis: round(sent, 4) for axis, sent in by_axis.items()},
        "collectives": sum(one.count for one in plan.collectives),
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
    """Bytes a chip sends over chips, by mesh axis, and the compiler's seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    places, bottom = [str(row["chips"]) for row in rows], [0.0] * len(rows)
    for axis in sorted({axis for row in rows for axis, sent in row["by_axis"].items() if sent > 1e-3 * row["value"]}):
        heights = [row["by_axis"].get(axis, 0.0) for row in rows]
        left.bar(places, heights, 0.6, bottom, label=axis)
        bottom = [one + other for one, other in zip(bottom, heights, strict=True)]
    left.set(xlabel="chips", ylabel="GB a chip and step", title="what a chip sends, by mesh axis")
    left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    right.bar(places, [row["compile_s"] for row in rows], 0.6, color="0.6")
    right.set(xlabel="chips", ylabel="seconds", title="compiling for them")
    for one in (left, right):
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
