"""Folders that the torch backend takes for checkouts of the originals, with small torch modules of this project.

With them come files like the published ones, of random weights, and the same weights converted.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from flax import nnx

from converters import dreamtalk, styletts2
from converters.rules import abstract_network, fit
from converters.tensors import wrap_arrays
from empatheia_jax.checkpoints.named_arrays import with_arrays
from empatheia_jax.checkpoints.weights import load_weights, save_weights, stored_arrays
from empatheia_jax.config import TorchConfig
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.torch_backend.styletts2 import build
from empatheia_jax.testing.tiny_generators import DREAMTALK, STYLETTS2, write_dreamtalk_weights
from support.dreamtalk_torch import DiffusionNet, FaceGenerator

CHECKOUTS = Path(__file__).resolve().parent / "checkouts"


def model_params() -> dict:
    """Return the settings of `STYLETTS2` in the form of config.yml."""
    c = STYLETTS2
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
    """Return the PL-BERT settings of `STYLETTS2` in the form of its config.yml."""
    c = STYLETTS2
    return {
        "vocab_size": c.n_token,
        "embedding_size": c.plbert_embedding,
        "hidden_size": c.plbert_hidden,
        "num_attention_heads": c.plbert_heads,
        "intermediate_size": c.plbert_mlp,
        "num_hidden_layers": c.plbert_layers,
        "max_position_embeddings": c.plbert_positions,
    }


def copy_checkout(name: str, folder: Path) -> Path:
    """Copy the stand-in for a checkout of "styletts2" or "dreamtalk" to a folder and return it."""
    return shutil.copytree(CHECKOUTS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))


def write_styletts2(folder: Path, seed: int) -> dict[str, str]:
    """Write FOLDER/st2 (a checkout), FOLDER/voice.pth and config.yml, FOLDER/styletts2 (the same weights converted).

    Returns:
      Fields of `TorchConfig`.
    """
    repo = copy_checkout("styletts2", folder / "st2")
    (repo / "Utils" / "PLBERT").mkdir(parents=True)
    (repo / "Utils" / "PLBERT" / "config.yml").write_text(yaml.safe_dump({"model_params": plbert_params()}))
    torch.manual_seed(seed)
    nets, _ = build(repo, model_params(), any_commit=True)
    with torch.no_grad():
        last = nets["predictor"].duration_proj.linear_layer
        last.bias.fill_(float(np.log(3 / (STYLETTS2.max_dur - 3))))  # 3 frames a phoneme
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
    tensors, shapes = wrap_arrays(arrays), abstract_network(StyleTTS2, STYLETTS2)[1]
    fits = fit(styletts2.rules(STYLETTS2), stored_arrays(shapes), tensors, styletts2.FAMILY.harmless)
    save_weights(
        folder / "styletts2",
        STYLETTS2,
        with_arrays(shapes, {parameter.name: parameter.read(tensors) for parameter in fits}),
    )
    return {"styletts2_repo": str(repo), "styletts2_checkpoint": str(folder / "voice.pth")}


def write_dreamtalk(folder: Path, seed: int) -> dict[str, str]:
    """Write FOLDER/dt (a checkout), its two weight files, and FOLDER/dreamtalk (the same weights converted).

    Returns:
      Fields of `TorchConfig`.
    """
    repo = copy_checkout("dreamtalk", folder / "dt")
    write_dreamtalk_weights(folder / "dreamtalk", seed)
    torch.manual_seed(seed)
    diffusion, renderer = DiffusionNet().eval(), FaceGenerator().eval()
    # The denoiser keeps torch's own initial weights, which are small; norms and biases are changed so that they matter.
    with torch.no_grad():
        for parameter in diffusion.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    table = dreamtalk.PARTS["denoiser"]
    config, network = DREAMTALK["denoiser"][1], DREAMTALK["denoiser"][0]
    state = diffusion.state_dict()
    tensors = wrap_arrays({f"diff_net.{k}": v.numpy() for k, v in state.items() if not k.startswith("null_")})
    shapes = abstract_network(network, config)[1]
    fits = fit(table.rules(config), stored_arrays(shapes), tensors)
    shutil.rmtree(folder / "dreamtalk" / "denoiser")
    save_weights(
        folder / "dreamtalk" / "denoiser",
        config,
        with_arrays(shapes, {parameter.name: parameter.read(tensors) for parameter in fits}),
    )
    torch.save({"model_state_dict": {f"diff_net.{k}": v for k, v in state.items()}}, folder / "denoiser.pth")
    network, config = DREAMTALK["renderer"]
    loaded = load_weights(folder / "dreamtalk" / "renderer", abstract_network(network, config)[1])
    flat = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(loaded)}
    renderer_state = {f"flax.{name}": torch.from_numpy(array.copy()) for name, array in flat.items()}
    renderer.load_state_dict(renderer_state, strict=True)
    torch.save({"net_G_ema": renderer_state}, folder / "renderer.pt")
    return {
        "dreamtalk_repo": str(repo),
        "dreamtalk_checkpoint": str(folder / "denoiser.pth"),
        "dreamtalk_renderer": str(folder / "renderer.pt"),
    }


def write_all(folder: Path, seed: int) -> TorchConfig:
    """Write both checkouts and return the settings that name them."""
    return TorchConfig(**write_styletts2(folder, seed), **write_dreamtalk(folder, seed), any_commit=True)
