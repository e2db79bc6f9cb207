"""Fair measurement of two programs: on the same cores, in turn, by the median."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import results

REPETITIONS = 5


def build_parser(doc: str | None, shapes: tuple[str, ...] = ("tiny", "1b", "7b")) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks share.

    Args:
      doc: the script's docstring.
      shapes: sizes of the network that is measured, the default first.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("torch",), help="measure transformers and peft beside us, in the same run")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs; no result")
    parser.add_argument("--shape", choices=shapes, default=shapes[0], help="of the network that is measured")
    parser.add_argument("--core", type=int, help="CPU core to stay on (default: the last one); CPU only")
    add_record_flag(parser)
    return parser


def add_record_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--record [FOLDER]` to a parser."""
    parser.add_argument(
        "--record",
        nargs="?",
        const=results.RECORDS,
        type=Path,
        metavar="FOLDER",
        help="append the rows to FOLDER/BENCHMARK.jsonl (default: benchmarks/results); results.py makes RESULTS.md",
    )


def stay_on_one_core(core: int | None) -> None:
    """Bind the process to one CPU core, the last or `core`, unless an accelerator does the work.

    On several cores jax and torch compete with each other's waiting threads, and ratios depend on what else runs. Call
    this before either is imported.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share one device
    if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def time_in_turn(programs: Mapping[Any, Callable[[], object]], repetitions: int) -> dict[Any, list[float]]:
    """Run programs in turn, `repetitions` times, after one untimed run each; returns their seconds by name."""
    seconds = {name: [] for name in programs}
    for program in programs.values():
        program()
    for _ in range(repetitions):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def matmul_peak(dtype: str, side: int) -> float:
    """Measure the FLOP/s of one square matrix product [side, side] through XLA: this device's ceiling, in this run."""
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
    """Measure the bytes/s, read and written, of copying an array of so many GB: this memory's ceiling, in this run."""
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
    """Return MFU and HFU, against the bfloat16 peak of one device; nothing where no peak is known.

    Args:
      model_flops: FLOPs of the work without recomputation.
      recomputed: FLOPs that the backward pass computes again.
      seconds: how long the work took.
    """
    import jax

    from empatheia_jax.planning import flops

    kind = jax.devices()[0].device_kind
    mfu, hfu = flops.mfu(model_flops, seconds, kind), flops.hfu(model_flops, recomputed, seconds, kind)
    return {} if mfu is None or hfu is None else {"mfu": round(mfu, 3), "hfu": round(hfu, 3)}


def memory_bound(bytes_read: float, seconds: float, copy: float) -> dict[str, float]:
    """Return the share of the memory's bandwidth that reading used: of the data sheet's if known, and of a copy's.

    Args:
      bytes_read: bytes that must be read.
      seconds: how long that took.
      copy: what `copy_rate` measured in this run, bytes/s; a copy's reads and writes count alike.
    """
    import jax

    from empatheia_jax.planning import flops

    peak_bandwidth = flops.memory_bandwidth(jax.devices()[0].device_kind)
    shares = {} if peak_bandwidth is None else {"share_of_bandwidth": round(bytes_read / seconds / peak_bandwidth, 3)}
    return shares | {"share_of_copy": round(bytes_read / seconds / copy, 3), "copy_GB_per_s": round(copy / 1e9, 1)}


def device_peak() -> dict[str, float]:
    """Return `peak_gb`, the most that JAX has held on the accelerator in this process so far; nothing on a CPU."""
    import jax

    memory = jax.devices()[0].memory_stats() or {}
    return {"peak_gb": round(memory["peak_bytes_in_use"] / 1e9, 2)} if "peak_bytes_in_use" in memory else {}


class Compiling:
    """`with Compiling() as clock:` measures `clock.seconds`, during which something was traced, lowered or compiled."""

    EVENTS = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")

    def __enter__(self):
        import jax

        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, *_):
        import jax

        jax.monitoring.unregister_event_duration_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_) -> None:
        if event.rsplit("/", 1)[-1] in self.EVENTS:
            now = time.perf_counter()
            self._spans.append((now - duration_secs, now))

    @property
    def seconds(self) -> float:
        """Seconds so far; a function traced inside another counts once, as part of the outer one's time."""
        total, until = 0.0, 0.0
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total


