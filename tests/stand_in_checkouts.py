"""Folders that the torch backend takes for checkouts of the originals, with small torch modules of this project.

With them come files like the published ones, of random weights, and the same weights converted.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from dreamtalk_torch import DiffusionNet, FaceGenerator
from flax import nnx
from small_dreamtalk import SMALL as SMALL_FACE
from small_dreamtalk import write_weights
from small_styletts2 import SMALL

from converters import dreamtalk, styletts2
from converters.readers import wrap_arrays
from converters.rules import fit
from converters.source import abstract_network
from empatheia_jax.checkpoints.named_arrays import with_arrays
from empatheia_jax.checkpoints.weights import load_weights, save_weights, stored_arrays
from empatheia_jax.config import TorchConfig
from empatheia_jax.generators.styletts2.model import StyleTTS2

HERE = Path(__file__).resolve().parent
_PATHS = f"import sys\nsys.path += [{str(HERE)!r}, {str(HERE.parent / 'benchmarks')!r}, {str(HERE.parent)!r}]\n"
_MODELS = (
    _PATHS
    + """
import styletts2_torch as port
import torch
from empatheia_jax.generators.styletts2.config import StyleTTS2Config

def build_model(params, aligner, pitch, bert):
    c = StyleTTS2Config.published(params)
    c = StyleTTS2Config(**vars(c) | dict(plbert_hidden=bert.config.hidden_size,
                                         plbert_positions=bert.config.max_position_embeddings))
    diffusion = port.Diffusion(c)
    diffusion.diffusion.owner = [diffusion]  # in a list, so that torch does not register it as a submodule
    return {
        "bert": bert, "bert_encoder": torch.nn.Linear(c.plbert_hidden, c.hidden_dim), "predictor": port.Predictor(c),
        "decoder": port.Decoder(c), "text_encoder": port.TextEncoder(c), "predictor_encoder": port.StyleEncoder(c),
        "style_encoder": port.StyleEncoder(c), "diffusion": diffusion, "mpd": None,
    }
"""
)
_SAMPLER = """
class ADPM2Sampler: pass
class KarrasSchedule:
    def __init__(self, sigma_min, sigma_max, rho): pass
class DiffusionSampler:
    def __init__(self, diffusion, sampler, sigma_schedule, clamp): self.diffusion = diffusion
    def __call__(self, **arguments): return self.diffusion.owner[0](**arguments)
"""


def model_params() -> dict:
    """Return `SMALL` in the form of config.yml."""
    c = SMALL
    names = ("multispeaker", "dim_in", "hidden_dim", "max_conv_dim", "n_layer", "n_mels", "n_token", "max_dur")
    vocoder = ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "upsample_initial_channel")
    lists = json.loads(json.dumps({name: getattr(c, name) for name in (*vocoder, "resblock_dilation_sizes")}))
    transformer = {
        "num_layers": c.diffusion_layers,
        "num_heads": c.diffusion_heads,
        "head_features": c.diffusion_head_features,
        "multiplier": c.diffusion_multiplier,
    }
    return {name: getattr(c, name) for name in (*names, "style_dim")} | {
        "decoder": {"type": c.decoder_type} | lists,
        "diffusion": {"transformer": transformer, "dist": {"sigma_data": c.sigma_data}},
    }


def plbert_params() -> dict:
    """Return the PL-BERT settings of `SMALL` in the form of its config.yml."""
    c = SMALL
    return {
        "vocab_size": c.n_token,
        "embedding_size": c.plbert_embedding,
        "hidden_size": c.plbert_hidden,
        "num_attention_heads": c.plbert_heads,
        "intermediate_size": c.plbert_mlp,
        "num_hidden_layers": c.plbert_layers,
        "max_position_embeddings": c.plbert_positions,
    }


def write_files(folder: Path, files: dict[str, str]) -> Path:
    """Write text files by relative name into a folder, and return it."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def write_styletts2(folder: Path, seed: int) -> dict[str, str]:
    """Write FOLDER/st2 (a checkout), FOLDER/voice.pth and config.yml, FOLDER/styletts2 (the same weights converted).

    Returns:
      Fields of `TorchConfig`.
    """
    write_files(
        folder / "st2",
        {
            "models.py": _MODELS,
            "Modules/diffusion/sampler.py": _SAMPLER,
            "munch.py": "def munchify(x): return x\n",
            "Modules/hifigan.py": "",
            "Modules/istftnet.py": "",
            "Modules/diffusion/modules.py": "",
            "Modules/diffusion/diffusion.py": "",
            "Utils/PLBERT/config.yml": yaml.safe_dump({"model_params": plbert_params()}),
        },
    )
    from empatheia_jax.generators.torch_backend.styletts2 import build

    torch.manual_seed(seed)
    nets, _ = build(folder / "st2", model_params(), any_commit=True)
    with torch.no_grad():
        last = nets["predictor"].duration_proj.linear_layer
        last.bias.fill_(float(np.log(3 / (SMALL.max_dur - 3))))  # 3 frames a phoneme
        nets["predictor"].F0_proj.bias.fill_(150.0)
        for net in nets.values():
            for part in net.eval().modules():
                if hasattr(part, "weight_orig"):  # spectral norm, with the vectors that training converges to
                    left, _, right = torch.linalg.svd(part.weight_orig.flatten(1), full_matrices=False)
                    part.weight_u.copy_(left[:, 0])
                    part.weight_v.copy_(right[0])
    net = {name: {f"module.{k}": v for k, v in net.state_dict().items()} for name, net in nets.items()}
    torch.save({"net": net}, folder / "voice.pth")
    (folder / "config.yml").write_text(yaml.safe_dump({"model_params": model_params()}))
    arrays = {f"{name}.{k}": v.numpy() for name, net in nets.items() for k, v in net.state_dict().items()}
    tensors, shapes = wrap_arrays(arrays), abstract_network(StyleTTS2, SMALL)[1]
    fits = fit(styletts2.rules(SMALL), stored_arrays(shapes), tensors, styletts2.HARMLESS)
    save_weights(
        folder / "styletts2",
        SMALL,
        with_arrays(shapes, {parameter.name: parameter.read(tensors) for parameter in fits}),
    )
    return {"styletts2_repo": str(folder / "st2"), "styletts2_checkpoint": str(folder / "voice.pth")}


