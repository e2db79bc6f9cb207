"""DreamTalk: its three files -> networks of `generators.dreamtalk`; its fourth, wav2vec 2.0, is a family of its own.

Our modules have upstream's names (`torch_layers`). Each part becomes a folder of weights below the output.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from flax import nnx

from converters.rules import Family, Rule, Source, abstract_network
from converters.tensors import ConversionError, Tensor
from converters.torch_files import open_torch
from converters.torch_layers import rules_from_network
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, Face3DConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.diffusion import STEPS, Denoiser
from empatheia_jax.generators.dreamtalk.face3d import Face3D
from empatheia_jax.generators.dreamtalk.renderer import Renderer


@dataclasses.dataclass(frozen=True)
class Part:
    """One published file and the network in it.

    Attributes:
      name: of the part, and of its folder of weights.
      network: our module.
      config: the published architecture.
      root: the entry of the file that holds the network.
      stem: what stands before every tensor's name.
      manifest: name of the published manifest in the goldens.
      unused: name -> shape of the tensors in the file that our network has no parameter for.
    """

    name: str
    network: type[nnx.Module]
    config: object
    _: dataclasses.KW_ONLY
    root: str
    stem: str
    manifest: str
    unused: dict[str, tuple[int, ...]]

    @property
    def family(self) -> Family:
        """The part's table of rules."""
        return Family(self.network, self.rules, tuple(map(re.escape, self.unused)), self.check)

    def rules(self, config: object, prefix: str = "") -> list[Rule]:
        """Return the table of rules for the network."""
        return rules_from_network(self.network, config, lambda name: self.stem + name)

    def select(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's tensors; the published loader ignores the rest of the entry too."""
        return {name: tensor for name, tensor in tensors.items() if name.startswith(self.stem.partition(".")[0])}

    def check(self, config: object, tensors: Mapping[str, Tensor]) -> list[str]:
        """Return problems with the unused tensors, which must be there and have upstream's shapes."""
        problems = []
        for name, shape in self.unused.items():
            if name not in tensors:
                problems.append(f"{name} is missing (unused, but upstream's file has it)")
            elif tensors[name].shape != shape:
                problems.append(f"{name} has shape {list(tensors[name].shape)}, upstream's is {list(shape)}")
        return problems

    def open_files(self, source: Path) -> Source:
        """Open the file and assign its tensors to parameters.

        Raises:
          ConversionError: a file that does not fit; the message lists everything that is wrong.
        """
        source = Path(source)
        if not source.is_file():
            raise ConversionError(f"{source}: not there")
        tensors = self.select(open_torch(source, self.root))
        if not tensors:
            raise ConversionError(f"{source}: no {self.stem}* in its {self.root}: is it DreamTalk's {self.name}?")
        fits = self.family.fit(self.config, tensors)
        return Source(f"dreamtalk_{self.name}", source.parent, {}, self.config, tensors, "", fits)


def _recomputed_tensors(config: DreamTalkConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of tables and schedules that the file holds and our network computes."""
    null_style: dict[str, tuple[int, ...]] = {
        "diff_net.null_style_clip": (config.style_frames, config.expression_dim),
        "diff_net.null_pad_mask": (config.style_frames,),
    }
    windows = {"content_encoder": config.window, "style_encoder": config.style_frames, "decoder": config.window}
    tables = {f"diff_net.net.{n}.pos_embed.pos_table": (1, count, config.width) for n, count in windows.items()}
    schedules = ("betas", "alphas", "alpha_bars", "sigmas_flex", "sigmas_inflex")
    return null_style | tables | {f"diff_net.var_sched.{name}": (STEPS + 1,) for name in schedules}


def _ineffective_tensors(config: RendererConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of weights whose result upstream computes and discards (`editing.ResBlock`)."""
    tensors, hidden, code = {}, config.norm_width, config.descriptor
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
            tensors |= {stem + name: shape for name, shape in shapes.items()}
    return tensors


def _batch_counters(config: Face3DConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the counters of training batches that each batch norm keeps."""
    paths = (path for path, _ in nnx.to_flat_state(abstract_network(Face3D, config)[1]) if path[-1] == "running_mean")
    return {".".join(map(str, path[:-1])) + ".num_batches_tracked": () for path in paths}


DENOISER, RENDERER, FACE3D = DreamTalkConfig(), RendererConfig(), Face3DConfig()
PARTS = {
    part.name: part
    for part in (
        Part(
            "denoiser",
            Denoiser,
            DENOISER,
            root="model_state_dict",
            stem="diff_net.net.",
            manifest="denoising_network",
            unused=_recomputed_tensors(DENOISER),
        ),
        Part(
            "renderer",
            Renderer,
            RENDERER,
            root="net_G_ema",
            stem="",
            manifest="renderer",
            unused=_ineffective_tensors(RENDERER),
        ),
        Part(
            "face3d",
            Face3D,
            FACE3D,
            root="net_recon",
            stem="",
            manifest="deep3dfacerecon",
            unused=_batch_counters(FACE3D),
        ),
    )
}
