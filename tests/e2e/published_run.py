"""A run whose generators have their published sizes: regenerable weights, a small LLM, two dialogues."""

import os
import subprocess
import sys
from pathlib import Path

from corpus import write_corpus

ROOT = Path(__file__).resolve().parents[2]
REPLY = (
    "I am so glad that you saw the old river together again. It must have been a long walk for you both, and the water "
    "was high after the rain. I would love to hear how it looked in the morning light, and who came along."
)  # over 5 s at the shortest durations there are
CONFIG = """
import dataclasses
from empatheia_jax.config import *
def get_config():
    taught = StageConfig(epochs=20, learning_rate=1e-3)
    words = StageConfig(epochs=80, learning_rate=1e-3)
    return Config(
        name="published", seed=4, log_every=20, checkpoint_every=1000,
        llm=dataclasses.replace(LlamaConfig.tiny(vocab_size=320), width=64, layers=2, heads=2, kv_heads=2, head_dim=32,
                                mlp_width=128),
        lora=LoraConfig(rank=4), prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=32, heads=2, mlp_width=64, encoder_layers=1, decoder_layers=1, whiten=True),
        generators=GeneratorConfig(speech="styletts2", speech_weights={place!r} + "/styletts2", face="dreamtalk",
                                   face_weights={place!r} + "/dreamtalk", face_content="compact"),
        data=DataConfig(path={place!r} + "/data", features={place!r} + "/data/features", rows=2, row_tokens=1024,
                        row_examples=2, row_utterances=8, row_targets=700, response_tokens=256, phonemes=256,
                        frames=192),
        optim=OptimConfig(accumulate=1),
        stages={{"0": StageConfig(epochs=250, learning_rate=3e-3), "1": words, "2": taught, "3": taught,
                 "4": words}},
    )
"""


def command(*words: str, cache: Path) -> str:
    """A public command, in a process of its own: what it prints."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=1800,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def make_run(place: Path, goldens: Path) -> Path:
    """Published files, converted; a corpus, extracted; a run, trained: PLACE/run, and the files in PLACE/files."""
    from published_files import write_dreamtalk, write_styletts2

    files, cache = place / "files", place / "cache"
    files.mkdir()
    voice = write_styletts2(goldens, files)
    face = write_dreamtalk(goldens, files, ("denoiser", "renderer", "face3d", "wav2vec"))
    command("-m", "converters", "styletts2", "--input", str(voice), "--output", str(place / "styletts2"), cache=cache)
    command("-m", "converters", "dreamtalk", "--input", str(face["denoiser"]), "--renderer", str(face["renderer"]),
            "--face3d", str(face["face3d"]), "--wav2vec", str(face["wav2vec"]), "--output", str(place / "dreamtalk"),
            cache=cache)  # fmt: skip
    write_corpus(place / "data", 2, ("I saw the river again.", REPLY, "It was good.", REPLY), seconds=7)
    config = place / "config.py"
    config.write_text(CONFIG.format(place=str(place)))
    command("-m", "empatheia_jax", "extract", str(config), "--workdir", str(place / "run"), cache=cache)
    command("train.py", str(config), "--workdir", str(place / "run"), cache=cache)
    return place / "run"
