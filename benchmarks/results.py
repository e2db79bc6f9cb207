"""RESULTS.md from the rows that benchmarks recorded.

python benchmarks/results.py [--add FOLDER]

`--record` of a benchmark appends to results/BENCHMARK.jsonl, a line a row: the command with its XLA flags, date, commit
(`dirty`: with changes that were not committed), device, versions, and every measured fact. This script makes a table of
the newest run of each benchmark, device and settings, and lines of the history of older ones; READING.md, which is
written by hand, ends the page.
"""

import argparse
import datetime
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
RECORDS, PAGE, READING = BENCHMARKS / "results", BENCHMARKS / "RESULTS.md", BENCHMARKS / "READING.md"
FLAGS = ("XLA_FLAGS", "JAX_OPTIMIZATION_LEVEL")  # environment variables that make it another measurement
# Flags whose values say where files are, not what is measured.
PATHS = ("--record", "--torch-repo", "--corpus", "--source", "--weights", "--plans", "--plot")
HEAD = """# Benchmarks: results

`python benchmarks/results.py` made this page from `results/*.jsonl` and READING.md; [docs/benchmarks.md](../docs/benchmarks.md)
says how to run and what the columns mean. Each table is one call of one script. Where there is a peer, both programs ran
in that call, in turn, and the ratio is the median over the pairs of neighbouring runs (above 1: we are faster; the range
is over the pairs).
"""  # noqa: E501
COLUMNS = {  # fact -> heading of its column, in tables with a row that has the fact
    "ratio_to_peer": "ratio",
    "ratio_range": "range",
    "mfu": "MFU",
    "hfu": "HFU",
    "share_of_matmul": "of matmul",
    "share_of_bandwidth": "of bandwidth",
    "share_of_copy": "of copy",
    "peak_gb": "peak GB",
    "peer_peak_gb": "peer's peak GB",
}
ORIGIN = ("benchmark", "command", "commit", "dirty", "recorded_in", "date", "device", "versions")
SHOWN = {"name", "value", "unit", "peer_value", *COLUMNS, *ORIGIN}


# Records --------------------------------------------------------------------------------------------------------------


def current_commit() -> tuple[str | None, bool | None]:
    """Return the working tree's commit and whether there are changes; in a copy without git $EMPATHEIA_COMMIT, None."""
    try:
        head = _run_git("rev-parse", "HEAD")
        changes = _run_git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!benchmarks/RESULTS.md")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("EMPATHEIA_COMMIT") or None, None
    return head, bool(changes)


def _run_git(*arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True)
    return process.stdout.strip()


def append_rows(rows: list[dict], benchmark: str, command: str, folder: Path = RECORDS) -> Path:
    """Add one run's rows to FOLDER/BENCHMARK.jsonl, in one write; returns the file.

    Args:
      rows: what the benchmark measured.
      benchmark: its name.
      command: how it was called, as `command_line` writes it.
      folder: where the records are.
    """
    head, dirty = current_commit()
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    flags = " ".join(f"{name}='{value.strip()}'" for name in FLAGS if (value := os.environ.get(name, "")).strip())
    command = f"{flags} {command}".strip()
    origin = {"benchmark": benchmark, "command": command, "commit": head, "dirty": dirty, "date": date}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}.jsonl"
    with path.open("a") as file:
        file.write("".join(json.dumps(origin | row) + "\n" for row in rows))
    return path


def add_rows(source: Path, folder: Path = RECORDS) -> int:
    """Append the lines of SOURCE/*.jsonl that FOLDER does not have yet; returns how many.

    Raises:
      ValueError: SOURCE has no rows, or a line that is not a row; nothing is added then.
    """
    if not read_runs(source):
        raise ValueError(f"{source}: no recorded rows (*.jsonl) in it")
    added = 0
    for path in sorted(source.glob("*.jsonl")):
        target = folder / path.name
        known = set(target.read_text().splitlines()) if target.exists() else set()
        lines = [line for line in path.read_text().splitlines() if line not in known]
        with target.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        added += len(lines)
    return added


def read_runs(folder: Path = RECORDS) -> list[list[dict]]:
    """Return the recorded runs, each a list of rows, file by file in the order of time.

    Raises:
      ValueError: a line that is not a row: which, and why.
    """
    runs: list[list[dict]] = []
    for path in sorted(folder.glob("*.jsonl")):
        file_runs: list[list[dict]] = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is no JSON ({error}): remove the line") from error
            missing = [name for name in ("name", "value", "unit", *ORIGIN) if name not in row and name != "recorded_in"]
            if missing:
                raise ValueError(f"{path}:{number} lacks {', '.join(missing)}")
            if not file_runs or _run_key(file_runs[-1][0]) != _run_key(row):
                file_runs.append([])
            file_runs[-1].append(row)
        runs += sorted(file_runs, key=lambda rows: rows[0]["date"])
    return runs


