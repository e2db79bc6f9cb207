"""The page: complete with all data and with none, self-contained, escaped, with the numbers of the report."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from empatheia_jax.data.media import writing
from empatheia_jax.evaluation import curves
from empatheia_jax.evaluation.report import ReportError, write_report

LABELS = ["happy", "surprised", "angry", "fear", "sad", "disgusted", "contempt"]
VOID = {"meta", "img", "br", "link", "hr", "input", "source"}


class Page(HTMLParser):
    """Checks nesting and collects tags and text."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def figure(value: float, low: float, high: float) -> dict:
    return {"value": value, "low": low, "high": high, "n": 24}


@pytest.fixture
def report() -> dict:
    cells = [
        {"profile": profile, "emotion": emotion}
        | {f"{name}_{side}": float(row + column) for name in ("f0", "rate") for side in ("asked", "heard")}
        | {f"{name}_{side}": float(row - column) for name in ("mouth", "brow") for side in ("asked", "seen")}
        for row, profile in enumerate(("child female, high", "elderly male, low"))
        for column, emotion in enumerate(LABELS)
    ]
    heard = {"n": 42, "acc7": [0.9, 0.8, 0.95], "neutral7": [0.875, 0.75, 1.0], "complete_chains": 1.0, "truncated": 3}
    voices = {
        "the run's voice": {"wer": figure(0.0625, 0.03125, 0.125), "dnsmos": figure(3.25, 3.0, 3.5)},
        "another answer's words": {"wer": figure(0.984, 0.9, 1.04)},
    }
    return {
        "run": "runs/demo",
        "split": "test",
        "date": "2025-01-02",
        "command": "empatheia evaluate",
        "device": "cpu",
        "judged": {"answers": 24, "left_out": 2, "fell_back": 3, "voices": voices, "not_fetched": {}},
        "versions": {"jax": "0.10.2"},
        "settings": {"batch": 24},
        "emotion": {
            "labels": LABELS,
            "confusion": np.diag(range(11, 18)).tolist(),
            "gain7": [0.5, 0.375, 0.625],
            "conditions": {"without": {"n": 42, "acc7": [0.4, 0.3, 0.5]}, "with speech and video": heard},
        },
        "text": {"without": {"n": 42, "dist1": 12.345, "dist1_interval": [12.345, 11.5, 13.25], "dist2": 30.0}},
        "latents": {"train": {"content_speech": 0.99}, "test": {"content_speech": 0.931, "style_speech": -0.25}},
        "disentangler": {"neither": {"n": 20, "age": 0.275, "emotion": None}},
        "style": {"cells": cells, "rho": {"f0": [0.91, 0.0002], "rate": [0.5, 0.25]}},
        "samples": [
            {
                "id": "test/00001/0",
                "history": [["speaker", '<script>alert(1)</script> & "so"']],
                "emotion": "sad",
                "predicted": "angry",
                "chain": {"event_scenario": "A loss", "speaker_emotion": "angry"},
                "response": "I hear you.",
                "gold_response": "I am sorry.",
            },
            {"id": "test/00002/0", "history": [], "chain": {"written": "the the the"}, "response": None},
        ],
        "aims": [
            {"what": "gain", "aim": "at least 0.2", "got": "0.375", "met": True},
            {"what": "words only", "aim": "at most 0.3", "got": "0.4", "met": False},
        ],
    }


