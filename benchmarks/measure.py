"""Measuring two programs fairly: the same cores, in turn, the median."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import results

REPETITIONS = 5


def parser(doc: str, shapes: tuple[str, ...] = ("tiny", "1b", "7b")) -> argparse.ArgumentParser:
    """The flags that all benchmarks share; `shapes` are the sizes of what is measured, the first is the default."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--peer", choices=("torch",), help="measure transformers and peft beside us, in the same run")
    made.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs; no result")
    made.add_argument("--shape", choices=shapes, default=shapes[0], help="of the network that is measured")
    made.add_argument("--core", type=int, help="CPU core to stay on (default: the last one); CPU only")
    add_record(made)
    return made


def add_record(made: argparse.ArgumentParser) -> None:
    """`--record [FOLDER]`."""
    made.add_argument(
        "--record",
        nargs="?",
        const=results.LINES,
        type=Path,
        metavar="FOLDER",
        help="append the rows to FOLDER/BENCHMARK.jsonl (default: benchmarks/results); results.py makes RESULTS.md",
    )


def on_one_core(core: int | None) -> None:
    """Stay on one CPU core, unless an accelerator does the work. Call before jax and torch are imported.

    On several cores the two compete with each other's waiting threads, and ratios depend on what else runs.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share one device
    if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def in_turn(programs: dict[str, Callable[[], None]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each program's runs, one after the other, `repetitions` times; each has run once before."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program()
    for _ in range(repetitions):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def matmul_peak(dtype: str, side: int) -> float:
    """FLOP/s of one square matrix product through XLA: the ceiling that this device gives, in this run."""
    import jax

    x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def copy_rate(gigabytes: float) -> float:
    """Bytes/s, read and written, of copying an array of so many GB: what this device's memory gives, in this run."""
    import jax
    import jax.numpy as jnp

    x = jnp.zeros(int(gigabytes * 1e9) // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        copy(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * x.nbytes / min(times)


def utilisation(model_flops: float, recomputed: float, seconds: float) -> dict[str, float]:
    """MFU and HFU, of the bfloat16 peak, of work that took so long on one device; nothing where no peak is known."""
    import jax

    from empatheia_jax import flops

    kind = jax.devices()[0].device_kind
    mfu, hfu = flops.mfu(model_flops, seconds, kind), flops.hfu(model_flops, recomputed, seconds, kind)
    return {} if mfu is None else {"mfu": round(mfu, 3), "hfu": round(hfu, 3)}


def memory_bound(bytes_read: float, seconds: float, copy: float) -> dict[str, float]:
    """How near reading so many bytes comes to what the memory gives: by a copy in this run, by the data sheet if known.

    A copy's reads and writes count alike.
    """
    import jax

    from empatheia_jax import flops

    most = flops.bandwidth(jax.devices()[0].device_kind)
    known = {} if most is None else {"share_of_bandwidth": round(bytes_read / seconds / most, 3)}
    return known | {"share_of_copy": round(bytes_read / seconds / copy, 3), "copy_GB_per_s": round(copy / 1e9, 1)}


def device_peak() -> dict[str, float]:
    """`peak_gb`, the most that JAX has held on the accelerator in this process so far; nothing on a CPU."""
    import jax

    found = jax.devices()[0].memory_stats() or {}
    return {"peak_gb": round(found["peak_bytes_in_use"] / 1e9, 2)} if "peak_bytes_in_use" in found else {}


class Compiling:
    """`with Compiling() as clock`: `clock.seconds` of it in which something was traced, lowered or compiled."""

    EVENTS = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")

    def __enter__(self):
        import jax

        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *_):
        import jax

        jax.monitoring.unregister_event_duration_listener(self._heard)

    def _heard(self, event: str, seconds: float, **_) -> None:
        if event.rsplit("/", 1)[-1] in self.EVENTS:
            now = time.perf_counter()
            self._spans.append((now - seconds, now))

    @property
    def seconds(self) -> float:
        """Once each: a function that is traced inside another is part of its time."""
        total, until = 0.0, 0.0
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total


def print_peak(who: str) -> None:
    """Say how many GB this process has needed at its most: of the accelerator where there is one, else of the host."""

    if who == "ours" and (known := device_peak()):
        print(json.dumps(known))
        return
    if who == "peer" and "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        peak = sys.modules["torch"].cuda.max_memory_allocated()
    else:
        status = Path("/proc/self/status").read_text()  # getrusage's would be the parent's
        peak = int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024
    print(json.dumps({"peak_gb": round(peak / 1e9, 2)}))


def peaks(words: list[str], both: bool) -> dict[str, float]:
    """GB that each program needs at its most: this script anew, with `words` and `--memory ours` or `peer`."""
    found = {}
    for who in ("ours", "peer") if both else ("ours",):
        command = [sys.executable, sys.argv[0], *words, "--memory", who]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"memory of {who} was not measured: {done.stderr[-300:]}", file=sys.stderr)
            continue
        found["peak_gb" if who == "ours" else "peer_peak_gb"] = json.loads(done.stdout.splitlines()[-1])["peak_gb"]
    return found


def machine() -> str:
    """The device in words."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model = next((x.split(":")[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "CPU")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''} of {model.strip()}"


def row(name: str, work: float, unit: str, seconds: dict[str, list[float]], **facts) -> dict:
    """One result: `work` (tokens, say) a second by our median; beside the peer's, if it ran.

    `ratio_to_peer` is the median of the ratios of runs that were neighbours in time; above 1 we are faster.
    """
    ours = statistics.median(seconds["ours"])
    result = {"name": name, "value": _digits(work / ours), "unit": unit, "device": machine()}
    if "peer" in seconds:
        result["peer_value"] = _digits(work / statistics.median(seconds["peer"]))
        result |= _ratios(seconds)
    return result | facts | {"versions": _versions()}


def latency(name: str, seconds: dict[str, list[float]], first: float | None, **facts) -> dict:
    """One result in seconds: our median and 90th percentile, and the first call's, compilation included."""
    ours = seconds["ours"]
    result = {"name": name, "value": _digits(statistics.median(ours)), "unit": "s", "device": machine()}
    if "peer" in seconds:
        result |= {"peer_value": _digits(statistics.median(seconds["peer"]))} | _ratios(seconds)
    tail = {"p90_s": _digits(sorted(ours)[-(-9 * len(ours) // 10) - 1]), "calls": len(ours)}
    result |= tail | ({} if first is None else {"first_call_s": _digits(first)})
    return result | facts | {"versions": _versions()}


def _ratios(seconds: dict[str, list[float]]) -> dict:
    ratios = [p / o for o, p in zip(seconds["ours"], seconds["peer"], strict=True)]
    return {
        "ratio_to_peer": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _versions() -> dict[str, str]:
    import jax

    others = ("torch", "transformers")
    return {"jax": jax.__version__} | {name: sys.modules[name].__version__ for name in others if name in sys.modules}


def _digits(value: float) -> float:
    """One digit behind the point; of small values four that count."""
    return round(value, 1) if value >= 100 else float(f"{value:.4g}")


def report(rows: list[dict], args: argparse.Namespace) -> None:
    """JSON lines on stdout; with --record in a file too. Smoke rows say so and are never recorded."""
    for result in rows:
        print(json.dumps(result | ({"smoke": True} if args.smoke else {})), flush=True)
    if args.record is None or args.smoke:
        return
    script = Path(sys.argv[0])
    command = results.called(["python", f"benchmarks/{script.name}", *sys.argv[1:]])
    results.append(rows, script.stem, command, args.record)
