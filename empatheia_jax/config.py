"""Every knob of the system: frozen dataclasses, validated on construction, with named presets.

A config file in `configs/` has `get_config() -> Config`; any field can be overridden from the command line
(`--optim.learning-rate 1e-4`). The resolved config is saved with the run and is enough to rebuild the model.
"""

import dataclasses
from typing import Literal


class ConfigError(ValueError):
    """A setting that cannot work: names the field, the value and what would."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary scaling of transformers: "linear" (factor) or "llama3" (all four)."""

    kind: Literal["linear", "llama3"] = "linear"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A Llama-architecture decoder (Vicuna, Llama 2/3). Field names follow the axis words of `schema.py`."""

    vocab_size: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int = 128
    mlp_width: int = 11008
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    max_length: int = 4096
    tie_embeddings: bool = False
    init_std: float = 0.02  # of a base from scratch; transformers' value, small for a narrow model
    init_match: float = 0.0  # of a base from scratch: correlation of queries and keys, so that like attends to like
    compute_dtype: str = "bfloat16"
    param_dtype: str = "bfloat16"  # of the frozen base; LoRA is always float32
    quantization: Literal["none", "int8", "nf4"] = "none"  # of the frozen base's projections (llm/quantized.py)
    quantization_tile: int = 64  # nf4: inputs that share a scale (QLoRA's blocks); int8 has a scale an output channel
    attention: Literal["xla", "cudnn", "splash"] = "xla"
    remat: Literal["none", "lora", "attention", "full"] = "lora"  # see `llm/remat.py`

    def __post_init__(self):
        _require(
            self.heads % self.kv_heads == 0, f"llm.heads {self.heads} is not a multiple of kv_heads {self.kv_heads}"
        )
        _require(self.head_dim % 2 == 0, f"llm.head_dim {self.head_dim} must be even: RoPE turns pairs")
        _require(self.quantization_tile > 0, f"llm.quantization_tile must be positive, not {self.quantization_tile}")

    @classmethod
    def vicuna_7b(cls) -> "LlamaConfig":
        return cls()

    @classmethod
    def tiny(cls, vocab_size: int = 2048) -> "LlamaConfig":
        return cls(
            vocab_size=vocab_size,
            width=128,
            layers=4,
            heads=4,
            kv_heads=2,
            head_dim=32,
            mlp_width=352,
            max_length=1024,
            compute_dtype="float32",
            param_dtype="float32",
            remat="lora",
            tie_embeddings=True,
            init_std=0.06,
        )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Table 8: r 16, alpha 32). `targets` are projection names of the LLM family."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self):
        _require(self.rank > 0, f"lora.rank must be positive, not {self.rank}")
        _require(0.0 <= self.dropout < 1.0, f"lora.dropout must be in [0, 1), not {self.dropout}")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What hears and sees (section 4.1). Features are stored, so these shapes belong to the feature store."""

    kind: Literal["classical", "hubert_clip"] = "classical"
    audio_segments: int = 32  # Na: segment means over an utterance
    video_frames: int = 8  # Nv: frames picked evenly from an utterance
    hubert: Literal["small", "base", "large"] = "large"  # presets of `encoders/hubert.py`
    hubert_weights: str = ""  # folder of converted weights; "random": none, for dry runs
    clip: Literal["small", "vit_b_32", "vit_l_14_336"] = "vit_l_14_336"  # presets of `encoders/clip.py`
    clip_weights: str = ""  # as hubert_weights
    compute_dtype: str = "float32"  # of HuBERT and CLIP, parameters too; norms stay float32


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """Attention pooling of encoder features to N tokens of the LLM's width (section 4.1)."""

    tokens: int = 4  # N: slots one modality of one utterance takes in the prompt
    width: int = 512
    heads: int = 8


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Content synchronizer and style disentangler (section 4.3; Fig. 4; Table 8: 4 layers).

    Widths, FFN, KL and the start of the log-variance are this project's: the paper gives none.
    """

    width: int = 512
    heads: int = 8
    mlp_width: int = 2048
    encoder_layers: int = 4
    decoder_layers: int = 4
    dropout: float = 0.1
    log_variance_init: float = -4.0
    kl_weight: float = 1e-4
    content_query: Literal["phoneme", "position"] = "phoneme"
    whiten: bool = False  # the disentangler reads whitened states (`latents/whitening.py`)
    sd_input: Literal["per_modality", "speech_only"] = "per_modality"

    def __post_init__(self):
        _require(self.width % self.heads == 0, f"latents.width {self.width} is not a multiple of heads {self.heads}")


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """Appendix D.1 and section 4.2: what the LLM reads and is taught to write."""

    instruction: Literal["coe", "short"] = "coe"  # "coe" adds section 4.2's instruction before D.1's
    profile_in_prompt: Literal["auto", "always", "never"] = "auto"
    signal_loss: bool = False  # loss on the 32 signal tokens


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """Another corpus that training Examples are taken from, beside `data.path`.

    Its `name` keeps its conversations apart. `share` 1 takes all of it in every epoch, 0.25 a quarter, 2 all twice.
    """

    name: str
    path: str
    features: str = ""  # its feature store; empty: none, its Examples are words only
    share: float = 1.0

    def __post_init__(self):
        _require(self.name.isidentifier(), f"data.mix: name {self.name!r} must be a word of letters, digits and _")
        _require(self.share > 0, f"data.mix: share of {self.name} must be positive, not {self.share}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the data is, the static shapes of a micro-batch, and the limits of what is read.

    Letters are those of `data.schema`. Limits are per utterance: seconds, and megabytes of 10^6 bytes.
    """

    path: str = ""
    features: str = ""  # feature store; empty: DIR/features
    feature_dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # of the store that `extract` makes
    mix: tuple[MixConfig, ...] = ()  # corpora that are trained on too; they have no part in validation
    on_error: Literal["stop", "skip"] = "stop"
    validation_share: float = 0.2
    rows: int = 4  # B
    row_tokens: int = 2048  # T
    row_examples: int = 4  # K / B
    row_utterances: int = 24  # M / B
    row_targets: int = 1024  # most tokens of a row that carry loss
    response_tokens: int = 96  # R
    phonemes: int = 512  # P
    frames: int = 512  # F
    modality_dropout: float = 0.3
    profile_dropout: float = 0.2  # share of training Examples whose profile line is left out
    word_swap: float = 0.0  # share of Examples under L_emp whose things are exchanged (`data/augment.py`)
    recast: float = 0.0  # share of Examples performed by people of other dialogues (`data/recast.py`)
    word_dropout: float = 0.0  # share of the dialogue's words blanked where words are learned
    text_dropout: float = 0.0  # share of Examples of stage 4 with all of them blanked: modality dropout for text
    max_turns: int = 16
    max_seconds: float = 60.0
    max_megabytes: float = 50.0

    def __post_init__(self):
        names = [one.name for one in self.mix]
        _require(len(set(names)) == len(names), f"data.mix: names {names} must differ")


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage (section 5). `epochs` over the training Examples; the optimizer starts anew."""

    epochs: float = 6.0
    learning_rate: float = 5e-5
    warmup_share: float = 0.1
    weight_decay: float | None = None  # None: optim.weight_decay
    rows: int | None = None  # None: data.rows
    row_tokens: int | None = None  # None: data.row_tokens; prompts differ in length from stage to stage
    row_examples: int | None = None  # None: data.row_examples

    def shape(self) -> dict[str, int]:
        """The fields of `DataConfig` that this stage has its own values of."""
        own = {name: getattr(self, name) for name in ("rows", "row_tokens", "row_examples")}
        return {name: value for name, value in own.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (Table 9) and accumulation: a step takes `accumulate` micro-batches of `data.rows` rows.

    `clip_norm` bounds the global norm of the accumulated gradient.
    """

    accumulate: int = 8
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    alpha: float = 0.2  # Eq. 13, weight of L_ccl
    beta: float = 0.3  # Eq. 13, weight of L_sac
    label_weight: float = 0.0  # of the mean loss over words that name a label, added to L_emp; the paper has none


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes the rest."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class TorchConfig:
    """The user's own checkouts and checkpoints that the generators named "torch" run."""

    styletts2_repo: str = ""  # a clone of github.com/yl4579/StyleTTS2
    styletts2_checkpoint: str = ""  # the published .pth, its config.yml beside it
    dreamtalk_repo: str = ""  # a clone of github.com/ali-vilab/dreamtalk
    dreamtalk_checkpoint: str = ""  # denoising_network.pth
    dreamtalk_renderer: str = ""  # renderer.pt
    dreamtalk_wav2vec: str = ""  # transformers directory of its wav2vec 2.0; empty: that of face_weights
    any_commit: bool = False  # take a checkout that is not at the tested commit
    device: str = ""  # of torch; empty: an accelerator where torch has one


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Which frozen generators the latents speak to.

    "torch" is the original StyleTTS 2 or DreamTalk, from a user's checkout: a run for "styletts2" or "dreamtalk" may be
    rendered by it.
    """

    speech: Literal["classical", "styletts2", "torch"] = "classical"
    face: Literal["classical", "dreamtalk", "torch"] = "classical"
    content_source: Literal["synchronizer", "generator"] = "synchronizer"
    speech_weights: str = ""  # of styletts2: the folder that `python -m converters styletts2` wrote
    speech_dtype: Literal["float32", "bfloat16"] = "float32"  # of styletts2's decoder
    face_weights: str = ""  # of dreamtalk: the folder that `python -m converters dreamtalk` wrote
    face_content: Literal["windows", "compact"] = "windows"  # of dreamtalk: 11 x 256 a frame, or 2 x 256 (50 Hz)
    face_sampler: Literal["ddim", "ddpm"] = "ddim"  # of dreamtalk: the published script's 10 steps, the paper's 1000
    torch: TorchConfig = dataclasses.field(default_factory=TorchConfig)
    style_refine: Literal["none", "diffusion"] = "none"  # "diffusion": styletts2 draws a style for the words near S

    @property
    def golds_of(self) -> dict[str, str]:
        """Whose golds "speech" and "face" speak in: "torch" runs the networks that are ours in Flax."""
        ours = {"speech": "styletts2", "face": "dreamtalk"}
        return {kind: ours[kind] if getattr(self, kind) == "torch" else getattr(self, kind) for kind in ours}


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment; `log_every` and `checkpoint_every` count steps of a stage.

    Raises:
      ConfigError: on construction, when a field or a combination cannot work.
    """

    name: str = "empatheia"
    base: str = "scratch"  # "scratch": stage 0 trains the LLM; else the path of a converted base
    adapter: str = ""  # folder of a converted PEFT adapter that LoRA starts from; empty: from zero
    seed: int = 0
    llm: LlamaConfig = dataclasses.field(default_factory=LlamaConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    encoders: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    projector: ProjectorConfig = dataclasses.field(default_factory=ProjectorConfig)
    latents: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    generators: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    stages: dict[str, StageConfig] = dataclasses.field(
        default_factory=lambda: {str(stage): StageConfig() for stage in range(5)}
    )
    modalities: tuple[str, ...] = ("audio", "video")  # () for a text-only model
    log_every: int = 10
    checkpoint_every: int = 100
    checkpoint_seconds: float = 0.0  # a checkpoint is also begun so long after the last one; 0: by steps alone
    checkpoints_kept: int = 2  # the newest that stay
    checkpoints_kept_every: int = 0  # and one of so many steps; 0: none
    cache_states: bool = True  # stage 2 computes the LLM's states once and keeps them in DIR/states
    compile_ahead: bool = False  # compile later stages while one trains; takes memory that a full device lacks

    def __post_init__(self):
        unknown = set(self.modalities) - {"audio", "video"}
        _require(not unknown, f"modalities {sorted(unknown)} unknown: choose from audio, video")
        _require(self.checkpoints_kept > 0, f"checkpoints_kept must be 1 or more, not {self.checkpoints_kept}")
        _require(set(self.stages) == set("01234"), f"stages must be 0 to 4, not {sorted(self.stages)}")
