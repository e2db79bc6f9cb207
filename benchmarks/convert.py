"""How fast does a checkpoint become weights, and weights a model, beside transformers' `from_pretrained`?

python benchmarks/convert.py --peer torch [--shape 300m|7b] [--source DIR] [--smoke] [--record]

Rows, all of whole processes, start-up included:
  convert   `python -m converters vicuna` of bfloat16 shards, and sync; `ratio_to_cp` is against cp and sync of the same
            files, in turn: the disk's bound is every byte read once and written once. We hash them besides.
  restore   the converted weights onto one device
The peer loads the checkpoint in bfloat16 and reads every page of it. `peak_gb` is the most anonymous memory (RssAnon).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import random_llama

ROOT = Path(__file__).resolve().parent.parent

RESTORE = """
import sys, jax
from flax import nnx
from empatheia_jax.checkpoints import weights
from empatheia_jax.config import MeshConfig
from empatheia_jax.config.load import load_llm_config
from empatheia_jax.llm.llama import Llama
from empatheia_jax.model import sharding
mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
abstract = nnx.state(nnx.eval_shape(lambda: Llama(load_llm_config(sys.argv[1]), rngs=nnx.Rngs(0))))
abstract = sharding.with_shardings(abstract, sharding.shardings(abstract, mesh))
jax.block_until_ready(weights.load_weights(sys.argv[1], abstract))
"""
PEER = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
sum(float(weight.reshape(-1)[:: 2048].sum()) for weight in model.parameters())  # files are mapped: read every page
"""


def time_process(command: list[str], sync: bool = False) -> tuple[float, float]:
    """Run a command and return its seconds (with `sync` those of os.sync() too) and its most anonymous memory, GB."""
    env = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"), "PYTHONPATH": str(ROOT)}
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.02)
    if process.wait():
        raise RuntimeError(f"{command} failed")
    if sync:
        os.sync()
    return time.perf_counter() - start, peak * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("torch",), help="measure from_pretrained beside us, in the same run")
    parser.add_argument("--shape", choices=("tiny", "300m", "7b"), default="300m")
    parser.add_argument("--source", type=Path, help="a checkpoint that random_llama.py wrote, to use again")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="the tiny shape, once, to see that it runs; no result")
    measure.add_record_flag(parser)
    args = parser.parse_args()
    shape, repetitions = ("tiny", 1) if args.smoke else (args.shape, args.repetitions)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = args.source or root / "source"
        if not source.exists():
            random_llama.write_checkpoint(source, shape)
        total = sum(file.stat().st_size for file in source.iterdir()) / 1e9
        os.sync()
        convert = [sys.executable, "-m", "converters", "vicuna", "--input", str(source), "--output"]
        commands = {
            "cp": (["cp", "-r", str(source), str(root / "cp")], True),
            "convert": ([*convert, str(root / "convert")], True),
            "restore": ([sys.executable, "-c", RESTORE, str(root / "kept")], False),
        }
        if args.peer:
            commands["peer"] = ([sys.executable, "-c", PEER, str(source)], False)
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for repetition in range(repetitions):
            for name, (command, sync) in commands.items():
                runs[name].append(time_process(command, sync))
                if name == "convert" and repetition == 0:
                    (root / name).rename(root / "kept")
                elif sync:
                    shutil.rmtree(root / name)
    seconds = {name: [taken for taken, _ in measurements] for name, measurements in runs.items()}
    peaks = {f"{name}_peak_gb": round(max(peak for _, peak in measurements), 2) for name, measurements in runs.items()}
    peer = {"peer": seconds["peer"]} if args.peer else {}
    facts = {"shape": shape, "gb": round(total, 2)} | ({"peer_peak_gb": peaks["peer_peak_gb"]} if args.peer else {})
    if args.peer:
        import torch  # noqa: F401 - the rows record their versions
        import transformers  # noqa: F401
    ratios = [cp / ours for cp, ours in zip(seconds["cp"], seconds["convert"], strict=True)]
    rows = [
        measure.rate_row(
            "convert",
            total,
            "GB/s",
            {"ours": seconds["convert"]} | peer,
            **facts,
            peak_gb=peaks["convert_peak_gb"],
            ratio_to_cp=round(statistics.median(ratios), 3),
            cp_range=[round(min(ratios), 3), round(max(ratios), 3)],
        ),
        measure.rate_row(
            "restore", total, "GB/s", {"ours": seconds["restore"]} | peer, **facts, peak_gb=peaks["restore_peak_gb"]
        ),
    ]
    measure.report(rows, args)


if __name__ == "__main__":
    main()
