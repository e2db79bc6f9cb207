# empatheia sample --output runs/sample && python train.py configs/tiny.py --workdir runs/tiny
"""The demo: the whole system at a size for two CPU cores, trained from scratch on the sample corpus."""

import dataclasses

from empatheia_jax.config import (
    Config,
    DataConfig,
    LatentConfig,
    LlamaConfig,
    LoraConfig,
    LossConfig,
    OptimConfig,
    ProjectorConfig,
    PromptConfig,
    StageConfig,
)


def get_config() -> Config:
    return Config(
        name="tiny",
        base="scratch",
        llm=dataclasses.replace(LlamaConfig.tiny(vocab_size=2048), init_match=0.8),
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.05),
        projector=ProjectorConfig(tokens=2, width=64, heads=4),
        latents=LatentConfig(
            width=64, heads=4, mlp_width=128, encoder_layers=2, decoder_layers=2, dropout=0.0, whiten=True
        ),
        # Section 4.2's instruction is the same 200 tokens in every prompt, from which a scratch base gains nothing.
        prompt=PromptConfig(instruction="short"),
        data=DataConfig(
            path="runs/sample",
            rows=3,
            row_tokens=512,
            row_examples=4,
            row_utterances=18,
            row_targets=320,
            response_tokens=24,
            phonemes=96,
            frames=128,
            word_swap=0.8,
            recast=0.9,
            word_dropout=0.15,
            text_dropout=0.3,
        ),
        optim=OptimConfig(accumulate=1, weight_decay=1e-3),
        # The style loss has more weight than the paper's 0.3: the demo has few steps in which to learn the slots.
        loss=LossConfig(beta=0.7, label_weight=0.3),
        # A scratch model of a million parameters needs a higher learning rate than Vicuna's 5e-5.
        stages={
            "0": StageConfig(epochs=13, learning_rate=2e-3),
            "1": StageConfig(epochs=1, learning_rate=1e-3),
            "2": StageConfig(epochs=4, learning_rate=3e-3),
            "3": StageConfig(epochs=14, learning_rate=1e-3, rows=4, row_tokens=384),
            "4": StageConfig(epochs=14, learning_rate=1.5e-3, row_tokens=704, row_examples=3),
        },
        log_every=20,
        checkpoint_every=200,
        compile_ahead=True,
    )