def print_peak(program: str) -> None:
    """Print the most GB that this process has held as `program` ("ours", "peer"): of the accelerator, else the host."""
    if program == "ours" and (peak := device_peak()):
        print(json.dumps(peak))
        return
    if program == "peer" and "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        peak = sys.modules["torch"].cuda.max_memory_allocated()
    else:
        status = Path("/proc/self/status").read_text()  # getrusage's would be the parent's
        peak = int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 1024
    print(json.dumps({"peak_gb": round(peak / 1e9, 2)}))


def measure_peaks(arguments: list[str], both: bool) -> dict[str, float]:
    """Return the most GB that each program holds, by running this script again with `--memory ours` or `--memory peer`.

    Args:
      arguments: the script's other arguments.
      both: whether the peer is measured too.
    """
    peaks = {}
    for program in ("ours", "peer") if both else ("ours",):
        command = [sys.executable, sys.argv[0], *arguments, "--memory", program]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            print(f"memory of {program} was not measured: {process.stderr[-300:]}", file=sys.stderr)
            continue
        peaks["peak_gb" if program == "ours" else "peer_peak_gb"] = json.loads(process.stdout.splitlines()[-1])[
            "peak_gb"
        ]
    return peaks


def device_name() -> str:
    """Return the device in words."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model = next((x.split(":")[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "CPU")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''} of {model.strip()}"


def rate_row(name: str, work: float, unit: str, seconds: dict[str, list[float]], **facts) -> dict:
    """Return one result: work a second by our median, and by the peer's if it ran.

    `ratio_to_peer` is the median of the ratios of runs that were neighbours in time; above 1 we are faster.

    Args:
      name: of the row.
      work: what one run does, in the unit (tokens, say).
      unit: of the value.
      seconds: of the runs of "ours" and, if it ran, "peer".
      **facts: more of the row.
    """
    ours = statistics.median(seconds["ours"])
    result = {"name": name, "value": _round(work / ours), "unit": unit, "device": device_name()}
    if "peer" in seconds:
        result["peer_value"] = _round(work / statistics.median(seconds["peer"]))
        result |= _ratios(seconds)
    return result | facts | {"versions": _versions()}


def latency_row(name: str, seconds: dict[str, list[float]], first: float | None, **facts) -> dict:
    """Return one result in seconds: our median and 90th percentile, and the first call's, compilation included.

    Args:
      name: of the row.
      seconds: of the calls of "ours" and, if it ran, "peer".
      first: seconds of the first call, or None.
      **facts: more of the row.
    """
    ours = seconds["ours"]
    result = {"name": name, "value": _round(statistics.median(ours)), "unit": "s", "device": device_name()}
    if "peer" in seconds:
        result |= {"peer_value": _round(statistics.median(seconds["peer"]))} | _ratios(seconds)
    tail = {"p90_s": _round(sorted(ours)[-(-9 * len(ours) // 10) - 1]), "calls": len(ours)}
    result |= tail | ({} if first is None else {"first_call_s": _round(first)})
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


def _round(value: float) -> float:
    """Round to one decimal, and values below 100 to four significant digits."""
    return round(value, 1) if value >= 100 else float(f"{value:.4g}")


def report(rows: list[dict], args: argparse.Namespace) -> None:
    """Print rows as JSON lines, and with --record append them to a file. Smoke rows are marked and never recorded."""
    for result in rows:
        print(json.dumps(result | ({"smoke": True} if args.smoke else {})), flush=True)
    if args.record is None or args.smoke:
        return
    script = Path(sys.argv[0])
    command = results.command_line(["python", f"benchmarks/{script.name}", *sys.argv[1:]])
    results.append_rows(rows, script.stem, command, args.record)
