"""What benchmarks compute from seconds: rates, percentiles, ratios, utilisation, a fitted line; the peers' weights."""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import measure
import numpy as np
import pytest
import scaling
from flax import nnx

from converters import clip
from converters.speech_encoders import HUBERT
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig
from empatheia_jax.encoders.hubert import Hubert, HubertConfig


def test_a_latency_has_its_median_its_tail_and_its_first_call(seed):
    seconds = np.random.default_rng(seed).uniform(1, 2, 40).tolist()
    row = measure.latency_row("answer", {"ours": seconds, "peer": [3 * s for s in seconds]}, 9.0, shape="tiny")
    assert row["value"] == pytest.approx(statistics.median(seconds), rel=1e-3) and row["unit"] == "s"
    assert row["p90_s"] == pytest.approx(np.quantile(seconds, 0.9, method="inverted_cdf"), rel=1e-3)
    assert row["ratio_to_peer"] == pytest.approx(3) and row["first_call_s"] == 9.0 and row["calls"] == 40
    assert measure.latency_row("a", {"ours": [1.0, 2.0]}, None)["p90_s"] == 2.0


def test_utilisation_is_left_out_where_no_peak_is_known(monkeypatch):
    assert measure.utilisation(1e12, 0.0, 1.0) == {} and measure.device_peak() == {}
    shares = measure.memory_bound(3e9, 1.0, 6e9)
    assert shares == {"share_of_copy": 0.5, "copy_GB_per_s": 6.0}

    class Device:
        device_kind = "NVIDIA H200"

        def memory_stats(self):
            return {"peak_bytes_in_use": 3 * 10**9}

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert measure.utilisation(989e12, 989e12, 4.0) == {"mfu": 0.25, "hfu": 0.5}
    assert measure.memory_bound(2.4e12, 1.0, 4.8e12)["share_of_bandwidth"] == 0.5
    assert measure.device_peak() == {"peak_gb": 3.0}


def test_a_copy_and_a_product_have_rates():
    assert 1e8 < measure.copy_rate(0.01) < 1e14 and 1e8 < measure.matmul_peak("float32", 128) < 1e16


def test_compiling_is_clocked_and_running_is_not():
    compiled = jax.jit(lambda x: jax.jit(lambda y: jax.jit(jnp.sin)(y) @ y.T)(x))
    start = time.perf_counter()
    with measure.Compiling() as clock:
        compiled(jnp.ones((5, 5))).block_until_ready()
    assert 0 < clock.seconds < time.perf_counter() - start
    with measure.Compiling() as again:
        compiled(jnp.ones((5, 5))).block_until_ready()
    assert again.seconds == 0


def test_a_line_is_found_again(seed):
    rng = np.random.default_rng(seed)
    layers, noise = [4, 8, 16, 32], 1e-3 * rng.normal(size=4)
    a, b, r2 = scaling.fit(layers, (0.5 + 0.25 * np.array(layers) + noise).tolist())
    assert a == pytest.approx(0.5, abs=0.01) and b == pytest.approx(0.25, abs=1e-3) and 0.999 < r2 <= 1
    assert scaling.fit(layers, [1.0, 3.0, 1.0, 3.0])[2] < 0.7


LIKE_LARGE = dataclasses.replace(HubertConfig.tiny(), pre_norm=True, conv_bias=True, feat_extract_norm="layer")


@pytest.mark.parametrize(
    "family, config",
    [
        (HUBERT, LIKE_LARGE),
        (HUBERT, HubertConfig.base()),
        (clip.FAMILY, ClipVisionConfig.vit_b_32()),
    ],
)
def test_settings_of_transformers_come_back(family, config):
    assert family.parse_config(family.export_settings(config), None) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, create, config",
    [
        (HUBERT, Hubert, HubertConfig.tiny()),
        (HUBERT, Hubert, LIKE_LARGE),
        (clip.FAMILY, ClipVision, ClipVisionConfig.tiny()),
    ],
)
@pytest.mark.usefixtures("compiled_quickly")
def test_the_peers_encoders_have_our_weights(family, create, config, seed):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    import peer

    module = create(config, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    nnx.update(module, jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), nnx.state(module)))
    model = peer.transformers_encoder(module, family)
    if create is Hubert:
        x = rng.normal(size=(2, 400)).astype(np.float32)
        inputs, peer_output = (x, np.array([400, 400], np.int32)), torch.from_numpy(x)
    else:
        x = rng.normal(size=(2, 24, 24, 3)).astype(np.float32)
        inputs, peer_output = (x,), torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    output = jax.jit(lambda module, *inputs: module(*inputs)[0])(module, *inputs)
    with torch.inference_mode():
        peer_output = model(peer_output).last_hidden_state.numpy()
    np.testing.assert_allclose(output, peer_output, atol=2e-4 * np.abs(peer_output).max())
