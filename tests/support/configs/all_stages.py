"""A run with speech and video through all five stages; `--data.path` and `--data.features` are corpus and features."""

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
    stage = StageConfig(epochs=4, learning_rate=1e-3)
    return Config(
        name="e2e",
        seed=4,
        log_every=1,
        checkpoint_every=3,
        compile_ahead=True,
        llm=dataclasses.replace(
            LlamaConfig.tiny(vocab_size=320), width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16
        ),
        lora=LoraConfig(rank=2, dropout=0.1),
        prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=16, heads=2, mlp_width=16, encoder_layers=1, decoder_layers=1, whiten=True),
        data=DataConfig(
            rows=2,
            row_tokens=512,
            row_examples=2,
            row_utterances=8,
            row_targets=320,
            response_tokens=48,
            phonemes=24,
            frames=40,
            word_swap=0.5,
            recast=0.5,
        ),
        optim=OptimConfig(accumulate=1),
        stages=dict.fromkeys("01234", stage),
    )
