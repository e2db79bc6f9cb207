"""The training curves of metrics.jsonl: which terms of a stage share a panel, and their captions."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from empatheia_jax.evaluation import page, plots
from empatheia_jax.evaluation.plots import Curve

STAGES = {
    0: "the small LLM learns to write",
    1: "LoRA learns the chain of empathy",
    2: "content synchronizer",
    3: "style disentangler, projectors, classifiers",
    4: "all parts together",
}
PANELS = (
    ("Loss of the stage", ("loss",), ""),
    ("Text, L_emp (Eq. 8)", ("emp",), ""),
    ("Tokens guessed right", ("token_accuracy",), "share"),
    ("Content, L_ccl (Eq. 9)", ("content_speech", "content_video"), "log"),
    ("Style, L_sal (Eq. 10)", ("style_speech", "style_video"), "log"),
    ("Classifiers, L_cls (Eq. 11)", ("emotion", "age", "gender", "timbre"), ""),
    ("Labels guessed right", ("emotion_accuracy", "age_accuracy", "gender_accuracy", "timbre_accuracy"), "share"),
    ("KL of the latents", ("kl_content", "kl_style"), "log"),
    ("Gradient norm", ("grad_norm",), "log"),
)
"""(title, terms that share a panel, kind of scale). A term that is not listed gets a panel of its own."""
NOT_DRAWN = {
    "step",
    "stage",
    "stage_step",
    "epoch",
    "tokens",
    "tokens_per_second",
    "mfu",
    "learning_rate",
    "eta_seconds",
}
HELD_OUT = "validation_"


@dataclasses.dataclass
class Log:
    """The records of metrics.jsonl by stage, in the order of the file, and how many lines could not be read."""

    stages: dict[int, list[dict]]
    unreadable: int = 0


def read_log(path: Path) -> Log:
    """Read metrics.jsonl. An incomplete line (of a live or killed run) is counted and skipped.

    Raises:
      OSError: the file cannot be read.
    """
    log = Log({})
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            log.stages.setdefault(int(record["stage"]), []).append(record | {"step": float(record["step"])})
        except (ValueError, KeyError, TypeError):
            log.unreadable += bool(line.strip())
    return log


def curve(records: Sequence[dict], term: str, name: str) -> Curve:
    """Return a term's values over the steps, training and held out; values that are not finite are left out.

    Args:
      records: of one stage.
      term: key of the training values; with "validation_" before it, of the held-out values.
      name: of the curve, for the legend.
    """
    series = {}
    for key in (term, HELD_OUT + term):
        points = [(record["step"], record[key]) for record in records if _is_finite(record.get(key))]
        series[key] = ([step for step, _ in points], [value for _, value in points])
    return Curve(name, *series[term], *series[HELD_OUT + term])


def training_section(path: Path | None) -> tuple[str, str, str]:
    """Return the section of training curves, with a panel for each term or group of terms of each stage."""
    intro = "Lines: training batches. Rings: dialogues held out from training, where they were measured."
    anchor, title = "training", "Training"
    caption = "<b>Training curves.</b> Loss terms of each stage over steps."
    if path is None:
        return page.section(anchor, title, "", page.no_data(caption, "no metrics.jsonl was given."))
    try:
        log, reason = read_log(path), f"{path.name} holds no step."
    except OSError as error:
        log, reason = Log({}), f"{path.name} cannot be read ({error.strerror})."
    if not log.stages:
        return page.section(anchor, title, "", page.no_data(caption, reason))
    if log.unreadable:
        intro += f" Lines of {page.escape(path.name)} that could not be read: {log.unreadable}."
    parts = [_stage_table(log)]
    for stage in sorted(log.stages):
        name = STAGES.get(stage)
        parts.append(f"<h3>Stage {stage}{': ' + page.escape(name) if name else ''}</h3>")
        parts.append(f'<div class="grid">{"".join(_stage_panels(stage, log.stages[stage]))}</div>')
    return page.section(anchor, title, intro, *parts)


def _stage_panels(stage: int, records: list[dict]) -> list[str]:
    terms = {}  # keys in the order of their appearance
    for record in records:
        for key, value in record.items():
            term = key.removeprefix(HELD_OUT)
            if term not in NOT_DRAWN and _is_finite(value):
                terms[term] = True
    if "emp" in terms and _are_equal(records, "loss", "emp"):
        terms.pop("loss", None)
    panels = [(title, tuple(term for term in group if term in terms), kind) for title, group, kind in PANELS]
    grouped = {term for _, group, _ in panels for term in group}
    panels += [(_label(term), (term,), "") for term in terms if term not in grouped]
    return [_panel(records, stage, title, group, kind=kind) for title, group, kind in panels if group]


def _panel(records: list[dict], stage: int, title: str, group: Sequence[str], *, kind: str) -> str:
    lines = [curve(records, term, _label(term.removesuffix("_accuracy"))) for term in group]
    ends = []
    for line in lines:
        end = f"{line.name} " if len(lines) > 1 else ""
        end += _format_value(line.values[-1], kind) if line.values else "not trained on"
        end += f", held out {_format_value(line.held_out_values[-1], kind)}" if line.held_out_values else ""
        ends.append(end)
    alt = f"Stage {stage}, {title}, over steps. At the end: {'; '.join(ends)}."
    drawing = plots.curves(lines, alt, log=kind == "log", share=kind == "share")
    return page.figure(drawing, f"<b>{page.escape(title)}.</b> At the end: {page.escape('; '.join(ends))}.")


def _stage_table(log: Log) -> str:
    """Return a table of steps, loss and speed of each stage."""
    rows = []
    for stage, records in sorted(log.stages.items()):
        rates = [record["tokens_per_second"] for record in records if _is_finite(record.get("tokens_per_second"))]
        losses = [record["loss"] for record in records if _is_finite(record.get("loss"))]
        first, last = (f"{losses[0]:.3g}", f"{losses[-1]:.3g}") if losses else ("–", "–")
        speed = f"{statistics.median(rates):,.0f}" if rates else "–"
        name = STAGES.get(stage)
        label = f"{stage}{': ' + page.escape(name) if name else ''}"
        rows.append((label, f"{records[-1]['step']:.0f}", first, last, speed))
    head = ("Stage", "Last step", "First loss", "Last loss", "Tokens/s (median)")
    return page.figure(page.table(head, rows), "<b>The stages.</b> Steps count over the whole run.")


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_equal(records: list[dict], first: str, second: str) -> bool:
    pairs = [(r[first], r[second]) for r in records if _is_finite(r.get(first)) and _is_finite(r.get(second))]
    return bool(pairs) and all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in pairs)


def _label(term: str) -> str:
    return term.replace("_", " ")


def _format_value(value: float, kind: str) -> str:
    return f"{100 * value:.1f}{page.PER_CENT}" if kind == "share" else f"{value:.3g}"
