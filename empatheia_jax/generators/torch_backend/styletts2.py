"""The original StyleTTS 2 as a speech generator: `styletts2.networks` computed by torch."""

# pyright: reportMissingImports=false
# The original's modules are found in its checkout, at run time.

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from empatheia_jax.config import TorchConfig
from empatheia_jax.generators.bridge import from_torch
from empatheia_jax.generators.styletts2.config import SAMPLES_PER_FRAME, StyleTTS2Config
from empatheia_jax.generators.styletts2.networks import Networks, source_noise, style_noise
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech
from empatheia_jax.generators.torch_backend.checkout import (
    Checkout,
    TorchBackendError,
    file_sha256,
    load_state,
    read_checkpoint_entry,
    stub_modules,
    torch_device,
)
from empatheia_jax.generators.torch_backend.randomness import ReplacedNoise

STYLETTS2 = Checkout(
    url="https://github.com/yl4579/StyleTTS2",
    commit="5cedc71c333f8d8b8551ca59378bdcc7af4c9529",
    flag="--styletts2-repo",
    packages={
        "munch": "munch",
        "einops": "einops",
        "einops_exts": "einops-exts",
        "transformers": "transformers",
        "yaml": "pyyaml",
        "scipy": "scipy",
        "librosa": "librosa",
    },
    files={
        "models.py": "84bbb03d5545ad072ada890b12d3e32bfdaf7c6e",
        "Modules/hifigan.py": "e36f95a212216eaa8a5175aa9146848fce54fb03",
        "Modules/istftnet.py": "7a8c5093f833aa2b211a7a380b1b2220424012eb",
        "Modules/diffusion/sampler.py": "467bd0d16093564e3ddcfe9033d2097986d54a27",
        "Modules/diffusion/modules.py": "9df85b993c3839ab01df6b6168334bdbf3cb1f30",
        "Modules/diffusion/diffusion.py": "8f8d40041e4493f1d037cdbd33bd25091ffbdfe4",
        "Utils/PLBERT/config.yml": "75f60d1eccfee7e253649a1ae02105b5245e2473",
    },
)
NETWORKS = (
    "bert",
    "bert_encoder",
    "predictor",
    "decoder",
    "text_encoder",
    "predictor_encoder",
    "style_encoder",
    "diffusion",
)
_COMPUTED = ("embeddings.position_ids",)


def build(repo: Path, model_params: dict, any_commit: bool = False) -> tuple[dict[str, torch.nn.Module], Callable]:
    """Build the untrained networks of a checkout that synthesis needs.

    Args:
      repo: the checkout's folder.
      model_params: the section of a published config.yml.
      any_commit: accept code of another commit.

    Returns:
      The networks by name, and the sampler of styles (upstream's DiffusionSampler).

    Raises:
      TorchBackendError: no checkout, another commit, or a missing package.
    """
    repo = STYLETTS2.check(repo, any_commit)
    stub_modules("torchaudio", "torchaudio.functional")  # used by the aligner, which is not built
    with STYLETTS2.importing(repo):
        import models
        from Modules.diffusion.sampler import ADPM2Sampler, DiffusionSampler, KarrasSchedule
        from munch import munchify
        from transformers import AlbertConfig, AlbertModel

        bert = AlbertModel(AlbertConfig(**_plbert(repo)))
        networks = models.build_model(munchify(model_params), None, None, bert)
    nets = {name: networks[name] for name in NETWORKS}
    schedule = KarrasSchedule(sigma_min=0.0001, sigma_max=3.0, rho=9.0)
    sampler = DiffusionSampler(
        nets["diffusion"].diffusion, sampler=ADPM2Sampler(), sigma_schedule=schedule, clamp=False
    )
    return nets, sampler


def _plbert(repo: Path) -> dict:
    return yaml.safe_load((repo / "Utils" / "PLBERT" / "config.yml").read_text())["model_params"]


