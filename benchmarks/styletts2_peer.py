"""StyleTTS 2 in torch with random weights: the original from a user's checkout, or our own torch modules.

The checkout's code is imported, not copied; it needs torch, transformers, einops, einops-exts, munch and scipy.
torchaudio may be missing: only the aligner, which is not built here, needs it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from empatheia_jax.generators.torch_backend.styletts2 import build

SIGMA_DATA = {"libritts": 0.19926648961191362, "ljspeech": 0.45731624995853165}
CONFIGS = {"libritts": "config_libritts.yml", "ljspeech": "config.yml"}
FRAMES_A_PHONEME = 3.0  # about as in speech; untrained durations would be 25


class Peer:
    """StyleTTS 2's networks in torch, with the inference of the demo notebook."""

    nets: dict[str, Any]  # of torch.nn.Module, which types every attribute as Tensor | Module
    sampler: Callable  # (noise=, embedding=, embedding_scale=, num_steps=, features=) -> style [1, 1, 256]

    def __init__(self, kind: str, style_dim: int, device: str):
        """Prepare `self.nets` for inference; `kind` is "libritts" or "ljspeech"."""
        self.kind, self.style_dim, self.device = kind, style_dim, device
        last = self.nets["predictor"].duration_proj.linear_layer
        bias = float(np.log(FRAMES_A_PHONEME / (last.out_features - FRAMES_A_PHONEME)))
        torch.nn.init.constant_(last.bias, bias)
        for net in self.nets.values():
            net.eval().requires_grad_(False).to(device)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return every tensor by its name in a published file, without "module."."""
        return {
            f"{name}.{key}": value.detach().cpu().numpy()
            for name, net in self.nets.items()
            for key, value in net.state_dict().items()
        }

    def parameters(self) -> int:
        """Return the number of parameters; the denoiser counts once."""
        return sum(p.numel() for net in self.nets.values() for p in net.parameters())

    @torch.no_grad()
    def style(self, log_mel: np.ndarray) -> torch.Tensor:
        """Return the style [1, 256] of a log-mel spectrogram float32 [T, 80]."""
        mel = torch.from_numpy(log_mel.T[None, None]).to(self.device)
        return torch.cat([self.nets["style_encoder"](mel), self.nets["predictor_encoder"](mel)], dim=1)

    @torch.no_grad()
    def speak(
        self, ids: np.ndarray, reference: torch.Tensor | None, steps: int, *, frames=None, noise=None
    ) -> np.ndarray:
        """Synthesize speech with alpha 0.3, beta 0.7 and no guidance.

        Args:
          ids: symbol ids int [P].
          reference: a style [1, 256]; None for a model of one speaker.
          steps: of the style diffusion.
          frames: duration frames int [P]; None: as predicted.
          noise: the sampler's initial noise [256] and that of its steps [steps - 1, 256]; None: random.
        Returns:
          Waveform float32 [samples].
        """
        nets, device, width = self.nets, self.device, self.style_dim
        tokens = torch.from_numpy(np.asarray(ids, np.int64))[None].to(device)
        lengths = torch.tensor([tokens.shape[1]])
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        text = nets["text_encoder"](tokens, lengths, mask)
        bert_states = nets["bert"](tokens, attention_mask=(~mask).int()).last_hidden_state
        features = {} if reference is None else {"features": reference}
        start = torch.randn(1, 1, 2 * width, device=device) if noise is None else torch.from_numpy(noise[0]).to(device)
        style = self.sampler(
            noise=start.reshape(1, 1, -1), embedding=bert_states, embedding_scale=1, num_steps=steps, **features
        ).squeeze(1)
        acoustic, prosodic = style[:, :width], style[:, width:]
        if reference is not None:
            acoustic = 0.3 * acoustic + 0.7 * reference[:, :width]
            prosodic = 0.7 * prosodic + 0.3 * reference[:, width:]
        d = nets["predictor"].text_encoder(nets["bert_encoder"](bert_states).transpose(-1, -2), prosodic, lengths, mask)
        x, _ = nets["predictor"].lstm(d)
        duration = torch.sigmoid(nets["predictor"].duration_proj(x)).sum(dim=-1)
        num_frames = torch.round(duration[0]).clamp(min=1).long()
        if self.kind == "ljspeech":
            num_frames[-1] += 5
        if frames is not None:
            num_frames = torch.from_numpy(np.asarray(frames, np.int64)).to(device)
        asr, en = (torch.repeat_interleave(x, num_frames, dim=-1) for x in (text, d.transpose(-1, -2)))
        if self.kind == "libritts":
            asr, en = (torch.cat([x[..., :1], x[..., :-1]], dim=-1) for x in (asr, en))
        f0, energy = nets["predictor"].F0Ntrain(en, prosodic)
        wave = nets["decoder"](asr, f0, energy, acoustic).reshape(-1).cpu().numpy()
        return wave[:-50] if self.kind == "libritts" else wave


class Original(Peer):
    """The original at its published size."""

    def __init__(self, repo: Path, kind: str, seed: int = 0, device: str = "cpu"):
        """Build the networks.

        Raises:
          FileNotFoundError: a file of the checkout is missing.
          TorchBackendError: `repo` is not a checkout of yl4579/StyleTTS2, or something that it needs is missing.
        """
        torch.manual_seed(seed)
        params = yaml.safe_load((Path(repo) / "Configs" / CONFIGS[kind]).read_text())["model_params"]
        params["diffusion"]["dist"]["sigma_data"] = SIGMA_DATA[kind]
        self.nets, self.sampler = build(repo, params)
        super().__init__(kind, params["style_dim"], device)


class StandIn(Peer):
    """Our own torch modules (`styletts2_torch`) at the published size."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu"):
        import styletts2_torch as networks
        from transformers import AlbertConfig, AlbertModel

        from empatheia_jax.generators.styletts2.config import StyleTTS2Config

        torch.manual_seed(seed)
        config = getattr(StyleTTS2Config, kind)()
        bert = AlbertConfig(
            vocab_size=config.n_token,
            embedding_size=config.plbert_embedding,
            hidden_size=config.plbert_hidden,
            num_attention_heads=config.plbert_heads,
            intermediate_size=config.plbert_mlp,
            num_hidden_layers=config.plbert_layers,
            max_position_embeddings=config.plbert_positions,
        )
        self.nets = {
            "bert": AlbertModel(bert),
            "bert_encoder": torch.nn.Linear(config.plbert_hidden, config.hidden_dim),
            "predictor": networks.Predictor(config),
            "decoder": networks.Decoder(config),
            "text_encoder": networks.TextEncoder(config),
            "predictor_encoder": networks.StyleEncoder(config),
            "style_encoder": networks.StyleEncoder(config),
            "diffusion": networks.Diffusion(config),
        }
        self.sampler = self.nets["diffusion"]
        super().__init__(kind, config.style_dim, device)
