"""The published layout of StyleTTS 2, from the manifests: every tensor of the generator used, or an error by name."""

import json

import numpy as np
import pytest
import yaml
from spoil import WAYS, spoilt

from converters import styletts2
from converters.convert import convert
from converters.readers import ConversionError, in_memory
from converters.rules import fit
from converters.source import network_of
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.weights import is_weights, read_facts, read_index, slots

NAMES = ("libritts", "ljspeech")
PRESETS = {"libritts": StyleTTS2Config.libritts(), "ljspeech": StyleTTS2Config.ljspeech()}


@pytest.fixture(scope="module", params=NAMES)
def published(request, goldens):
    """(name, manifest, tensors without "module.", shapes instead of numbers)."""
    manifest = json.loads((goldens / "styletts2" / f"manifest_{request.param}.json").read_text())
    shapes = {}
    for network, entries in manifest["net"].items():
        if network not in manifest["training_only"]:
            shapes |= {f"{network}.{name.removeprefix('module.')}": tuple(shape) for name, shape, *_ in entries}
    zero = np.zeros((), np.float32)
    arrays = {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}  # no memory
    return request.param, manifest, in_memory(arrays)


def fitted(config, tensors):
    places = slots(network_of(StyleTTS2, config)[1])
    return fit(styletts2.rules(config), places, tensors, styletts2.HARMLESS, styletts2.check(config, tensors))


def test_the_manifest_fits_and_presets_are_the_published_configs(published):
    name, manifest, tensors = published
    config = styletts2.config_of({"model_params": manifest["model_params"]})
    assert config == PRESETS[name]
    used = {source for one in fitted(config, tensors) for source in one.sources}
    left = tensors.keys() - used
    assert all(n.startswith(("diffusion.unet.", "bert.pooler.", "bert.embeddings.position_ids")) for n in left)
    assert {n.split(".")[0] for n in used} == {n.split(".")[0] for n in tensors}


@pytest.mark.parametrize("share", [0.03, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", WAYS)
def test_any_one_key_spoilt_is_an_error_with_its_name(published, how, share, seed, monkeypatch):
    _, manifest, tensors = published
    config = styletts2.config_of({"model_params": manifest["model_params"]})
    monkeypatch.setattr("converters.rules.difflib.get_close_matches", lambda *_: [])  # the slow part of an error
    table = styletts2.rules(config)
    monkeypatch.setattr(styletts2, "rules", lambda config: table)
    draws = np.random.default_rng([seed, len(how)])
    for name in draws.permutation(list(tensors))[: int(share * len(tensors))]:
        with pytest.raises(ConversionError) as refused:
            fitted(config, spoilt(tensors, name, how))
        assert name in str(refused.value), (how, name)


@pytest.fixture(scope="module")
def checkpoint(goldens, tmp_path_factory):
    """A synthetic file as published, its config.yml beside it."""
    pytest.importorskip("torch")
    from published_files import write_styletts2

    return write_styletts2(goldens, tmp_path_factory.mktemp("styletts2"))


def test_the_published_file_is_converted(checkpoint, tmp_path):
    counts = convert("styletts2", checkpoint, tmp_path / "weights")
    facts = read_facts(tmp_path / "weights")
    assert facts["family"] == "styletts2" and facts["architecture"]["sigma_data"] == pytest.approx(0.19926648961191362)
    assert counts["arrays"] == len(read_index(tmp_path / "weights")) and counts["left_aside"] > 1
    assert is_weights(tmp_path / "weights")


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
