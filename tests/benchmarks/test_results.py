"""RESULTS.md agrees with the recorded rows; runs are appended whole, replaced by newer ones and kept in the history."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import measure
import pytest
import results

ROOT = Path(__file__).resolve().parents[2]

ROW = {"name": "batch_1", "value": 1234.5, "unit": "tokens/s", "device": "a device", "versions": {"jax": "1"}}


def test_the_page_is_what_the_lines_make():
    page = results.format_page(results.read_runs(), results.READING.read_text())
    assert results.PAGE.read_text() == page, "RESULTS.md differs: run python benchmarks/results.py"


def test_every_recorded_number_is_on_the_page():
    page, rows = results.PAGE.read_text(), [row for run in results.read_runs() for row in run]
    assert len(rows) >= 50
    for row in rows:
        name, value = row["name"], f"{row['value']:,}"
        assert f"| {name} | {value} |" in page or f"{name} {value} {row['unit']}" in page
    assert not re.search(r"`python [^`]*[ =](/|\.\.)", page)  # no machine's paths


def test_commits_that_are_named_exist():
    shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("this clone has no full history")
    for run in results.read_runs():
        if commit := run[0]["commit"] or run[0].get("recorded_in"):
            subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, check=True)


def record(folder: Path, command: str, value: float, day: int) -> None:
    row = ROW | {"value": value, "benchmark": "decode", "command": command, "commit": "a" * 40, "dirty": False}
    with (folder / "decode.jsonl").open("a") as file:
        file.write(json.dumps(row | {"date": f"2026-01-{day:02d}"}) + "\n")


def test_a_newer_run_of_the_same_settings_replaces_the_table_and_is_not_lost(tmp_path):
    record(tmp_path, "python benchmarks/decode.py --record", 7.0, 2)
    record(tmp_path, "python benchmarks/decode.py --record", 5.0, 1)  # rows of two machines may be joined in one file
    record(tmp_path, "python benchmarks/decode.py --shape 1b --record", 3.0, 1)
    page = results.format_page(results.read_runs(tmp_path), "words")
    tables, history = page.split("## Earlier runs")
    assert "| batch_1 | 7.0 |" in tables and "| batch_1 | 3.0 |" in tables and "| 5.0 |" not in tables
    assert "batch_1 5.0 tokens/s" in history and history.strip().endswith("words")


def test_columns_are_those_that_rows_have():
    run = [
        ROW | {"benchmark": "b", "command": "c", "commit": None, "dirty": None, "date": "2026-01-01", **facts}
        for facts in ({"mfu": 0.5, "peak_gb": 3.0, "more": 1}, {"name": "other", "mfu": None})
    ]
    header, _, first, second = results.format_table(run).splitlines()[4:]
    assert header == "| row | ours | unit | MFU | peak GB | notes |"
    assert first == "| batch_1 | 1,234.5 | tokens/s | 0.5 | 3.0 | more 1 |"
    assert second == "| other | 1,234.5 | tokens/s |  |  |  |"


def test_a_run_is_recorded_with_its_command_commit_and_versions(tmp_path, monkeypatch):
    folder = tmp_path / "lines"
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(sys, "argv", ["decode.py", "--torch-repo", str(tmp_path / "clone"), "--record", str(folder)])
    rows = [ROW, ROW | {"name": "batch_4"}]
    for smoke in (True, False):
        measure.report(rows, argparse.Namespace(smoke=smoke, record=folder))
        assert folder.exists() != smoke
    (run,) = results.read_runs(folder)
    assert [row["name"] for row in run] == ["batch_1", "batch_4"]
    assert run[0]["command"] == "python benchmarks/decode.py --torch-repo clone --record"
    assert (run[0]["commit"], run[0]["dirty"]) == results.current_commit() and run[0]["versions"] == {"jax": "1"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run[0]["date"])


def test_where_files_lie_is_no_setting():
    settings = results.command_settings("python benchmarks/face.py --peer torch --torch-repo a --seconds 2 --record")
    assert settings == results.command_settings("python benchmarks/face.py --peer torch --torch-repo b --seconds 2")
    assert settings != results.command_settings("python benchmarks/face.py --peer torch --torch-repo a --seconds 3")


def test_flags_of_the_compiler_are_recorded_as_a_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", " --xla_one=true  --xla_two=1 ")
    monkeypatch.delenv("JAX_OPTIMIZATION_LEVEL", raising=False)
    results.append_rows([ROW], "decode", "python benchmarks/decode.py --record", tmp_path)
    ((row,),) = results.read_runs(tmp_path)
    assert row["command"] == "XLA_FLAGS='--xla_one=true  --xla_two=1' python benchmarks/decode.py --record"
    assert results.command_settings(row["command"]) != results.command_settings("python benchmarks/decode.py --record")


def test_rows_of_another_machine_are_added_once(tmp_path):
    local, remote = tmp_path / "local", tmp_path / "remote"
    for folder in (local, remote):
        folder.mkdir()
    record(local, "python benchmarks/decode.py", 1.0, 1)
    record(remote, "python benchmarks/decode.py", 2.0, 2)
    assert [results.add_rows(remote, local), results.add_rows(remote, local)] == [1, 0]
    assert [run[0]["value"] for run in results.read_runs(local)] == [1.0, 2.0]
    (remote / "decode.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="lacks"):
        results.add_rows(remote, local)
    with pytest.raises(ValueError, match="no recorded rows"):
        results.add_rows(tmp_path, local)


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "decode.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"decode\.jsonl:1 lacks name, value"):
        results.read_runs(tmp_path)
    (tmp_path / "decode.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"decode\.jsonl:1 is no JSON"):
        results.read_runs(tmp_path)
