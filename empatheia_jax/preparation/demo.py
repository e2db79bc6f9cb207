"""`empatheia demo`: every command in turn on a CPU, from no data to an answer as a video, within a time budget."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from empatheia_jax.evaluation.report import write_report
from empatheia_jax.runtime import signals

BUDGET = (  # seconds on two cores
    ("sample", 40),
    ("extract", 30),
    ("train", 315),
    ("evaluate", 50),
    ("respond", 15),
    ("report", 10),
)


class Budget:
    """Measures the seconds of each part of the demo, to compare with `BUDGET`."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str):
        """Print a banner and measure what runs inside the `with`."""
        print(f"\n── {name} (budget {dict(BUDGET)[name]} s) " + "─" * (70 - len(name)), flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def entries(self) -> list[tuple[str, float, float | None]]:
        """Return (part, seconds, budget in seconds) of each part that was run."""
        return [(name, self.seconds[name], float(limit)) for name, limit in BUDGET if name in self.seconds]


def demo(output: Path, config: str) -> int:
    """Run sample, extract, train, evaluate and respond, each as a command of its own, and write the report.

    Args:
      output: folder of the results; the corpus is written beside it.
      config: config file of the run.

    Returns:
      The exit code: 0, or that of the command that failed.
    """
    print("budget   " + "  ".join(f"{name} {seconds} s" for name, seconds in BUDGET))
    budget, corpus = Budget(), output.parent / "sample"
    output.mkdir(parents=True, exist_ok=True)
    model = output / "model"
    data = ["--data.path", str(corpus)]

    def command(*words: str) -> None:
        code = _run([sys.executable, *words])
        if code:
            raise subprocess.CalledProcessError(code, [sys.executable, *words])

    try:
        with budget.part("sample"):
            command("-m", "empatheia_jax", "sample", "--output", str(corpus))
        with budget.part("extract"):
            command("-m", "empatheia_jax", "extract", config, "--workdir", str(model), *data)
        with budget.part("train"):
            resume = ["--resume"] if (model / "config.json").exists() else []
            command("train.py", config, "--workdir", str(model), *resume, *data)
        with budget.part("evaluate"):
            command("-m", "empatheia_jax", "evaluate", "--run", str(model), "--output", str(output))
        with budget.part("respond"):
            dialogue = _write_test_dialogue(corpus, output)
            answer = ["--dialogue", str(dialogue), "--size", "384", "--output", str(output / "response.mp4")]
            command("-m", "empatheia_jax", "respond", "--run", str(model), *answer)
    except subprocess.CalledProcessError as error:
        print(f"demo: {' '.join(map(str, error.cmd[1:4]))} failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode
    with budget.part("report"):
        shutil.copyfile(model / "metrics.jsonl", output / "metrics.jsonl")
        page = _write_page(output, budget)
    for name, seconds, limit in budget.entries():
        print(f"  {name:10s} {seconds:6.1f} s  of {limit:.0f}")
    print(f"  {'total':10s} {sum(budget.seconds.values()):6.1f} s  of {sum(limit for _, limit in BUDGET)}")
    for path in (output / "response.mp4", output / "response.json", output / "metrics.jsonl", page):
        print(path)
    return 0


def _run(words: list[str]) -> int:
    """Run a command and return its exit code; a signal is passed on to it once, and the demo ends when it has ended."""
    signals_passed_on: list[int] = []
    with signals.undisturbed():
        # A group of its own: a terminal's Ctrl-C reaches the demo alone, which passes it on once.
        process = subprocess.Popen(words, process_group=0)

    def pass_on(number: int) -> int | None:
        if signals_passed_on:  # a second signal: the end kills the command
            return 128 + number
        signals_passed_on.append(number)
        process.send_signal(number)
        return None

    signals.respond_with(pass_on)
    code = process.wait()
    signals.respond_with(None)
    if signals_passed_on:
        if code == 0:  # it has said nothing on stderr
            signals.end(signals_passed_on[0])
        signals.leave(128 + signals_passed_on[0])
    return code


def _write_test_dialogue(corpus: Path, output: Path) -> Path:
    """Write a test dialogue with neutral words as `respond --dialogue` reads it: text, speech and video."""
    labels = json.loads((corpus / "labels.json").read_text())["dialogues"]["test"]
    dialogues = json.loads((corpus / "test" / "v_test_v5_0.json").read_text())
    chosen = next(d for d in dialogues if labels[d["conversation_id"]]["half"] == "neutral" and len(d["turns"]) > 1)
    turn = chosen["turns"][-1]
    for entry in turn["dialogue_history"]:
        avatar = chosen[f"{entry['role']}_profile"]["ID"]
        name = f"dia{chosen['conversation_id']}utt{entry['index']}_{avatar}"
        entry["speech"] = str((corpus / "test" / "test_audio" / f"{name}.wav").absolute())
        entry["video"] = str((corpus / "test" / "test_video" / f"{name}.mp4").absolute())
    kept = ("conversation_id", "speaker_profile", "listener_profile", "topic")
    dialogue = {name: chosen[name] for name in kept} | {
        "turns": [{name: turn[name] for name in ("turn_id", "context", "dialogue_history")}]
    }
    path = output / "dialogue.json"
    path.write_text(json.dumps(dialogue, indent=1))
    return path


def _write_page(output: Path, budget: Budget) -> Path:
    report = json.loads((output / "report.json").read_text())
    return write_report(
        output,
        report,
        metrics=output / "metrics.jsonl",
        video=output / "response.mp4",
        response=json.loads((output / "response.json").read_text()),
        time_budget=budget.entries(),
    )
