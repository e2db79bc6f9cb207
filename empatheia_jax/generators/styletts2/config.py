"""Settings of StyleTTS 2: the networks' sizes, as in the `config.yml` published with the weights, and synthesis."""

import dataclasses
from typing import Literal

from empatheia_jax.checkpoints.weights import to_tuples

SAMPLE_RATE = 24_000
HOP = 300  # samples in 12.5 ms, a frame of log-mels, F0 and energy
SAMPLES_PER_FRAME = 2 * HOP  # 25 ms, a frame of durations and of the decoder


class StyleTTS2Error(ValueError):
    """Weights, a recording or a setting that cannot be spoken with: says which and why."""


@dataclasses.dataclass(frozen=True)
class StyleTTS2Config:
    """The `model_params` of config.yml under upstream's names; nested names are joined by underscores."""

    multispeaker: bool = True
    dim_in: int = 64
    hidden_dim: int = 512
    max_conv_dim: int = 512
    n_layer: int = 3
    n_mels: int = 80
    n_token: int = 178
    max_dur: int = 50
    style_dim: int = 128
    decoder_type: Literal["hifigan", "istftnet"] = "hifigan"
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    upsample_rates: tuple[int, ...] = (10, 5, 3, 2)
    upsample_kernel_sizes: tuple[int, ...] = (20, 10, 6, 4)
    upsample_initial_channel: int = 512
    gen_istft_n_fft: int = 20
    gen_istft_hop_size: int = 5
    diffusion_layers: int = 3
    diffusion_heads: int = 8
    diffusion_head_features: int = 64
    diffusion_multiplier: int = 2
    sigma_data: float = 0.19926648961191362
    # PL-BERT (Utils/PLBERT/config.yml)
    plbert_embedding: int = 128
    plbert_hidden: int = 768
    plbert_heads: int = 12
    plbert_mlp: int = 2048
    plbert_layers: int = 12
    plbert_positions: int = 512
    # Not in the published file: whether the encoders of a recording's style and the diffusion of styles are there ...
    style_networks: bool = True
    # ... and the dtype of the decoder's computation; everything else is float32
    compute_dtype: str = "float32"

    @classmethod
    def libritts(cls) -> "StyleTTS2Config":
        """Return the sizes of yl4579/StyleTTS2-LibriTTS: many speakers, HiFi-GAN."""
        return cls()

    @classmethod
    def ljspeech(cls) -> "StyleTTS2Config":
        """Return the sizes of yl4579/StyleTTS2-LJSpeech: one speaker, iSTFTNet."""
        return cls(
            multispeaker=False,
            decoder_type="istftnet",
            upsample_rates=(10, 6),
            upsample_kernel_sizes=(20, 12),
            sigma_data=0.45731624995853165,
        )

    @classmethod
    def kokoro(cls) -> "StyleTTS2Config":
        """Return the sizes of hexgrad/Kokoro-82M: many speakers, iSTFTNet, without the networks that make styles."""
        return cls(
            decoder_type="istftnet", upsample_rates=(10, 6), upsample_kernel_sizes=(20, 12), style_networks=False
        )

    @classmethod
    def published(cls, model_params: dict) -> "StyleTTS2Config":
        """Read the `model_params` of a published config.yml.

        Raises:
          ValueError: an entry is missing.
        """
        try:
            decoder, diffusion = model_params["decoder"], model_params["diffusion"]
            transformer = diffusion["transformer"]
            names = ("multispeaker", "dim_in", "hidden_dim", "max_conv_dim", "n_layer", "n_mels", "n_token", "max_dur")
            vocoder = ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "upsample_initial_channel")
            fields = {name: model_params[name] for name in (*names, "style_dim")}
            fields |= {name: to_tuples(decoder[name]) for name in (*vocoder, "resblock_dilation_sizes")}
            fields |= {name: decoder[name] for name in ("gen_istft_n_fft", "gen_istft_hop_size") if name in decoder}
            return cls(
                **fields,
                decoder_type=decoder["type"],
                diffusion_layers=transformer["num_layers"],
                diffusion_heads=transformer["num_heads"],
                diffusion_head_features=transformer["head_features"],
                diffusion_multiplier=transformer["multiplier"],
                sigma_data=float(diffusion["dist"]["sigma_data"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no {error} in its model_params") from error


@dataclasses.dataclass(frozen=True)
class SynthesisOptions:
    """Options of synthesis; the defaults are upstream's.

    Attributes:
      alpha: share of the sampled acoustic style in its mixture with the reference's (0: the reference alone).
      beta: the same for the prosodic style.
      steps: steps of style diffusion.
      embedding_scale: strength of guidance by the text; 1 is none.
      speed: speaking rate relative to the predicted durations; 1.2 is a fifth faster.
      carry: weight of the previous sentence's style in the next sentence's.
      seed: seed of the style's and the source's noise.

    Raises:
      StyleTTS2Error: a value out of range.
    """

    alpha: float = 0.3
    beta: float = 0.7
    steps: int = 5
    embedding_scale: float = 1.0
    speed: float = 1.0
    carry: float = 0.7
    seed: int = 0

    def __post_init__(self):
        for name in ("alpha", "beta", "carry"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise StyleTTS2Error(f"{name} {getattr(self, name)} is not in 0..1")
        if not 0.25 <= self.speed <= 4.0:
            raise StyleTTS2Error(f"speed {self.speed} is not in 0.25..4")
        if not 2 <= self.steps <= 1000:
            raise StyleTTS2Error(f"{self.steps} steps of diffusion: give 2 to 1000")
        if not 0 <= self.seed < 2**31:
            raise StyleTTS2Error(f"seed {self.seed} is not in 0..2^31")


DEFAULT_OPTIONS = SynthesisOptions()
