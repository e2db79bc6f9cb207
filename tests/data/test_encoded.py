"""Which ids of an Example carry loss in each stage, and where its signals are."""

import dataclasses

import pytest

from empatheia_jax.data.batches.encoder import encode_example, prompt_profile
from empatheia_jax.data.prompts.dialogue import profile_line
from empatheia_jax.data.schema import RecordError
from empatheia_jax.testing.tiny import make_examples, make_tokenizer, replace_fields, small_config

CONFIG = small_config()
TOKENIZER = make_tokenizer()
EXAMPLE = make_examples(1)[0]
PROFILE = EXAMPLE.listener_profile
CHAIN_START = "Firstly, the event scenario"


def text_with_loss(encoded) -> str:
    return TOKENIZER.decode(encoded.ids[encoded.loss_mask].tolist())


def test_answer_carries_loss_and_a_base_repeats_its_listener():
    tuned, base = (
        encode_example(EXAMPLE, "text", CONFIG, TOKENIZER, profile=PROFILE, learn_profile=learn_profile)
        for learn_profile in (False, True)
    )
    assert text_with_loss(tuned).startswith(CHAIN_START) and text_with_loss(tuned).endswith(EXAMPLE.response.text)
    length = len(tuned.ids)
    assert (base.ids[:length] == tuned.ids).all() and (base.loss_mask[:length] == tuned.loss_mask).all()
    assert (
        TOKENIZER.decode(base.ids[length:].tolist()) == profile_line(PROFILE) + "\n" and base.loss_mask[length:].all()
    )
    labels = [TOKENIZER.decode(encoded.ids[encoded.label_mask].tolist()) for encoded in (tuned, base)]
    assert labels == [f" {EXAMPLE.chain.speaker_emotion}", f" {PROFILE.age} {PROFILE.gender} {PROFILE.timbre}"]
    without_profile = encode_example(EXAMPLE, "text", CONFIG, TOKENIZER, profile=None, learn_profile=True)
    assert text_with_loss(without_profile) == text_with_loss(tuned) and without_profile.ids[-1] == TOKENIZER.eos_id


def test_signals_are_there_where_somebody_reads_them():
    text, everything = (encode_example(EXAMPLE, kind, CONFIG, TOKENIZER, profile=PROFILE) for kind in ("text", "all"))
    assert text.signals_start is None and text.ids[-1] == TOKENIZER.eos_id and text.loss_mask[-1]
    assert everything.ids[everything.signals_start :].tolist() == TOKENIZER.signal_ids
    assert not everything.loss_mask[everything.response_span[1] + 1 :].any()
    with_signal_loss = replace_fields(CONFIG, "prompt", signal_loss=True)
    for kind in ("text", "all"):
        encoded = encode_example(EXAMPLE, kind, with_signal_loss, TOKENIZER, profile=PROFILE)
        assert encoded.loss_mask[encoded.signals_start :].all() and len(encoded.ids) == encoded.signals_start + 32


def test_a_profile_that_must_be_known():
    always = replace_fields(CONFIG, "prompt", profile_in_prompt="always")
    assert prompt_profile(EXAMPLE, always) == PROFILE
    with pytest.raises(RecordError, match="profile_in_prompt is always"):
        prompt_profile(dataclasses.replace(EXAMPLE, listener_profile=None), always)
    never = replace_fields(CONFIG, "prompt", profile_in_prompt="never")
    assert prompt_profile(EXAMPLE, never) is None
