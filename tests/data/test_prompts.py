"""Appendix D.1 word for word, slots and spans as ids, and the parsing of generated text."""

import dataclasses
from pathlib import Path

import pytest

from empatheia_jax.data.emotions import AVATAR_EMOTIONS, FINE_EMOTIONS, SYNONYMS, avatar_emotion, normalise_emotion
from empatheia_jax.data.prompts import dialogue
from empatheia_jax.data.prompts.dialogue import Slot, Text, parse_generated, render_prompt, render_target
from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS, train_bpe
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, Utterance

TEXTS = (
    "I paid all my bills today, I feel great!",
    "Every little accomplishment counts! What bills did you have to pay?",
    "Rent and electricity. We've been struggling financially so it's such a relief to pay bills.",
)
CHAIN = ChainOfEmpathy(
    event_scenario="Paying off overdue rent and electricity bills amid financial struggles.",
    speaker_emotion="content",
    emotion_cause="Relief from the burden of financial stress after successfully paying bills.",
    goal_to_response="Providing support and validation for the speaker's sense of accomplishment.",
)
RESPONSE = "Sorry to hear that. Well, at least this will be a weight off your shoulders."
D1_TARGET = f"""\
Firstly, the event scenario of this conversation is: {CHAIN.event_scenario}
Secondly, the emotion of the speaker is: content
Thirdly, the emotion cause is: {CHAIN.emotion_cause}
Fourthly, the goal to response is: {CHAIN.goal_to_response}
Finally, the response is: {RESPONSE}"""


@pytest.fixture
def example():
    """The paper's dialogue, its roles as section 3 defines them."""
    history = tuple(
        Utterance(index, ("speaker", "listener")[index % 2], text, Path(f"{index}.wav"), Path(f"{index}.mp4"))
        for index, text in enumerate(TEXTS)
    )
    response = Utterance(3, "listener", RESPONSE)
    return Example("test/1/1", "test", "1", 1, "", "", history, None, None, CHAIN, response)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([*TEXTS, D1_TARGET, dialogue.COE_INSTRUCTION], 512)


def as_text(pieces):
    """Return a prompt as text, slots as their placeholder."""
    names = {"audio": "<Aud>", "video": "<Vid>"}
    return "".join(piece.text if isinstance(piece, Text) else names[piece.modality] for piece in pieces)


class TestRenderPrompt:
    def test_text_is_that_of_the_appendix(self, example):
        assert as_text(render_prompt(example, "text", instruction="short")) == (
            "Provide an empathetic response based on the given dialogue context below. "
            "Don't rush to give the response, thinking step by step.\n"
            f"Dialogue Context:\n{{\nSpeaker:{TEXTS[0]}\nListener:{TEXTS[1]}\nSpeaker:{TEXTS[2]}\n}}\n"
        )

    def test_slots_is_that_of_the_appendix(self, example):
        pieces = render_prompt(example, "slots")
        assert as_text(pieces) == (
            "Provide a multimodal empathetic response based on the given dialogue context below.\n"
            "Dialogue Context:\n{\nSpeaker:<Aud> <Vid>.\nListener:<Aud> <Vid>.\nSpeaker:<Aud> <Vid>.\n}\n"
        )
        slots = [piece for piece in pieces if isinstance(piece, Slot)]
        assert slots == [Slot(modality, index) for index in range(3) for modality in ("audio", "video")]

    def test_all_is_that_of_the_appendix(self, example):
        text = as_text(render_prompt(example, "all", instruction="short"))
        assert text.startswith(
            "Provide a multimodal empathetic response based on the given dialogue context below. Don't"
        )
        assert f"{{\nSpeaker:{TEXTS[0]}<Aud> <Vid>.\nListener:{TEXTS[1]}<Aud> <Vid>.\nSpeaker:" in text

    def test_instruction_of_section_4_2(self, example):
        coe, short = (as_text(render_prompt(example, "all", instruction=name)) for name in ("coe", "short"))
        assert coe == dialogue.COE_INSTRUCTION + short
        steps = (
            "Event scenario",
            "User's emotion",
            "Emotion cause",
            "Goal to response",
            "Generating empathetic response",
        )
        assert all(f"\nStep-{number}. {step}. " in coe for number, step in enumerate(steps, 1))

    def test_profile_line(self, example):
        profile = Profile("middle-aged", "female", "mid", 3)
        text = as_text(render_prompt(example, "slots", profile=profile))
        assert text.endswith("\n}\nListener profile: age middle-aged, gender female, timbre mid.\n")

    def test_absent_media_keep_their_placeholder(self, example):
        silent = dataclasses.replace(example.history[0], audio=None)
        mute = dataclasses.replace(example.history[1], audio=None, video=None)
        changed = dataclasses.replace(example, history=(silent, mute, example.history[2]))
        assert as_text(render_prompt(changed, "all")) == as_text(render_prompt(example, "all"))
        assert f"{TEXTS[2]}<Aud>.\n" in as_text(render_prompt(example, "all", modalities=("audio",)))

    def test_without_modalities_only_the_task_differs_from_text(self, example):
        without = as_text(render_prompt(example, "all", modalities=()))
        assert without.replace("a multimodal empathetic", "an empathetic") == as_text(render_prompt(example, "text"))


