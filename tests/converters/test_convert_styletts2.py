"""The published layout of StyleTTS 2, from the manifests: a damaged key is an error that names it."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from converters import styletts2
from converters.convert import convert
from converters.tensors import ConversionError, wrap_arrays
from empatheia_jax.checkpoints.weights import is_weights, read_index, read_metadata
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from support.spoil import WAYS, spoil

NAMES = ("libritts", "ljspeech")
PRESETS = {"libritts": StyleTTS2Config.libritts(), "ljspeech": StyleTTS2Config.ljspeech()}


@pytest.fixture(scope="module", params=NAMES)
def published(request, goldens):
    """Return name, manifest, and tensors of zeros under names without "module."."""
    manifest = json.loads((goldens / "styletts2" / f"manifest_{request.param}.json").read_text())
    shapes = {}
    for network, entries in manifest["net"].items():
        if network not in manifest["training_only"]:
            shapes |= {f"{network}.{name.removeprefix('module.')}": tuple(shape) for name, shape, *_ in entries}
    zero = np.zeros((), np.float32)
    arrays = {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}  # no memory
    return request.param, manifest, wrap_arrays(arrays)


def fit_table(config, tensors):
    return styletts2.FAMILY.fit(config, tensors)


def test_the_manifest_fits_and_presets_are_the_published_configs(published):
    name, manifest, tensors = published
    config = styletts2.parse_config({"model_params": manifest["model_params"]})
    assert config == PRESETS[name]
    used = {source for entry in fit_table(config, tensors) for source in entry.sources}
    unused = tensors.keys() - used
    assert all(n.startswith(("diffusion.unet.", "bert.pooler.", "bert.embeddings.position_ids")) for n in unused)
    assert {n.split(".")[0] for n in used} == {n.split(".")[0] for n in tensors}


@pytest.mark.parametrize("share", [0.03, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", WAYS)
def test_any_one_key_spoilt_is_an_error_with_its_name(published, how, share, *, seed, monkeypatch):
    _, manifest, tensors = published
    config = styletts2.parse_config({"model_params": manifest["model_params"]})
    monkeypatch.setattr("converters.rules.difflib.get_close_matches", lambda *_: [])  # the slow part of an error
    table = styletts2.rules(config)
    family = dataclasses.replace(styletts2.FAMILY, rules=lambda config, prefix: table)
    monkeypatch.setattr(styletts2, "FAMILY", family)
    draws = np.random.default_rng([seed, len(how)])
    for name in draws.permutation(list(tensors))[: int(share * len(tensors))]:
        with pytest.raises(ConversionError) as refused:
            fit_table(config, spoil(tensors, name, how))
        assert name in str(refused.value), (how, name)


@pytest.fixture(scope="module")
def checkpoint(goldens, tmp_path_factory):
    """Write a synthetic published file with its config.yml beside it."""
    pytest.importorskip("torch")
    from support.published_files import write_styletts2

    return write_styletts2(goldens, tmp_path_factory.mktemp("styletts2"))


def test_the_published_file_is_converted(checkpoint, tmp_path):
    counts = convert("styletts2", checkpoint, tmp_path / "weights")
    metadata = read_metadata(tmp_path / "weights")
    assert metadata["family"] == "styletts2"
    assert metadata["architecture"]["sigma_data"] == pytest.approx(0.19926648961191362)
    assert counts["arrays"] == len(read_index(tmp_path / "weights")) and counts["left_aside"] > 1
    assert is_weights(tmp_path / "weights")


@pytest.mark.slow
def test_what_is_beside_must_be_right(checkpoint, tmp_path):
    with pytest.raises(ConversionError, match="config.yml: not there"):
        convert("styletts2", checkpoint, tmp_path / "weights", config=tmp_path / "config.yml")
    (tmp_path / "config.yml").write_text("model_params: {decoder: {type: hifigan}}")
    with pytest.raises(ConversionError, match="config.yml: no 'diffusion' in its model_params"):
        convert("styletts2", checkpoint, tmp_path / "weights", config=tmp_path / "config.yml")
    with pytest.raises(ConversionError, match="has its own, fine-tuned PL-BERT"):
        convert("styletts2", checkpoint.parent, tmp_path / "weights", plbert=checkpoint)
    other = yaml.safe_load(checkpoint.with_name("config.yml").read_text())
    other["model_params"]["multispeaker"] = False
    (tmp_path / "config.yml").write_text(yaml.safe_dump(other))
    with pytest.raises(ConversionError, match="to_features.0.weight is used by no rule"):
        convert("styletts2", checkpoint, tmp_path / "weights", config=tmp_path / "config.yml")
    assert not (tmp_path / "weights").exists()
