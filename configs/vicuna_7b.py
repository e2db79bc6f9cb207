# python train.py configs/vicuna_7b.py --workdir runs/vicuna_7b  # sizes: empatheia plan configs/vicuna_7b.py --local
"""The paper's system: Vicuna-7B with LoRA, HuBERT-large, CLIP ViT-L/14@336, StyleTTS 2 and DreamTalk; one 80 GB GPU.

The LoRA rank, the layers of the latents, the batch of 32 (here 4 x 2 rows of up to 4 Examples), the learning rate and
the weight decay are those of Tables 8 and 9 of the paper; epochs and row lengths are this project's choice.
"""

from empatheia_jax.config import (
    Config,
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentConfig,
    LlamaConfig,
    LoraConfig,
    LossConfig,
    OptimConfig,
    ProjectorConfig,
    StageConfig,
)


def get_config() -> Config:
    return Config(
        name="vicuna_7b",
        base="checkpoints/vicuna-7b-v1.5",
        llm=LlamaConfig.vicuna_7b(),
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.1),
        encoders=EncoderConfig(
            audio="hubert",
            video="clip",
            hubert="large",
            hubert_weights="checkpoints/hubert-large-ll60k",
            clip="vit_l_14_336",
            clip_weights="checkpoints/clip-vit-large-patch14-336",
            compute_dtype="bfloat16",
        ),
        projector=ProjectorConfig(tokens=4, width=512, heads=8),
        latents=LatentConfig(encoder_layers=4, decoder_layers=4),
        generators=GeneratorConfig(
            speech="styletts2",
            speech_weights="checkpoints/styletts2-libritts",
            face="dreamtalk",
            face_weights="checkpoints/dreamtalk",
            face_content="compact",
        ),
        data=DataConfig(path="data/avamerg", rows=2, row_tokens=2048, row_examples=4, row_utterances=24),
        optim=OptimConfig(accumulate=4, weight_decay=1e-3),
        loss=LossConfig(alpha=0.2, beta=0.3),
        stages={
            "0": StageConfig(epochs=0),
            "1": StageConfig(epochs=3, learning_rate=5e-5),
            "2": StageConfig(epochs=4, learning_rate=5e-5),
            "3": StageConfig(epochs=4, learning_rate=5e-5, row_tokens=512, row_examples=5),  # short prompts: slots
            "4": StageConfig(epochs=3, learning_rate=5e-5),
        },
    )
