"""Measure how the cost of a LoRA step grows with layers, with the length of batch rows and with their number.

python benchmarks/scaling.py [--shape tiny|1b] [--smoke] [--record] [--plot FILE.png]

Stage 1's step, through the code that `train.py` runs, on full rows [B, T]: `tiny` of width 128, `1b` as wide as a
Llama of a billion parameters. All cases are measured in turn; the fit takes the fastest of the runs, since every
disturbance only adds time. Rows: layers_L (L = 4, 8, 16, 32), length_T and batch_B (4 layers), in real tokens a second,
with `step_s` and `compile_s`, the time of tracing, lowering and compiling the step; `fit`: step = a + b L by least
squares, with `r2`, and `compile_growth`, compile seconds of the deepest model over the shallowest: layers are one
scanned program, so it should be near 1. With --record, the plot scaling.png is written too.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import measure

if __name__ == "__main__":
    _parser = measure.build_parser(__doc__, shapes=("tiny", "1b"))
    _parser.add_argument("--plot", type=Path, help="where the plot is written; default: scaling.png beside RESULTS.md")
    ARGS = _parser.parse_args()
    measure.stay_on_one_core(ARGS.core)

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import results  # noqa: E402
from shapes import LLMS, bench_config, write_text_corpus  # noqa: E402
from train_step import Trainer, full_rows  # noqa: E402

from empatheia_jax.config import Config  # noqa: E402

LAYERS, FEW_LAYERS = (4, 8, 16, 32), 4
STEPS = 2  # a run


def make_config(shape: str, folder: Path, *, layers: int, length: int, batch: int) -> Config:
    """Return a config for stage 1 with this many layers, on batch rows [batch, length]."""
    config = bench_config(shape, folder)
    llm = LLMS[shape]
    if shape == "tiny":
        llm = dataclasses.replace(llm, width=128, heads=4, kv_heads=2, head_dim=32, mlp_width=384)
    data = dataclasses.replace(
        config.data, rows=batch, row_tokens=length, row_targets=length // 2, row_examples=length // 64
    )
    llm = dataclasses.replace(llm, layers=layers, max_length=max(llm.max_length, length))
    return dataclasses.replace(config, llm=llm, data=data)


def cases(shape: str, smoke: bool) -> dict[str, tuple[int, int, int]]:
    """Return row name -> (layers, length, batch)."""
    length, lengths, batches = (512, (512, 1024), (1, 2)) if smoke else (512, (512, 1024, 2048), (1, 2, 4))
    if shape == "1b":
        length, lengths, batches = 2048, (1024, 2048, 4096), (1, 2, 4)
    layers = (1, 2, 3) if smoke else LAYERS
    few_layers = layers[0] if smoke else FEW_LAYERS
    return (
        {f"layers_{n}": (n, length, 1) for n in layers}
        | {f"length_{n}": (few_layers, n, 1) for n in lengths}
        | {f"batch_{n}": (few_layers, length, n) for n in batches}
    )


def fit(layers: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """Return (a, b, R^2) of seconds = a + b layers, by least squares."""
    b, a = np.polyfit(layers, seconds, 1)
    residual = np.sum((np.array(seconds) - (a + b * np.array(layers))) ** 2)
    return float(a), float(b), float(1 - residual / np.sum((np.array(seconds) - np.mean(seconds)) ** 2))


def main(args) -> list[dict]:
    """Return all rows."""
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured
    row_cases, programs, compile_s = cases(args.shape, args.smoke), {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_text_corpus(folder)
        for case in dict.fromkeys(row_cases.values()):  # a case that two rows share is measured once
            print(f"compiling {case} ...", file=sys.stderr, flush=True)
            trainer = Trainer(make_config(args.shape, folder, layers=case[0], length=case[1], batch=case[2]), folder)
            programs[case] = trainer.program(full_rows(trainer, STEPS), [])
            compile_s[case] = trainer.compile_s
    seconds = measure.time_in_turn(programs, 2 if args.smoke else measure.REPETITIONS)
    fastest = {case: min(times) / STEPS for case, times in seconds.items()}
    rows = []
    for name, (layers, length, batch) in row_cases.items():
        case = layers, length, batch
        rows.append(
            measure.rate_row(
                name,
                STEPS * length * batch,
                "real tokens/s",
                {"ours": seconds[case]},
                shape=args.shape,
                layers=layers,
                length=length,
                batch=batch,
                step_s=float(f"{fastest[case]:.4g}"),
                compile_s=compile_s[case],
            )
        )
    depths = [case for name, case in row_cases.items() if name.startswith("layers")]
    a, b, r2 = fit([case[0] for case in depths], [fastest[case] for case in depths])
    growth = compile_s[depths[-1]] / compile_s[depths[0]]
    facts = {"a_ms": round(1e3 * a, 3), "r2": round(r2, 5), "compile_growth": round(growth, 2), "shape": args.shape}
    rows.append(measure.rate_row("fit", 1e3 * b, "ms a layer", {"ours": [1.0]}, **facts))
    return rows


def plot(rows: list[dict], path: Path) -> None:
    """Plot step and compile seconds by layers, and tokens a second by length and by batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)

    def select(kind: str, field: str) -> tuple[list, list]:
        selected = [row for row in rows if row["name"].startswith(f"{kind}_")]
        return [row[kind] for row in selected], [row[field] for row in selected]

    fitted = next(row for row in rows if row["name"] == "fit")
    layers, steps = select("layers", "step_s")
    line = [(fitted["a_ms"] + fitted["value"] * n) / 1e3 for n in layers]
    label = f"{fitted['a_ms']:.1f} ms + {fitted['value']:.2f} ms a layer, R² {fitted['r2']}"
    axes[0, 0].plot(layers, line, color="#999999", label=label)
    axes[0, 0].legend(frameon=False)
    for axis, (x, y), title, unit in (
        (axes[0, 0], (layers, steps), "step by layers", "s"),
        (axes[0, 1], select("layers", "compile_s"), "compiling by layers", "s"),
        (axes[1, 0], select("length", "value"), "rate by length of a row", "tokens/s"),
        (axes[1, 1], select("batch", "value"), "rate by rows", "tokens/s"),
    ):
        axis.plot(x, y, "o" if axis is axes[0, 0] else "o-", color="#4878a8")
        axis.set(title=title, ylabel=unit, xticks=x)
        axis.set_ylim(0, 1.12 * max(y))
    figure.suptitle(f"LoRA step, {rows[0]['shape']}, {rows[0]['device']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    rows = main(ARGS)
    measure.report(rows, ARGS)
    if ARGS.plot or (ARGS.record and not ARGS.smoke):
        recorded = ARGS.record or results.RECORDS
        folder = results.BENCHMARKS if recorded.resolve() == results.RECORDS else recorded
        plot(rows, ARGS.plot or folder / "scaling.png")
