"""All settings of the system: frozen dataclasses, validated on construction, with named presets.

A config file in `configs/` has `get_config() -> Config`; any field can be overridden from the command line
(`--optim.learning-rate 1e-4`). The resolved config is saved with the run and is enough to rebuild the model.
"""

import dataclasses
import typing
from typing import Literal


class ConfigError(ValueError):
    """A setting that cannot work; the message names the field, its value and what would work."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_choices(settings, where: str = "") -> None:
    """Check every field of a config that has a list of choices: Python itself does not.

    Raises:
      ConfigError: a value that is none of them; names the field and the choices.
    """
    for name, annotation in typing.get_type_hints(type(settings)).items():
        value, field = getattr(settings, name), f"{where}{name}"
        if typing.get_origin(annotation) is Literal:
            choices = typing.get_args(annotation)
            _require(value in choices, f"{field} {value!r} is unknown: choose from {', '.join(map(str, choices))}")
        elif dataclasses.is_dataclass(value):
            _check_choices(value, f"{field}.")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary embeddings, as in transformers: "linear" uses `factor` alone, "llama3" all four numbers."""

    kind: Literal["linear", "llama3"] = "linear"  # which frequencies are divided: all, or the low ones
    factor: float = 1.0  # by which they are divided
    low_freq_factor: float = 1.0  # llama3: wavelengths above the original length over this are scaled in full
    high_freq_factor: float = 4.0  # llama3: wavelengths below the original length over this are not scaled
    original_max_position: int = 8192  # llama3: the length that the base was trained for


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A decoder of the Llama architecture (Vicuna, Llama 2 and 3). Field names follow the axis words of `schema.py`."""

    vocab_size: int = 32000  # tokens of the base, without the 34 new ones
    width: int = 4096  # hidden size
    layers: int = 32  # decoder layers
    heads: int = 32  # query heads
    kv_heads: int = 32  # key and value heads; fewer than `heads`: grouped-query attention
    head_dim: int = 128  # width of a head; even
    mlp_width: int = 11008  # hidden size of the gated MLP
    rope_theta: float = 10000.0  # base of the rotary frequencies
    rope_scaling: RopeScaling | None = None  # None: the frequencies are not scaled
    norm_epsilon: float = 1e-5  # added to the mean square in RMSNorm
    max_length: int = 4096  # written into exports as max_position_embeddings; nothing here is bounded by it
    tie_embeddings: bool = False  # the LM head uses the embedding matrix
    init_std: float = 0.02  # scratch base: standard deviation of its weights; raise it for a narrow model
    init_match: float = 0.0  # scratch base: initial correlation of queries and keys; above 0, similar tokens attend
    compute_dtype: str = "bfloat16"  # dtype of activations; norms, softmax and losses are float32
    param_dtype: str = "bfloat16"  # dtype of the frozen base; LoRA is always float32
    quantization: Literal["none", "int8", "nf4"] = "none"  # format of the frozen base's projections (llm/quantized.py)
    quantization_tile: int = 64  # nf4: inputs that share a scale (QLoRA's block); int8 has a scale per output channel
    attention: Literal["xla", "cudnn", "splash"] = "xla"  # kernel: "cudnn" for GPUs, "splash" for TPUs
    remat: Literal["none", "lora", "attention", "full"] = "lora"  # what the backward pass recomputes (llm/remat.py)

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
    """Low-rank adapters of the LLM (Table 8: r 16, alpha 32)."""

    rank: int = 16  # r: width between the two matrices of an adapter
    alpha: float = 32.0  # the adapters' output is scaled by alpha / rank
    dropout: float = 0.1  # on the adapters' input, in training
    # projections of the LLM that have an adapter; gate_proj, up_proj and down_proj are possible too.
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self):
        _require(self.rank > 0, f"lora.rank must be positive, not {self.rank}")
        _require(0.0 <= self.dropout < 1.0, f"lora.dropout must be in [0, 1), not {self.dropout}")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The audio and video encoders (section 4.1). Their features are stored: other settings need another store."""

    audio: Literal["classical", "hubert"] = "classical"  # signal processing, or the paper's network
    video: Literal["classical", "clip"] = "classical"  # likewise
    audio_segments: int = 32  # N of audio: an utterance's features are averaged over so many segments
    video_frames: int = 8  # N of video: so many frames are picked evenly from an utterance
    hubert: Literal["small", "base", "large"] = "large"  # preset of `encoders/hubert.py`
    hubert_weights: str = ""  # folder of converted weights; "random": random weights, for dry runs
    clip: Literal["small", "vit_b_32", "vit_l_14_336"] = "vit_l_14_336"  # preset of `encoders/clip.py`
    clip_weights: str = ""  # as `hubert_weights`
    compute_dtype: str = "float32"  # dtype of HuBERT's and CLIP's computation and parameters; norms stay float32


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """Attention pooling of encoder features to N tokens of the LLM's width (section 4.1)."""

    tokens: int = 4  # tokens that a slot (one modality of one utterance) takes in the prompt
    width: int = 512  # hidden size of the pooling
    heads: int = 8  # of its attention


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Content synchronizer and style disentangler (section 4.3; Fig. 4; Table 8: 4 layers).

    Widths and the initial log-variance are this project's choices: the paper gives none.
    """

    width: int = 512  # hidden size of the VAE blocks
    heads: int = 8  # of their attention; they divide `width`
    mlp_width: int = 2048  # hidden size of the feed-forward layers
    encoder_layers: int = 4  # of each VAE block
    decoder_layers: int = 4  # of each VAE block
    dropout: float = 0.1  # in the VAE blocks, in training
    log_variance_init: float = -4.0  # initial log-variance of the posterior
    content_query: Literal["phoneme", "position"] = "phoneme"  # what a query embeds: its phoneme, or its position alone
    whiten: bool = False  # the style disentangler reads whitened states (latents/whitening.py)
    sd_input: Literal["per_modality", "speech_only"] = "per_modality"  # states read for video: r_v, or r_s (Eqs. 3-6)

    def __post_init__(self):
        _require(self.width % self.heads == 0, f"latents.width {self.width} is not a multiple of heads {self.heads}")


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """The prompt, and what of the answer is learned (section 4.2, appendix D.1)."""

    instruction: Literal["coe", "short"] = "coe"  # "coe" adds section 4.2's instruction before D.1's
    profile_in_prompt: Literal["auto", "always", "never"] = (
        "auto"  # the avatar's profile line; "auto": where it is known
    )
    signal_loss: bool = False  # the 32 signal tokens carry loss too


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """Another corpus that training Examples are taken from, in addition to `data.path`."""

    name: str  # prefix of its Examples' ids
    path: str  # its folder, as `data.path`
    features: str = ""  # its feature store; empty: none, its Examples have text only
    share: float = 1.0  # how much of it an epoch takes: 1 all, 0.25 a quarter, 2 everything twice

    def __post_init__(self):
        _require(self.name.isidentifier(), f"data.mix: name {self.name!r} must be a word of letters, digits and _")
        _require(self.share > 0, f"data.mix: share of {self.name} must be positive, not {self.share}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the data is, the static shapes of a micro-batch, and the limits of what is read.

    Axis letters are those of `data.schema`. Raise a shape where `train.py` reports Examples dropped for their length.
    """

    path: str = ""  # folder of the released layout, or of a TFDS dataset
    features: str = ""  # feature store; empty: WORKDIR/features
    feature_dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # dtype of the store that `extract` writes
    mix: tuple[MixConfig, ...] = ()  # further training corpora; they are not validated on
    on_error: Literal["stop", "skip"] = "stop"  # for records and media that cannot be read
    validation_share: float = 0.2  # share of the dialogues held out where the corpus has no validation split
    rows: int = 4  # B: rows of a micro-batch, all devices together
    row_tokens: int = 2048  # T: tokens of a row
    row_examples: int = 4  # K / B: most Examples packed into a row
    row_utterances: int = 24  # M / B: most utterances with media in a row
    row_targets: int = 1024  # most tokens of a row that carry loss
    response_tokens: int = 96  # R: most tokens of a response
    phonemes: int = 512  # P: most phonemes of a response
    frames: int = 512  # F: most video frames of a response, at 25 fps
    modality_dropout: float = 0.3  # stages 3 and 4: probability that a modality of a training Example is left out
    profile_dropout: float = 0.2  # share of training Examples whose profile line is left out
    word_swap: float = 0.0  # share of training Examples whose nouns are exchanged (data/batches/augmenter.py)
    recast: float = 0.0  # share of training Examples given the media of other people (data/batches/augmenter.py)
    word_dropout: float = 0.0  # share of the dialogue's words blanked in Examples that L_emp learns from
    text_dropout: float = 0.0  # stage 4: share of Examples with all words of the dialogue blanked
    max_turns: int = 16  # most turns of a dialogue
    max_seconds: float = 60.0  # most seconds of an utterance's recording
    max_megabytes: float = 50.0  # largest file of an utterance, in 10^6 bytes

    def __post_init__(self):
        names = [corpus.name for corpus in self.mix]
        _require(len(set(names)) == len(names), f"data.mix: names {names} must differ")


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage (section 5); each starts a new optimizer."""

    epochs: float = 6.0  # passes over the training Examples; one step is made at least
    learning_rate: float = 5e-5  # peak, after the warm-up
    warmup_share: float = 0.1  # share of the stage's steps in which the learning rate rises
    weight_decay: float | None = None  # None: `optim.weight_decay`
    rows: int | None = None  # None: `data.rows`
    row_tokens: int | None = None  # None: `data.row_tokens`; set it where the stage's prompts are shorter or longer
    row_examples: int | None = None  # None: `data.row_examples`

    def shape(self) -> dict[str, int]:
        """Return the fields of `DataConfig` that this stage overrides."""
        own = {name: getattr(self, name) for name in ("rows", "row_tokens", "row_examples")}
        return {name: value for name, value in own.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (Table 9) and gradient accumulation."""

    accumulate: int = 8  # micro-batches of `data.rows` rows that a step sums over
    weight_decay: float = 1e-3  # of matrices and tables; norms, biases and gains are not decayed
    clip_norm: float = 1.0  # bound of the accumulated gradient's global norm
    b1: float = 0.9  # AdamW's decay of the first moment
    b2: float = 0.999  # AdamW's decay of the second moment


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the losses: Eq. 13 is L_emp + alpha L_ccl + beta L_sac.

    L_emp (Eq. 8) is on the words, L_ccl (Eq. 9) on the content, L_sac (Eq. 12) on style and labels. The last two fields
    are this project's: the paper has neither.
    """

    alpha: float = 0.2  # weight of L_ccl in stage 4
    beta: float = 0.3  # weight of L_sac in stage 4
    label_weight: float = 0.0  # extra weight in L_emp of the words that name a label
    kl_weight: float = 1e-4  # weight of the VAEs' KL term, a mean over latent dimensions, inside L_ccl and L_sac


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each mesh axis; -1: all that the other axes leave."""

    data: int = -1  # replicas: each takes its share of the rows
    fsdp: int = 1  # rows and parameters are split; raise it when the parameters do not fit a device
    tensor: int = 1  # heads and MLP are split; raise it when one row's activations do not fit a device