@pytest.fixture
def metrics(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = []
    for step in range(10, 210, 10):
        stage = 0 if step <= 100 else 3
        loss = 100.0 / step
        terms = {"emp": loss, "token_accuracy": 0.5} if stage == 0 else {"style_speech": loss / 2, "age_accuracy": 0.75}
        record = {
            "step": step,
            "stage": stage,
            "loss": loss,
            **terms,
            "grad_norm": 1.0,
            "tokens_per_second": 1000.0 + step,
        }
        lines.append(json.dumps(record))
    lines.append(json.dumps({"step": 200, "stage": 3, "validation_style_speech": 0.875, "validation_odd": 3.5}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 210, "sta')
    (folder / "config.json").write_text(json.dumps({"llm": {"width": 128, "rope_scaling": None}, "name": "tiny<"}))
    return folder / "metrics.jsonl"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Two seconds of video that become brighter, with a tone."""
    path = tmp_path_factory.mktemp("video") / "answer.mp4"
    frames = np.linspace(20, 235, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 64, 96, 3), np.uint8)
    tone = 0.5 * np.sin(2 * np.pi * 220 * np.arange(48000) / 24000).astype(np.float32)
    writing.write_video(path, frames, audio=tone, sample_rate=24000)
    return path


def test_everything_is_on_the_page(tmp_path, report, metrics, video):
    response = {
        "chain_of_empathy": {"event_scenario": "A lost job", "speaker_emotion": "jealous", "emotion_cause": "Luck"},
        "response": "It stings.",
        "content_source": "synchronizer",
        "timings": {"text": 0.5},
    }
    budget = [("sample", 37.0, 40.0), ("extract", 45.0, 30.0), ("install", 65.0, None)]
    path = write_report(tmp_path / "out", report, metrics=metrics, video=video, response=response, time_budget=budget)
    assert path == tmp_path / "out" / "report.html" and list(path.parent.iterdir()) == [path]
    page = Page(path)
    assert "No data" not in page.text and "nan" not in page.text.lower().split()
    for words in (
        "90.0 % [80.0, 95.0]",
        "87.5 % [75.0, 100.0]",
        "+50.0 points [+37.5, +62.5]",  # emotion
        "cut at the limit of tokens, counted as incomplete: with speech and video 3.",
        "12.35 [11.50, 13.25]",
        "30.00",
        "Treebank",  # words
        "99.0 %",
        "93.1 %",
        "−25.0 %",
        "27.5 %",  # latents and disentangler
        "14 cells, ρ = 0.91, p < 0.001",
        "14 cells, ρ = 0.50, p = 0.250",
        "correlation not measured",
        "It stings.",
        "A lost job",
        "jealous",
        "not written",
        "synchronizer",  # the answer
        "I hear you.",
        "I am sorry.",
        "the the the",
        "wrong",  # samples
        "1 of 2",
        "met",
        "missed",  # aims
        "45 s of 30 s, over",
        "65 s",
        "Altogether 2 min 27 s of 70 s planned",
        "empatheia evaluate",
        "jax: 0.10.2",
        "llm.width",
        "128",
        "tiny<",  # settings
        "held out 0.875",
        "odd",
        "could not be read: 1",
        "1,155",  # training
    ):
        assert words in page.text.replace("\u00a0", " "), words


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{", "is not JSON"), (b"[]", "holds no settings"), (b"\xff{}", "is not JSON")]
)
def test_a_configuration_that_cannot_be_read_is_not_passed_over(tmp_path, report, metrics, content, reason):
    (metrics.parent / "config.json").write_bytes(content)
    assert f"config.json {reason}" in Page(write_report(tmp_path, report, metrics=metrics)).text.replace("\u00a0", " ")


def test_the_page_needs_nothing_from_outside_and_can_be_read_aloud(tmp_path, report, metrics, video):
    page = Page(write_report(tmp_path, report, metrics=metrics, video=video, response={"response": "Yes."}))
    for tag, attributes in page.tags:
        for name in ("src", "href", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, name)
        assert tag not in ("script", "link", "iframe", "object")
    assert "@import" not in page.source and "url(http" not in page.source
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert len(page.all("figure")) == len(page.all("figcaption")) > 10
    assert page.all("html")[0]["lang"] == "en" and "prefers-color-scheme: dark" in page.source


def test_text_from_data_is_only_text(tmp_path, report):
    page = Page(write_report(tmp_path, report))
    assert '<script>alert(1)</script> & "so"' in page.text and not page.all("script")


def test_with_no_data_every_section_stays_and_says_so(tmp_path):
    page = Page(write_report(tmp_path, {}))
    for title in (
        "The answer",
        "Emotion",
        "Words",
        "Latents",
        "Style disentangler",
        "Voice",
        "Example answers",
        "Training",
        "Time",
    ):
        assert title in page.text
    assert page.text.count("No data:") >= 14


def test_judges_of_speech_beside_their_controls_or_how_to_fetch_them(tmp_path, report):
    report["judged"]["not_fetched"] = {"dnsmos": "not fetched: empatheia fetch dnsmos"}
    page = Page(write_report(tmp_path / "all", report))
    for words in (
        "the run's voice 24 6.2\u00a0% [3.1, 12.5] 3.25 [3.00, 3.50]",
        "another answer's words 24 98.4\u00a0% [90.0, 104.0]",
        "not fetched: empatheia fetch dnsmos",
        "2 answers cannot be pronounced",
        "In 3 of 24 answers",
    ):
        assert " ".join(words.split()) in page.text
    report["judged"] = {"voices": {}, "not_fetched": {part: f"not fetched: {part}" for part in ("dnsmos", "whisper")}}
    page = Page(write_report(tmp_path / "none", report))
    assert "No data: not fetched: dnsmos; not fetched: whisper" in page.text
    with pytest.raises(ReportError, match="judged"):
        write_report(tmp_path / "wrong", report | {"judged": [1]})


def test_a_text_only_run(tmp_path, report):
    """Without media there is one condition; its confusion matrix is not said to be with speech and video."""
    report["emotion"]["conditions"].pop("with speech and video")
    page = Page(write_report(tmp_path, report))
    assert "Confusion without speech and video." in page.text


def test_the_video_and_its_frames_in_order(tmp_path, video):
    import cv2

    page = Page(write_report(tmp_path, {}, video=video))
    (player,) = page.all("video")
    assert "controls" in player and "autoplay" not in player
    assert base64.b64decode(player["src"].removeprefix("data:video/mp4;base64,")) == video.read_bytes()
    (strip,) = page.all("img")
    content = np.frombuffer(base64.b64decode(strip["src"].removeprefix("data:image/jpeg;base64,")), np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (64, 8 * 96)
    shades = picture.reshape(64, 8, 96).mean(axis=(0, 2))
    middles = 20 + (np.arange(8) + 0.5) / 8 * 215  # brightness at the middle of each eighth
    np.testing.assert_allclose(shades, middles, atol=8)
    assert "0.1, 0.4, 0.6" in strip["alt"]


def test_a_broken_video_is_named_without_its_folder(tmp_path):
    bad = tmp_path / "secret" / "bad.mp4"
    bad.parent.mkdir()
    bad.write_bytes(b"not a video" * 100)
    for path in (bad, bad.with_name("missing.mp4")):
        page = Page(write_report(tmp_path / "out", {}, video=path))
        assert path.name in page.text and "secret" not in page.text and not page.all("video")


def test_a_silent_video_keeps_its_frames(tmp_path):
    path = tmp_path / "silent.mp4"
    writing.write_video(path, np.zeros((25, 64, 64, 3), np.uint8))
    page = Page(write_report(tmp_path / "out", {}, video=path))
    assert len(page.all("img")) == 1 and "No sound" in page.text


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"emotion": {"conditions": {"without": {"acc7": [40.0, 30.0, 50.0]}}}}, "without.acc7"),
        ({"disentangler": {"neither": {"age": 27.5}}}, "neither.age"),
        ({"emotion": {"labels": LABELS, "confusion": [[1, 2], [3, 4]]}}, "confusion"),
        ({"samples": {"id": "1"}}, "samples"),
    ],
)
def test_what_would_be_shown_wrongly_is_refused(tmp_path, change, match):
    path = write_report(tmp_path, {})
    before = path.read_bytes()
    with pytest.raises(ReportError, match=match):
        write_report(tmp_path, change)
    assert path.read_bytes() == before and [child.name for child in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_time_that_cannot_be(tmp_path, seconds):
    with pytest.raises(ReportError, match="sample"):
        write_report(tmp_path, {}, time_budget=[("sample", seconds, 40.0)])


def test_numbers_that_are_none_or_not_finite_leave_a_gap(tmp_path):
    report = {"emotion": {"conditions": {"without": {"acc7": [float("nan")] * 3, "acc32": None, "n": None}}}}
    page = Page(write_report(tmp_path, report))
    assert "the emotion accuracy was not measured" in page.text and not re.search(r"\bnan\b", page.text)


# Training curves ------------------------------------------------------------------------------------------------------


def test_the_log_is_read_by_stage(metrics):
    log = curves.read_log(metrics)
    assert sorted(log.stages) == [0, 3] and log.unreadable == 1
    line = curves.curve(log.stages[3], "style_speech", "style speech")
    assert line.steps == list(range(110, 210, 10)) and line.values[0] == pytest.approx(50 / 110)
    assert line.held_out_steps == [200] and line.held_out_values == [0.875]


def test_values_that_are_no_numbers_are_left_out():
    records = [{"step": 1.0, "emp": float("nan")}, {"step": 2.0, "emp": 3.0}, {"step": 3.0, "emp": None}]
    assert curves.curve(records, "emp", "emp").steps == [2.0]


def test_a_missing_or_empty_log_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    for path, words in ((tmp_path / "metrics.jsonl", "holds no step"), (tmp_path / "none.jsonl", "cannot be read")):
        assert words in Page(write_report(tmp_path / "out", {}, metrics=path)).text
