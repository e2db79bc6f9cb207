"""Corpora mixed into training: distinct by name, sampled by their shares, with their own features or none."""

import collections
import dataclasses

import numpy as np
import pytest

from empatheia_jax.config import ConfigError, MixConfig
from empatheia_jax.config.load import config_from_json, config_to_json
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.packer import Mixture
from empatheia_jax.data.batches.pipeline import training_batches
from empatheia_jax.data.features.store import MixedStores
from empatheia_jax.testing.corpus import write_text_corpus
from empatheia_jax.testing.tiny import WIDTHS, make_examples, make_store, make_tokenizer, replace_fields, small_config
from empatheia_jax.training.data import load_data


def test_a_mixed_corpus_joins_training_and_not_validation(tmp_path):
    write_text_corpus(tmp_path / "main")
    write_text_corpus(tmp_path / "other")
    mix = (MixConfig("ed", str(tmp_path / "other"), share=0.5),)
    config = replace_fields(small_config(modalities=()), "data", path=str(tmp_path / "main"), mix=mix)
    (tmp_path / "run").mkdir()
    data = load_data(tmp_path / "run", config)
    assert data.corpora == ((16, 1.0), (20, 0.5)) and len(data.train) == 36
    names = collections.Counter(example.id.split("/")[0] for example in data.train)
    assert names == {"train": 16, "ed": 20} and len({example.id for example in data.train}) == 36
    assert all(example.split == "validation" for example in data.validation)
    assert config_from_json(config_to_json(config)) == config


def test_rows_read_each_corpus_from_its_own_store():
    main, other, featureless = make_examples(4, seed=0), make_examples(4, seed=1), make_examples(3, seed=2)
    renamed = [
        [dataclasses.replace(e, id=f"{name}/{e.id}", split=f"{name}/{e.split}") for e in examples]
        for name, examples in (("b", other), ("c", featureless))
    ]
    stores = MixedStores(make_store(main, seed=1), {"b": make_store(other, seed=2), "c": None})
    examples, config = [*main, *renamed[0], *renamed[1]], small_config()
    rows = BatchBuilder(
        examples,
        "all",
        config,
        make_tokenizer(),
        store=stores,
        widths=WIDTHS,
        train=True,
        seed=0,
        mixture=Mixture([(8, 1.0), (8, 0.5), (6, 2.0)], 0),
    )
    seen = collections.Counter()
    epoch = [rows.plan([n])[0] for n in range(rows.stream.rows_per_epoch)]
    for batch in training_batches(rows, 0, len(epoch) // config.data.rows):
        for k, example in enumerate(batch.example_id[0]):
            if example < 0:
                continue
            seen[examples[example].id] += 1
            key = examples[example].utterance_key(examples[example].response)
            gold = stores.get(key)
            assert bool(batch.has_style_speech[0, k]) == (gold is not None)
            if gold is not None:
                np.testing.assert_array_equal(batch.gold_style_speech[0, k], gold["style_speech"])
    by_corpus = collections.Counter(name.split("/")[0] for name in seen.elements())
    assert by_corpus["train"] >= 7 and by_corpus["b"] <= 4 and by_corpus["c"] >= 10


@pytest.mark.parametrize("field", [{"name": "a/b"}, {"share": 0.0}])
def test_impossible_mixtures(field):
    with pytest.raises(ConfigError, match="data.mix"):
        MixConfig(**{"name": "a", "path": "p"} | field)
    with pytest.raises(ConfigError, match="differ"):
        replace_fields(small_config(), "data", mix=(MixConfig("a", "p"), MixConfig("a", "q")))
