"""A run on text alone that trains in seconds; `--data.path` is the corpus.

python train.py tests/support/configs/text_only.py --data.path CORPUS --workdir DIR
"""

import dataclasses

from empatheia_jax.config import Config, DataConfig, LlamaConfig, LoraConfig, OptimConfig, PromptConfig, StageConfig


def get_config() -> Config:
    """Return the config."""
    short = StageConfig(epochs=1, learning_rate=1e-3)
    return Config(
        name="e2e",
        modalities=(),
        seed=3,
        log_every=1,
        checkpoint_every=25,
        compile_ahead=True,
        llm=dataclasses.replace(
            LlamaConfig.tiny(vocab_size=320), width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16
        ),
        lora=LoraConfig(rank=2, dropout=0.1),
        prompt=PromptConfig(instruction="short"),
        data=DataConfig(rows=2, row_tokens=384, row_examples=1, row_targets=256, word_swap=0.5),
        optim=OptimConfig(accumulate=2),
        stages={
            "0": StageConfig(epochs=50, learning_rate=1e-3),
            "1": StageConfig(epochs=4, learning_rate=1e-3),
            "2": short,
            "3": short,
            "4": short,
        },
    )
