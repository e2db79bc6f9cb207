"""Delta weights and tensors left at zero are refused by name in every family; an untrained checkpoint is a warning."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import random_llama

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters import dreamtalk, styletts2
from converters.__main__ import main
from converters.convert import convert
from converters.export import export_weights
from converters.tensors import ConversionError
from converters.trained import TrainedCheck
from empatheia_jax.checkpoints.weights import Writer, read_arrays, read_metadata, stored_arrays
from empatheia_jax.generators.dreamtalk.config import Face3DConfig
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from support.random_checkpoints import FAMILIES, draw, read_all, replace_weights, save


@pytest.fixture(scope="module")
def checkpoints(seed, tmp_path_factory):
    """Two random checkpoints of each family with the same shapes."""
    folders = {}
    for family in FAMILIES:
        model = draw(family, seed)
        first, second = (tmp_path_factory.mktemp(f"{family}_{number}") / "model" for number in range(2))
        save(model, first)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        save(model, second)
        folders[family] = first, second
    return folders


def changed(source: Path, folder: Path, change) -> Path:
    """Copy a checkpoint with its tensors (name -> array) changed."""
    shutil.copytree(source, folder)
    for index in folder.glob("*.index.json"):
        index.unlink()
    replace_weights(folder, change(read_all(source)))
    return folder


def refused(capfd, *arguments) -> str:
    """Run the command, which must end with one line, and return that."""
    assert main([*map(str, arguments)]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("family", FAMILIES)
def test_delta_weights_are_refused(family, checkpoints, tmp_path, capfd):
    base, tuned = (read_all(folder) for folder in checkpoints[family])
    delta = changed(checkpoints[family][0], tmp_path / "delta", lambda _: {n: tuned[n] - base[n] for n in base})
    err = refused(capfd, family, "--input", delta, "--output", tmp_path / "out")
    assert "these are delta weights" in err and {path.name for path in tmp_path.iterdir()} == {"delta"}
    whole = changed(checkpoints[family][0], tmp_path / "whole", lambda _: tuned)
    convert(family, whole, tmp_path / "out")  # the control


def test_delta_weights_whose_norms_were_not_trained_are_refused(checkpoints, tmp_path, capfd):
    source = checkpoints["vicuna"][0]
    folder = changed(source, tmp_path / "delta", lambda s: {n: a * (a.ndim > 1) for n, a in s.items()})
    err = refused(capfd, "vicuna", "--input", folder, "--output", tmp_path / "out")
    assert "these are delta weights" in err and "all zero" in err and "model.norm.weight" in err


def test_the_published_deltas_are_refused(tmp_path, capfd):
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "field_cases" / "vicuna-tiny-delta-v1.1"
    if not folder.is_dir():
        pytest.skip("the field cases are not here")
    err = refused(capfd, "vicuna", "--input", folder, "--output", tmp_path / "out")
    assert "these are delta weights (vicuna-tiny-delta-v1.1)" in err and "apply_delta" in err


def test_a_name_alone_is_a_warning(tmp_path, capfd):
    random_llama.write_checkpoint(tmp_path / "some-delta-v0", "tiny")
    assert main(["vicuna", "--input", str(tmp_path / "some-delta-v0"), "--output", str(tmp_path / "out")]) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "called some-delta-v0" in warnings[0]


ZERO = {
    "vicuna": ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"),
    "hubert": ("encoder.layers.0.final_layer_norm.weight", "feature_extractor.conv_layers.1.conv.weight"),
    "wav2vec2": ("wav2vec2.encoder.layers.1.attention.v_proj.weight",),
    "clip": ("vision_model.embeddings.class_embedding", "vision_model.post_layernorm.weight"),
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in ZERO for name in ZERO[family]])
def test_tensors_left_at_zero_are_refused_by_name(family, name, checkpoints, tmp_path, capfd):
    zeroed = changed(
        checkpoints[family][0], tmp_path / "zero", lambda s: {n: -0.0 * a if n == name else a for n, a in s.items()}
    )
    err = refused(capfd, family, "--input", zeroed, "--output", tmp_path / "out")
    assert f"all zero, which no trained network is: {name}:" in err
    assert {path.name for path in tmp_path.iterdir()} == {"zero"}


@pytest.mark.parametrize(("family", "name"), [(family, names[0]) for family, names in ZERO.items()])
def test_numbers_that_are_not_finite_are_refused_by_name(family, name, checkpoints, tmp_path, capfd):
    def change(state):
        state[name].reshape(-1)[-1] = np.inf if family == "clip" else np.nan
        return state

    folder = changed(checkpoints[family][0], tmp_path / "bad", change)
    err = refused(capfd, family, "--input", folder, "--output", tmp_path / "out")
    assert f"infinite or not a number, which no trained network is: {name}:" in err
    assert {path.name for path in tmp_path.iterdir()} == {"bad"}


def test_the_last_chunk_of_a_large_array_is_looked_at():
    array = np.ones((5000, 1000), np.float32)
    for value, message in ((np.nan, "infinite or not a number.*: head/kernel"), (1.0, None)):
        array[-1, -1] = value
        check = TrainedCheck("large")
        check.add("head/kernel", array)
        if message:
            with pytest.raises(ConversionError, match=message):
                check.finish()
        else:
            check.finish()


def test_biases_may_be_zero_and_so_may_rows(checkpoints, tmp_path):
    def change(state):
        state = {name: 0 * array if name.endswith("bias") else array for name, array in state.items()}
        for name, array in state.items():
            if name.endswith("k_proj.weight"):
                array[: len(array) // 2] = 0
        return state

    for family in ("hubert", "clip"):
        folder = changed(checkpoints[family][0], tmp_path / family, change)
        convert(family, folder, tmp_path / f"{family}_out")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_checkpoint_is_converted_with_one_warning(family, checkpoints, tmp_path, capfd):
    def untrained(state):
        for name, array in state.items():
            if "norm" in name:
                array[:] = 1 if name.endswith("weight") else 0
        return state

    folder = changed(checkpoints[family][0], tmp_path / "new", untrained)
    for source, count in ((folder, 1), (checkpoints[family][0], 0)):
        output = tmp_path / str(count)
        assert main([family, "--input", str(source), "--output", str(output)]) == 0
        warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == count and all("looks untrained" in line for line in warnings)


def test_converted_weights_are_looked_at_when_they_are_exported(tmp_path, capfd):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    convert("vicuna", tmp_path / "source", tmp_path / "good")
    writer = Writer(tmp_path / "bad")
    for name, array in read_arrays(tmp_path / "good"):
        writer.add(name, 0 * array if name == "layers/q_proj/kernel/1" else array)
    writer.finish({name: value for name, value in read_metadata(tmp_path / "good").items() if name != "sha256"})
    capfd.readouterr()  # the progress of the conversion
    err = refused(capfd, "export", "--weights", tmp_path / "bad", "--output", tmp_path / "out")
    assert "layers/q_proj/kernel/1" in err and not list(tmp_path.glob("*out*"))
    export_weights(tmp_path / "good", tmp_path / "out")


NETWORKS = {"styletts2": (styletts2.FAMILY, StyleTTS2Config())} | {
    name: (part.family, part.config) for name, part in dreamtalk.PARTS.items()
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_families_have_norms_that_tell(name):
    """The check of each array is by our names: every norm of the generators' networks is seen as such."""
    family, config = NETWORKS[name]
    shapes = {array: shape for array, (_, _, shape) in stored_arrays(family.parameters(config)).items()}
    for value, message in ((0.01, "these are delta weights"), (1.0, None)):
        check = TrainedCheck(name)
        for array, shape in shapes.items():
            # a view of one number: the published sizes take no memory
            check.add(array, np.broadcast_to(np.float32(value), shape))
        if message:
            with pytest.raises(ConversionError, match=message):
                check.finish()
        else:
            assert check.finish() == []  # scales of 1 with biases of 1: trained
    kernel = next(array for array in shapes if array.endswith("kernel"))
    check = TrainedCheck(name)
    check.add(kernel, np.zeros(shapes[kernel], np.float32))
    with pytest.raises(ConversionError, match=kernel):
        check.finish()


def test_the_running_mean_of_a_batch_norm_may_be_zero_and_its_variance_not():
    names = stored_arrays(dreamtalk.PARTS["face3d"].family.parameters(Face3DConfig()))
    check = TrainedCheck("face3d")
    for name in names:
        if name.endswith(("running_mean", "running_var")):
            check.add(name, np.zeros(3, np.float32))
    with pytest.raises(ConversionError) as raised:
        check.finish()
    assert "running_var" in str(raised.value) and "running_mean" not in str(raised.value)


def test_the_note_of_a_name_reads_config_json(tmp_path, capfd):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps(config | {"_name_or_path": "lmsys/vicuna-7b-delta"}))
    assert main(["vicuna", "--input", str(tmp_path / "source"), "--output", str(tmp_path / "out")]) == 0
    assert "called lmsys/vicuna-7b-delta" in capfd.readouterr().err
