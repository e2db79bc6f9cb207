"""What inference reads is what training taught: states, slots and signals of the same text are equal on both ways.

Training packs whole Examples; inference prefills a padded prompt, decodes, and reads response, </s> and signals in one
pass on the prompt's cache.
"""

import types

import jax
import numpy as np
import pytest
from flax import nnx
from small import WIDTHS, make_engine, make_examples, make_model, make_store, make_tokenizer, small_config

from empatheia_jax.data.encoded import encode, encode_prompt
from empatheia_jax.data.pipeline import evaluation_batches
from empatheia_jax.data.prompts import find_response
from empatheia_jax.data.rows import Rows
from empatheia_jax.empatheia import read_signals
from empatheia_jax.generators.classical.voice import ClassicalSpeech
from empatheia_jax.inference.perform import content_of
from empatheia_jax.llm.cache import chunk_positions

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


def forced(engine, wanted: list[list[int]]):
    """`engine._admit` and `_advance` that prefill and then feed the wanted ids through the same cached steps.

    The ids are those of prompts in the order in which they are admitted.
    """
    admit, given, queue = engine._admit, {}, list(wanted)

    def put(state, slots, rows, *args, **kwargs):
        given.update((int(row), queue.pop(0)) for row in rows if row < len(slots.live))
        return admit(state, slots, rows, *args, **kwargs)

    @jax.jit
    def feed(state, slots, answers, sizes):
        model = engine._model(state)
        positions = chunk_positions(slots.prompt, sizes, answers.shape[1], slots.cache.capacity)
        return model.llm(model.embed(answers), positions, cache=slots.cache)[1]

    def write(state, slots, least, steps):
        answers = np.full(slots.tokens.shape, engine.tokenizer.eos_id, np.int32)
        sizes = np.zeros(len(answers), np.int32)
        for row, ids in given.items():
            answers[row, : len(ids)], sizes[row] = ids, len(ids)
        cache = feed(state, slots, answers, sizes)
        return slots._replace(cache=cache, live=np.zeros(len(sizes), bool), written=sizes, tokens=answers), 1

    return put, write


