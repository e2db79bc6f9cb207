"""`empatheia demo`: the main job on a CPU, from nothing to an answer that can be watched, with its time budget."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from empatheia_jax.evaluation.report import write_report

BUDGET = (  # seconds on two cores
    ("sample", 40),
    ("extract", 30),
    ("train", 315),
    ("evaluate", 50),
    ("respond", 15),
    ("report", 10),
)


class Budget:
    """What each part took beside what it was given."""

    def __init__(self):
        self.taken: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str):
        print(f"\n── {name} (budget {dict(BUDGET)[name]} s) " + "─" * (70 - len(name)), flush=True)
        start = time.monotonic()
        yield
        self.taken[name] = time.monotonic() - start

    def rows(self) -> list[tuple[str, float, float | None]]:
        """(part, seconds, budget) of what was done."""
        return [(name, self.taken[name], float(given)) for name, given in BUDGET if name in self.taken]


def demo(output: Path, config: str) -> int:
    """Sample corpus, extract, stages, evaluate, respond, report; each part a command of its own."""
    print("budget   " + "  ".join(f"{name} {seconds} s" for name, seconds in BUDGET))
    budget, corpus = Budget(), output.parent / "sample"
    output.mkdir(parents=True, exist_ok=True)
    model = output / "model"
    data = ["--data.path", str(corpus)]

    def command(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True)

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
            dialogue = _test_dialogue(corpus, output)
            answer = ["--dialogue", str(dialogue), "--size", "384", "--output", str(output / "response.mp4")]
            command("-m", "empatheia_jax", "respond", "--run", str(model), *answer)
    except subprocess.CalledProcessError as error:
        print(f"demo: {' '.join(map(str, error.cmd[1:4]))} failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode
    with budget.part("report"):
        _copy_metrics(model, output)
        page = _page(output, budget)
    for name, taken, given in budget.rows():
        print(f"  {name:10s} {taken:6.1f} s  of {given:.0f}")
    print(f"  {'total':10s} {sum(budget.taken.values()):6.1f} s  of {sum(given for _, given in BUDGET)}")
    for path in (output / "response.mp4", output / "response.json", output / "metrics.jsonl", page):
        print(path)
    return 0


def _test_dialogue(corpus: Path, output: Path) -> Path:
    """A test dialogue with neutral words, as `respond --dialogue` reads it: words, sound and looks."""
    labels = json.loads((corpus / "labels.json").read_text())["dialogues"]["test"]
    dialogues = json.loads((corpus / "test" / "v_test_v5_0.json").read_text())
    chosen = next(d for d in dialogues if labels[d["conversation_id"]]["half"] == "neutral" and len(d["turns"]) > 1)
    turn = chosen["turns"][-1]
    for entry in turn["dialogue_history"]:
        who = chosen[f"{entry['role']}_profile"]["ID"]
        name = f"dia{chosen['conversation_id']}utt{entry['index']}_{who}"
        entry["speech"] = str((corpus / "test" / "test_audio" / f"{name}.wav").absolute())
        entry["video"] = str((corpus / "test" / "test_video" / f"{name}.mp4").absolute())
    known = ("conversation_id", "speaker_profile", "listener_profile", "topic")
    dialogue = {name: chosen[name] for name in known} | {
        "turns": [{name: turn[name] for name in ("turn_id", "context", "dialogue_history")}]
    }
    path = output / "dialogue.json"
    path.write_text(json.dumps(dialogue, indent=1))
    return path


def _copy_metrics(model: Path, output: Path) -> None:
    (output / "metrics.jsonl").write_bytes((model / "metrics.jsonl").read_bytes())


def _page(output: Path, budget: Budget) -> Path:
    report = json.loads((output / "report.json").read_text())
    return write_report(
        output,
        report,
        metrics=output / "metrics.jsonl",
        video=output / "response.mp4",
        response=json.loads((output / "response.json").read_text()),
        time_budget=budget.rows(),
    )
