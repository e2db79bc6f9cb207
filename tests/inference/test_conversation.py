"""Answers on a kept cache, and answers to whole test sets, equal those of prompts prefilled from their first token."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from empatheia_jax.data.schema import Profile
from empatheia_jax.inference.conversation import Conversation, common_prefix_length
from empatheia_jax.llm.decode import generate
from empatheia_jax.testing.tiny import (
    WIDTHS,
    compilations,
    make_engine,
    make_examples,
    make_model,
    make_store,
    replace_fields,
    small_config,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# With tied random weights, one token would be written again and again.
CONFIG = replace_fields(small_config(), "llm", tie_embeddings=False)
EXAMPLES = make_examples(2, turns=3)  # three turns of one dialogue, then three of another
STORE = make_store(EXAMPLES)
SLOT = CONFIG.projector.tokens


@pytest.fixture(scope="module")
def engine(compiled_quickly):
    return make_engine(make_model(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def alone(engine):
    """Callable(prompt) -> ids that `generate` writes after the whole prompt, with a cache of its own."""

    @jax.jit
    def write(state, tokens, length, media):
        model = nnx.merge(engine.graphdef, state)
        x = model.fill_slots(model.embed(tokens), **media)
        return generate(
            model.llm, model.embed, x, length, max_new_tokens=engine.max_new_tokens, eos_id=engine.tokenizer.eos_id
        )

    def call(prompt) -> list[int]:
        tokens = np.zeros((1, 512), np.int32)
        tokens[0, : len(prompt.ids)] = prompt.ids
        media = {name: np.zeros((8, *getattr(WIDTHS, name)), np.float32) for name in ("audio", "video")}
        media |= {f"{name}_start": np.full(8, -1, np.int32) for name in ("audio", "video")}
        for index, slot in enumerate(prompt.slots):
            features = prompt.slot_features(slot)
            if features is not None:
                media[slot.modality][index // 2] = features
                media[f"{slot.modality}_start"][index // 2] = slot.position
        done = write(engine.state, tokens, np.array([len(prompt.ids)]), media)
        return np.asarray(done.tokens)[0, : int(done.lengths[0])].tolist()

    return call


def assert_same(a, b):
    assert a.text == b.text and a.tokens == b.tokens
    for name in ("response_states", "style_speech", "style_video"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-4)
    for name, value in a.labels.items():
        np.testing.assert_allclose(value, b.labels[name], atol=2e-4)


def arguments(example):
    return example, STORE.get, example.listener_profile


@pytest.mark.slow
def test_a_test_set_gets_what_generate_writes_alone(engine, alone):
    answers = engine.answer(EXAMPLES, STORE.get, [e.listener_profile for e in EXAMPLES])
    for example, answer in zip(EXAMPLES, answers, strict=True):
        ids = alone(engine.prompt(*arguments(example)))
        assert answer.text == engine.tokenizer.decode(ids)
        assert answer.truncated == (len(ids) == engine.max_new_tokens)  # with these weights no </s> follows
    assert len({answer.text for answer in answers}) == len(answers)
    assert engine.stats.tokens >= sum(answer.tokens for answer in answers)
    assert 0 < engine.stats.occupancy <= 1 and engine.stats.tokens_per_second > 0
    assert engine.answer([], STORE.get, []) == []


@pytest.mark.slow
def test_turns_on_a_kept_cache_are_turns_from_the_first_token(engine):
    """Three turns, a shorter prompt again, another dialogue: common prefixes are reused, answers are the same."""
    chat = Conversation(engine)
    order = [*EXAMPLES[:3], EXAMPLES[1], *EXAMPLES[3:]]
    read = []
    for example in order:
        before = chat.tokens_read
        (expected,) = engine.answer([example], STORE.get, [example.listener_profile])
        assert_same(chat.answer(*arguments(example)), expected)
        read.append(chat.tokens_read - before)
    lengths = [len(engine.prompt(*arguments(example)).ids) for example in order]
    assert chat.tokens_read == sum(read) and chat.tokens_reused == sum(lengths) - sum(read)
    line = len(engine.tokenizer.encode("}\nListener profile: age young, gender female, timbre mid.\n")) + 8
    assert read[0] == lengths[0]
    for turn in (1, 2):  # only what is new in the dialogue, and the lines after it
        assert read[turn] <= lengths[turn] - lengths[turn - 1] + line
    assert read[3] <= line
    instruction = len(engine.tokenizer.encode("Provide a multimodal empathetic response"))
    assert read[4] < lengths[4] - instruction  # another dialogue: the instruction is still cached


@pytest.mark.slow
def test_what_changed_is_read_anew(engine):
    """The same words with another voice, without a face, with another profile: nothing stale is reused."""
    first, last = EXAMPLES[0], EXAMPLES[2]
    key = last.utterance_key(last.history[1])  # the listener's, heard and seen in the turn before
    revoiced = {**STORE, key: STORE[key] | {"audio": STORE[key]["audio"] + 1}}
    faceless = {**STORE, key: {"audio": STORE[key]["audio"]}}
    profile = Profile("elderly", "male", "low")
    if profile.age == last.listener_profile.age:
        profile = dataclasses.replace(profile, age="young")
    positions = [slot.position for slot in engine.prompt(*arguments(last)).slots if slot.key == key]
    (usual,) = engine.answer([last], STORE.get, [last.listener_profile])
    for features, listener, expected_reuse in (
        (revoiced.get, last.listener_profile, positions[0]),
        (faceless.get, last.listener_profile, positions[1]),
        (STORE.get, profile, None),
    ):
        chat = Conversation(engine)
        chat.answer(*arguments(first))
        assert_same(chat.answer(*arguments(last)), usual)
        before = chat.tokens_reused
        (expected,) = engine.answer([last], features, [listener])
        assert_same(chat.answer(last, features, listener), expected)
        assert not np.allclose(expected.style_speech, usual.style_speech, atol=1e-3)  # the change matters
        reused = chat.tokens_reused - before
        if expected_reuse is not None:
            assert reused == expected_reuse
        else:
            assert max(positions) < reused < len(engine.prompt(last, features, listener).ids) - 1
        assert_same(chat.answer(*arguments(last)), usual)


def test_an_answer_is_cut_at_its_limit_unless_its_end_comes_next(engine):
    chat, prompt = Conversation(engine), engine.prompt(*arguments(EXAMPLES[0]))
    chat.answer(*arguments(EXAMPLES[0]))
    state, limit, eos = chat._decode_state, engine.max_new_tokens, engine.tokenizer.eos_id
    assert state is not None
    ids = np.asarray(state.tokens)[0].tolist()
    for next_token, written, is_cut in ((eos, limit, False), (eos + 1, limit, True), (eos, limit - 1, False)):
        ended = state._replace(next_token=jnp.array([next_token]), written=jnp.array([written]))
        (answer,) = engine.read(ended, np.zeros(1, np.int32), [prompt], [ids[:written]])()
        assert (answer.tokens, answer.truncated) == (written, is_cut)


@pytest.mark.slow
def test_an_interrupted_turn_leaves_nothing_stale(engine, monkeypatch):
    chat = Conversation(engine)
    chat.answer(*arguments(EXAMPLES[0]))

    def stop(decode_state):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "advance", stop)
    with pytest.raises(KeyboardInterrupt):
        chat.answer(*arguments(EXAMPLES[1]))
    monkeypatch.undo()
    (expected,) = engine.answer([EXAMPLES[1]], STORE.get, [EXAMPLES[1].listener_profile])
    assert_same(chat.answer(*arguments(EXAMPLES[1])), expected)


@pytest.mark.slow
def test_a_long_chat_compiles_a_handful_of_programs(engine):
    """Once its buckets are compiled, twenty turns in any order compile next to nothing."""
    fresh = make_engine(nnx.merge(engine.graphdef, engine.state), CONFIG, max_new_tokens=8)
    turns = make_examples(1, seed=3, turns=5)
    chat = Conversation(fresh)
    for example in turns:
        chat.answer(example, lambda key: None, example.listener_profile)
    programs = [fresh._admit, fresh._advance, fresh._read]
    assert sum(program._cache_size() for program in programs) <= 9
    rng = np.random.default_rng(4)
    with compilations() as compiled:
        for _ in range(20):
            example = turns[int(rng.integers(len(turns)))]
            chat.answer(example, lambda key: None, example.listener_profile)
    assert chat.tokens_reused > chat.tokens_read
    assert len(compiled) <= len(programs)  # a jump back and forth may need one more bucket of each


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_the_common_prefix_is_the_longest_that_may_be_kept(data):
    """By the definition: the longest prefix that is equal on both sides and splits no slot."""
    token, digest = st.integers(0, 2), st.sampled_from([None, b"a", b"b"])

    def draw(base=()):
        ids, media = [], {}
        for item in [*base, *data.draw(st.lists(st.one_of(token, digest.map(lambda d: ("audio", d))), max_size=8))]:
            if isinstance(item, tuple):
                media[len(ids)] = item
                ids += [9] * SLOT
            else:
                ids.append(item)
        return ids, media

    base = data.draw(st.lists(st.one_of(token, digest.map(lambda d: ("audio", d))), max_size=6))
    (cached, cached_media), (ids, media) = draw(base), draw([*base, 1])
    length = common_prefix_length(cached, cached_media, ids, media, slot_tokens=SLOT)

    def may_keep(count):
        positions = [*itertools.chain(cached_media, media)]
        return (
            count < len(ids)
            and cached[:count] == ids[:count]
            and all(cached_media.get(start) == media.get(start) for start in positions if start < count)
            and not any(start < count < start + SLOT for start in positions)
        )

    assert length == max(count for count in range(min(len(cached), len(ids)) + 1) if may_keep(count))
