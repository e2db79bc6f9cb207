"""A run on thousands of dialogues; `--data.path` and `--data.features` are corpus and features."""

import dataclasses

from empatheia_jax.config import (
    Config,
    DataConfig,
    LatentConfig,
    LlamaConfig,
    LoraConfig,
    OptimConfig,
    ProjectorConfig,
    PromptConfig,
    StageConfig,
)


def get_config() -> Config:
    """Return the config."""
    stage = StageConfig(epochs=2, learning_rate=1e-3)
    return Config(
        name="load",
        seed=1,
        log_every=10,
        checkpoint_every=40,
        llm=dataclasses.replace(
            LlamaConfig.tiny(vocab_size=512), width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16
        ),
        lora=LoraConfig(rank=2),
        prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=16, heads=2, mlp_width=16, encoder_layers=1, decoder_layers=1),
        data=DataConfig(
            rows=8,
            row_tokens=640,
            row_examples=4,
            row_utterances=20,
            row_targets=512,
            response_tokens=48,
            phonemes=96,
            frames=160,
        ),
        optim=OptimConfig(accumulate=1),
        stages=dict.fromkeys("01234", stage),
    )
