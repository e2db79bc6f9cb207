"""The original DreamTalk in torch, run from a user's checkout (`--torch-repo`), under regenerable weights.

The checkout's code is run, not copied (its renderer's is CC BY-NC); it needs torch, transformers, numpy, scipy, opencv,
pyyaml and yacs. dlib may be missing: it crops portraits, which is not measured.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from regenerated import manifest, tensors

from empatheia_jax.encoders.hubert_audio import normalised
from empatheia_jax.generators.torch_backend.dreamtalk import build

COMPUTED = ("null_", "var_sched.")  # by the network itself; not loaded


class Original:
    """The denoising network and the renderer."""

    def __init__(self, repo: Path, device: str = "cpu"):
        """Build the networks.

        Raises:
          TorchBackendError: `repo` is no checkout of ali-vilab/dreamtalk, or something that it needs is missing.
        """
        self.device = device
        self.net, self.renderer = build(repo)
        arrays = {k.removeprefix("diff_net."): v for k, v in tensors("denoising_network").items()}
        kept = {name for name in arrays if not name.startswith(COMPUTED) and "pos_table" not in name}
        state = {name: torch.from_numpy(arrays[name]) for name in kept}
        missing, unexpected = self.net.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= arrays.keys() - kept, (missing, unexpected)
        self.renderer.load_state_dict({k: torch.from_numpy(v) for k, v in tensors("renderer").items()}, strict=True)
        for network in (self.net, self.renderer):
            network.eval().requires_grad_(False).to(device)

    @functools.cached_property
    def hearing(self):
        """wav2vec 2.0 as the published script loads it, with weights of its own."""
        import transformers

        config = transformers.Wav2Vec2Config(**manifest("wav2vec2_xlsr53")["config"])
        return transformers.Wav2Vec2Model(config).eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def hear(self, sound: np.ndarray) -> np.ndarray:
        """Mono [samples] at 16 kHz -> rows [R, 1024]."""
        scaled = torch.from_numpy(normalised(sound))
        return self.hearing(scaled[None].to(self.device)).last_hidden_state[0].cpu().numpy()

    @torch.no_grad()
    def motion(self, windows: np.ndarray, clip: np.ndarray, steps: int = 10) -> np.ndarray:
        """Audio windows [F, 11, 1024] and a style clip [n, 64] -> expression [F, 64], as the published script draws."""
        padded = np.zeros((256, clip.shape[1]), np.float32)
        padded[: len(clip)] = clip[:256]
        mask = torch.arange(256)[None] >= len(clip)
        found = self.net.sample(
            torch.from_numpy(windows)[None].to(self.device),
            torch.from_numpy(padded)[None].to(self.device),
            mask.to(self.device),
            output_dim=clip.shape[1],
            use_cf_guidance=self.net.cfg.CF_GUIDANCE.INFERENCE,
            cfg_scale=1.0,
            sample_method="ddim",
            ddim_num_step=steps,
        )
        return found[0].cpu().numpy()

    @torch.no_grad()
    def render(self, portrait: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Portrait uint8 [256, 256, 3] and windows of motion [F, 27, 73] -> pictures [F, 256, 256, 3], -1..1."""
        image = torch.from_numpy(portrait.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1).to(self.device)
        driving = torch.from_numpy(windows.transpose(0, 2, 1).copy()).to(self.device)
        out = self.renderer(image[None].expand(len(driving), -1, -1, -1), driving)["fake_image"]
        return out.cpu().numpy().transpose(0, 2, 3, 1)
