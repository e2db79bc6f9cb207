"""Answers turn by turn on a kept cache are those of prompts read from their first token, and so are whole test sets."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small import compilations, make_engine, make_examples, make_model, make_store, small_config, sub

from empatheia_jax.data.schema import Profile
from empatheia_jax.inference.conversation import Conversation, common_prefix
from empatheia_jax.llm.decode import generate

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = sub(small_config(), "llm", tie_embeddings=False)  # tied, random weights write one token again and again
EXAMPLES = make_examples(2, turns=3)  # three turns of one dialogue, then three of another
STORE = make_store(EXAMPLES)
SLOT = CONFIG.projector.tokens


@pytest.fixture(scope="module")
def engine(compiled_quickly):
    return make_engine(make_model(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def alone(engine):
    """Callable(prompt) -> ids that `generate` writes after the whole prompt, in a cache of its own."""

    @jax.jit
    def write(state, tokens, length, audio, audio_start, video, video_start):
        model = nnx.merge(engine.graphdef, state)
        x = model.fill_slots(model.embed(tokens), audio, audio_start, video, video_start)
        return generate(
            model.llm, model.embed, x, length, max_new_tokens=engine.max_new_tokens, eos_id=engine.tokenizer.eos_id
        )

    def call(prompt) -> list[int]:
        tokens = np.zeros((1, 512), np.int32)
        tokens[0, : len(prompt.ids)] = prompt.ids
        media = {name: np.zeros((8, *getattr(engine.widths, name)), np.float32) for name in ("audio", "video")}
        starts = {name: np.full(8, -1, np.int32) for name in media}
        for number, slot in enumerate(prompt.slots):
            if prompt.medium(slot) is not None:
                media[slot.modality][number // 2] = prompt.medium(slot)
                starts[slot.modality][number // 2] = slot.position
        length = np.array([len(prompt.ids)])
        done = write(engine.state, tokens, length, media["audio"], starts["audio"], media["video"], starts["video"])
        return np.asarray(done.tokens)[0, : int(done.lengths[0])].tolist()

    return call


def assert_same(a, b):
    assert a.text == b.text and a.tokens == b.tokens
    for name in ("response_states", "style_speech", "style_video"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-4)
    for name, value in a.labels.items():
        np.testing.assert_allclose(value, b.labels[name], atol=2e-4)


def asked(example):
    return example, STORE.get, example.listener_profile


def test_a_test_set_gets_what_generate_writes_alone(engine, alone):
    answers = engine.answer(EXAMPLES, STORE.get, [e.listener_profile for e in EXAMPLES])
    for example, answer in zip(EXAMPLES, answers, strict=True):
        assert answer.text == engine.tokenizer.decode(alone(engine.prompt(*asked(example))))
    assert len({answer.text for answer in answers}) == len(answers)
    assert engine.tally.tokens >= sum(answer.tokens for answer in answers)
    assert 0 < engine.tally.occupancy <= 1 and engine.tally.tokens_per_second > 0
    assert engine.answer([], STORE.get, []) == []


@pytest.mark.slow
def test_turns_on_a_kept_cache_are_turns_from_the_first_token(engine):
    """Three turns, a shorter prompt again, another dialogue: what is the same is not read again, and all is right."""
    chat = Conversation(engine)
    order = [*EXAMPLES[:3], EXAMPLES[1], *EXAMPLES[3:]]
    read = []
    for example in order:
        before = chat.read
        (wanted,) = engine.answer([example], STORE.get, [example.listener_profile])
        assert_same(chat.answer(*asked(example)), wanted)
        read.append(chat.read - before)
    lengths = [len(engine.prompt(*asked(example)).ids) for example in order]
    assert chat.read == sum(read) and chat.reused == sum(lengths) - sum(read)
    line = len(engine.tokenizer.encode("}\nListener profile: age young, gender female, timbre mid.\n")) + 8
    assert read[0] == lengths[0]
    for turn in (1, 2):  # only what was said since, and the lines behind the dialogue
        assert read[turn] <= lengths[turn] - lengths[turn - 1] + line
    assert read[3] <= line
    instruction = len(engine.tokenizer.encode("Provide a multimodal empathetic response"))
    assert read[4] < lengths[4] - instruction  # another dialogue: the instruction is still there


@pytest.mark.slow
def test_what_changed_is_read_anew(engine):
    """The same words with another voice, without a face, with another profile; nothing of the old is left."""
    first, last = EXAMPLES[0], EXAMPLES[2]
    key = last.utterance_key(last.history[1])  # the listener's, heard and seen in the turn before
    other = {**STORE, key: STORE[key] | {"audio": STORE[key]["audio"] + 1}}
    blind = {**STORE, key: {"audio": STORE[key]["audio"]}}
    profile = Profile("elderly", "male", "low")
    if profile.age == last.listener_profile.age:
        profile = dataclasses.replace(profile, age="young")
    places = [slot.position for slot in engine.prompt(*asked(last)).slots if slot.key == key]
    (usual,) = engine.answer([last], STORE.get, [last.listener_profile])
    for features, who, most in (
        (other.get, last.listener_profile, places[0]),
        (blind.get, last.listener_profile, places[1]),
        (STORE.get, profile, None),
    ):
        chat = Conversation(engine)
        chat.answer(*asked(first))
        assert_same(chat.answer(*asked(last)), usual)
        before = chat.reused
        (wanted,) = engine.answer([last], features, [who])
        assert_same(chat.answer(last, features, who), wanted)
        assert not np.allclose(wanted.style_speech, usual.style_speech, atol=1e-3)  # it does matter
        reused = chat.reused - before
        if most is not None:
            assert reused == most
        else:
            assert max(places) < reused < len(engine.prompt(last, features, who).ids) - 1
        assert_same(chat.answer(*asked(last)), usual)


def test_an_interrupted_turn_leaves_nothing_stale(engine, monkeypatch):
    chat = Conversation(engine)
    chat.answer(*asked(EXAMPLES[0]))

    def stop(slots):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "advance", stop)
    with pytest.raises(KeyboardInterrupt):
        chat.answer(*asked(EXAMPLES[1]))
    monkeypatch.undo()
    (wanted,) = engine.answer([EXAMPLES[1]], STORE.get, [EXAMPLES[1].listener_profile])
    assert_same(chat.answer(*asked(EXAMPLES[1])), wanted)


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
    with compilations() as found:
        for _ in range(20):
            example = turns[int(rng.integers(len(turns)))]
            chat.answer(example, lambda key: None, example.listener_profile)
    assert chat.reused > chat.read
    assert len(found) <= len(programs)  # a jump back and forth may ask each for one more bucket


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_the_common_prefix_is_the_longest_that_may_be_kept(data):
    """Against the definition: every shorter prefix that splits no slot may be kept, no longer one."""
    token, digest = st.integers(0, 2), st.sampled_from([None, b"a", b"b"])

    def draw(base=()):
        ids, media = [], {}
        for kind in [*base, *data.draw(st.lists(st.one_of(token, digest.map(lambda d: ("audio", d))), max_size=8))]:
            if isinstance(kind, tuple):
                media[len(ids)] = kind
                ids += [9] * SLOT
            else:
                ids.append(kind)
        return ids, media

    base = data.draw(st.lists(st.one_of(token, digest.map(lambda d: ("audio", d))), max_size=6))
    (held, held_media), (ids, media) = draw(base), draw([*base, 1])
    found = common_prefix(held, held_media, ids, media, SLOT)

    def may_keep(count):
        places = [*itertools.chain(held_media, media)]
        return (
            count < len(ids)
            and held[:count] == ids[:count]
            and all(held_media.get(place) == media.get(place) for place in places if place < count)
            and not any(place < count < place + SLOT for place in places)
        )

    assert found == max(count for count in range(min(len(held), len(ids)) + 1) if may_keep(count))
