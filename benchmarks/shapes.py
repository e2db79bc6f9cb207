"""LLMs of the sizes that benchmarks measure, and a text-only corpus."""

import dataclasses
import json
from pathlib import Path

from empatheia_jax.config import (
    Config,
    DataConfig,
    LlamaConfig,
    LoraConfig,
    OptimConfig,
    PromptConfig,
    StageConfig,
)
from empatheia_jax.preparation.sample_plan import plan_corpus

LLMS = {
    "tiny": LlamaConfig.tiny(vocab_size=2048),
    "100m": LlamaConfig(
        vocab_size=16384,
        width=768,
        layers=14,
        heads=12,
        kv_heads=4,
        head_dim=64,
        mlp_width=2048,
        max_length=1024,
        compute_dtype="float32",
        param_dtype="float32",
        tie_embeddings=True,
    ),
    "1b": LlamaConfig(vocab_size=32000, width=2048, layers=16, heads=32, kv_heads=8, head_dim=64, mlp_width=8192),
    "7b": LlamaConfig.vicuna_7b(),
}


def bench_config(shape: str, folder: Path, attention: str = "xla") -> Config:
    """Return a config of stage 1 (LoRA, chain of empathy) of an LLM of `shape`; no dropout, so that losses compare.

    Args:
      shape: a name in `LLMS`.
      folder: of the corpus.
      attention: `LlamaConfig.attention`.
    """
    llm, is_large = dataclasses.replace(LLMS[shape], attention=attention), shape in ("1b", "7b")
    return Config(
        name=f"bench_{shape}",
        modalities=(),
        llm=llm,
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.0),
        prompt=PromptConfig(instruction="coe" if is_large else "short"),
        data=DataConfig(
            path=str(folder),
            rows=4 if is_large else 3,
            row_tokens=2048 if is_large else 512,
            row_examples=4 if not is_large else 16,
            row_targets=1024 if is_large else 320,
            profile_dropout=0.0,
            modality_dropout=0.0,
        ),
        optim=OptimConfig(accumulate=1),
        stages={name: StageConfig(epochs=1, learning_rate=1e-4 if is_large else 1e-3) for name in "01234"},
    )


def write_text_corpus(folder: Path) -> None:
    """Write the text of the sample corpus, without its media, to FOLDER/train.json, in the released layout."""
    folder.mkdir(parents=True, exist_ok=True)
    dialogues = [dialogue.labelled() for dialogue in plan_corpus(0, 150)["train"]]
    (folder / "train.json").write_text(json.dumps(dialogues))
