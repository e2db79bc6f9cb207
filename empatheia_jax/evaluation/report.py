"""report.html: the results of an evaluation in one self-contained file."""

import datetime
import json
import math
from collections.abc import Sequence
from pathlib import Path

from empatheia_jax.evaluation import page, results
from empatheia_jax.evaluation.answer import answer_section, value_html
from empatheia_jax.evaluation.conditions import WITH_MEDIA, WITHOUT_MEDIA
from empatheia_jax.evaluation.curves import training_section
from empatheia_jax.runtime.atomic import replacing

TimeBudget = Sequence[tuple[str, float, float | None]]
SHARES = ("acc7", "acc32", "neutral7", "emotional7", "follows_media7", "neutral_follows_media7", "complete_chains")


class ReportError(ValueError):
    """A report dict that cannot be shown: names the part and what it should hold."""


def write_report(
    folder: Path,
    report: dict,
    *,
    metrics: Path | None = None,
    video: Path | None = None,
    response: dict | None = None,
    time_budget: TimeBudget | None = None,
) -> Path:
    """Write `folder`/report.html, completely or not at all. A part without data says so on the page.

    Args:
      folder: made if it does not exist.
      report: JSON values; every part may be absent. Accuracies and explained variances are shares (at most 1.0), alone
        or as [value, low, high]; Distinct is in per cent.
        "run", "split", "date", "command", "device": text; "versions": {package: version}; "settings": {name: value};
        "seconds": {part: seconds};
        "emotion": {"conditions": {name: {"n", "acc7", "acc32", "neutral7", "emotional7", "follows_media7",
        "neutral_follows_media7", "complete_chains", "truncated" (a count)}}, "gain7",
        "labels": [7 names], "confusion": 7 x 7 counts, rows gold};
        "text": {name: {"n", "truncated", "dist1", "dist2", "sentence_dist1", "sentence_dist2" and "..._interval" of
        each}};
        "latents": {split: {"content_speech", "content_video", "style_speech", "style_video", "nearest_phoneme"}};
        "disentangler": {name: {"n", "emotion", "age", "gender", "timbre", "all"}};
        "style": {"cells": [{"profile", "emotion", "f0_asked", "f0_heard", "rate_asked", "rate_heard", "mouth_asked",
        "mouth_seen", "brow_asked", "brow_seen"}], "rho": {"f0" | "rate" | "mouth" | "brow": [rho, p]}};
        "judged": {"voices": {name: {"wer", "dnsmos", "signal", "background": {"value", "low", "high", "n"}}},
        "not_fetched": {part: reason}, "reason", "answers", "left_out", "fell_back" (counts)};
        "samples": [{"id", "history": [[role, text]], "emotion", "predicted", "chain", "response", "gold_response"}];
        "aims": [{"what", "aim", "got", "met"}].
      metrics: the run's metrics.jsonl; a config.json beside it is shown with the settings.
      video: the mp4 of one answer, embedded in the page.
      response: what `respond` recorded with it: "chain_of_empathy", "response" and anything else.
      time_budget: (part, seconds, budget in seconds or None), in order.

    Returns:
      Path of report.html.

    Raises:
      ReportError: a part has another form than described.
      OSError: the folder cannot be written.
    """
    check_report(report)
    config, reason = _read_config(metrics)
    sections = [
        answer_section(video, response),
        results.emotion_section(report.get("emotion")),
        results.words_section(report.get("text")),
        results.latents_section(report.get("latents")),
        results.disentangler_section(report.get("disentangler")),
        results.style_section(report.get("style")),
        results.judged_section(report.get("judged")),
        results.samples_section(report.get("samples")),
        training_section(metrics),
        _time_section(time_budget),
        _settings_section(report, config, reason),
    ]
    title = f"Report of {report['run']}" if report.get("run") else "Report"
    lead = " · ".join(page.escape(report[key]) for key in ("split", "date", "device") if report.get(key))
    now = datetime.datetime.now().astimezone()
    foot = f"Written by empatheia_jax, {now:%Y-%m-%d %H:%M}. Voices and faces on this page are synthetic."
    content = page.document(title, sections, lead=lead, top=_summary(report) + _aims(report), foot=foot)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="replace")
    return path


def check_report(report: dict) -> None:
    """Check for what would be shown wrongly: per cent in place of shares, a confusion matrix of another size.

    Raises:
      ReportError: names the part, its value and the form it should have.
    """
    parts = {
        "emotion": dict,
        "text": dict,
        "latents": dict,
        "disentangler": dict,
        "style": dict,
        "judged": dict,
        "samples": list,
        "aims": list,
    }
    for name, kind in parts.items():
        if report.get(name) is not None and not isinstance(report[name], kind):
            raise ReportError(f"report[{name!r}] is a {type(report[name]).__name__}: pass a {kind.__name__}")
    emotion = report.get("emotion") or {}
    shares = [("emotion.gain7", emotion.get("gain7"))]
    for name, values in (emotion.get("conditions") or {}).items():
        shares += [(f"emotion.conditions.{name}.{key}", values.get(key)) for key in SHARES]
    accuracies = ("emotion", "age", "gender", "timbre", "all")
    for part, keys in (("disentangler", accuracies), ("latents", ("nearest_phoneme",))):
        for name, values in (report.get(part) or {}).items():
            shares += [(f"{part}.{name}.{key}", values.get(key)) for key in keys]
    for where, value in shares:
        triple = page.interval(value)
        if triple and not all(abs(bound) <= 1.0 + 1e-6 for bound in triple):
            raise ReportError(f"{where} is {value}: give shares of 1, not per cent")
    labels, counts = emotion.get("labels"), emotion.get("confusion")
    if counts and not (labels and len(counts) == len(labels) and all(len(row) == len(labels) for row in counts)):
        raise ReportError(
            f"emotion.confusion has {len(counts)} rows for the labels {labels}: one row and column a label"
        )


