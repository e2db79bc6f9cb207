"""The classical C_speech: a distinct vector for every symbol, recovered under noise."""

import numpy as np

from empatheia_jax.generators.classical.articulation import CONTENT_DIM, nearest_symbols, symbol_features
from empatheia_jax.generators.phonemes import SYMBOL_ID, SYMBOLS

IDS = np.array(sorted(set(SYMBOL_ID.values())))


def test_every_symbol_has_its_own_vector_of_order_one():
    table = symbol_features()
    assert table.shape == (len(SYMBOLS), CONTENT_DIM) and np.abs(table).max() <= 1
    distances = np.linalg.norm(table[IDS][:, None] - table[IDS], axis=-1) + 9 * np.eye(len(IDS))
    assert distances.min() > 0.5


def test_nearest_symbol_survives_noise(seed):
    english = [SYMBOL_ID[s] for s in "iɪɛæɑɔʊuʌəɚɜeaopbtdkɡfvθðszʃʒhmnŋlɹjwɾʔᵻɐˈˌː .,?!"]
    noise = np.random.default_rng(seed).normal(scale=0.12, size=(50, len(english), CONTENT_DIM))
    nearest = np.stack([nearest_symbols(symbol_features()[english] + sample) for sample in noise])
    assert (nearest == english).mean() > 0.98


def test_features_mean_what_they_say():
    from empatheia_jax.generators.classical.articulation import FEATURES

    table = symbol_features()
    value = lambda symbol, name: table[SYMBOL_ID[symbol], FEATURES.index(name)]  # noqa: E731
    assert value("m", "nasal") == value("m", "lips") == value("p", "stop") == 1
    assert value("z", "voiced") == 1 and value("s", "voiced") == -1
    assert value("i", "height") > value("ɛ", "height") > value("a", "height")
    assert value("u", "rounded") == 1 and value("i", "backness") == -1
