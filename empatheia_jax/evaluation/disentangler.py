"""The accuracies of the style disentangler's labels, by what is known of the listener's profile."""

import dataclasses

import numpy as np

from empatheia_jax.data.batches.encoder import class_labels
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.data.schema import Example
from empatheia_jax.evaluation import conditions
from empatheia_jax.evaluation.conditions import PROFILE_GIVEN, PROFILE_HEARD, PROFILE_SWAPPED, PROFILE_UNKNOWN
from empatheia_jax.inference.engine import Answer, Engine


def measure_disentangler(engine: Engine, store: FeatureStore, examples: list[Example], answers: list[Answer]) -> dict:
    """Return the accuracies of the disentangler's labels by what is known of the listener's profile."""
    gold = [class_labels(example) for example in examples]
    without_profile = engine.answer(examples, store.get, [None] * len(examples))
    was_heard = [any(u.role == "listener" for u in example.history) for example in examples]
    other = [conditions.another_profile(e.listener_profile) if e.listener_profile else None for e in examples]
    with_other = engine.answer(examples, store.get, other)
    other_labels = [
        class_labels(dataclasses.replace(e, listener_profile=p)) for e, p in zip(examples, other, strict=True)
    ]
    return {
        PROFILE_GIVEN: _label_accuracy(answers, gold),
        PROFILE_HEARD: _label_accuracy(without_profile, gold, was_heard),
        PROFILE_UNKNOWN: _label_accuracy(without_profile, gold, [not heard for heard in was_heard]),
        PROFILE_SWAPPED: _label_accuracy(with_other, other_labels),
    }


def _label_accuracy(answers: list[Answer], gold: list[dict[str, int]], selected: list[bool] | None = None) -> dict:
    indices = [i for i in range(len(answers)) if selected is None or selected[i]]
    entry: dict = {"n": len(indices)}
    correct: dict[str, list[bool]] = {}
    for name in ("emotion", "age", "gender", "timbre"):
        correct[name] = [
            int(np.argmax(answers[i].labels[name])) == gold[i][name] for i in indices if gold[i][name] >= 0
        ]
        if correct[name]:
            entry[name] = float(np.mean(correct[name]))
    if indices and all(correct.values()):
        entry["all"] = float(np.mean(np.all([correct[name] for name in ("age", "gender", "timbre")], axis=0)))
    return entry
