"""A run whose latents drive StyleTTS 2 and DreamTalk, of a small LLM that knows one reply; and how to get answers."""

import json
import subprocess
import sys
from pathlib import Path

from empatheia_jax.testing.corpus import write_corpus
from support.programs import ROOT, program_environment

REPLY = "I am so glad that you saw the old river together again. It must have been a long walk."
CONFIG = str(Path(__file__).resolve().parent / "configs" / "spoken.py")


def run_command(*arguments: str, cache: Path) -> str:
    """Run a public command in a process of its own and return what it prints."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        env=program_environment(JAX_ENABLE_COMPILATION_CACHE="true", JAX_COMPILATION_CACHE_DIR=str(cache)),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def convert_published(folder: Path, goldens: Path) -> dict[str, Path]:
    """Write published files of regenerable weights to FOLDER/files and convert them to FOLDER/styletts2 and /dreamtalk.

    Returns:
      The published files by their part: "voice", "denoiser", "renderer", "face3d", "wav2vec".
    """
    from support.published_files import write_dreamtalk, write_styletts2

    files, cache = folder / "files", folder / "cache"
    files.mkdir()
    voice_file = write_styletts2(goldens, files)
    face_files = write_dreamtalk(goldens, files, ("denoiser", "renderer", "face3d", "wav2vec"))
    run_command(
        "-m", "converters", "styletts2", "--input", str(voice_file), "--output", str(folder / "styletts2"), cache=cache
    )
    run_command(
        "-m",
        "converters",
        "dreamtalk",
        "--input",
        str(face_files["denoiser"]),
        "--renderer",
        str(face_files["renderer"]),
        "--face3d",
        str(face_files["face3d"]),
        "--wav2vec",
        str(face_files["wav2vec"]),
        "--output",
        str(folder / "dreamtalk"),
        cache=cache,
    )
    return face_files | {"voice": voice_file}


def make_run(folder: Path) -> Path:
    """Extract a corpus with FOLDER/styletts2 and FOLDER/dreamtalk, and train FOLDER/run on it until it knows REPLY."""
    cache = folder / "cache"
    write_corpus(folder / "data", 2, ("I saw the river again.", REPLY, "It was good.", REPLY), seconds=3)
    flags = (CONFIG, "--workdir", str(folder / "run"))
    for flag, name in (("speech-weights", "styletts2"), ("face-weights", "dreamtalk")):
        flags += (f"--generators.{flag}", str(folder / name))
    flags += ("--data.path", str(folder / "data"), "--data.features", str(folder / "data" / "features"))
    run_command("-m", "empatheia_jax", "extract", *flags, cache=cache)
    run_command("train.py", *flags, cache=cache)
    return folder / "run"


def respond(run: Path, name: str, *arguments: str) -> tuple[Path, dict]:
    """Run `empatheia respond` on the corpus's first sentence; returns the video and the content of its json."""
    output = run.parent / name
    run_command(
        "-m",
        "empatheia_jax",
        "respond",
        "--run",
        str(run),
        "--text",
        "I saw the river again.",
        "--profile",
        "elderly,female,mid",
        "--output",
        str(output),
        *arguments,
        cache=run.parent / "cache",
    )
    return output, json.loads(output.with_suffix(".json").read_text())