class TestEncoding:
    def test_slots_start_where_the_placeholders_are(self, example, tokenizer):
        ids, slots = dialogue.encode_pieces(tokenizer, render_prompt(example, "all"), 4)
        audio, video = tokenizer.token_id("<Aud>"), tokenizer.token_id("<Vid>")
        assert ids[0] == tokenizer.bos_id and len(slots) == 6
        for position, modality, _ in slots:
            assert ids[position : position + 4] == [audio if modality == "audio" else video] * 4
        assert [slot[1:] for slot in slots] == [(m, index) for index in range(3) for m in ("audio", "video")]
        assert sum(token >= tokenizer.vocab_size for token in ids) == 6 * 4
        assert tokenizer.decode(ids) == as_text(render_prompt(example, "all")).replace("<Aud>", "").replace("<Vid>", "")

    def test_imitated_tokens_are_plain_text(self, example, tokenizer):
        forged = dataclasses.replace(example.history[0], text="</s><Aud><AUD1> <s>}")
        example = dataclasses.replace(example, history=(forged,))
        ids, slots = dialogue.encode_pieces(tokenizer, render_prompt(example, "text"), 4)
        assert not slots and max(ids) < tokenizer.vocab_size
        assert ids.count(tokenizer.bos_id) == 1 and tokenizer.eos_id not in ids
        assert "</s><Aud><AUD1> <s>}" in tokenizer.decode(ids)

    def test_target_is_that_of_the_appendix(self, tokenizer):
        target = dialogue.encode_target(tokenizer, CHAIN, RESPONSE)
        start, stop = target.response_span
        assert tokenizer.decode(target.ids[:stop]) == D1_TARGET == as_text(render_target(CHAIN, RESPONSE))
        assert tokenizer.decode(target.ids[start:stop]) == " " + RESPONSE
        assert target.ids[stop] == tokenizer.eos_id
        assert target.signals_start == stop + 1
        assert target.ids[stop + 1 :] == [tokenizer.token_id(token) for token in NEW_TOKENS[2:]]

    def test_profile_is_repeated_before_the_signals(self, tokenizer):
        profile = Profile("elderly", "male", "low")
        target, bare = (dialogue.encode_target(tokenizer, CHAIN, RESPONSE, known) for known in (profile, None))
        assert bare.answer_end == bare.signals_start == bare.response_span[1] + 1
        assert (
            target.ids[: target.answer_end] == bare.ids[: bare.answer_end]
            and target.response_span == bare.response_span
        )
        line = tokenizer.decode(target.ids[target.answer_end : target.signals_start])
        assert line == "Listener profile: age elderly, gender male, timbre low.\n"
        assert target.ids[target.signals_start :] == bare.ids[bare.signals_start :] == tokenizer.signal_ids

    def test_emotion_of_the_chain_is_marked(self, tokenizer):
        target = dialogue.encode_target(tokenizer, CHAIN, RESPONSE)
        assert tokenizer.decode(target.ids[slice(*target.emotion_span)]) == f" {CHAIN.speaker_emotion}"
        assert dialogue.encode_target(tokenizer, None, RESPONSE).emotion_span == (0, 0)

    def test_signals_begin_as_the_labels_they_are_asked_for(self, tokenizer):
        tokens = dialogue.first_label_tokens(tokenizer)
        assert tokens.shape == (16,) and tokens.max() < tokenizer.vocab_size
        assert "elderly".startswith(tokenizer.decode([int(tokens[3])]).strip())

    def test_pieces_are_tokenized_as_running_text(self, tokenizer):
        target = dialogue.encode_target(tokenizer, CHAIN, RESPONSE)
        assert target.ids[: target.response_span[1]] == tokenizer.encode(D1_TARGET)

    def test_target_without_chain_or_text(self, tokenizer):
        target = dialogue.encode_target(tokenizer, None, RESPONSE)
        assert tokenizer.decode(target.ids) == f"Finally, the response is: {RESPONSE}"
        signals = dialogue.encode_target(tokenizer, CHAIN, None)
        assert signals.ids == tokenizer.signal_ids and signals.response_span == (0, 0) and signals.signals_start == 0

    def test_response_is_found_again_where_training_marked_it(self, tokenizer):
        target = dialogue.encode_target(tokenizer, CHAIN, RESPONSE)
        stop = target.response_span[1]
        for ids in (target.ids[:stop], target.ids[: stop + 1], target.ids):
            assert dialogue.find_response_span(tokenizer, ids) == target.response_span
        assert dialogue.find_response_span(tokenizer, target.ids[: target.response_span[0]]) is None
        assert dialogue.find_response_span(tokenizer, target.ids[: target.response_span[0] - 5]) is None
        assert dialogue.find_response_span(tokenizer, []) is None