@dataclasses.dataclass(frozen=True)
class TorchConfig:
    """The user's own checkouts and checkpoints, which the generators named "torch" run."""

    styletts2_repo: str = ""  # a clone of github.com/yl4579/StyleTTS2
    styletts2_checkpoint: str = ""  # the published .pth, with its config.yml in the same folder
    dreamtalk_repo: str = ""  # a clone of github.com/ali-vilab/dreamtalk
    dreamtalk_checkpoint: str = ""  # denoising_network.pth
    dreamtalk_renderer: str = ""  # renderer.pt
    dreamtalk_wav2vec: str = ""  # transformers folder of its wav2vec 2.0; empty: the one in `face_weights`
    any_commit: bool = False  # accept a checkout that is not at the tested commit
    device: str = ""  # torch device; empty: an accelerator where torch has one, else the CPU


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Which frozen generators the latents are made for.

    "torch" is the original StyleTTS 2 or DreamTalk in a user's checkout; it can render the latents of a run that was
    trained for "styletts2" or "dreamtalk".
    """

    speech: Literal["classical", "styletts2", "kokoro", "torch"] = "classical"  # the voice
    face: Literal["classical", "dreamtalk", "torch"] = "classical"  # the talking face
    # where content comes from: the content synchronizer, or the generators' own encoding of text and speech.
    content_source: Literal["synchronizer", "generator"] = "synchronizer"
    # the folder that `python -m converters styletts2` or `kokoro` wrote; kokoro, empty: what `empatheia fetch` brought.
    speech_weights: str = ""
    speech_dtype: Literal["float32", "bfloat16"] = "float32"  # styletts2 and kokoro: compute dtype of the decoder
    face_weights: str = ""  # dreamtalk: the folder that `python -m converters dreamtalk` wrote
    face_content: Literal["windows", "compact"] = "windows"  # dreamtalk: 11 x 256 numbers a frame, or 2 x 256 (50 Hz)
    face_sampler: Literal["ddim", "ddpm"] = "ddim"  # dreamtalk: the published script's 10 steps, or the paper's 1000
    torch: TorchConfig = dataclasses.field(default_factory=TorchConfig)
    style_refine: Literal["none", "diffusion"] = "none"  # "diffusion": styletts2 samples a style for the words, near S

    @property
    def target_backend(self) -> dict[str, str]:
        """The generators whose targets are learned, by "speech" and "face": "torch" shares those of the Flax port."""
        ports = {"speech": "styletts2", "face": "dreamtalk"}
        return {kind: ports[kind] if getattr(self, kind) == "torch" else getattr(self, kind) for kind in ports}


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment.

    Raises:
      ConfigError: on construction, when a field or a combination of fields cannot work.
    """

    name: str = "empatheia"  # appears in plans and reports
    base: str = "scratch"  # "scratch": stage 0 trains the LLM; else the folder of a converted LLM
    adapter: str = ""  # folder of a converted PEFT adapter that LoRA starts from; empty: LoRA starts from zero
    seed: int = 0  # of initial parameters, dropout, and the order of the Examples
    max_new_tokens: int = 0  # most tokens of an answer; 0: as many as 99.9 % of the training answers have
    llm: LlamaConfig = dataclasses.field(default_factory=LlamaConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    encoders: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    projector: ProjectorConfig = dataclasses.field(default_factory=ProjectorConfig)
    latents: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    generators: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    stages: dict[str, StageConfig] = dataclasses.field(
        default_factory=lambda: {str(stage): StageConfig() for stage in range(5)}
    )
    modalities: tuple[str, ...] = ("audio", "video")  # what is heard and seen; () for a text-only model
    log_every: int = 10  # steps of a stage between two lines of metrics.jsonl
    checkpoint_every: int = 100  # steps of a stage between two checkpoints
    checkpoint_seconds: float = 0.0  # a checkpoint is also written so many seconds after the last; 0: by steps alone
    checkpoints_kept: int = 2  # newest checkpoints that are not deleted
    checkpoints_kept_every: int = 0  # one checkpoint in so many steps is never deleted; 0: none
    cache_states: bool = True  # stage 2 computes the LLM's states once and stores them in WORKDIR/states
    compile_ahead: bool = False  # compile later stages while one trains; off where the device's memory is nearly full

    def __post_init__(self):
        _check_choices(self)
        unknown = set(self.modalities) - {"audio", "video"}
        _require(not unknown, f"modalities {sorted(unknown)} unknown: choose from audio, video")
        _require(self.max_new_tokens >= 0, f"max_new_tokens must be 0 or more, not {self.max_new_tokens}")
        _require(self.checkpoints_kept > 0, f"checkpoints_kept must be 1 or more, not {self.checkpoints_kept}")
        _require(set(self.stages) == set("01234"), f"stages must be 0 to 4, not {sorted(self.stages)}")
