"""Files as the authors publish them, at their sizes, with the goldens' regenerable weights in them. Needs torch."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from dreamtalk_goldens import FOLDERS, tensors_of
from golden_weights import recipe
from styletts2_goldens import state_dict

from converters import dreamtalk


def write_styletts2(goldens: Path, folder: Path, name: str = "libritts") -> Path:
    """FOLDER/epochs_2nd.pth with its config.yml beside it; of what only trains there is one tensor."""
    manifest = json.loads((goldens / "styletts2" / f"manifest_{name}.json").read_text())
    net: dict[str, dict] = {}
    for full, array in state_dict(goldens, manifest).items():
        network, _, rest = full.partition(".")
        net.setdefault(network, {})[f"module.{rest}"] = torch.from_numpy(array)
    net["mpd"] = {"discriminators.0.convs.0.bias": torch.zeros(3)}
    path = folder / "epochs_2nd.pth"
    torch.save({"net": net, "optimizer": {"lr": 1e-4, "steps": [1, 2]}, "val_loss": np.float32(0.5)}, path)
    (folder / "config.yml").write_text(yaml.safe_dump({"model_params": manifest["model_params"]}))
    return path


def write_dreamtalk(goldens: Path, folder: Path, parts=tuple(dreamtalk.PARTS)) -> dict[str, Path]:
    """The files of "denoiser", "renderer" and "face3d", and of "wav2vec" a directory (1.3 GB), if it is asked for."""
    found = {}
    for part in parts:
        if part == "wav2vec":
            found[part] = _write_wav2vec(goldens, folder / "wav2vec2-large-xlsr-53-english")
            continue
        tensors = tensors_of(goldens, goldens / FOLDERS[0], part, "")
        state = {key: torch.from_numpy(np.array(tensor.read())) for key, tensor in tensors.items()}
        found[part] = folder / f"{part}.pth"
        torch.save({dreamtalk.PARTS[part].ROOT: state, "current_epoch": 3}, found[part])
    return found


def _write_wav2vec(goldens: Path, folder: Path) -> Path:
    manifest = json.loads((goldens / FOLDERS[0] / "manifest_wav2vec2_xlsr53.json").read_text())
    folder.mkdir()
    arrays = recipe(goldens).fill(manifest["tensors"])
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(manifest["config"] | {"model_type": "wav2vec2"}))
    return folder
