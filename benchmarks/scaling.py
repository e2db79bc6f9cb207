"""Does the cost of a LoRA step grow as it should: with layers, with the length of rows and with their number?

python benchmarks/scaling.py [--shape tiny|1b] [--smoke] [--record] [--plot FILE.png]

Stage 1's step, through the code that `train.py` runs, on full rows [B, T]: `tiny` of width 128, `1b` as wide as a
Llama of a billion parameters. Everything is measured in turn; what is fitted is the fastest of the runs, since all
that disturbs one only adds. Rows: layers_L (L = 4, 8, 16, 32), length_T and batch_B (4 layers), real tokens a second
with `step_s` and `compile_s`, what tracing, lowering and compiling the step took ahead of time; `fit`: step = a + b L
by least squares, with `r2`, and `compile_growth`, compile seconds of the deepest over the shallowest: layers are one
scanned program, so it should be near 1. With --record also a picture, scaling.png.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import measure

if __name__ == "__main__":
    _parser = measure.parser(__doc__, shapes=("tiny", "1b"))
    _parser.add_argument("--plot", type=Path, help="where the picture goes; default: scaling.png beside RESULTS.md")
    ARGS = _parser.parse_args()
    measure.on_one_core(ARGS.core)

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import results  # noqa: E402
from shapes import LLMS, bench_config, write_words  # noqa: E402
from train_step import Ours, full_rows  # noqa: E402

from empatheia_jax.config import Config  # noqa: E402

LAYERS, FEW = (4, 8, 16, 32), 4
STEPS = 2  # a run


def config_of(shape: str, folder: Path, layers: int, length: int, batch: int) -> Config:
    """Stage 1 with so many layers, on rows [batch, length]."""
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
    """row -> (layers, length, batch)."""
    length, longer, wider = (512, (512, 1024), (1, 2)) if smoke else (512, (512, 1024, 2048), (1, 2, 4))
    if shape == "1b":
        length, longer, wider = 2048, (1024, 2048, 4096), (1, 2, 4)
    layers = (1, 2, 3) if smoke else LAYERS
    few = layers[0] if smoke else FEW
    return (
        {f"layers_{n}": (n, length, 1) for n in layers}
        | {f"length_{n}": (few, n, 1) for n in longer}
        | {f"batch_{n}": (few, length, n) for n in wider}
    )


def fit(layers: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """(a, b, R^2) of seconds = a + b layers, by least squares."""
    b, a = np.polyfit(layers, seconds, 1)
    rest = np.sum((np.array(seconds) - (a + b * np.array(layers))) ** 2)
    return float(a), float(b), float(1 - rest / np.sum((np.array(seconds) - np.mean(seconds)) ** 2))


def main(args) -> list[dict]:
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured
    wanted, programs, compile_s = cases(args.shape, args.smoke), {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_words(folder)
        for case in dict.fromkeys(wanted.values()):  # what two rows share is measured once
            print(f"compiling {case} ...", file=sys.stderr, flush=True)
            ours = Ours(config_of(args.shape, folder, *case), folder)
            programs[case] = ours.program(full_rows(ours, STEPS), [])
            compile_s[case] = ours.compile_s
    seconds = measure.in_turn(programs, 2 if args.smoke else measure.REPETITIONS)
    fastest = {case: min(times) / STEPS for case, times in seconds.items()}
    rows = []
    for name, (layers, length, batch) in wanted.items():
        case = layers, length, batch
        rows.append(
            measure.row(
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
    depths = [case for name, case in wanted.items() if name.startswith("layers")]
    a, b, r2 = fit([case[0] for case in depths], [fastest[case] for case in depths])
    growth = compile_s[depths[-1]] / compile_s[depths[0]]
    facts = {"a_ms": round(1e3 * a, 3), "r2": round(r2, 5), "compile_growth": round(growth, 2), "shape": args.shape}
    rows.append(measure.row("fit", 1e3 * b, "ms a layer", {"ours": [1.0]}, **facts))
    return rows


def plot(rows: list[dict], path: Path) -> None:
    """Four pictures: step and compile seconds by layers, tokens a second by length and by batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)

    def of(kind: str, fact: str) -> tuple[list, list]:
        chosen = [row for row in rows if row["name"].startswith(f"{kind}_")]
        return [row[kind] for row in chosen], [row[fact] for row in chosen]

    fitted = next(row for row in rows if row["name"] == "fit")
    layers, steps = of("layers", "step_s")
    line = [(fitted["a_ms"] + fitted["value"] * n) / 1e3 for n in layers]
    label = f"{fitted['a_ms']:.1f} ms + {fitted['value']:.2f} ms a layer, R² {fitted['r2']}"
    axes[0, 0].plot(layers, line, color="#999999", label=label)
    axes[0, 0].legend(frameon=False)
    for place, (x, y), title, unit in (
        (axes[0, 0], (layers, steps), "step by layers", "s"),
        (axes[0, 1], of("layers", "compile_s"), "compiling by layers", "s"),
        (axes[1, 0], of("length", "value"), "rate by length of a row", "tokens/s"),
        (axes[1, 1], of("batch", "value"), "rate by rows", "tokens/s"),
    ):
        place.plot(x, y, "o" if place is axes[0, 0] else "o-", color="#4878a8")
        place.set(title=title, ylabel=unit, xticks=x)
        place.set_ylim(0, 1.12 * max(y))
    figure.suptitle(f"LoRA step, {rows[0]['shape']}, {rows[0]['device']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    found = main(ARGS)
    measure.report(found, ARGS)
    if ARGS.plot or (ARGS.record and not ARGS.smoke):
        recorded = ARGS.record or results.LINES
        beside = results.HERE if recorded.resolve() == results.LINES else recorded
        plot(found, ARGS.plot or beside / "scaling.png")
