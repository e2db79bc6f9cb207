"""StyleTTS 2 from a checkout of the original, as a speech generator: what `styletts2.stages` compiles, torch runs."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from empatheia_jax.config import TorchConfig
from empatheia_jax.generators.bridge import from_torch
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.stages import SAMPLES_A_FRAME, Stages, source_noise, style_noise
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech
from empatheia_jax.generators.torch_backend.checkout import (
    Checkout,
    TorchBackendError,
    device_of,
    file_sha256,
    load,
    read_entry,
    stand_in,
)
from empatheia_jax.generators.torch_backend.randomness import Drawn

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
    """(its networks that speak, not trained; its sampler of styles) of a checkout.

    Raises:
      TorchBackendError: no checkout, another commit, a package that is missing.
    """
    repo = STYLETTS2.check(repo, any_commit)
    stand_in("torchaudio", "torchaudio.functional")  # of the aligner, which is not built
    with STYLETTS2.importing(repo):
        import models
        from Modules.diffusion.sampler import ADPM2Sampler, DiffusionSampler, KarrasSchedule
        from munch import munchify
        from transformers import AlbertConfig, AlbertModel

        bert = AlbertModel(AlbertConfig(**_plbert(repo)))
        built = models.build_model(munchify(model_params), None, None, bert)
    nets = {name: built[name] for name in NETWORKS}
    schedule = KarrasSchedule(sigma_min=0.0001, sigma_max=3.0, rho=9.0)
    sampler = DiffusionSampler(
        nets["diffusion"].diffusion, sampler=ADPM2Sampler(), sigma_schedule=schedule, clamp=False
    )
    return nets, sampler


def _plbert(repo: Path) -> dict:
    return yaml.safe_load((repo / "Utils" / "PLBERT" / "config.yml").read_text())["model_params"]


def _plbert_sizes(repo: Path) -> dict:
    """As `StyleTTS2Config` names them; transformers' own sizes where the file is silent."""
    from transformers import AlbertConfig

    given = AlbertConfig(**_plbert(repo))
    return {
        "plbert_embedding": given.embedding_size,
        "plbert_hidden": given.hidden_size,
        "plbert_heads": given.num_attention_heads,
        "plbert_mlp": given.intermediate_size,
        "plbert_layers": given.num_hidden_layers,
        "plbert_positions": given.max_position_embeddings,
    }


