"""The original DreamTalk as a face generator: `dreamtalk.networks` computed by torch."""

# pyright: reportMissingImports=false
# The original's modules are found in its checkout, at run time.

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import yaml

from empatheia_jax.checkpoints.weights import is_weights, read_architecture
from empatheia_jax.config import GeneratorConfig, TorchConfig
from empatheia_jax.generators.bridge import from_torch
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.diffusion import STEPS, ddim_steps
from empatheia_jax.generators.dreamtalk.face import DreamTalkFace, points_from_box
from empatheia_jax.generators.dreamtalk.networks import Networks, chunk_noise
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

DREAMTALK = Checkout(
    url="https://github.com/ali-vilab/dreamtalk",
    commit="ba798b0e586d96a63f61050f7e8e17287ff3c859",
    flag="--dreamtalk-repo",
    packages={
        "yacs": "yacs",
        "cv2": "opencv-python-headless",
        "scipy": "scipy",
        "yaml": "pyyaml",
        "transformers": "transformers",
        "PIL": "pillow",
    },
    files={
        "configs/default.py": "0c552c827ca82dc74389c4e8b47502457d7a0abc",
        "core/utils.py": "5bb4e3934995b06e7c8c3ac8bea6e6d655d3e71f",
        "core/networks/diffusion_net.py": "3545e790fc44ac35c17c46012c694d7ace3b5b62",
        "core/networks/diffusion_util.py": "584866cbd790960c3f7e6d67478c612ef938a3cc",
        "core/networks/disentangle_decoder.py": "dab626a2cedd28444951ec0ab421b5a2a744d4ed",
        "core/networks/generator.py": "4cd33c17a405906f4ae825a9015f6920a22d6c29",
        "generators/face_model.py": "20392f0cb3bdbefb6ecdc20b43ffe0d7b87cbe6c",
        "generators/renderer_conf.yaml": "bd1a7973853f52338a13d0d80341c295190f3e75",
    },
)
_COMPUTED = (
    "null_",
    "var_sched.",
    "net.content_encoder.pos_embed",
    "net.style_encoder.pos_embed",
    "net.decoder.pos_embed",
)


