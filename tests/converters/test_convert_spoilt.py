"""200 damaged checkpoints are refused with a message that says what is wrong; nothing is written or executed."""

import collections
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.convert import convert
from converters.tensors import ConversionError
from support.random_checkpoints import FAMILIES, draw, read_all, read_header, replace_weights, save

SPOILT = 200


class Hostile:
    """An object that runs a command when pickle loads it."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def draw_hostile(rng, trap: Path):
    command = f"touch {trap}"
    return (
        Hostile(os.system, command),
        Hostile(eval, f"__import__('os').system({command!r})"),
        Hostile(__import__, "antigravity"),
        Hostile(exec, f"open({str(trap)!r}, 'w')"),
        Hostile(Path, str(trap)),
    )[int(rng.integers(5))]


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def write_torch(folder: Path, state: dict, trap=None, zipped: bool = True) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(
        tensors | ({"trap": trap} if trap else {}), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )


def spoil(how: str, folder: Path, rng: np.random.Generator, trap: Path) -> str:
    """Damage the checkpoint in `folder`; return a text that the error must contain."""
    state = read_all(folder)
    needed = [n for n in state if not any(word in n for word in ("masked", "lm_head", "text_", "logit", "visual_"))]
    name = pick(rng, needed)
    if how == "dropped":
        del state[name]
    elif how == "renamed":
        state[pick(rng, [name + "x", "x." + name, name.replace(".", "_")])] = state.pop(name)
    elif how == "extra":
        name = pick(rng, ["adapter.weight", "layers.99.bias", needed[0] + ".scale", "encoder.layers.0.lora_A.weight"])
        state[name] = np.zeros(3, np.float32)
    elif how == "transposed":
        name = pick(rng, [n for n in needed if state[n].ndim == 2 and state[n].shape[0] != state[n].shape[1]])
        state[name] = np.ascontiguousarray(state[name].T)
    elif how == "reshaped":
        state[name] = state[name][None]
    elif how == "dtype":
        state[name] = state[name].astype(pick(rng, [np.int32, np.float64, np.int8, np.bool_, np.int64]))
    elif how == "one_more_layer":
        layer = [n for n in needed if ".layers.0." in n]
        name = layer[0].replace(".layers.0.", ".layers.57.")
        state |= {n.replace(".layers.0.", ".layers.57."): state[n] for n in layer}
    elif how.startswith("torch"):
        zipped = how != "torch_legacy_truncated"
        write_torch(folder, state, zipped=zipped)
        path = folder / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[: -int(rng.integers(1, path.stat().st_size - 10))])
        return "pytorch_model.bin"
    elif how.startswith("hostile"):
        if how == "hostile_zip":
            for file in folder.glob("model*"):
                file.unlink()
            with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(draw_hostile(rng, trap)))
        else:
            write_torch(folder, state, draw_hostile(rng, trap), zipped=how == "hostile_inside")
        return "refused: it asks for"
    path = replace_weights(folder, state)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: -int(rng.integers(1, path.stat().st_size - 10))])
        name = "model.safetensors"
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"\0" * int(rng.integers(1, 100)))
        name = "past its last tensor"
    elif how == "float8":
        header, start = read_header(path)
        wide = np.dtype(ml_dtypes.float8_e4m3fn).itemsize
        header[name]["dtype"] = "F8_E4M3"
        assert wide == 1
        rewrite_header(path, header, start)
    elif how == "overlapping":
        header, start = read_header(path)
        other = pick(rng, [n for n in header if n != "__metadata__" and header[n]["data_offsets"][0] > 0])
        header[other]["data_offsets"] = [0, header[other]["data_offsets"][1] - header[other]["data_offsets"][0]]
        rewrite_header(path, header, start)
        name = "damaged at"
    return name


def rewrite_header(path: Path, header: dict, start: int) -> None:
    tensors = path.read_bytes()[start:]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


WAYS = (
    "dropped",
    "renamed",
    "extra",
    "transposed",
    "reshaped",
    "dtype",
    "one_more_layer",
    "truncated",
    "longer",
    "float8",
    "overlapping",
    "torch_truncated",
    "torch_legacy_truncated",
    "hostile_inside",
    "hostile_zip",
    "hostile_legacy",
)


@pytest.fixture(scope="module")
def checkpoints(seed, tmp_path_factory):
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family) / "source"
        save(draw(family, seed), folders[family])
        for index in folders[family].glob("*.index.json"):
            replace_weights(folders[family], read_all(folders[family]))
            index.unlink(missing_ok=True)
    return folders


@pytest.mark.parametrize("family", FAMILIES)
def test_a_spoilt_checkpoint_is_refused_and_nothing_is_written(family, checkpoints, seed, tmp_path):
    count = SPOILT // len(FAMILIES)
    counts = collections.Counter()
    for number in range(count):
        how, folder = WAYS[(number + FAMILIES.index(family)) % len(WAYS)], tmp_path / str(number)
        shutil.copytree(checkpoints[family], folder / "source")
        rng = np.random.default_rng([seed, FAMILIES.index(family), number])
        message = spoil(how, folder / "source", rng, folder / "executed")
        with pytest.raises(ConversionError) as refused:
            convert(family, folder / "source", folder / "converted")
        assert message in str(refused.value), (how, number)
        assert {path.name for path in folder.iterdir()} == {"source"}, (how, number)
        counts[how] += 1
    assert sum(counts.values()) == count and len(counts) == len(WAYS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoints_they_were_made_of_are_converted(family, checkpoints, tmp_path):
    convert(family, checkpoints[family], tmp_path / "converted")


def test_every_problem_is_in_the_one_error_with_the_nearest_names(checkpoints, tmp_path):
    shutil.copytree(checkpoints["clip"], tmp_path / "source")
    state = read_all(tmp_path / "source")
    prefix = "vision_model.encoder.layers"
    state[f"{prefix}.0.self_attn.query.weight"] = state.pop(f"{prefix}.0.self_attn.q_proj.weight")
    state[f"{prefix}.1.mlp.fc1.weight"] = state[f"{prefix}.1.mlp.fc1.weight"].T
    state[f"{prefix}.1.mlp.fc2.bias"] = state[f"{prefix}.1.mlp.fc2.bias"].astype(np.int32)
    replace_weights(tmp_path / "source", state)
    with pytest.raises(ConversionError) as refused:
        convert("clip", tmp_path / "source", tmp_path / "converted")
    text = str(refused.value)
    assert text.startswith("4 problems, nothing was written")
    assert f"{prefix}.0.self_attn.q_proj.weight is missing, for layers/q_proj/kernel/0 (nearest there: " in text
    assert f"{prefix}.0.self_attn.query.weight is used by no rule (nearest: {prefix}.{{layer}}.self_attn." in text
    assert f"{prefix}.1.mlp.fc1.weight has shape" in text
    assert f"{prefix}.1.mlp.fc2.bias is int32" in text


def test_shards_and_index_must_agree(seed, tmp_path):
    save(draw("hubert", seed), tmp_path / "source")
    shards = sorted((tmp_path / "source").glob("model-*"))
    assert len(shards) > 1
    index = tmp_path / "source" / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    moved = dict(good["weight_map"])
    moved[next(iter(moved))] = {shards[0].name: shards[1].name, shards[1].name: shards[0].name}.get(
        moved[next(iter(moved))], shards[0].name
    )
    for bad, message in (
        ({"weight_map": moved}, "does not hold what the index says"),
        ({"weight_map": ["a"]}, "no weight_map"),
        ({"weight_map": good["weight_map"] | {"x": "../../elsewhere.safetensors"}}, "is not there"),
    ):
        index.write_text(json.dumps(bad))
        with pytest.raises(ConversionError, match=message):
            convert("hubert", tmp_path / "source", tmp_path / "converted")
    index.write_text(json.dumps(good))
    shards[0].unlink()
    with pytest.raises(ConversionError, match="is not there"):
        convert("hubert", tmp_path / "source", tmp_path / "converted")
