"""A store that was extracted with another division into training and validation dialogues."""

import dataclasses

import pytest

from empatheia_jax.data.features.records import StoreError
from empatheia_jax.testing.tiny import make_examples
from empatheia_jax.training.data import check_division


class Store(set):
    """Keys of a store, with the folder that errors name."""

    directory = "run/features"


def divide(held_out: set[str]):
    """Return the training and the validation Examples where these conversations are held out."""
    examples = make_examples(12, seed=2)
    splits = [
        dataclasses.replace(e, split="validation" if e.conversation_id in held_out else "train") for e in examples
    ]
    return [[e for e in splits if e.split == name] for name in ("train", "validation")]


IDS = sorted({example.conversation_id for example in make_examples(12, seed=2)})


def keys(examples, without: str = "") -> Store:
    return Store(e.utterance_key(u) for e in examples for u in e.utterances if e.conversation_id != without)


@pytest.mark.parametrize("now", [set(IDS[:1]), set(IDS[1:4]), set()])
def test_dialogues_that_changed_sides_are_refused(now):
    train, validation = divide(set(IDS[:3]))
    store = keys(train + validation)
    check_division(store, train, validation)
    with pytest.raises(StoreError, match="run/features: [12] dialogues of the .* data.validation_share|[3] dialogues"):
        check_division(store, *divide(now))


def test_a_dialogue_without_features_and_one_of_the_same_id_in_an_official_split_are_no_fault():
    train, validation = divide(set(IDS[:3]))
    check_division(keys(train + validation, without=IDS[5]), train, validation)
    # An official valid.json counts its dialogues from 1 too.
    official = [dataclasses.replace(example, split="validation") for example in train[:2]]
    check_division(keys(train[2:] + official), train, official)
