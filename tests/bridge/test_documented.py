"""The worked example of docs/bridge.md, as it stands there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

from empatheia_jax.config import LatentConfig
from empatheia_jax.latents.style_disentangler import StyleDisentangler

pytestmark = pytest.mark.usefixtures("compiled_quickly")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "bridge.md"


@pytest.mark.slow
def test_the_style_disentangler_is_tuned_by_torch(seed):
    text = next(block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "optimizer" in block)
    config = LatentConfig(width=16, heads=2, mlp_width=16, encoder_layers=1, decoder_layers=1)
    disentangler = StyleDisentangler(config, 24, 6, 5, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    batch = draw(8, 16, 24), draw(8, 16, 24), draw(8, 6), draw(8, 5), torch.arange(8) % 7
    names = {"disentangler": disentangler, "batches": [batch] * 40}

    def predict_style() -> np.ndarray:
        graphdef, state = nnx.split(disentangler)
        predict = jax.jit(lambda state, *signals: nnx.merge(graphdef, state)(*signals).speech)
        return np.asarray(predict(state, batch[0].numpy(), batch[1].numpy()))

    before = predict_style()
    exec(compile(text, str(DOCS), "exec"), names)
    assert names["losses"][-1] < 0.7 * names["losses"][0]
    assert "ffn_speech.up.kernel" in names["module"].state_dict()
    after = predict_style()
    gold = batch[2].numpy()
    assert np.mean((after - gold) ** 2) < np.mean((before - gold) ** 2)
    with torch.no_grad():
        np.testing.assert_allclose(names["module"](batch[0], batch[1])["speech"], after, atol=1e-5)
