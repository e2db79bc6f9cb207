"""The losses of Eqs. 8-13 against loops in numpy and torch's cross-entropy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.training import losses, target_nll

RNG = np.random.default_rng(3)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def nll_case(rows=3, length=11, width=5, vocabulary=13):
    hidden = RNG.normal(size=(rows, length, width)).astype(np.float32)
    head = RNG.normal(size=(width, vocabulary)).astype(np.float32)
    targets = RNG.integers(0, vocabulary, (rows, length)).astype(np.int32)
    mask = RNG.random((rows, length)) < 0.4
    mask[0] = False  # a row without targets
    emotion = mask & (RNG.random((rows, length)) < 0.5)
    return hidden, head, targets, mask, emotion


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("spare", [0, 4])
@pytest.mark.parametrize("frozen", [False, True])
def test_empathetic_nll_is_the_sum_over_masked_tokens_of_log_likelihood(rows, spare, frozen):
    hidden, head, targets, mask, emotion = nll_case()
    hidden, targets, mask, emotion = hidden[-rows:], targets[-rows:], mask[-rows:], emotion[-rows:]
    row_targets = int(mask.sum(1).max()) + spare
    terms = losses.empathetic_nll(
        jnp.asarray(hidden),
        lambda h: h @ head,
        targets,
        mask,
        label_mask=emotion,
        row_targets=row_targets,
        frozen_head=frozen,
    )
    expected, correct, expected_emotion, correct_emotion = 0.0, 0, 0.0, 0
    for b in range(rows):
        for t in range(hidden.shape[1]):
            if mask[b, t]:
                scores = log_softmax((hidden[b, t] @ head).astype(np.float64))
                expected -= scores[targets[b, t]]
                correct += int(np.argmax(scores) == targets[b, t])
            if emotion[b, t]:
                expected_emotion -= scores[targets[b, t]]
                correct_emotion += int(np.argmax(scores) == targets[b, t])
    np.testing.assert_allclose(terms["emp"], expected, rtol=1e-5)
    assert float(terms["token_accuracy"]) == correct
    np.testing.assert_allclose(terms["label_words"], expected_emotion, rtol=1e-5)
    assert float(terms["label_words_accuracy"]) == correct_emotion


@pytest.mark.parametrize("frozen, chunk", [(False, 512), (True, 512), (True, 4), (False, 4)])
def test_empathetic_nll_and_its_gradient_are_torchs_cross_entropy(frozen, chunk, monkeypatch):
    monkeypatch.setattr(target_nll, "CHUNK", chunk)
    torch = pytest.importorskip("torch")
    import jax

    hidden, head, targets, mask, emotion = nll_case()
    settings = dict(label_mask=emotion, row_targets=hidden.shape[1], frozen_head=frozen)
    value, gradient = jax.value_and_grad(
        lambda h: losses.empathetic_nll(h, lambda x: x @ head, targets, mask, **settings)["emp"]
    )(jnp.asarray(hidden))
    torch_hidden = torch.tensor(hidden, requires_grad=True)
    labels = torch.tensor(np.where(mask, targets, -100)).long()
    loss = torch.nn.functional.cross_entropy(
        (torch_hidden @ torch.tensor(head)).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    )
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, torch_hidden.grad.numpy(), atol=1e-5)


def test_content_consistency_is_the_squared_error_of_valid_positions():
    speech, gold_speech = RNG.normal(size=(2, 2, 6, 4))
    video, gold_video = RNG.normal(size=(2, 2, 9, 3))
    speech_mask = np.arange(6) < np.array([[4], [0]])
    video_mask = np.arange(9) < np.array([[9], [2]])
    terms = losses.content_consistency(
        {"content_speech": speech, "content_video": video},
        {"content_speech": gold_speech, "content_video": gold_video},
        {"content_speech": speech_mask, "content_video": video_mask},
    )
    expected = sum(((speech[0, p] - gold_speech[0, p]) ** 2).mean() for p in range(4))
    np.testing.assert_allclose(terms["content_speech"], expected, rtol=1e-5)
    expected = sum(((video[0, f] - gold_video[0, f]) ** 2).mean() for f in range(9))
    expected += sum(((video[1, f] - gold_video[1, f]) ** 2).mean() for f in range(2))
    np.testing.assert_allclose(terms["content_video"], expected, rtol=1e-5)


def test_style_alignment_leaves_out_examples_without_gold():
    speech, video = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 2))
    gold_speech, gold_video = RNG.normal(size=(3, 4)), np.full((3, 2), np.inf)
    gold_video[1] = 0.5
    terms = losses.style_alignment(
        {"style_speech": speech, "style_video": video},
        {"style_speech": gold_speech, "style_video": gold_video},
        {"style_speech": np.array([True, False, True]), "style_video": np.array([False, True, False])},
    )
    expected = ((speech - gold_speech) ** 2).mean(-1)
    np.testing.assert_allclose(terms["style_speech"], expected[0] + expected[2], rtol=1e-5)
    np.testing.assert_allclose(terms["style_video"], ((video[1] - 0.5) ** 2).mean(), rtol=1e-5)


def test_classification_is_torchs_cross_entropy_over_known_labels():
    torch = pytest.importorskip("torch")
    logits = {"emotion": RNG.normal(size=(5, 7)), "age": RNG.normal(size=(5, 4))}
    labels = {"emotion": np.array([3, -1, 0, 6, -1]), "age": np.array([-1, -1, -1, -1, -1])}
    terms = losses.classification({k: jnp.asarray(v) for k, v in logits.items()}, labels)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits["emotion"]), torch.tensor(labels["emotion"]), ignore_index=-1, reduction="sum"
    )
    np.testing.assert_allclose(terms["emotion"], expected.item(), rtol=1e-5)
    assert float(terms["age"]) == 0.0 and float(terms["age_accuracy"]) == 0.0
    known = labels["emotion"] >= 0
    assert float(terms["emotion_accuracy"]) == (logits["emotion"].argmax(-1) == labels["emotion"])[known].sum()


def test_overall_is_the_papers_sum():
    """Eq. 13 with Table 9's alpha and beta, on made-up term values."""
    values = {
        "emp": 2.0,
        "content_speech": 3.0,
        "content_video": 5.0,
        "style_speech": 7.0,
        "style_video": 11.0,
        "emotion": 1.0,
        "age": 2.0,
        "gender": 3.0,
        "timbre": 4.0,
        "kl_content": 100.0,
        "kl_style": 200.0,
    }
    weights = losses.overall_weights(0.2, 0.3, 0.01)
    assert set(weights) == set(values)
    total = sum(weights[name] * values[name] for name in values)
    ccl = 3.0 + 5.0 + 0.01 * 100.0
    sac = 7.0 + 11.0 + (1.0 + 2.0 + 3.0 + 4.0) + 0.01 * 200.0
    assert total == pytest.approx(2.0 + 0.2 * ccl + 0.3 * sac)