# Top of the page, time and settings ===================================================================================


def _summary(report: dict) -> str:
    """Return tiles with the most important numbers."""
    emotion = report.get("emotion") or {}
    conditions = emotion.get("conditions") or {}
    entries = []
    for name, media in ((WITH_MEDIA, "with speech and video"), (WITHOUT_MEDIA, "words only")):
        if triple := page.interval((conditions.get(name) or {}).get("acc7")):
            label = f"Emotion right, {media}"
            entries.append((label, f"{100 * triple[0]:.0f}{page.PER_CENT}", f"of 7; {_range(triple, 100)}"))
    if triple := page.interval(emotion.get("gain7")):
        points = f"{100 * triple[0]:+.0f}".replace("-", "−")
        entries.append(("Gain from speech and video", points, f"points; {_range(triple, 100)}"))
    words = (report.get("text") or {}).get(WITH_MEDIA) or {}
    if (dist1 := page.interval(words.get("dist1"))) and (dist2 := page.interval(words.get("dist2"))):
        note = f"per cent; n = {page.escape(words.get('n'))}"
        entries.append(("Distinct-1 / Distinct-2", f"{dist1[0]:.1f} / {dist2[0]:.1f}", note))
    aims = report.get("aims") or []
    if aims:
        entries.append(("Aims met", f"{sum(bool(aim.get('met')) for aim in aims)} of {len(aims)}", "listed below"))
    return page.tiles(entries) if entries else ""


def _range(triple: tuple[float, float, float], scale: float) -> str:
    if triple[1] == triple[2]:
        return "interval not known"
    return f"90 %: {scale * triple[1]:.0f} to {scale * triple[2]:.0f}".replace("-", "−")


def _aims(report: dict) -> str:
    aims = report.get("aims")
    if not aims:
        return ""
    rows = [
        (
            page.text_html(aim.get("what")),
            '<span class="met">met</span>' if aim.get("met") else '<span class="missed">missed</span>',
            page.text_html(aim.get("aim")),
            page.text_html(aim.get("got")),
        )
        for aim in aims
    ]
    body = page.table(("Aim", "Result", "Wanted", "Measured"), rows, words=4)
    return page.figure(body, "<b>Aims</b> of the sample corpus, and what was measured.")


def _time_section(time_budget: TimeBudget | None) -> tuple[str, str, str]:
    caption = "<b>Time budget.</b> Bars: time taken, in another colour where over budget; vertical lines: the budget."
    if not time_budget:
        return page.section("time", "Time", "", page.no_data(caption, "no times were recorded."))
    for name, seconds, limit in time_budget:
        if not all(math.isfinite(part) and part >= 0 for part in (seconds, 0.0 if limit is None else limit)):
            raise ReportError(f"time_budget of {name!r} is {seconds} of {limit}: give seconds, 0 or more")
    taken = sum(seconds for _, seconds, _ in time_budget)
    planned = sum(limit for _, _, limit in time_budget if limit is not None)
    total = f"Altogether {page.clock(taken)}{f' of {page.clock(planned)} planned' if planned else ''}."
    return page.section("time", "Time", total, page.figure(page.bars(time_budget), caption))


def _settings_section(report: dict, config: dict | None, reason: str) -> tuple[str, str, str]:
    rows = []
    if report.get("command"):
        rows.append(("Command", f"<code>{page.escape(report['command'])}</code>"))
    facts = [key for key in ("run", "split", "date", "device") if report.get(key)]
    rows += [(key.capitalize(), page.text_html(report[key])) for key in facts]
    if report.get("versions"):
        rows.append(("Versions", value_html({name: str(version) for name, version in report["versions"].items()})))
    if report.get("settings"):
        rows.append(("Settings", value_html(report["settings"])))
    if report.get("seconds"):
        rows.append(
            ("Measuring took", value_html({name: page.clock(seconds) for name, seconds in report["seconds"].items()}))
        )
    if reason:
        rows.append(("Configuration", page.escape(reason)))
    caption = "<b>Settings</b> of the run and of this measurement."
    if not rows and not config:
        return page.section("settings", "Settings", "", page.no_data(caption, "no settings were recorded."))
    body = page.pairs(rows)
    if config:
        cells = [(f"<code>{page.escape(name)}</code>", value_html(value)) for name, value in _flatten(config)]
        body += page.details("The whole configuration", page.table(("Field", "Value"), cells, words=2))
    return page.section("settings", "Settings", "", page.figure(body, caption))


def _read_config(metrics: Path | None) -> tuple[dict | None, str]:
    """Return the config.json beside metrics.jsonl, None where there is none, and why it cannot be read, or ""."""
    path = metrics.parent / "config.json" if metrics is not None else None
    if path is None or not path.exists():
        return None, ""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror})."
    except ValueError as error:
        return None, f"{path.name} is not JSON ({error})."
    return (config, "") if isinstance(config, dict) else (None, f"{path.name} holds no settings.")


def _flatten(config: dict, prefix: str = "") -> list[tuple[str, object]]:
    """Return nested settings as (dotted name, value)."""
    rows = []
    for name, value in config.items():
        rows += (
            _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [(f"{prefix}{name}", value)]
        )
    return rows
