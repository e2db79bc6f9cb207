"""A run that speaks to StyleTTS 2 and DreamTalk, of a small LLM that knows one reply; and how to ask it."""

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
    taught = StageConfig(epochs=20, learning_rate=1e-3)
    words = StageConfig(epochs=80, learning_rate=1e-3)
    return Config(
        name="spoken", seed=4, log_every=20, checkpoint_every=1000,
        llm=dataclasses.replace(LlamaConfig.tiny(vocab_size=320), width=64, layers=2, heads=2, kv_heads=2, head_dim=32,
                                mlp_width=128),
        lora=LoraConfig(rank=4), prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=32, heads=2, mlp_width=64, encoder_layers=1, decoder_layers=1, whiten=True),
        generators=GeneratorConfig(speech="styletts2", speech_weights={place!r} + "/styletts2", face="dreamtalk",
                                   face_weights={place!r} + "/dreamtalk", face_content="compact"),
        data=DataConfig(path={place!r} + "/data", features={place!r} + "/data/features", rows=2, row_tokens=1024,
                        row_examples=2, row_utterances=8, row_targets=500, response_tokens=128, phonemes=128,
                        frames=80),
        optim=OptimConfig(accumulate=1),
        stages={{"0": StageConfig(epochs=250, learning_rate=3e-3), "1": words, "2": taught, "3": taught,
                 "4": words}},
    )
"""


def command(*words: str, cache: Path) -> str:
    """A public command, in a process of its own: what it prints."""
    done = subprocess.run(
        [sys.executable, *words],
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
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def convert_published(place: Path, goldens: Path) -> dict[str, Path]:
    """Published files of regenerable weights in PLACE/files, converted to PLACE/styletts2 and PLACE/dreamtalk."""
    from published_files import write_dreamtalk, write_styletts2

    files, cache = place / "files", place / "cache"
    files.mkdir()
    voice = write_styletts2(goldens, files)
    face = write_dreamtalk(goldens, files, ("denoiser", "renderer", "face3d", "wav2vec"))
    command("-m", "converters", "styletts2", "--input", str(voice), "--output", str(place / "styletts2"), cache=cache)
    command(
        "-m",
        "converters",
        "dreamtalk",
        "--input",
        str(face["denoiser"]),
        "--renderer",
        str(face["renderer"]),
        "--face3d",
        str(face["face3d"]),
        "--wav2vec",
        str(face["wav2vec"]),
        "--output",
        str(place / "dreamtalk"),
        cache=cache,
    )
    return face | {"voice": voice}


def make_run(place: Path) -> Path:
    """A corpus extracted with PLACE/styletts2 and PLACE/dreamtalk; PLACE/run, trained on it until it knows REPLY."""
    cache = place / "cache"
    write_corpus(place / "data", 2, ("I saw the river again.", REPLY, "It was good.", REPLY), seconds=3)
    config = place / "config.py"
    config.write_text(CONFIG.format(place=str(place)))
    command("-m", "empatheia_jax", "extract", str(config), "--workdir", str(place / "run"), cache=cache)
    command("train.py", str(config), "--workdir", str(place / "run"), cache=cache)
    return place / "run"


def respond(run: Path, name: str, *words: str) -> tuple[Path, dict]:
    """`empatheia respond` to the corpus's first words: the video, and what its json says."""
    output = run.parent / name
    command(
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
        *words,
        cache=run.parent / "cache",
    )
    return output, json.loads(output.with_suffix(".json").read_text())