def _plbert_sizes(repo: Path) -> dict:
    """Return PL-BERT's sizes under `StyleTTS2Config`'s names; those not in the file are transformers' defaults."""
    from transformers import AlbertConfig

    albert = AlbertConfig(**_plbert(repo))
    return {
        "plbert_embedding": albert.embedding_size,
        "plbert_hidden": albert.hidden_size,
        "plbert_heads": albert.num_attention_heads,
        "plbert_mlp": albert.intermediate_size,
        "plbert_layers": albert.num_hidden_layers,
        "plbert_positions": albert.max_position_embeddings,
    }


class Original:
    """The original's networks and how they are used: float32 tensors, channels last, one utterance at a time."""

    def __init__(self, nets: dict[str, Any], sampler: Callable, config: StyleTTS2Config):
        """Take the networks (modules of the checkout); `sampler` is called as upstream's DiffusionSampler."""
        self.nets, self.sampler, self.config = nets, sampler, config

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return content [P, 1280] of symbol ids [P]."""
        tokens, lengths, mask = tokens.long()[None], torch.tensor([len(tokens)]), self._mask(tokens)
        text = self.nets["text_encoder"](tokens, lengths, mask)[0].T
        words = self.nets["bert"](tokens, attention_mask=(~mask).int()).last_hidden_state[0]
        return torch.cat([text, words], dim=-1)

    def style(self, mel: torch.Tensor) -> torch.Tensor:
        """Return the style [256] of a log-mel [T, 80]."""
        mel = mel.T[None, None]
        return torch.cat([self.nets["style_encoder"](mel), self.nets["predictor_encoder"](mel)], dim=-1)[0]

    def durations(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Return each phoneme's frames of 25 ms, not rounded, [P], for content [P, 1280] and style [256]."""
        hidden, _ = self.nets["predictor"].lstm(self._prosodic(content, style))
        return torch.sigmoid(self.nets["predictor"].duration_proj(hidden)).sum(dim=-1)[0]

    def sample_style(self, words: torch.Tensor, reference: torch.Tensor | None, noise: torch.Tensor, scale: float):
        """Sample a style [256] for h_bert [P, 768], a reference [256] and normal noise [steps, 256]."""
        features = {} if reference is None else {"features": reference[None]}
        with ReplacedNoise(noise[1:]):
            return self.sampler(
                noise=noise[:1, None], embedding=words[None], embedding_scale=scale, num_steps=len(noise), **features
            ).reshape(-1)

    def speak(self, content: torch.Tensor, style: torch.Tensor, frames: torch.Tensor, noise: torch.Tensor):
        """Synthesize a waveform [600 L] from content [P, 1280], style [256], frames [P] and normal noise [600 L, 9]."""
        text, prosodic = content[:, : self.config.hidden_dim].T[None], style[self.config.style_dim :][None]
        d = self._prosodic(content, style).transpose(-1, -2)
        asr, en = (torch.repeat_interleave(x, frames.long(), dim=-1) for x in (text, d))
        if self.config.decoder_type == "hifigan":  # delays by one frame, as upstream's inference
            asr, en = (torch.cat([x[..., :1], x[..., :-1]], dim=-1) for x in (asr, en))
        f0, energy = self.nets["predictor"].F0Ntrain(en, prosodic)
        with ReplacedNoise([noise]):
            return self.nets["decoder"](asr, f0, energy, style[: self.config.style_dim][None]).reshape(-1)

    def _prosodic(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        words = content[None, :, self.config.hidden_dim :]
        projected = self.nets["bert_encoder"](words).transpose(-1, -2)
        lengths = torch.tensor([len(content)])
        prosodic = style[self.config.style_dim :][None]
        return self.nets["predictor"].text_encoder(projected, prosodic, lengths, self._mask(content))

    @staticmethod
    def _mask(sequence: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, len(sequence), dtype=torch.bool, device=sequence.device)


class TorchNetworks(Networks):
    """`Networks` computed by torch, one utterance at a time; batching and padding are inherited."""

    def __init__(
        self, build_original: Callable[[], Original], config: StyleTTS2Config, sha256: str, device: torch.device
    ):
        """Wrap the original; it is built with the first call.

        Args:
          build_original: builds the original's networks with their weights.
          config: its sizes.
          sha256: hash of the weights.
          device: where torch computes.
        """
        self.config, self.sha256 = config, sha256

        @functools.cache
        def original() -> Original:
            built = build_original()
            for net in built.nets.values():
                net.to(device)
            return built

        def bridged(name: str) -> Callable:
            return from_torch(lambda *args: getattr(original(), name)(*args), device=device)

        encode_text, style, durations, sample_style, speak = map(
            bridged, ("encode_text", "style", "durations", "sample_style", "speak")
        )
        self._encode_text = lambda tokens, lengths: np.stack(
            [_pad(encode_text(t[:n]), len(t)) for t, n in zip(tokens, lengths, strict=True)]
        )
        self._style = lambda mels, lengths: np.stack([style(m[:n]) for m, n in zip(mels, lengths, strict=True)])
        self._durations = lambda contents, styles, lengths: np.stack(
            [_pad(durations(c[:n], s), len(c)) for c, s, n in zip(contents, styles, lengths, strict=True)]
        )

        def sample_styles(words, lengths, references, seeds, *options):
            steps, *scale = options
            references = [None] * len(words) if references is None else references
            width = 2 * config.style_dim
            return np.stack(
                [
                    sample_style(w[:n], r, style_noise(seed, len(steps) + 1, width), float(*scale or (1.0,)))
                    for w, n, r, seed in zip(words, lengths, references, seeds, strict=True)
                ]
            )

        def speak_batch(*arrays):
            *per_utterance, size = arrays
            waves = []
            for c, s, f, n, seed in zip(*per_utterance, strict=True):
                noise = source_noise(seed, len(size))[: SAMPLES_PER_FRAME * int(f.sum())]
                waves.append(_pad(speak(c[:n], s, f[:n], noise), SAMPLES_PER_FRAME * len(size)))
            return np.stack(waves)

        self._sample_style = self._sample_style_guided = sample_styles
        self._speak = speak_batch


def _pad(array, length: int) -> np.ndarray:
    array = np.asarray(array)
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


class TorchStyleTTS2Speech(StyleTTS2Speech):
    """`StyleTTS2Speech` with the original's networks."""

    name = "torch"
    target_backend = "styletts2"

    def __init__(self, settings: TorchConfig, weights_sha256: str = "", refine: bool = False):
        """Read the checkpoint's config.yml; networks are built when first used.

        Args:
          settings: the config, with `styletts2_*`.
          weights_sha256: hash of the weights converted from this checkpoint, if gold targets were made with them.
          refine: as in `StyleTTS2Speech`.

        Raises:
          TorchBackendError: no checkout, another commit, no checkpoint, or no config.yml beside it.
        """
        repo = STYLETTS2.check(settings.styletts2_repo, settings.any_commit)
        checkpoint = Path(settings.styletts2_checkpoint or "-")
        if not checkpoint.is_file():
            raise TorchBackendError(f"--styletts2-checkpoint {str(checkpoint)!r}: give the published .pth")
        config_file = checkpoint.with_name("config.yml")
        if not config_file.is_file():
            raise TorchBackendError(
                f"{config_file}: not there; only the config.yml beside a .pth has sizes and sigma_data"
            )
        params = yaml.safe_load(config_file.read_text("utf-8"))["model_params"]
        config = dataclasses.replace(StyleTTS2Config.published(params), **_plbert_sizes(repo))

        def build_original() -> Original:
            nets, sampler = build(repo, params, settings.any_commit)
            entry = read_checkpoint_entry(checkpoint, "net")
            for name, net in nets.items():
                if name not in entry:
                    raise TorchBackendError(f"{checkpoint}: no network {name!r} in it")
                state = {key.removeprefix("module."): value for key, value in entry[name].items()}
                load_state(net, state, checkpoint, _COMPUTED, prefix=f"{name}.")
            return Original(nets, sampler, config)

        sha256 = weights_sha256 or file_sha256(checkpoint)
        self._set_networks(TorchNetworks(build_original, config, sha256, torch_device(settings.device)), refine)
