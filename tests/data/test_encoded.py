"""What of an Example carries loss in each stage, and where its signals are."""

import dataclasses

import pytest
from small import make_examples, make_tokenizer, small_config, sub

from empatheia_jax.data.encoded import encode, prompt_profile
from empatheia_jax.data.prompts import profile_line
from empatheia_jax.data.schema import RecordError

CONFIG = small_config()
TOKENIZER = make_tokenizer()
EXAMPLE = make_examples(1)[0]
PROFILE = EXAMPLE.listener_profile
CHAIN_START = "Firstly, the event scenario"


def with_loss(encoded) -> str:
    return TOKENIZER.decode(encoded.ids[encoded.loss].tolist())


def test_answer_carries_loss_and_a_base_repeats_its_listener():
    tuned, base = (encode(EXAMPLE, "text", CONFIG, TOKENIZER, PROFILE, base) for base in (False, True))
    assert with_loss(tuned).startswith(CHAIN_START) and with_loss(tuned).endswith(EXAMPLE.response.text)
    length = len(tuned.ids)
    assert (base.ids[:length] == tuned.ids).all() and (base.loss[:length] == tuned.loss).all()
    assert TOKENIZER.decode(base.ids[length:].tolist()) == profile_line(PROFILE) + "\n" and base.loss[length:].all()
    named = [TOKENIZER.decode(encoded.ids[encoded.labels].tolist()) for encoded in (tuned, base)]
    assert named == [f" {EXAMPLE.chain.speaker_emotion}", f" {PROFILE.age} {PROFILE.gender} {PROFILE.timbre}"]
    bare = encode(EXAMPLE, "text", CONFIG, TOKENIZER, None, True)
    assert with_loss(bare) == with_loss(tuned) and bare.ids[-1] == TOKENIZER.eos_id


def test_signals_are_there_where_somebody_reads_them():
    text, everything = (encode(EXAMPLE, style, CONFIG, TOKENIZER, PROFILE) for style in ("text", "all"))
    assert text.signals is None and text.ids[-1] == TOKENIZER.eos_id and text.loss[-1]
    assert everything.ids[everything.signals :].tolist() == TOKENIZER.signal_ids
    assert not everything.loss[everything.response[1] + 1 :].any()
    lossy = sub(CONFIG, "prompt", signal_loss=True)
    for style in ("text", "all"):
        encoded = encode(EXAMPLE, style, lossy, TOKENIZER, PROFILE)
        assert encoded.loss[encoded.signals :].all() and len(encoded.ids) == encoded.signals + 32


def test_a_profile_that_must_be_known():
    always = sub(CONFIG, "prompt", profile_in_prompt="always")
    assert prompt_profile(EXAMPLE, always) == PROFILE
    with pytest.raises(RecordError, match="profile_in_prompt is always"):
        prompt_profile(dataclasses.replace(EXAMPLE, listener_profile=None), always)
    never = sub(CONFIG, "prompt", profile_in_prompt="never")
    assert prompt_profile(EXAMPLE, never) is None
