"""A run whose latents drive StyleTTS 2 and DreamTalk, with an LLM that learns one reply by heart.

Flags name what it reads: `--data.path`, `--data.features`, `--generators.speech-weights`, `--generators.face-weights`.
"""

import dataclasses

from empatheia_jax.config import (
    Config,
    DataConfig,
    GeneratorConfig,
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
    latents = StageConfig(epochs=20, learning_rate=1e-3)
    text = StageConfig(epochs=80, learning_rate=1e-3)
    return Config(
        name="spoken",
        seed=4,
        log_every=20,
        checkpoint_every=1000,
        llm=dataclasses.replace(
            LlamaConfig.tiny(vocab_size=320), width=64, layers=2, heads=2, kv_heads=2, head_dim=32, mlp_width=128
        ),
        lora=LoraConfig(rank=4),
        prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=32, heads=2, mlp_width=64, encoder_layers=1, decoder_layers=1, whiten=True),
        generators=GeneratorConfig(speech="styletts2", face="dreamtalk", face_content="compact"),
        data=DataConfig(
            rows=2,
            row_tokens=1024,
            row_examples=2,
            row_utterances=8,
            row_targets=500,
            response_tokens=128,
            phonemes=128,
            frames=80,
        ),
        optim=OptimConfig(accumulate=1),
        stages={
            "0": StageConfig(epochs=250, learning_rate=3e-3),
            "1": text,
            "2": latents,
            "3": latents,
            "4": text,
        },
    )
