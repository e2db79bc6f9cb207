"""A run whose latents drive StyleTTS 2 and DreamTalk, of a small LLM that knows one reply; and how to get answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

from corpus import write_corpus

ROOT = Path(__file__).resolve().parents[2]
REPLY = "I am so glad that you saw the old river together again. It must have been a long walk."
CONFIG = """
import dataclasses
from empatheia_jax.config import *
def get_config():
    latents = StageConfig(epochs=20, learning_rate=1e-3)
    text = StageConfig(epochs=80, learning_rate=1e-3)
    return Config(
        name="spoken", seed=4, log_every=20, checkpoint_every=1000,
        llm=dataclasses.replace(LlamaConfig.tiny(vocab_size=320), width=64, layers=2, heads=2, kv_heads=2, head_dim=32,
                                mlp_width=128),
        lora=LoraConfig(rank=4), prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=32, heads=2, mlp_width=64, encoder_layers=1, decoder_layers=1, whiten=True),
        generators=GeneratorConfig(speech="styletts2", speech_weights={folder!r} + "/styletts2", face="dreamtalk",
                                   face_weights={folder!r} + "/dreamtalk", face_content="compact"),
        data=DataConfig(path={folder!r} + "/data", features={folder!r} + "/data/features", rows=2, row_tokens=1024,
                        row_examples=2, row_utterances=8, row_targets=500, response_tokens=128, phonemes=128,
                        frames=80),
        optim=OptimConfig(accumulate=1),
        stages={{"0": StageConfig(epochs=250, learning_rate=3e-3), "1": text, "2": latents, "3": latents,
                 "4": text}},
    )
"""


def run_command(*arguments: str, cache: Path) -> str:
    """Run a public command in a process of its own and return what it prints."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        },
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def convert_published(folder: Path, goldens: Path) -> dict[str, Path]:
    """Write published files of regenerable weights to FOLDER/files and convert them to FOLDER/styletts2 and /dreamtalk.

    Returns:
      The published files by their part: "voice", "denoiser", "renderer", "face3d", "wav2vec".
    """
    from published_files import write_dreamtalk, write_styletts2

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
    config = folder / "config.py"
    config.write_text(CONFIG.format(folder=str(folder)))
    run_command("-m", "empatheia_jax", "extract", str(config), "--workdir", str(folder / "run"), cache=cache)
    run_command("train.py", str(config), "--workdir", str(folder / "run"), cache=cache)
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