def test_inference_states_are_training_states(model, engine):
    profiles = [example.listener_profile for example in EXAMPLES]
    encoded = [encode(e, "all", CONFIG, TOKENIZER, p) for e, p in zip(EXAMPLES, profiles, strict=True)]
    wanted = [e.ids[e.prompt_length : e.response[1]].tolist() for e in encoded]
    own = engine._admit, engine._advance
    engine._admit, engine._advance = forced(engine, wanted)
    answers = engine.answer(EXAMPLES, STORE.get, profiles)
    engine._admit, engine._advance = own
    rows = Rows(EXAMPLES, "all", CONFIG, TOKENIZER, STORE, WIDTHS, train=False, seed=0)
    graphdef, state = nnx.split(model)

    @jax.jit
    def training(state, batch):
        model = nnx.merge(graphdef, state)
        signals = read_signals(model.hidden(batch), batch["response_index"], batch["signal_index"])
        style = model.style_disentangler(signals.speech, signals.video)
        synchronizer = model.content_synchronizer
        speech, _ = synchronizer.speech_content(signals.response, signals.response_mask, batch["phonemes"])
        video, _ = synchronizer.video_content(
            signals.response,
            signals.response_mask,
            batch["phonemes"],
            batch["phoneme_frames"],
            batch["video_frames"],
            batch["gold_content_video"].shape[1],
        )
        return signals.response, style.speech, style.video, style.logits, speech, video

    compared = 0
    for batch in evaluation_batches(rows):
        response, speech, video, logits, content, mouth = jax.device_get(training(state, batch))
        for k, i in enumerate(batch["example_id"]):
            if i < 0:
                continue
            compared += 1
            answer = answers[i]
            assert answer.parsed.response == EXAMPLES[i].response.text
            count = (batch["response_index"][k] >= 0).sum()
            assert answer.response_states.shape == (count, CONFIG.llm.width)
            np.testing.assert_allclose(answer.response_states, response[k, :count], atol=2e-4)
            np.testing.assert_allclose(answer.style_speech, speech[k], atol=2e-4)
            np.testing.assert_allclose(answer.style_video, video[k], atol=2e-4)
            np.testing.assert_allclose(answer.labels["emotion"], _softmax(logits["emotion"][k]), atol=2e-4)
            gold = STORE[EXAMPLES[i].utterance_key(EXAMPLES[i].response)]
            size, frames = len(gold["phonemes"]), len(gold["content_video"])
            spoken = engine.speech_content(answer.response_states, gold["phonemes"])
            np.testing.assert_allclose(spoken, content[k, :size], atol=5e-4)
            moved = engine.video_content(answer.response_states, gold["phonemes"], gold["phoneme_frames"], frames)
            np.testing.assert_allclose(moved, mouth[k, :frames], atol=5e-4)
    assert compared == len(EXAMPLES)


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_an_answer_does_not_depend_on_its_neighbours_in_the_batch(engine):
    """Free generation, ragged prompts: alone, first or second in a batch, with others' media beside it."""
    profiles = [example.listener_profile for example in EXAMPLES]
    together = engine.answer(EXAMPLES, STORE.get, profiles)
    back = engine.answer(EXAMPLES[::-1], STORE.get, profiles[::-1])[::-1]
    for a, b in zip(together, back, strict=True):
        assert a.text == b.text
        np.testing.assert_allclose(a.style_speech, b.style_speech, atol=2e-4)
    deaf = engine.answer(EXAMPLES, lambda key: None, profiles)
    assert any(not np.allclose(a.style_speech, b.style_speech, atol=1e-3) for a, b in zip(together, deaf, strict=True))


def test_the_response_is_found_where_training_marked_it():
    for example in EXAMPLES:
        encoded = encode(example, "all", CONFIG, TOKENIZER, example.listener_profile)
        written = encoded.ids[encoded.prompt_length :].tolist()
        first, last = find_response(TOKENIZER, written)
        assert (first + encoded.prompt_length, last + encoded.prompt_length) == encoded.response
        prompt, slots = encode_prompt(example, "all", CONFIG, TOKENIZER, example.listener_profile)
        assert prompt == encoded.ids[: encoded.prompt_length].tolist() and slots == encoded.slots


def test_text_without_a_response_has_no_states(engine):
    answer = engine._collect([[5, 6]], [(2, 2)], np.zeros((1, 40, 32)), None)[0]
    assert answer.response_states.shape == (0, 32) and answer.parsed.response is None
    assert "response" in answer.parsed.missing


def test_bad_phonemes_fall_back_to_the_generators_content():
    """Where the synchronizer is wrong about more than a tenth of the phonemes, the generator's own content is used."""
    speech = ClassicalSpeech()
    phonemes = np.array([0, 43, 50, 60, 70, 83, 102, 61, 55, 48], np.int32)
    own, others = speech.content(phonemes), speech.content(np.full(10, 54, np.int32))
    answer = types.SimpleNamespace(response_states=np.zeros((3, 4)))
    for wrong, source in ((0, "synchronizer"), (1, "synchronizer"), (2, "generator")):
        said = np.where(np.arange(10)[:, None] < wrong, others, own)
        synchronizer = types.SimpleNamespace(speech_content=lambda states, ids, said=said: said)
        content, used, agreement = content_of(synchronizer, speech, answer, phonemes, "synchronizer")
        assert used == source and agreement == pytest.approx(1 - wrong / 10)
        np.testing.assert_array_equal(content, said if source == "synchronizer" else own)
    content, used, agreement = content_of(None, speech, answer, phonemes, "generator")
    assert (used, agreement) == ("generator", None)
    np.testing.assert_array_equal(content, own)