def test_counts_say_how_many_elements_each_sum_has():
    batch = dataclasses.replace(
        Batch(*[np.zeros(0)] * len(dataclasses.fields(Batch))),
        target_mask=np.array([[True, False, True]]),
        label_mask=np.array([[True, False, False]]),
        phonemes=np.array([[0, 5, -1], [-1, -1, -1]]),
        gold_content_video=np.zeros((2, 8, 3)),
        has_style_speech=np.array([True, False]),
        has_style_video=np.array([False, False]),
        response_index=np.array([[1, 2, -1], [-1, -1, -1]]),
        example_id=np.array([4, -1]),
        video_frames=np.array([6, 0]),
        emotion=np.array([2, -1]),
        age=np.array([-1, -1]),
        gender=np.array([1, 1]),
        timbre=np.array([0, -1]),
    )
    counts = {name: float(value) for name, value in losses.counts(batch).items()}
    assert counts == {
        "emp": 2,
        "token_accuracy": 2,
        "label_words": 1,
        "label_words_accuracy": 1,
        "content_speech": 2,
        "content_video": 6,
        "style_speech": 1,
        "style_video": 0,
        "kl_content": 2,
        "kl_style": 1,
        "emotion": 1,
        "age": 0,
        "gender": 2,
        "timbre": 1,
        "emotion_accuracy": 1,
        "age_accuracy": 0,
        "gender_accuracy": 2,
        "timbre_accuracy": 1,
    }