def build(repo: Path, any_commit: bool = False) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build the untrained diffusion network and renderer of a checkout.

    Args:
      repo: the checkout's folder.
      any_commit: accept code of another commit.

    Raises:
      TorchBackendError: no checkout, another commit, or a missing package.
    """
    repo = DREAMTALK.check(repo, any_commit)
    stub_modules("dlib")  # used for cropping portraits, which happens in `dreamtalk.alignment`
    with DREAMTALK.importing(repo):
        from configs.default import get_cfg_defaults
        from core.networks.diffusion_net import DiffusionNet
        from core.networks.diffusion_util import NoisePredictor, VarianceSchedule
        from generators.face_model import FaceGenerator

        cfg = get_cfg_defaults()
        settings = cfg.DIFFUSION.SCHEDULE
        schedule = VarianceSchedule(
            num_steps=settings.NUM_STEPS, beta_1=settings.BETA_1, beta_T=settings.BETA_T, mode=settings.MODE
        )
        diffusion = DiffusionNet(cfg=cfg, net=NoisePredictor(cfg), var_sched=schedule)
        renderer = FaceGenerator(**yaml.safe_load((repo / "generators" / "renderer_conf.yaml").read_text()))
    return diffusion, renderer


def load_published(
    diffusion: torch.nn.Module, renderer: torch.nn.Module, checkpoint: Path, renderer_file: Path
) -> None:
    """Load the published weights.

    Args:
      diffusion: the diffusion network.
      renderer: the renderer.
      checkpoint: denoising_network.pth.
      renderer_file: renderer.pt.

    Raises:
      TorchBackendError: a file is missing, or does not fit its network.
    """
    entry = read_checkpoint_entry(checkpoint, "model_state_dict")
    state = {key.removeprefix("diff_net."): value for key, value in entry.items() if key.startswith("diff_net.")}
    loaded = {name: value for name, value in state.items() if not name.startswith(_COMPUTED)}
    load_state(diffusion, loaded, checkpoint, _COMPUTED, prefix="diff_net.")
    load_state(renderer, read_checkpoint_entry(renderer_file, "net_G_ema"), renderer_file)


class Original:
    """The original's networks and how they are used: float32 tensors, channels last, one clip at a time."""

    def __init__(self, diffusion: Any, renderer: torch.nn.Module, audio_encoder: Any = None):
        """Take the networks: modules of the checkout, and transformers' Wav2Vec2Model if there is one."""
        self.diffusion, self.renderer, self.audio_encoder = diffusion, renderer, audio_encoder

    def to(self, device: torch.device) -> "Original":
        """Move all networks to a device."""
        for network in filter(None, (self.diffusion, self.renderer, self.audio_encoder)):
            network.eval().to(device)
        return self

    def audio_features(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return wav2vec 2.0's features [R, 1024] of a normalised waveform [samples]."""
        return self.audio_encoder(waveform[None]).last_hidden_state[0]

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Project audio features [R, 1024] to [R, 256]."""
        return self.diffusion.net.content_encoder.increase_embed_dim(features)

    def windows(self, features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return content [L, 11, 256] of projected features [R, 256] at `index` int [L, 11], -1 for silence."""
        encoder = self.diffusion.net.content_encoder
        silence = self.project(features.new_zeros(1, encoder.increase_embed_dim.in_features))
        windows = torch.where((index >= 0)[..., None], features[index.long().clamp(min=0)], silence)
        return replace_submodules(encoder, increase_embed_dim=torch.nn.Identity())(windows[None])[0]

    def style(self, clip: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Return the style code [256] of a zero-padded clip [256, 64] with true frames `length` [1]."""
        padding = torch.arange(len(clip), device=clip.device) >= length
        return self.diffusion.net.style_encoder(clip[None], padding[None])[0]

    def sample_expression(
        self, content: torch.Tensor, style: torch.Tensor, noise: torch.Tensor, *, sampler: str, steps: int, scale: float
    ) -> torch.Tensor:
        """Sample the expression [L, 64] by upstream's sampler, for content and style that are encoded already.

        Args:
          content: [L, 11, 256].
          style: style code [256].
          noise: normal [n, 1, L, 64]: the start, then for DDPM the noise of its steps.
          sampler: "ddim" or "ddpm".
          steps: steps of DDIM.
          scale: strength of guidance by the style.
        """
        net, null_clip = self.diffusion.net, self.diffusion.null_style_clip
        encoded = replace_submodules(net, content_encoder=torch.nn.Identity(), style_encoder=_EncodedStyle())
        diffusion = replace_submodules(self.diffusion, net=encoded)
        unmasked = torch.zeros(1, 1, dtype=torch.bool, device=style.device)
        if scale != 1.0:
            null = net.style_encoder(null_clip[None], self.diffusion.null_pad_mask[None])
            diffusion._buffers = diffusion._buffers | {"null_style_clip": null, "null_pad_mask": unmasked[0]}
        with ReplacedNoise(noise):
            return diffusion.sample(
                content[None],
                style[None, None],
                unmasked,
                output_dim=null_clip.shape[1],
                use_cf_guidance=scale != 1.0,
                cfg_scale=scale,
                sample_method=sampler,
                ddim_num_step=steps,
            )[0]

    def render(self, portrait: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Render frames uint8 [F, 256, 256, 3] of a portrait uint8 [256, 256, 3] and windows of motion [F, 27, 73]."""
        image = (portrait.permute(2, 0, 1).float() / 127.5 - 1)[None].expand(len(windows), -1, -1, -1)
        frames = self.renderer(image, windows.transpose(1, 2))["fake_image"].permute(0, 2, 3, 1)
        return ((frames.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)


class _EncodedStyle(torch.nn.Module):
    """Replacement of the style encoder whose input is the style code itself."""

    def forward(self, clip: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return clip[:, 0]


def replace_submodules(module: Any, **submodules: torch.nn.Module) -> Any:
    """Return a shallow copy of a module with some submodules replaced."""
    replaced = copy.copy(module)
    replaced._modules = module._modules | submodules
    return replaced


class TorchNetworks(Networks):
    """`Networks` computed by torch. The coefficients' regressor, which the checkout lacks, stays in Flax."""

    def __init__(
        self,
        build_original: Callable[[], Original],
        folder: Path,
        *,
        has_audio_encoder: bool,
        identity: str,
        device: torch.device,
        sampler: str = "ddim",
        steps: int = 10,
        scale: float = 1.0,
    ):
        """Wrap the original; it is built with the first call.

        Args:
          build_original: builds the original's networks with their weights.
          folder: converted weights of the same checkpoint, which may be missing.
          has_audio_encoder: whether the original has a wav2vec 2.0.
          identity: hash of the checkpoint.
          device: where torch computes.
          sampler: "ddim" or "ddpm".
          steps: steps of DDIM.
          scale: strength of guidance by the style.
        """
        self.folder, self._has_audio_encoder, self._identity = folder, has_audio_encoder, identity
        if sampler == "ddim":
            ddim_steps(steps)
        self.config = self._read_config("denoiser", DreamTalkConfig)
        self.renderer_config = self._read_config("renderer", RendererConfig)
        original = functools.cache(lambda: build_original().to(device))

        def bridged(name: str) -> Callable:
            return lambda *args, **options: np.asarray(call(name, *args, **options))

        call = from_torch(lambda name, *args, **options: getattr(original(), name)(*args, **options), device=device)
        self._project, self._windows, self._render = map(bridged, ("project", "windows", "render"))
        self._style = lambda clips, lengths: np.stack(
            [bridged("style")(clip, length[None]) for clip, length in zip(clips, lengths, strict=True)]
        )

        def sample_expression(content, style, seed, number):
            shape = (1, len(content), self.config.expression_dim)
            start, step_noise = chunk_noise(seed, number, shape)
            added = jax.vmap(step_noise)(jnp.arange(STEPS, 1, -1)) if sampler == "ddpm" else jnp.zeros((0, *shape))
            noise = jnp.concatenate([start[None], added])
            return bridged("sample_expression")(content, style[0], noise, sampler=sampler, steps=steps, scale=scale)

        self._sample_expression = sample_expression
        if has_audio_encoder:
            self._audio_features = lambda waves, lengths: np.stack(
                [bridged("audio_features")(wave[:length]) for wave, length in zip(waves, lengths, strict=True)]
            )

    def has(self, part: str) -> bool:
        """Return whether there is a part; wav2vec and face3d may be missing."""
        return part in ("denoiser", "renderer") or (part == "wav2vec" and self._has_audio_encoder) or super().has(part)

    def sha256(self, part: str) -> str:
        """Return the hash of the converted weights if there are some, else that of the checkpoint."""
        return super().sha256(part) if is_weights(self.folder / part) else self._identity * self.has(part)

    def _read_config(self, part: str, default: type):
        return default(**read_architecture(self.folder / part)[1]) if is_weights(self.folder / part) else default()


class TorchDreamTalkFace(DreamTalkFace):
    """`DreamTalkFace` with the original's networks."""

    name = "torch"
    target_backend = "dreamtalk"

    def __init__(self, generators: GeneratorConfig):
        """Check the checkout and the checkpoints; networks are built when first used.

        Args:
          generators: the config, with `torch.dreamtalk_*` and optionally `face_weights`.

        Raises:
          TorchBackendError: no checkout, another commit, or a missing checkpoint.
        """
        settings: TorchConfig = generators.torch
        repo = DREAMTALK.check(settings.dreamtalk_repo, settings.any_commit)
        files = {name: Path(getattr(settings, f"dreamtalk_{name}") or "-") for name in ("checkpoint", "renderer")}
        for name, path in files.items():
            if not path.is_file():
                published = {"checkpoint": "denoising_network.pth", "renderer": "renderer.pt"}[name]
                raise TorchBackendError(f"--dreamtalk-{name} {str(path)!r}: give the published {published}")
        wav2vec = settings.dreamtalk_wav2vec
        if wav2vec and not (Path(wav2vec) / "config.json").is_file():
            raise TorchBackendError(f"--dreamtalk-wav2vec {wav2vec}: give a directory of transformers (config.json)")

        def build_original() -> Original:
            diffusion, renderer = build(repo, settings.any_commit)
            load_published(diffusion, renderer, files["checkpoint"], files["renderer"])
            audio_encoder = None
            if wav2vec:
                from transformers import Wav2Vec2Model

                audio_encoder = Wav2Vec2Model.from_pretrained(wav2vec).requires_grad_(False)
            return Original(diffusion, renderer, audio_encoder)

        networks = TorchNetworks(
            build_original,
            Path(generators.face_weights or "-"),
            has_audio_encoder=bool(wav2vec),
            identity=file_sha256(files["checkpoint"]),
            device=torch_device(settings.device),
            sampler=generators.face_sampler,
        )
        self._set_networks(networks, 0, generators.face_content == "compact", points_from_box)