def _run_key(row: dict) -> tuple:
    return row["command"], row["date"], row["commit"]


def command_line(arguments: Iterable[str]) -> str:
    """Return a command as it is recorded: of paths only the last part, since the rest is this machine's."""
    kept: list[str] = []
    for word in arguments:
        if not (kept and kept[-1] in PATHS) or word.startswith("--"):
            kept.append(word)
        elif kept[-1] != "--record":
            kept.append(Path(word).resolve().name)
    return " ".join(kept)


def command_settings(command: str) -> tuple[str, ...]:
    """Return the arguments of a command that make it another measurement: all but where files are."""
    arguments = command.split()
    kept = (
        w for before, w in zip(["", *arguments], arguments, strict=False) if w.startswith("--") or before not in PATHS
    )
    return tuple(word for word in kept if word not in PATHS)


# Page -----------------------------------------------------------------------------------------------------------------


def format_page(runs: Iterable[list[dict]], reading: str) -> str:
    """Return RESULTS.md: the newest run of each benchmark, device and settings, the history of others, READING.md."""
    newest: dict[tuple, list[dict]] = {}
    earlier: list[list[dict]] = []
    for rows in runs:
        key = rows[0]["benchmark"], rows[0]["device"], command_settings(rows[0]["command"])
        if key in newest:
            earlier.append(newest.pop(key))
        newest[key] = rows
    parts = [HEAD, *(format_table(rows) for _, rows in sorted(newest.items()))]
    if earlier:
        parts.append(format_history(earlier))
    return "\n".join([*parts, reading.strip(), ""])


def format_table(rows: list[dict]) -> str:
    """Return the section of one run."""
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    columns = {fact: heading for fact, heading in COLUMNS.items() if any(row.get(fact) is not None for row in rows)}
    peer = any("peer_value" in row for row in rows)
    headings = ["row", "ours", *(["peer"] if peer else []), "unit", *columns.values(), "notes"]
    lines = [
        f"## {first['benchmark']}, {first['device']}, {first['date'][:10]}",
        "",
        f"`{first['command']}`; {'; '.join(filter(None, (versions, _format_origin(first))))}",
        "",
        _format_line(headings),
        _format_line(["---"] * len(headings)),
    ]
    for row in rows:
        cells = [
            row["name"],
            _format_number(row["value"]),
            *([_format_number(row.get("peer_value"))] if peer else []),
            row["unit"],
        ]
        cells += [_format_cell(fact, row.get(fact)) for fact in columns]
        notes = ", ".join(f"{name} {value}" for name, value in row.items() if name not in SHOWN)
        lines.append(_format_line([*cells, notes]))
    return "\n".join([*lines, ""])


def format_history(runs: list[list[dict]]) -> str:
    """Return the section of the runs that newer ones of the same benchmark, device and settings have replaced."""
    lines = [
        "## Earlier runs",
        "",
        _format_line(["run", "device", "date", "commit", "values"]),
        _format_line(["---"] * 5),
    ]
    for rows in runs:
        first = rows[0]
        values = ", ".join(
            f"{row['name']} {_format_number(row['value'])} {row['unit']}"
            + (f" ({row['ratio_to_peer']} of the peer)" if "ratio_to_peer" in row else "")
            for row in rows
        )
        lines.append(
            _format_line([f"`{first['command']}`", first["device"], first["date"][:10], _format_origin(first), values])
        )
    return "\n".join([*lines, ""])


def _format_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |" if set(cells) != {"---"} else f"|{'|'.join(cells)}|"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _format_cell(fact: str, value) -> str:
    if value is None:
        return ""
    return f"{value[0]} to {value[1]}" if fact == "ratio_range" else str(value)


def _format_origin(row: dict) -> str:
    """Return the commit, as far as it is known."""
    if row["commit"]:
        return f"commit {row['commit'][:7]}" + (" with changes" if row["dirty"] else "")
    return f"recorded in {row['recorded_in']}" if row.get("recorded_in") else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--add", type=Path, metavar="FOLDER", help="first add the rows that were recorded in another folder"
    )
    args = parser.parse_args()
    if args.add is not None:
        print(f"{add_rows(args.add)} new rows of {args.add}")
    PAGE.write_text(format_page(read_runs(), READING.read_text()))
    print(PAGE)


if __name__ == "__main__":
    main()
