"""The original DreamTalk in torch, run from a user's checkout (`--torch-repo`), with regenerated weights.

The checkout's code is imported, not copied (its renderer is CC BY-NC); it needs torch, transformers, numpy, scipy,
opencv, pyyaml and yacs. dlib may be missing: it crops portraits, which is not measured.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from regenerated import make_tensors, read_manifest

from empatheia_jax.encoders.hubert import normalise_waveform
from empatheia_jax.generators.torch_backend.dreamtalk import build

COMPUTED = ("null_", "var_sched.")  # beginnings of names that the network computes itself; not loaded


class Original:
    """The original denoising network and renderer."""

    def __init__(self, repo: Path, device: str = "cpu"):
        """Build the networks.

        Raises:
          TorchBackendError: `repo` is not a checkout of ali-vilab/dreamtalk, or something that it needs is missing.
        """
        self.device = device
        self.net, self.renderer = build(repo)
        arrays = {k.removeprefix("diff_net."): v for k, v in make_tensors("denoising_network").items()}
        loaded = {name for name in arrays if not name.startswith(COMPUTED) and "pos_table" not in name}
        state = {name: torch.from_numpy(arrays[name]) for name in loaded}
        missing, unexpected = self.net.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= arrays.keys() - loaded, (missing, unexpected)
        renderer_state = {name: torch.from_numpy(array) for name, array in make_tensors("renderer").items()}
        self.renderer.load_state_dict(renderer_state, strict=True)
        for network in (self.net, self.renderer):
            network.eval().requires_grad_(False).to(device)

    @functools.cached_property
    def audio_encoder(self):
        """wav2vec 2.0 as the published script loads it, with random weights."""
        import transformers

        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**read_manifest("wav2vec2_xlsr53")["config"]))
        return model.eval().requires_grad_(False).to(self.device)  # pyright: ignore[reportArgumentType]: taken for self

    @torch.no_grad()
    def audio_features(self, waveform: np.ndarray) -> np.ndarray:
        """Encode a waveform float32 [samples] at 16 kHz to features float32 [A, 1024]."""
        normalised = torch.from_numpy(normalise_waveform(waveform))
        return self.audio_encoder(normalised[None].to(self.device)).last_hidden_state[0].cpu().numpy()

    @torch.no_grad()
    def sample_expression(self, windows: np.ndarray, style_clip: np.ndarray, steps: int = 10) -> np.ndarray:
        """Sample expression coefficients as the published script does.

        Args:
          windows: audio features float32 [F, 11, 1024], a window a frame.
          style_clip: expression float32 [S, 64] of a clip with the style.
          steps: of DDIM.
        Returns:
          Expression coefficients float32 [F, 64].
        """
        padded = np.zeros((256, style_clip.shape[1]), np.float32)
        padded[: len(style_clip)] = style_clip[:256]
        mask = torch.arange(256)[None] >= len(style_clip)
        expression = self.net.sample(  # pyright: ignore[reportCallIssue]: torch types it as Tensor | Module
            torch.from_numpy(windows)[None].to(self.device),
            torch.from_numpy(padded)[None].to(self.device),
            mask.to(self.device),
            output_dim=style_clip.shape[1],
            use_cf_guidance=self.net.cfg.CF_GUIDANCE.INFERENCE,  # pyright: ignore[reportAttributeAccessIssue]: as above
            cfg_scale=1.0,
            sample_method="ddim",
            ddim_num_step=steps,
        )
        return expression[0].cpu().numpy()

    @torch.no_grad()
    def render(self, portrait: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Render frames [F, 256, 256, 3] in -1..1 from a portrait uint8 [256, 256, 3] and motion [F, 27, 73]."""
        image = torch.from_numpy(portrait.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1).to(self.device)
        driving = torch.from_numpy(windows.transpose(0, 2, 1).copy()).to(self.device)
        frames = self.renderer(image[None].expand(len(driving), -1, -1, -1), driving)["fake_image"]
        return frames.cpu().numpy().transpose(0, 2, 3, 1)
