"""Files like the published ones, at their sizes, with the goldens' regenerated weights. Needs torch."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml

from converters import dreamtalk
from support.dreamtalk_goldens import FOLDERS, published_tensors
from support.golden_weights import load_recipe
from support.styletts2_goldens import state_dict


def write_styletts2(goldens: Path, folder: Path, name: str = "libritts") -> Path:
    """Write FOLDER/epochs_2nd.pth and config.yml, with one of the tensors that are for training only."""
    manifest = json.loads((goldens / "styletts2" / f"manifest_{name}.json").read_text())
    net: dict[str, dict] = {}
    for key, array in state_dict(goldens, manifest).items():
        network, _, name_in_network = key.partition(".")
        net.setdefault(network, {})[f"module.{name_in_network}"] = torch.from_numpy(array)
    net["mpd"] = {"discriminators.0.convs.0.bias": torch.zeros(3)}
    path = folder / "epochs_2nd.pth"
    torch.save({"net": net, "optimizer": {"lr": 1e-4, "steps": [1, 2]}, "val_loss": np.float32(0.5)}, path)
    (folder / "config.yml").write_text(yaml.safe_dump({"model_params": manifest["model_params"]}))
    return path


def write_dreamtalk(goldens: Path, folder: Path, parts=tuple(dreamtalk.PARTS)) -> dict[str, Path]:
    """Write the files of the parts ("denoiser", "renderer", "face3d"), and for "wav2vec" a folder of 1.3 GB."""
    paths = {}
    for part in parts:
        if part == "wav2vec":
            paths[part] = _write_wav2vec(goldens, folder / "wav2vec2-large-xlsr-53-english")
            continue
        tensors = published_tensors(goldens, goldens / FOLDERS[0], part, "")
        state = {key: torch.from_numpy(np.array(tensor.read())) for key, tensor in tensors.items()}
        paths[part] = folder / f"{part}.pth"
        torch.save({dreamtalk.PARTS[part].root: state, "current_epoch": 3}, paths[part])
    return paths


def _write_wav2vec(goldens: Path, folder: Path) -> Path:
    manifest = json.loads((goldens / FOLDERS[0] / "manifest_wav2vec2_xlsr53.json").read_text())
    folder.mkdir()
    arrays = load_recipe(goldens).fill(manifest["tensors"])
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(manifest["config"] | {"model_type": "wav2vec2"}))
    return folder