_PART = (
    _PATHS
    + """
from dreamtalk_torch import {names}
"""
)
_DEFAULTS = """
from types import SimpleNamespace as N
def get_cfg_defaults():
    return N(DIFFUSION=N(SCHEDULE=N(NUM_STEPS=1000, BETA_1=1e-4, BETA_T=0.02, MODE="linear")))
"""
_UTIL = """
def VarianceSchedule(**arguments): return arguments
def NoisePredictor(cfg): return None
"""


def write_dreamtalk(folder: Path, seed: int) -> dict[str, str]:
    """Write FOLDER/dt (a checkout), its two weight files, and FOLDER/dreamtalk (the same weights converted).

    Returns:
      Fields of `TorchConfig`.
    """
    write_files(
        folder / "dt",
        {
            "configs/default.py": _DEFAULTS,
            "core/utils.py": "",
            "core/networks/diffusion_util.py": _UTIL,
            "core/networks/diffusion_net.py": _PART.format(names="DiffusionNet"),
            "core/networks/generator.py": "",
            "core/networks/disentangle_decoder.py": "",
            "generators/renderer_conf.yaml": "{}",
            "generators/face_model.py": _PART.format(names="FaceGenerator"),
        },
    )
    write_weights(folder / "dreamtalk", seed)
    torch.manual_seed(seed)
    diffusion, renderer = DiffusionNet().eval(), FaceGenerator().eval()
    # The denoiser keeps torch's own initial weights, which are small; norms and biases are changed so that they matter.
    with torch.no_grad():
        for parameter in diffusion.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    table = dreamtalk.PARTS["denoiser"]
    config, network = SMALL_FACE["denoiser"][1], SMALL_FACE["denoiser"][0]
    state = diffusion.state_dict()
    tensors = wrap_arrays({f"diff_net.{k}": v.numpy() for k, v in state.items() if not k.startswith("null_")})
    shapes = abstract_network(network, config)[1]
    fits = fit(dataclasses.replace(table, CONFIG=config).rules(config), stored_arrays(shapes), tensors)
    shutil.rmtree(folder / "dreamtalk" / "denoiser")
    save_weights(
        folder / "dreamtalk" / "denoiser",
        config,
        with_arrays(shapes, {parameter.name: parameter.read(tensors) for parameter in fits}),
    )
    torch.save({"model_state_dict": {f"diff_net.{k}": v for k, v in state.items()}}, folder / "denoiser.pth")
    network, config = SMALL_FACE["renderer"]
    loaded = load_weights(folder / "dreamtalk" / "renderer", abstract_network(network, config)[1])
    flat = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(loaded)}
    renderer_state = {f"flax.{name}": torch.from_numpy(array.copy()) for name, array in flat.items()}
    renderer.load_state_dict(renderer_state, strict=True)
    torch.save({"net_G_ema": renderer_state}, folder / "renderer.pt")
    return {
        "dreamtalk_repo": str(folder / "dt"),
        "dreamtalk_checkpoint": str(folder / "denoiser.pth"),
        "dreamtalk_renderer": str(folder / "renderer.pt"),
    }


def write_all(folder: Path, seed: int) -> TorchConfig:
    """Write both checkouts and return the settings that name them."""
    return TorchConfig(**write_styletts2(folder, seed), **write_dreamtalk(folder, seed), any_commit=True)