class Original:
    """The original's networks and how they are used, a row at a time; float32 tensors, channels last."""

    def __init__(self, nets: dict[str, torch.nn.Module], sampler: Callable, config: StyleTTS2Config):
        """`sampler` is called as upstream's DiffusionSampler."""
        self.nets, self.sampler, self.config = nets, sampler, config

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Symbol ids [P] -> content [P, 1280]."""
        tokens, lengths, mask = tokens.long()[None], torch.tensor([len(tokens)]), self._mask(tokens)
        text = self.nets["text_encoder"](tokens, lengths, mask)[0].T
        words = self.nets["bert"](tokens, attention_mask=(~mask).int()).last_hidden_state[0]
        return torch.cat([text, words], dim=-1)

    def style(self, mel: torch.Tensor) -> torch.Tensor:
        """Log-mel [T, 80] -> style [256]."""
        given = mel.T[None, None]
        return torch.cat([self.nets["style_encoder"](given), self.nets["predictor_encoder"](given)], dim=-1)[0]

    def durations(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Content [P, 1280] and style [256] -> frames a phoneme, not yet whole [P]."""
        hidden, _ = self.nets["predictor"].lstm(self._prosodic(content, style))
        return torch.sigmoid(self.nets["predictor"].duration_proj(hidden)).sum(dim=-1)[0]

    def draw(self, words: torch.Tensor, reference: torch.Tensor | None, noise: torch.Tensor, scale: float):
        """h_bert [P, 768], a reference [256] and normal noise [steps, 256] -> style [256]."""
        features = {} if reference is None else {"features": reference[None]}
        with Drawn(noise[1:]):
            return self.sampler(
                noise=noise[:1, None], embedding=words[None], embedding_scale=scale, num_steps=len(noise), **features
            ).reshape(-1)

    def speak(self, content: torch.Tensor, style: torch.Tensor, frames: torch.Tensor, noise: torch.Tensor):
        """Content [P, 1280], style [256], whole frames [P], normal noise [600 L, 9] -> waveform [600 L]."""
        text, prosodic = content[:, : self.config.hidden_dim].T[None], style[self.config.style_dim :][None]
        d = self._prosodic(content, style).transpose(-1, -2)
        asr, en = (torch.repeat_interleave(x, frames.long(), dim=-1) for x in (text, d))
        if self.config.decoder_type == "hifigan":  # which hears each frame one later
            asr, en = (torch.cat([x[..., :1], x[..., :-1]], dim=-1) for x in (asr, en))
        f0, energy = self.nets["predictor"].F0Ntrain(en, prosodic)
        with Drawn([noise]):
            return self.nets["decoder"](asr, f0, energy, style[: self.config.style_dim][None]).reshape(-1)

    def _prosodic(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        words = content[None, :, self.config.hidden_dim :]
        projected = self.nets["bert_encoder"](words).transpose(-1, -2)
        lengths = torch.tensor([len(content)])
        prosodic = style[self.config.style_dim :][None]
        return self.nets["predictor"].text_encoder(projected, prosodic, lengths, self._mask(content))

    @staticmethod
    def _mask(row: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, len(row), dtype=torch.bool, device=row.device)


class TorchStages(Stages):
    """The same stages, each row through torch by itself; padding and batches are ours."""

    def __init__(self, make: Callable[[], Original], config: StyleTTS2Config, sha256: str, device: torch.device):
        """`make` builds the networks with the first call."""
        self.config, self.sha256 = config, sha256

        @functools.cache
        def original() -> Original:
            made = make()
            for net in made.nets.values():
                net.to(device)
            return made

        def bridged(name: str) -> Callable:
            return from_torch(lambda *given: getattr(original(), name)(*given), device=device)

        read, style, durations, draw, speak = map(bridged, ("read", "style", "durations", "draw", "speak"))
        self._read = lambda tokens, lengths: _rows(read, lengths, tokens)
        self._style = lambda mels, lengths: np.stack([style(m[:n]) for m, n in zip(mels, lengths, strict=True)])
        self._durations = lambda contents, styles, lengths: np.stack(
            [_filled(durations(c[:n], s), len(c)) for c, s, n in zip(contents, styles, lengths, strict=True)]
        )

        def drawn(words, lengths, references, seeds, steps, scale=1.0):
            near = [None] * len(words) if references is None else references
            width = 2 * config.style_dim
            return np.stack(
                [
                    draw(w[:n], r, style_noise(seed, len(steps) + 1, width), float(scale))
                    for w, n, r, seed in zip(words, lengths, near, seeds, strict=True)
                ]
            )

        def spoken(contents, styles, frames, lengths, seeds, size):
            found = []
            for c, s, f, n, seed in zip(contents, styles, frames, lengths, seeds, strict=True):
                noise = source_noise(seed, len(size))[: SAMPLES_A_FRAME * int(f.sum())]
                found.append(_filled(speak(c[:n], s, f[:n], noise), SAMPLES_A_FRAME * len(size)))
            return np.stack(found)

        self._draw = self._draw_guided = drawn
        self._speak = spoken


def _rows(function: Callable, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[B, P, ...]: the function of each row's part that counts, zeros behind."""
    return np.stack([_filled(function(row[:n]), len(row)) for row, n in zip(rows, lengths, strict=True)])


def _filled(row, length: int) -> np.ndarray:
    row = np.asarray(row)
    return np.pad(row, [(0, length - len(row)), *[(0, 0)] * (row.ndim - 1)])


class TorchStyleTTS2Speech(StyleTTS2Speech):
    """`StyleTTS2Speech` whose networks are the original's."""

    name = "torch"
    golds_of = "styletts2"

    def __init__(self, settings: TorchConfig, weights_sha256: str = "", refine: bool = False):
        """Read what the checkpoint is of; networks are built when first used.

        Args:
          weights_sha256: of the converted weights that the golds were made with, where the checkpoint is their source.
        Raises:
          TorchBackendError: no checkout, another commit, no checkpoint, or no config.yml beside it.
        """
        repo = STYLETTS2.check(settings.styletts2_repo, settings.any_commit)
        checkpoint = Path(settings.styletts2_checkpoint or "-")
        if not checkpoint.is_file():
            raise TorchBackendError(f"--styletts2-checkpoint {str(checkpoint)!r}: give the published .pth")
        place = checkpoint.with_name("config.yml")
        if not place.is_file():
            raise TorchBackendError(f"{place}: not there; only the config.yml beside a .pth has sizes and sigma_data")
        params = yaml.safe_load(place.read_text("utf-8"))["model_params"]
        config = dataclasses.replace(StyleTTS2Config.published(params), **_plbert_sizes(repo))

        def make() -> Original:
            nets, sampler = build(repo, params, settings.any_commit)
            entry = read_entry(checkpoint, "net")
            for name, net in nets.items():
                if name not in entry:
                    raise TorchBackendError(f"{checkpoint}: no network {name!r} in it")
                state = {key.removeprefix("module."): value for key, value in entry[name].items()}
                load(net, state, checkpoint, _COMPUTED, f"{name}.")
            return Original(nets, sampler, config)

        sha256 = weights_sha256 or file_sha256(checkpoint)
        self._use(TorchStages(make, config, sha256, device_of(settings.device)), refine)
