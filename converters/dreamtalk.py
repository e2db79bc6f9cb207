"""DreamTalk: its three files -> networks of `generators.dreamtalk`; its fourth, wav2vec 2.0, is a family of its own.

Our modules bear upstream's names (`torch_layers`). Each part is a folder of weights of its own below the output.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from flax import nnx

from converters.readers import ConversionError, Tensor
from converters.rules import Rule, fit
from converters.source import Source, network_of
from converters.torch_files import open_torch
from converters.torch_layers import rules_of
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, Face3DConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.denoiser import Denoiser
from empatheia_jax.generators.dreamtalk.face3d import Face3D
from empatheia_jax.generators.dreamtalk.renderer import Renderer
from empatheia_jax.generators.dreamtalk.sampler import STEPS
from empatheia_jax.weights import slots


@dataclasses.dataclass(frozen=True)
class Part:
    """One published file; it has the attributes of a family's module."""

    name: str
    NETWORK: type[nnx.Module]
    CONFIG: object
    ROOT: str  # the entry of the file that is read
    STEM: str  # before every name
    MANIFEST: str
    known: dict[str, tuple[int, ...]]  # in the file and not ours: name -> shape
    KEPT: tuple[str, ...] = ()
    MODEL_TYPES: tuple[str, ...] = ()

    @property
    def HARMLESS(self) -> tuple[str, ...]:
        return tuple(map(re.escape, self.known))

    def rules(self, config: object, prefix: str = "") -> list[Rule]:
        """The table, a parameter at a time."""
        return rules_of(self.NETWORK, config, lambda name: self.STEM + name)

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's; the published loader, too, passes over what else is in the entry."""
        return {name: tensor for name, tensor in tensors.items() if name.startswith(self.STEM.partition(".")[0])}

    def check(self, config: object, tensors: Mapping[str, Tensor]) -> list[str]:
        """What is known and not used must still be there, and what it should be."""
        problems = []
        for name, shape in self.known.items():
            if name not in tensors:
                problems.append(f"{name} is missing (unused, but upstream's file has it)")
            elif tensors[name].shape != shape:
                problems.append(f"{name} has shape {list(tensors[name].shape)}, upstream's is {list(shape)}")
        return problems

    def open_files(self, source: Path) -> Source:
        """The file and where each parameter comes from.

        Raises:
          ConversionError: a file that does not fit, with everything that is wrong.
        """
        source = Path(source)
        if not source.is_file():
            raise ConversionError(f"{source}: not there")
        tensors = self.own(open_torch(source, self.ROOT))
        if not tensors:
            raise ConversionError(f"{source}: no {self.STEM}* in its {self.ROOT}: is it DreamTalk's {self.name}?")
        places = slots(network_of(self.NETWORK, self.CONFIG)[1])
        fits = fit(self.rules(self.CONFIG), places, tensors, self.HARMLESS, self.check(self.CONFIG, tensors))
        return Source(f"dreamtalk_{self.name}", source.parent, {}, self.CONFIG, tensors, "", fits)


def _computed(config: DreamTalkConfig) -> dict[str, tuple[int, ...]]:
    """Tables and schedules that the file holds and we compute."""
    clip = {"diff_net.null_style_clip": (config.style_frames, config.expression_dim)}
    clip["diff_net.null_pad_mask"] = (config.style_frames,)
    windows = {"content_encoder": config.window, "style_encoder": config.style_frames, "decoder": config.window}
    tables = {f"diff_net.net.{n}.pos_embed.pos_table": (1, count, config.width) for n, count in windows.items()}
    schedules = ("betas", "alphas", "alpha_bars", "sigmas_flex", "sigmas_inflex")
    return clip | tables | {f"diff_net.var_sched.{name}": (STEPS + 1,) for name in schedules}


def _without_effect(config: RendererConfig) -> dict[str, tuple[int, ...]]:
    """What upstream computes and throws away (`editing.ResBlock`)."""
    found, hidden, code = {}, config.norm_width, config.descriptor
    for level, width in enumerate(config.edit_widths[1:]):
        shapes = {
            "conv1.weight": (width, width, 3, 3),
            "conv1.bias": (width,),
            "norm1.mlp_shared.0.weight": (hidden, code),
            "norm1.mlp_shared.0.bias": (hidden,),
            "norm1.mlp_gamma.weight": (width, hidden),
            "norm1.mlp_gamma.bias": (width,),
            "norm1.mlp_beta.weight": (width, hidden),
            "norm1.mlp_beta.bias": (width,),
        }
        for block in range(config.edit_blocks):
            stem = f"editing_net.decoder.res{level}.res{block}."
            found |= {stem + name: shape for name, shape in shapes.items()}
    return found


def _counters(config: Face3DConfig) -> dict[str, tuple[int, ...]]:
    """How many batches each norm has seen in training."""
    paths = (path for path, _ in nnx.to_flat_state(network_of(Face3D, config)[1]) if path[-1] == "running_mean")
    return {".".join(map(str, path[:-1])) + ".num_batches_tracked": () for path in paths}


DENOISER, RENDERER, FACE3D = DreamTalkConfig(), RendererConfig(), Face3DConfig()
PARTS = {
    part.name: part
    for part in (
        Part(
            "denoiser",
            Denoiser,
            DENOISER,
            "model_state_dict",
            "diff_net.net.",
            "denoising_network",
            _computed(DENOISER),
        ),
        Part("renderer", Renderer, RENDERER, "net_G_ema", "", "renderer", _without_effect(RENDERER)),
        Part("face3d", Face3D, FACE3D, "net_recon", "", "deep3dfacerecon", _counters(FACE3D)),
    )
}