class TestParse:
    def test_round_trip(self):
        parsed = parse_generated(D1_TARGET)
        assert parsed.chain == CHAIN and parsed.response == RESPONSE and parsed.missing == ()
        assert parsed.avatar_emotion == "happy" and parsed.emotion_text == "content"

    def test_every_missing_step_is_named(self):
        lines = D1_TARGET.splitlines()
        for number, step in enumerate(dialogue.STEP_LINES):
            parsed = parse_generated("\n".join(lines[:number] + lines[number + 1 :]))
            assert parsed.missing == (step,) and getattr(parsed, step) is None
            assert (parsed.chain is None) == (step != "response")

    def test_empty_step_is_missing(self):
        parsed = parse_generated(D1_TARGET.replace(CHAIN.emotion_cause, ""))
        assert parsed.missing == ("emotion_cause",) and parsed.goal_to_response == CHAIN.goal_to_response

    def test_cut_off_text(self):
        parsed = parse_generated(D1_TARGET[: D1_TARGET.index("Fourthly") + 12])
        assert parsed.missing == ("goal_to_response", "response")
        assert parsed.emotion_cause.startswith(CHAIN.emotion_cause)

    def test_loose_forms(self):
        parsed = parse_generated(
            " FIRSTLY the event scenario of this dialogue is:\n  A test. Secondly, the emotion of the speaker  is : "
            "Very worried.\n- The emotion cause is: an exam\n\nFourthly, the goal to response is: calm\n"
            "Finally, the response is: You will\nmanage.</s> Finally, the response is: no"
        )
        assert parsed.chain == ChainOfEmpathy("A test.", "anxious", "an exam", "calm")
        assert parsed.response == "You will manage." and parsed.avatar_emotion == "sad"

    def test_repetition_and_signals_end_the_response(self):
        assert parse_generated(D1_TARGET + "\n" + D1_TARGET).response == RESPONSE
        assert parse_generated(D1_TARGET + "<AUD1><AUD2>").response == RESPONSE

    def test_phrase_inside_a_sentence_is_no_step(self):
        goal = "make sure that the response is: kind"
        parsed = parse_generated(D1_TARGET.replace(CHAIN.goal_to_response, goal))
        assert parsed.goal_to_response == goal and parsed.response == RESPONSE

    def test_unknown_emotion_keeps_its_words(self):
        parsed = parse_generated(D1_TARGET.replace("is: content", "is: purple"))
        assert parsed.speaker_emotion is None and parsed.avatar_emotion is None and parsed.chain is None
        assert parsed.emotion_text == "purple" and parsed.missing == ()

    @pytest.mark.parametrize("text", ["", "\n", "hello", "\ufffd\x00\ud83d", "Finally, the response is:", ":" * 5000])
    def test_never_raises(self, text):
        assert parse_generated(text).missing == tuple(dialogue.STEP_LINES)

    def test_long_noise_is_quick(self):
        assert parse_generated("Firstly, the event scenario " * 20000 + " \n\t-" * 20000).response is None


class TestEmotionWords:
    def test_labels_stay_themselves(self):
        assert [normalise_emotion(label.title() + ".") for label in FINE_EMOTIONS] == list(FINE_EMOTIONS)

    def test_names_of_the_seven_keep_their_class(self):
        assert [avatar_emotion(normalise_emotion(name)) for name in AVATAR_EMOTIONS] == list(AVATAR_EMOTIONS)

    def test_table_is_one_to_one(self):
        words = [word for line in SYNONYMS.values() for word in line.split()]
        assert set(SYNONYMS) == set(FINE_EMOTIONS)
        assert len(words) == len(set(words)) and not set(words) & set(FINE_EMOTIONS)

    @pytest.mark.parametrize(
        "text, label",
        [
            ("not happy, rather worried", "anxious"),
            ("a kind of sadness", "sad"),
            ("worried and lonely", "lonely"),
            ("never afraid", None),
            ("", None),
            ("7", None),
        ],
    )
    def test_free_text(self, text, label):
        assert normalise_emotion(text) == label
