"""DreamTalk from a checkout of the original, as a face generator: what `dreamtalk.networks` compiles, torch runs."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import yaml

from empatheia_jax.config import GeneratorConfig, TorchConfig
from empatheia_jax.generators.bridge import from_torch
from empatheia_jax.generators.dreamtalk import sampler
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.face import DreamTalkFace, points_of_box
from empatheia_jax.generators.dreamtalk.networks import Networks, chunk_noise
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
from empatheia_jax.weights import architecture_of, is_weights

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
    """(diffusion network, renderer) of a checkout, not trained.

    Raises:
      TorchBackendError: no checkout, another commit, a package that is missing.
    """
    repo = DREAMTALK.check(repo, any_commit)
    stand_in("dlib")  # it crops portraits, which we do ourselves
    with DREAMTALK.importing(repo):
        from configs.default import get_cfg_defaults
        from core.networks.diffusion_net import DiffusionNet
        from core.networks.diffusion_util import NoisePredictor, VarianceSchedule
        from generators.face_model import FaceGenerator

        cfg = get_cfg_defaults()
        given = cfg.DIFFUSION.SCHEDULE
        schedule = VarianceSchedule(
            num_steps=given.NUM_STEPS, beta_1=given.BETA_1, beta_T=given.BETA_T, mode=given.MODE
        )
        diffusion = DiffusionNet(cfg=cfg, net=NoisePredictor(cfg), var_sched=schedule)
        renderer = FaceGenerator(**yaml.safe_load((repo / "generators" / "renderer_conf.yaml").read_text()))
    return diffusion, renderer


def load_published(diffusion: torch.nn.Module, renderer: torch.nn.Module, checkpoint: Path, pictures: Path) -> None:
    """The published denoising_network.pth and renderer.pt into them. Raises TorchBackendError."""
    entry = read_entry(checkpoint, "model_state_dict")
    state = {key.removeprefix("diff_net."): value for key, value in entry.items() if key.startswith("diff_net.")}
    computed = {name for name in state if name.startswith(_COMPUTED)}
    load(diffusion, {n: v for n, v in state.items() if n not in computed}, checkpoint, _COMPUTED, "diff_net.")
    load(renderer, read_entry(pictures, "net_G_ema"), pictures)


class Original:
    """The original's networks and how they are used; float32 tensors, channels last, a clip at a time."""

    def __init__(self, diffusion: torch.nn.Module, renderer: torch.nn.Module, hearing: torch.nn.Module | None = None):
        """`hearing` is transformers' Wav2Vec2Model."""
        self.diffusion, self.renderer, self.hearing = diffusion, renderer, hearing

    def to(self, device: torch.device) -> "Original":
        """All of it on a device."""
        for network in filter(None, (self.diffusion, self.renderer, self.hearing)):
            network.eval().to(device)
        return self

    def hear(self, waveform: torch.Tensor) -> torch.Tensor:
        """Normed sound [samples] -> rows [R, 1024]."""
        return self.hearing(waveform[None]).last_hidden_state[0]

    def project(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [R, 1024] -> [R, 256]."""
        return self.diffusion.net.content_encoder.increase_embed_dim(rows)

    def windows(self, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Projected rows [R, 256] and their places in windows [L, 11], -1 for silence -> content [L, 11, 256]."""
        encoder = self.diffusion.net.content_encoder
        silent = self.project(rows.new_zeros(1, encoder.increase_embed_dim.in_features))
        found = torch.where((index >= 0)[..., None], rows[index.long().clamp(min=0)], silent)
        return with_parts(encoder, increase_embed_dim=torch.nn.Identity())(found[None])[0]

    def style(self, clip: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Clip [256, 64] of which the first `length` [1] frames count -> code [256]."""
        padding = torch.arange(len(clip), device=clip.device) >= length
        return self.diffusion.net.style_encoder(clip[None], padding[None])[0]

    def motion(self, content, style, noise, draw: str, steps: int, scale: float) -> torch.Tensor:
        """Content [L, 11, 256], code [256], noise (first of DDIM's and DDPM's, then of DDPM's steps) [n, 1, L, 64] ->
        expression [L, 64]: upstream's sampler, given content and style that are encoded already."""
        net, nothing = self.diffusion.net, self.diffusion.null_style_clip
        ready = with_parts(net, content_encoder=torch.nn.Identity(), style_encoder=_Code())
        diffusion = with_parts(self.diffusion, net=ready)
        unmasked = torch.zeros(1, 1, dtype=torch.bool, device=style.device)
        if scale != 1.0:
            null = net.style_encoder(nothing[None], self.diffusion.null_pad_mask[None])
            diffusion._buffers = diffusion._buffers | {"null_style_clip": null, "null_pad_mask": unmasked[0]}
        with Drawn(noise):
            return diffusion.sample(
                content[None],
                style[None, None],
                unmasked,
                output_dim=nothing.shape[1],
                use_cf_guidance=scale != 1.0,
                cfg_scale=scale,
                sample_method=draw,
                ddim_num_step=steps,
            )[0]

    def render(self, portrait: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Portrait uint8 [256, 256, 3] and windows of motion [F, 27, 73] -> pictures uint8 [F, 256, 256, 3]."""
        image = (portrait.permute(2, 0, 1).float() / 127.5 - 1)[None].expand(len(windows), -1, -1, -1)
        picture = self.renderer(image, windows.transpose(1, 2))["fake_image"].permute(0, 2, 3, 1)
        return ((picture.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)


class _Code(torch.nn.Module):
    """In the place of a style encoder: the "clip" is its code."""

    def forward(self, clip: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return clip[:, 0]


def with_parts(module: torch.nn.Module, **parts: torch.nn.Module) -> torch.nn.Module:
    """The same module, of which some parts are others; the module itself does not change."""
    twin = copy.copy(module)
    twin._modules = module._modules | parts
    return twin


class TorchNetworks(Networks):
    """The same networks through torch. What a checkout has none of (the coefficients' regressor) stays in Flax."""

    def __init__(
        self,
        make: Callable[[], Original],
        folder: Path,
        hears: bool,
        identity: str,
        device: torch.device,
        *,
        draw: str = "ddim",
        steps: int = 10,
        scale: float = 1.0,
    ):
        """`make` builds them with the first call.

        Args:
          folder: converted weights, which may be missing; of the same checkpoint, where golds were made with them.
          hears: whether `make` brings a wav2vec 2.0.
          identity: hash of the checkpoint.
        """
        self.folder, self._hears, self._identity = folder, hears, identity
        if draw == "ddim":
            sampler.ddim_steps(steps)
        self.config = self._own("denoiser", DreamTalkConfig)
        self.renderer_config = self._own("renderer", RendererConfig)
        made = functools.cache(lambda: make().to(device))

        def bridged(name: str) -> Callable:
            return lambda *given: np.asarray(call(name, *given))

        call = from_torch(lambda name, *given: getattr(made(), name)(*given), device=device)
        self._project, self._windows, self._render = map(bridged, ("project", "windows", "render"))
        self._style = lambda clips, lengths: np.stack(
            [bridged("style")(clip, n[None]) for clip, n in zip(clips, lengths, strict=True)]
        )

        def motion(content, style, seed, number):
            shape = (1, len(content), self.config.expression_dim)
            noise, fresh = chunk_noise(seed, number, shape)
            more = jax.vmap(fresh)(jnp.arange(sampler.STEPS, 1, -1)) if draw == "ddpm" else jnp.zeros((0, *shape))
            return bridged("motion")(content, style[0], jnp.concatenate([noise[None], more]), draw, steps, scale)

        self._motion = motion
        if hears:
            self._hear = lambda waves, lengths: np.stack(
                [bridged("hear")(wave[:n]) for wave, n in zip(waves, lengths, strict=True)]
            )

    def has(self, part: str) -> bool:
        """Whether there is a part: wav2vec and face3d may be missing."""
        return part in ("denoiser", "renderer") or (part == "wav2vec" and self._hears) or super().has(part)

    def sha256(self, part: str) -> str:
        """Of the converted weights, where there are some; else of the checkpoint."""
        return super().sha256(part) if is_weights(self.folder / part) else self._identity * self.has(part)

    def _own(self, part: str, default: type):
        return default(**architecture_of(self.folder / part)[1]) if is_weights(self.folder / part) else default()


class TorchDreamTalkFace(DreamTalkFace):
    """`DreamTalkFace` whose networks are the original's."""

    name = "torch"
    golds_of = "dreamtalk"

    def __init__(self, generators: GeneratorConfig):
        """Read what there is; networks are built when first used.

        Raises:
          TorchBackendError: no checkout, another commit, a checkpoint that is missing.
        """
        settings: TorchConfig = generators.torch
        repo = DREAMTALK.check(settings.dreamtalk_repo, settings.any_commit)
        files = {name: Path(getattr(settings, f"dreamtalk_{name}") or "-") for name in ("checkpoint", "renderer")}
        for name, path in files.items():
            if not path.is_file():
                what = {"checkpoint": "denoising_network.pth", "renderer": "renderer.pt"}[name]
                raise TorchBackendError(f"--dreamtalk-{name} {str(path)!r}: give the published {what}")
        hearing = settings.dreamtalk_wav2vec
        if hearing and not (Path(hearing) / "config.json").is_file():
            raise TorchBackendError(f"--dreamtalk-wav2vec {hearing}: give a directory of transformers (config.json)")

        def make() -> Original:
            diffusion, renderer = build(repo, settings.any_commit)
            load_published(diffusion, renderer, files["checkpoint"], files["renderer"])
            model = None
            if hearing:
                from transformers import Wav2Vec2Model

                model = Wav2Vec2Model.from_pretrained(hearing).requires_grad_(False)
            return Original(diffusion, renderer, model)

        networks = TorchNetworks(
            make,
            Path(generators.face_weights or "-"),
            bool(hearing),
            file_sha256(files["checkpoint"]),
            device_of(settings.device),
            draw=generators.face_sampler,
        )
        self._use(networks, 0, generators.face_content == "compact", points_of_box)
