"""The benchmarks run and report what they measured, and both programs do the same work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def read_results() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (ROOT / "benchmarks" / "results").iterdir()}


def run_benchmark(name: str, *arguments: str) -> list[dict]:
    before = read_results()
    completed = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--smoke", "--record", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert read_results() == before  # smoke rows are not recorded
    rows = [json.loads(line) for line in completed.stdout.splitlines() if line.startswith("{")]
    assert all(row["smoke"] and row["value"] > 0 and row["unit"] and row["device"] for row in rows)
    return rows


@pytest.mark.slow
def test_decoding_beside_transformers():
    pytest.importorskip("torch")
    rows = run_benchmark("decode", "--peer", "torch")
    assert [row["name"] for row in rows] == ["batch_1", "batch_4", "test_set", "next_turn"]
    for row in rows:
        assert row["ratio_to_peer"] > 0 and not row["void"] and row["equal_tokens"] == 1.0
    refilled, turns = rows[2:]
    assert refilled["static_equal_tokens"] == 1.0 and refilled["static_occupancy"] < refilled["occupancy"] <= 1.0
    assert turns["whole_equal_tokens"] == 1.0 and 0 < turns["reused"] < 1


@pytest.mark.slow
def test_decoding_alone():
    rows = run_benchmark("decode")
    assert [row["name"] for row in rows] == ["batch_1", "batch_4", "test_set", "next_turn"]
    assert all("ratio_to_peer" not in row for row in rows)


@pytest.mark.slow
def test_bases_in_few_bits():
    pytest.importorskip("qwix")
    rows = {row["name"]: row for row in run_benchmark("quantized")}
    assert list(rows) == [f"{program}_{kind}" for kind in ("plain", "int8", "nf4") for program in ("train", "decode")]
    assert rows["train_plain"]["bytes"] > rows["train_int8"]["bytes"] > rows["train_nf4"]["bytes"]
    assert 0 < rows["decode_int8"]["logit_error"] < rows["decode_nf4"]["logit_error"]
    assert rows["decode_plain"]["equal_tokens"] == 1.0 and rows["train_plain"]["loss_difference"] == 0.0


@pytest.mark.slow
def test_converting_beside_cp_and_from_pretrained():
    pytest.importorskip("torch")
    rows = run_benchmark("convert", "--peer", "torch")
    assert [row["name"] for row in rows] == ["convert", "restore"]
    assert all(row["ratio_to_peer"] > 0 and row["peak_gb"] > 0 for row in rows)
    assert rows[0]["ratio_to_cp"] > 0


@pytest.mark.slow
def test_a_lora_step_beside_transformers_and_peft():
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    rows = run_benchmark("train_step", "--peer", "torch")
    assert [row["name"] for row in rows] == ["as_users_do", "peer_head_at_targets", "equal_shapes"]
    for row in rows:
        assert row["ratio_to_peer"] > 0 and not row["void"]
        assert row["loss"] == pytest.approx(row["peer_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("peer", [(), ("--peer", "torch")])
def test_speaking(peer):
    if peer:
        pytest.importorskip("torch")
    rows = run_benchmark("speech", *peer)
    names = ["sentence", *(["sentence_peer_folded"] if peer else []), "paragraph", "batch_8"]
    assert [row["name"] for row in rows] == names
    assert all(row["rtf"] > 0 and row["speech_s"] > 0 for row in rows) and rows[0]["peak_gb"] > 0.5
    assert all(0 < row["share_of_matmul"] < 1 for row in rows)
    assert rows[0]["gflop"].keys() == rows[0]["share_of_time"].keys()
    if peer:
        assert all(row["ratio_to_peer"] > 0 and row["peer"] == "stand-in" for row in rows)


@pytest.mark.slow
def test_crossing_the_bridge():
    pytest.importorskip("torch")
    rows = {row["name"]: row for row in run_benchmark("bridge")}
    assert len(rows) == 12 and all(row["ratio_to_peer"] > 0 for row in rows.values())
    assert rows["from_torch_64MiB"]["copied_mb"] == 0 and rows["to_torch_64MiB"]["copied_mb"] == 0


@pytest.mark.slow
def test_moving_and_drawing_a_face():
    rows = run_benchmark("face")
    assert [row["name"] for row in rows] == ["motion", "motion_guided", "render", "whole"]
    assert rows[-1]["rtf"] > 0 and rows[-1]["frames"] == 10 and rows[-1]["peak_gb"] > 0.5
    assert all(0 < row["share_of_matmul"] < 1 for row in rows)


@pytest.mark.slow
def test_data_rates_and_packing():
    rows = {row["name"]: row for row in run_benchmark("data")}
    assert {f"stage_{n}" for n in (1, 2, 3, 4)} <= rows.keys()
    for name, row in rows.items():
        if name.startswith("packing"):
            assert row["efficiency"] <= row["most_possible"] <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("peer", [(), ("--peer", "torch")])
def test_encoding_voices_and_pictures(peer):
    if peer:
        pytest.importorskip("torch")
    rows = run_benchmark("extract", *peer)
    networks = [f"{name}_{batch}" for name in ("hubert", "clip") for batch in ("batch_1", "best_batch")]
    assert [row["name"] for row in rows] == [*networks, "classical_audio", "classical_video"]
    for row in rows[:4]:
        assert 0 < row["share_of_matmul"] < 1 and row["batch"] >= 1
        if peer:
            assert row["ratio_to_peer"] > 0 and not row["void"] and row["apart"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("generators", ["classical", "neural"])
def test_waiting_for_an_answer(generators):
    pytest.importorskip("espeakng_loader")
    rows = {row["name"]: row for row in run_benchmark("respond", "--generators", generators)}
    steps = ["media", "first_token", "words", "first_audio", "first_frame", "answer"]
    assert list(rows) == steps and not any(row["void"] for row in rows.values())
    for name, row in rows.items():
        assert row["unit"] == "s" and row["p90_s"] >= row["value"] > 0
        assert row["first_call_s"] > row["value"] or name == "media"
    values = [rows[name]["value"] for name in steps]
    assert values == sorted(values)
    assert rows["answer"]["content_source"] == "synchronizer" and rows["answer"]["frames"] > 0


@pytest.mark.slow
def test_writing_an_answer_beside_transformers():
    pytest.importorskip("torch")
    rows = {row["name"]: row for row in run_benchmark("respond", "--peer", "torch")}
    assert rows["writing"]["ratio_to_peer"] > 0
    assert all(row["peer"] == "n/a" for name, row in rows.items() if name != "writing")


@pytest.mark.slow
def test_growing_with_layers_length_and_batch(tmp_path):
    rows = {row["name"]: row for row in run_benchmark("scaling", "--plot", str(tmp_path / "scaling.png"))}
    layers = [row["step_s"] for name, row in rows.items() if name.startswith("layers")]
    assert layers == sorted(layers) and rows["fit"]["value"] > 0 and rows["fit"]["r2"] > 0.5
    assert all(row["compile_s"] > 0 for name, row in rows.items() if name != "fit")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_stage_2_with_cached_states():
    rows = {row["name"]: row for row in run_benchmark("stage2")}
    assert rows["cached_to_computed"]["ratio_to_peer"] > 1
    losses = rows["cached_to_computed"]["losses"]
    assert losses["cached"] == pytest.approx(losses["computed"], rel=1e-4) and losses["cached"] == losses["alone"]
