"""The published layouts of DreamTalk's files, from the manifests: a damaged key is an error that names it."""

import json

import numpy as np
import pytest

from converters import dreamtalk
from converters.convert import convert_dreamtalk
from converters.tensors import ConversionError, Tensor
from empatheia_jax.checkpoints.weights import is_weights, read_index
from support.dreamtalk_goldens import FOLDERS
from support.spoil import WAYS, spoil


def zeros(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return a tensor of zeros that takes no memory."""
    return Tensor(tuple(shape), np.dtype(dtype), "manifest", 0, lambda: np.broadcast_to(np.zeros((), dtype), shape))


@pytest.fixture(params=list(dreamtalk.PARTS))
def published(request, goldens):
    """Return a part's table and its tensors."""
    table = dreamtalk.PARTS[request.param]
    manifest = json.loads((goldens / FOLDERS[0] / f"manifest_{table.manifest}.json").read_text())
    entries = [entry[:3] for entry in (*manifest["tensors"], *manifest["buffers"])]
    return table, {name: zeros(shape, dtype) for name, shape, dtype in entries}


def fit_table(table, tensors):
    return table.family.fit(table.config, tensors)


def test_the_manifest_is_used_whole(published):
    table, tensors = published
    used = {source for entry in fit_table(table, tensors) for source in entry.sources}
    assert tensors.keys() - used == table.unused.keys()


@pytest.mark.parametrize("share", [0.05, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", WAYS)
def test_any_one_key_spoilt_is_an_error_with_its_name(published, how, share, *, seed, monkeypatch):
    table, tensors = published
    monkeypatch.setattr("converters.rules.difflib.get_close_matches", lambda *_: [])  # the slow part of an error
    draws = np.random.default_rng([seed, len(how)])
    for name in draws.permutation(list(tensors))[: max(3, int(share * len(tensors)))]:
        with pytest.raises(ConversionError) as refused:
            fit_table(table, spoil(tensors, name, how))
        assert name in str(refused.value), (how, name)


@pytest.fixture
def files(goldens, tmp_path):
    """Write synthetic published files of the denoiser and the renderer."""
    pytest.importorskip("torch")
    from support.published_files import write_dreamtalk

    return write_dreamtalk(goldens, tmp_path, ("denoiser", "renderer"))


def test_published_files_become_a_folder_that_is_whole_or_absent(files, tmp_path):
    output = tmp_path / "dreamtalk"
    with pytest.raises(ConversionError, match="is it DreamTalk's|not there|no entry|net_G_ema"):
        convert_dreamtalk(files | {"renderer": files["denoiser"]}, output)
    assert not output.exists()
    counts = convert_dreamtalk(files, output)
    assert counts["denoiser"]["numbers"] == 11_857_729
    assert counts["renderer"]["numbers"] == 22_519_109 - 3_183_104  # less the tensors without effect
    for name in files:
        assert is_weights(output / name) and counts[name]["arrays"] == len(read_index(output / name))
    with pytest.raises(ConversionError, match="already"):
        convert_dreamtalk(files, output)
