"""Inference reads what training taught: states, slots and signals of the same text are equal in both.

Training packs whole Examples; inference prefills a padded prompt, decodes, and reads response, </s> and signals in one
pass on the prompt's cache.
"""

import types

import jax
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.encoder import encode_example, encode_prompt
from empatheia_jax.data.batches.pipeline import evaluation_batches
from empatheia_jax.data.prompts.dialogue import find_response_span
from empatheia_jax.generators.classical.voice import ClassicalSpeech
from empatheia_jax.inference.synthesis import choose_speech_content
from empatheia_jax.llm.cache import chunk_positions
from empatheia_jax.model.empatheia import read_signals
from empatheia_jax.testing.tiny import (
    WIDTHS,
    make_engine,
    make_examples,
    make_model,
    make_store,
    make_tokenizer,
    small_config,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = small_config()
EXAMPLES = make_examples(3)
TOKENIZER = make_tokenizer()
STORE = make_store(EXAMPLES)


@pytest.fixture(scope="module")
def model():
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def engine(model, compiled_quickly):
    return make_engine(model, CONFIG, max_new_tokens=170)


def force_texts(engine, texts: list[list[int]]):
    """Return substitutes for `engine._admit` and `_advance` that write given texts in place of generated ones.

    The texts are in the order in which their prompts are admitted.
    """
    admit, forced, queue = engine._admit, {}, list(texts)

    def admit_and_note(state, decode_state, sequences, *args, **kwargs):
        forced.update((int(index), queue.pop(0)) for index in sequences if index < len(decode_state.live))
        return admit(state, decode_state, sequences, *args, **kwargs)

    @jax.jit
    def feed(state, decode_state, answers, lengths):
        model, cache = engine._model(state), decode_state.cache
        positions = chunk_positions(decode_state.prompt_length, lengths, answers.shape[1], cache.capacity)
        return model.llm(model.embed(answers), positions, cache=cache)[1]

    def write(state, decode_state, stop_at, max_steps):
        answers = np.full(decode_state.tokens.shape, engine.tokenizer.eos_id, np.int32)
        lengths = np.zeros(len(answers), np.int32)
        for index, ids in forced.items():
            answers[index, : len(ids)], lengths[index] = ids, len(ids)
        cache, live = feed(state, decode_state, answers, lengths), np.zeros(len(lengths), bool)
        return decode_state._replace(cache=cache, live=live, written=lengths, tokens=answers), 1

    return admit_and_note, write


def test_inference_states_are_training_states(model, engine):
    profiles = [example.listener_profile for example in EXAMPLES]
    encoded = [encode_example(e, "all", CONFIG, TOKENIZER, profile=p) for e, p in zip(EXAMPLES, profiles, strict=True)]
    texts = [e.ids[e.prompt_length : e.response_span[1]].tolist() for e in encoded]
    original = engine._admit, engine._advance
    engine._admit, engine._advance = force_texts(engine, texts)
    answers = engine.answer(EXAMPLES, STORE.get, profiles)
    engine._admit, engine._advance = original
    rows = BatchBuilder(EXAMPLES, "all", CONFIG, TOKENIZER, store=STORE, widths=WIDTHS, train=False, seed=0)
    graphdef, state = nnx.split(model)

    @jax.jit
    def training(state, batch):
        model = nnx.merge(graphdef, state)
        signals = read_signals(model.hidden(batch), batch.response_index, batch.signal_index)
        latents = model.latents(
            signals,
            phonemes=batch.phonemes,
            phoneme_frames=batch.phoneme_frames,
            video_frames=batch.video_frames,
            frames=batch.gold_content_video.shape[1],
        )
        style = latents.style
        return signals.response, style.speech, style.video, style.logits, *latents.contents.values()

    compared = 0
    for batch in evaluation_batches(rows):
        response, speech, video, logits, content, mouth = jax.device_get(training(state, batch))
        for k, i in enumerate(batch.example_id):
            if i < 0:
                continue
            compared += 1
            answer = answers[i]
            assert answer.parsed.response == EXAMPLES[i].response.text
            count = (batch.response_index[k] >= 0).sum()
            assert answer.response_states.shape == (count, CONFIG.llm.width)
            np.testing.assert_allclose(answer.response_states, response[k, :count], atol=2e-4)
            np.testing.assert_allclose(answer.style_speech, speech[k], atol=2e-4)
            np.testing.assert_allclose(answer.style_video, video[k], atol=2e-4)
            np.testing.assert_allclose(answer.labels["emotion"], _softmax(logits["emotion"][k]), atol=2e-4)
            gold = STORE[EXAMPLES[i].utterance_key(EXAMPLES[i].response)]
            size, frames = len(gold["phonemes"]), len(gold["content_video"])
            spoken = engine.speech_content(answer.response_states, gold["phonemes"])
            np.testing.assert_allclose(spoken, content[k, :size], atol=5e-4)
            animated = engine.video_content(answer.response_states, gold["phonemes"], gold["phoneme_frames"], frames)
            np.testing.assert_allclose(animated, mouth[k, :frames], atol=5e-4)
    assert compared == len(EXAMPLES)


def _softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_an_answer_does_not_depend_on_its_neighbours_in_the_batch(engine):
    """Free generation, ragged prompts: alone, first or second in a batch, with others' media beside it."""
    profiles = [example.listener_profile for example in EXAMPLES]
    together = engine.answer(EXAMPLES, STORE.get, profiles)
    reversed_order = engine.answer(EXAMPLES[::-1], STORE.get, profiles[::-1])[::-1]
    for a, b in zip(together, reversed_order, strict=True):
        assert a.text == b.text
        np.testing.assert_allclose(a.style_speech, b.style_speech, atol=2e-4)
    without_media = engine.answer(EXAMPLES, lambda key: None, profiles)
    assert any(
        not np.allclose(a.style_speech, b.style_speech, atol=1e-3) for a, b in zip(together, without_media, strict=True)
    )


def test_the_response_is_found_where_training_marked_it():
    for example in EXAMPLES:
        encoded = encode_example(example, "all", CONFIG, TOKENIZER, profile=example.listener_profile)
        written = encoded.ids[encoded.prompt_length :].tolist()
        first, last = find_response_span(TOKENIZER, written)
        assert (first + encoded.prompt_length, last + encoded.prompt_length) == encoded.response_span
        prompt, slots = encode_prompt(example, "all", CONFIG, TOKENIZER, profile=example.listener_profile)
        assert prompt == encoded.ids[: encoded.prompt_length].tolist() and slots == encoded.slots


def test_text_without_a_response_has_no_states(engine):
    answer = engine._collect([[5, 6]], [(2, 2)], np.zeros((1, 40, 32)), None, truncated=[False])[0]
    assert answer.response_states.shape == (0, 32) and answer.parsed.response is None
    assert "response" in answer.parsed.missing


def test_bad_phonemes_fall_back_to_the_generators_content():
    """Where the synchronizer is wrong about more than a tenth of the phonemes, the generator's own content is used."""
    speech = ClassicalSpeech()
    phonemes = np.array([0, 43, 50, 60, 70, 83, 102, 61, 55, 48], np.int32)
    right_content, wrong_content = speech.content(phonemes), speech.content(np.full(10, 54, np.int32))
    answer = types.SimpleNamespace(response_states=np.zeros((3, 4)))
    for wrong, source in ((0, "synchronizer"), (1, "synchronizer"), (2, "generator")):
        mixed = np.where(np.arange(10)[:, None] < wrong, wrong_content, right_content)
        synchronizer = types.SimpleNamespace(speech_content=lambda states, ids, mixed=mixed: mixed)
        content, used, agreement = choose_speech_content(synchronizer, speech, answer, phonemes, source="synchronizer")
        assert used == source and agreement == pytest.approx(1 - wrong / 10)
        np.testing.assert_array_equal(content, mixed if source == "synchronizer" else right_content)
    content, used, agreement = choose_speech_content(None, speech, answer, phonemes, source="generator")
    assert (used, agreement) == ("generator", None)
    np.testing.assert_array_equal(content, right_content)
