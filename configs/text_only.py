# python train.py configs/text_only.py --workdir runs/text --data.path DIR_WITH_train.json
"""A text-only model (stages 0 and 1): a small LLM on a folder of JSON in AvaMERG's layout, without media."""

from empatheia_jax.config import (
    Config,
    DataConfig,
    LlamaConfig,
    LoraConfig,
    OptimConfig,
    PromptConfig,
    StageConfig,
)


def get_config() -> Config:
    return Config(
        name="text_only",
        base="scratch",
        modalities=(),
        llm=LlamaConfig.tiny(vocab_size=4096),
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.05),
        prompt=PromptConfig(instruction="short"),
        data=DataConfig(path="data", rows=4, row_tokens=1024, row_examples=6, row_targets=512, response_tokens=96),
        optim=OptimConfig(accumulate=1),
        stages={
            "0": StageConfig(epochs=6, learning_rate=2e-3),
            "1": StageConfig(epochs=2, learning_rate=1e-3),
            "2": StageConfig(),
            "3": StageConfig(),
            "4": StageConfig(),
        },
    )
