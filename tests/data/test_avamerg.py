"""The reader of the released layout: splits, media names, and every irregularity counted."""

import json
import random

import pytest

from empatheia_jax.data.corpus.avamerg import read_dialogue, read_examples
from empatheia_jax.data.corpus.dialogue_json import load_dialogues
from empatheia_jax.data.schema import Profile, RecordError


def write(path, dialogues):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dialogues))
    return path


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def read(path, split="test", **options):
    return read_examples(path, split, **options)


def bad_turn(make_dialogue, **changes):
    """Return a dialogue of three turns whose second is changed."""
    dialogue = make_dialogue(7, turns=3)
    dialogue["turns"][1] |= changes
    return dialogue


class TestReading:
    def test_fields(self, tmp_path, make_dialogue):
        file = write(tmp_path / "test" / "v_test_v5_0.json", [make_dialogue(42)])
        examples, report = read(tmp_path)
        assert [example.id for example in examples] == ["test/00042/0", "test/00042/1"]
        last = examples[1]
        assert [(u.index, u.role) for u in last.history] == [(0, "speaker"), (1, "listener"), (2, "speaker")]
        assert (last.response.index, last.response.role) == (3, "listener")
        assert last.response.text == "Utterance 3 of dialogue 42."
        assert last.chain.speaker_emotion == "surprised" and last.chain.goal_to_response == "A goal"
        assert last.speaker_profile == Profile("child", "male", "high", 28)
        assert last.listener_profile == Profile("middle-aged", "female", "mid", 18)
        assert (last.topic, last.context) == ("Life Events", "Something happened.")
        assert last.utterance_key(last.response) == "test/00042/3"
        assert (report.file, report.dialogues, report.turns, report.examples) == (str(file), 1, 2, 2)
        assert report.utterances == 4 and not report.dropped and not report.notes

    def test_labelled_test_file_is_preferred(self, tmp_path, make_dialogue):
        write(tmp_path / "test" / "test.json", [make_dialogue(1)])
        assert read(tmp_path)[1].file.endswith("test.json")
        write(tmp_path / "test" / "v_test_v5_0.json", [make_dialogue(1), make_dialogue(2)])
        assert read(tmp_path)[1].dialogues == 2

    def test_missing_optional_fields(self, tmp_path, make_dialogue):
        dialogue = make_dialogue()
        for key in ("speaker_profile", "listener_profile", "topic"):
            del dialogue[key]
        for turn in dialogue["turns"]:
            del turn["response"], turn["chain_of_empathy"]
        examples, report = read(write(tmp_path / "test.json", [dialogue]))
        assert [(e.chain, e.response, e.listener_profile, e.topic) for e in examples] == [(None, None, None, "")] * 2
        assert report.notes["response missing"] == 2 and report.notes["listener_profile missing"] == 1

    def test_order_of_turns_and_of_dialogues(self, tmp_path, make_dialogue):
        shuffled = make_dialogue(9, turns=3)
        shuffled["turns"] = [shuffled["turns"][index] for index in (2, 0)]
        examples, report = read(write(tmp_path / "test.json", [shuffled, make_dialogue(3, turns=1)]))
        assert [example.id for example in examples] == ["test/00009/0", "test/00009/2", "test/00003/0"]
        assert report.notes["turns out of order"] == 1 and report.notes["turn ids with gaps"] == 1

    def test_responses_recovered_on_request(self, tmp_path, make_dialogue):
        dialogue = make_dialogue(turns=3)
        gold = [turn.pop("response") for turn in dialogue["turns"]]
        file = write(tmp_path / "test.json", [dialogue])
        assert all(example.response is None for example in read(file)[0])
        examples, report = read(file, recover_responses=True)
        assert [e.response and e.response.text for e in examples] == [gold[0], gold[1], None]
        assert report.notes["response recovered from a later turn's history"] == 2

    def test_text_is_one_line(self, tmp_path, make_dialogue):
        dialogue = make_dialogue(turns=1)
        dialogue["turns"][0]["dialogue_history"][0]["utterance"] = " Two\n lines\u00a0and\t\x07 a cafe\u0301 \ufeff"
        examples, _ = read(write(tmp_path / "test.json", [dialogue]))
        assert examples[0].history[0].text == "Two lines and a caf\u00e9"

    def test_byte_order_mark_and_single_object(self, tmp_path, make_dialogue):
        file = tmp_path / "test.json"
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(make_dialogue()).encode())
        assert len(read(file)[0]) == 2


class TestSplit:
    def test_takes_exactly_the_share_and_ignores_order(self, tmp_path, make_dialogue):
        dialogues = [make_dialogue(number) for number in range(1, 106)]
        write(tmp_path / "a" / "train.json", dialogues)
        random.Random(1).shuffle(dialogues)
        write(tmp_path / "b" / "train.json", dialogues)
        held_out = {}
        for folder in "ab":
            train, train_report = read(tmp_path / folder, "train")
            validation, report = read(tmp_path / folder, "validation")
            assert (train_report.dialogues, report.dialogues) == (84, 21)
            held_out[folder] = {example.conversation_id for example in validation}
            assert len(held_out[folder]) == 21
            assert not held_out[folder] & {example.conversation_id for example in train}
            assert {example.split for example in validation} == {"validation"}
        assert held_out["a"] == held_out["b"]
        assert held_out["a"] != {f"{number:05d}" for number in range(1, 22)}

    def test_official_validation_file_is_used(self, tmp_path, make_dialogue):
        write(tmp_path / "train.json", [make_dialogue(number) for number in range(10)])
        write(tmp_path / "valid.json", [make_dialogue(number) for number in range(3)])
        assert read(tmp_path, "train")[1].dialogues == 10
        assert read(tmp_path, "validation")[1].dialogues == 3
        assert read(tmp_path / "valid.json", "validation")[1].dialogues == 3
        with pytest.raises(RecordError, match="validation file"):
            read(tmp_path / "valid.json", "train")

    def test_share_zero_holds_nothing_out(self, tmp_path, make_dialogue):
        write(tmp_path / "train.json", [make_dialogue(number) for number in range(4)])
        assert read(tmp_path, "validation", validation_share=0.0)[0] == []
        assert read(tmp_path, "train", validation_share=0.0)[1].dialogues == 4


class TestMedia:
    def test_released_names(self, tmp_path, make_dialogue):
        write(tmp_path / "train.json", [make_dialogue(3)])
        touch(tmp_path / "audio_v5_0", "dia00003utt0_28.wav", "dia00003utt1_18.wav", "._dia00003utt2_28.wav")
        touch(tmp_path / "video_v5_0", "dia00003utt0_28.mp4", "dia00003utt1_28.mp4", "notes.mp4")
        examples, report = read(tmp_path, "train", validation_share=0.0)
        first, last = examples
        assert first.history[0].audio.name == "dia00003utt0_28.wav"
        assert first.history[0].video.name == "dia00003utt0_28.mp4"
        assert first.response.audio.name == "dia00003utt1_18.wav"
        assert first.response.video is None  # the file is of avatar 28, the listener is 18
        assert last.history[2].audio is None  # there is only macOS' resource fork of it
        assert last.history[0] is first.history[0]
        assert report.media == {
            "audio found": 2,
            "audio missing": 2,
            "video found": 1,
            "video missing": 2,
            "video of another avatar": 1,
        }

    def test_unknown_avatar(self, tmp_path, make_dialogue):
        dialogue = make_dialogue(12345, turns=1, speaker_profile=None, listener_profile={"ID": 5})
        write(tmp_path / "test" / "test.json", [dialogue])
        touch(tmp_path / "test" / "test_audio", "dia12345utt0_4.wav", "dia12345utt1_5.wav", "dia12345utt1_6.wav")
        touch(tmp_path / "test" / "test_video", "dia12345utt0_4.mp4", "dia12345utt0_3.mp4")
        (example,), report = read(tmp_path)
        assert example.history[0].audio.name == "dia12345utt0_4.wav"  # the only file of this utterance
        assert example.history[0].video is None and report.media["video ambiguous"] == 1
        assert example.response.audio.name == "dia12345utt1_5.wav" and example.listener_profile is None

    @pytest.mark.parametrize("number, name", [(42, "dia42utt{}.wav"), (20042, "dia20042utt{}.wav")])
    def test_baseline_names_count_from_one(self, tmp_path, make_dialogue, number, name):
        write(tmp_path / "train.json", [make_dialogue(number)])
        touch(tmp_path / "train_audio", *(name.format(index) for index in (1, 2, 4)))
        examples, _ = read(tmp_path, "train", validation_share=0.0)
        names = [u.audio and u.audio.name for u in (*examples[1].history, examples[1].response)]
        assert names == [name.format(1), name.format(2), None, name.format(4)]

    @pytest.mark.parametrize("number, name", [(42, "dia00042utt{}.wav"), (20042, "dia20042utt{}.wav")])
    def test_submission_names_count_from_zero(self, tmp_path, make_dialogue, number, name):
        write(tmp_path / "test.json", [make_dialogue(number)])
        touch(tmp_path / "test_audio", name.format(1), name.format(3))
        examples, _ = read(tmp_path)
        assert [example.response.audio.name for example in examples] == [name.format(1), name.format(3)]
        assert examples[1].history[0].audio is None

    def test_mixed_names_are_an_error(self, tmp_path, make_dialogue):
        write(tmp_path / "test.json", [make_dialogue()])
        touch(tmp_path / "test_audio", "dia00001utt1.wav", "dia1utt2.wav")
        with pytest.raises(RecordError, match="folders of their own"):
            read(tmp_path)

    def test_media_of_splits_are_kept_apart(self, tmp_path, make_dialogue):
        for name in ("train.json", "valid.json", "test.json"):
            write(tmp_path / name, [make_dialogue(1)])
        touch(tmp_path / "audio_v5_0", "dia00001utt0_28.wav")
        touch(tmp_path / "test" / "test_audio", "dia00001utt1_18.wav")
        assert read(tmp_path, "train")[0][0].history[0].audio is not None
        assert read(tmp_path, "validation")[0][0].history[0].audio is None
        test = read(tmp_path, "test")[0][0]
        assert test.history[0].audio is None and test.response.audio is not None


DIALOGUE_ERRORS = {
    "turns is empty": dict(turns=[]),
    "turns is not a list": dict(turns=None),
    "too many turns": dict(turns=[{}] * 17),
    "profile value is unknown": dict(listener_profile={"age": "adult", "gender": "male", "timbre": "low"}),
    "profile is not an object": dict(speaker_profile="young"),
    "profile ID is not a number": dict(speaker_profile={"ID": "x"}),
    "conversation_id is missing": dict(conversation_id=None),
    "conversation_id is odd": dict(conversation_id="../7"),
    "not a text": dict(topic=3),
}
CHAIN = dict(speaker_emotion="sad", event_scenario="a", emotion_cause="b", goal_to_response="c")
ENTRY = {"index": 0, "role": "speaker", "utterance": "Hello."}
TURN_ERRORS = {
    "response is missing": (dict(response=" "), "response"),
    "turn_id is not a number": (dict(turn_id="one"), "turn_id"),
    "turn_id occurs twice": (dict(turn_id="0"), "turn_id"),
    "dialogue_history is missing or empty": (dict(dialogue_history=[]), "dialogue_history"),
    "history entry is not an object": (dict(dialogue_history=["Hi"]), "dialogue_history[0]"),
    "role is unknown": (dict(dialogue_history=[ENTRY | {"role": "human"}]), "dialogue_history[0].role"),
    "index is not a number": (dict(dialogue_history=[ENTRY | {"index": "a"}]), "dialogue_history[0].index"),
    "index does not rise": (dict(dialogue_history=[ENTRY, ENTRY]), "dialogue_history[1].index"),
    "text is missing": (dict(dialogue_history=[{"role": "speaker"}]), "dialogue_history[0].utterance"),
    "text is empty": (dict(dialogue_history=[ENTRY | {"utterance": "\n\u200b"}]), "dialogue_history[0].utterance"),
    "text is in another script": (dict(response="Мне очень жаль, my friend"), "response"),
    "text is broken Unicode": (dict(response="Oh \ud83d no"), "response"),
    "not a text": (dict(response=["I see."]), "response"),
    "speaker_emotion is unknown": (
        dict(chain_of_empathy=CHAIN | {"speaker_emotion": "tired"}),
        "chain_of_empathy.speaker_emotion",
    ),
    "chain_of_empathy is not an object": (dict(chain_of_empathy="sad"), "chain_of_empathy"),
    "history does not end with the speaker": (
        dict(dialogue_history=[ENTRY | {"role": "listener"}]),
        "dialogue_history",
    ),
}


class TestBadRecords:
    @pytest.mark.parametrize("reason", DIALOGUE_ERRORS)
    def test_bad_dialogue(self, tmp_path, make_dialogue, reason):
        bad = make_dialogue(2) | DIALOGUE_ERRORS[reason]
        write(tmp_path / "train.json", [make_dialogue(1), bad, make_dialogue(3)])
        options = dict(split="train", validation_share=0.0)
        examples, report = read(tmp_path, **options, on_error="skip")
        assert {example.conversation_id for example in examples} == {"00001", "00003"}
        assert report.reasons("dialogue") == {reason: 1} and not report.reasons("turn")
        assert report.turns == report.examples + report.turns_of_dropped_dialogues
        if reason == "turns is empty":  # the released test file has them: no error
            assert read(tmp_path, **options)[1].reasons("dialogue") == {reason: 1}
            return
        with pytest.raises(RecordError) as caught:
            read(tmp_path, **options)
        assert reason in str(caught.value) and "train.json" in str(caught.value)
        assert "conversation_id" in reason or "conversation 00002" in str(caught.value)

    @pytest.mark.parametrize("reason", TURN_ERRORS)
    def test_bad_turn(self, tmp_path, make_dialogue, reason):
        changes, field = TURN_ERRORS[reason]
        write(tmp_path / "train.json", [bad_turn(make_dialogue, **changes)])
        options = dict(split="train", validation_share=0.0)
        examples, report = read(tmp_path, **options, on_error="skip")
        assert [example.turn_id for example in examples] == [0, 2]
        (drop,) = report.dropped
        assert (drop.kind, drop.reason, drop.field, drop.conversation) == ("turn", reason, field, "00007")
        assert report.turns == 3 == report.examples + sum(report.reasons("turn").values())
        if "end with" in reason:
            assert len(read(tmp_path, **options)[0]) == 2
            return
        with pytest.raises(RecordError) as caught:
            read(tmp_path, **options)
        assert f"conversation 00007, turn {drop.turn}, field {field}: {reason}" in str(caught.value)

    def test_duplicate_and_shapeless_dialogues(self, tmp_path, make_dialogue):
        write(tmp_path / "test.json", [make_dialogue(1), make_dialogue(1, turns=3), "text"])
        examples, report = read(tmp_path, on_error="skip")
        assert len(examples) == 2 and report.turns == 5 and report.turns_of_dropped_dialogues == 3
        assert report.reasons("dialogue") == {"conversation_id occurs twice": 1, "dialogue is not an object": 1}
        assert "dropped 1 dialogue: conversation_id occurs twice (00001)" in report.summary()

    def test_dialogue_dropped_whole_is_counted_once(self, tmp_path, make_dialogue):
        bad = make_dialogue(2, turns=3, topic=1)
        bad["turns"][0] = None
        _, report = read(write(tmp_path / "test.json", [make_dialogue(1), bad]), on_error="skip")
        assert report.reasons("dialogue") == {"not a text": 1} and not report.reasons("turn")
        assert report.turns_of_dropped_dialogues == 3

    def test_nothing_usable_is_an_error_in_both_modes(self, tmp_path, make_dialogue):
        file = write(tmp_path / "test.json", [make_dialogue(1) | {"turns": []}])
        for mode in ("stop", "skip"):
            with pytest.raises(RecordError, match="none of 1 dialogues is usable"):
                read(file, on_error=mode)

    @pytest.mark.parametrize(
        "content, message",
        [
            (b"[{]", "not JSON at line 1"),
            (b"\xff\xfe[", "not UTF-8"),
            (b"[]", "holds no dialogue"),
            (b"3", "expected a list"),
            (b'[{"turns": [],\n "turns": []}]', "'turns' stands twice in one object, again at line 2"),
            (
                b'{"turns": [{"turn_id": "0", "x": "{\\"x\\": 1}",\n\n"turn\\u005fid": "1"}]}',
                "'turn_id' .* line 3",
            ),
        ],
    )
    def test_bad_file(self, tmp_path, content, message):
        (tmp_path / "test.json").write_bytes(content)
        with pytest.raises(RecordError, match=message):
            read(tmp_path)

    def test_a_key_may_stand_in_every_object(self, tmp_path):
        path = tmp_path / "test.json"
        path.write_text('[{"turns": [{"turns": "\\"turns\\": 1, \\"turns\\": 2"}, {"turns": []}]}]')
        assert load_dialogues(path) == json.loads(path.read_text())

    def test_nothing_there(self, tmp_path):
        with pytest.raises(RecordError, match="no such file or folder"):
            read(tmp_path / "absent")
        with pytest.raises(RecordError, match="no train.json"):
            read(tmp_path, "train")

    def test_foreign_words_in_latin_letters_pass(self, tmp_path, make_dialogue):
        file = write(tmp_path / "train.json", [bad_turn(make_dialogue, response="Ça va, señor? 😀 “Ну”")])
        assert len(read(file, "train", validation_share=0.0)[0]) == 3


class TestReadDialogue:
    def test_answers_the_last_turn(self, make_dialogue):
        dialogue = make_dialogue(5, turns=3)
        dialogue["turns"].reverse()
        example = read_dialogue(dialogue)
        assert example.id == "dialogue/00005/2" and len(example.history) == 5

    def test_media_paths_are_relative_to_the_file(self, tmp_path, make_dialogue):
        touch(tmp_path / "in", "a.wav", "b.mp4")
        dialogue = make_dialogue(turns=1)
        del dialogue["conversation_id"], dialogue["turns"][0]["turn_id"], dialogue["turns"][0]["response"]
        entry = dialogue["turns"][0]["dialogue_history"][0]
        entry |= {"speech": "a.wav", "video": str(tmp_path / "in" / "b.mp4"), "utterance": ""}
        example = read_dialogue(write(tmp_path / "in" / "dialogue.json", dialogue))
        utterance = example.history[0]
        assert (utterance.audio, utterance.video) == (tmp_path / "in" / "a.wav", tmp_path / "in" / "b.mp4")
        assert utterance.text == "" and example.id == "dialogue/dialogue/0"
        entry["speech"] = "absent.wav"
        with pytest.raises(RecordError, match=r"dialogue_history\[0\].speech: speech file not found"):
            read_dialogue(write(tmp_path / "in" / "dialogue.json", dialogue))

    def test_refuses_what_cannot_be_answered(self, tmp_path, make_dialogue):
        with pytest.raises(RecordError, match="nothing to answer"):
            read_dialogue(make_dialogue() | {"turns": []})
        with pytest.raises(RecordError, match="too many turns"):
            read_dialogue(make_dialogue(turns=17))
        with pytest.raises(RecordError, match="holds 2 dialogues"):
            read_dialogue(write(tmp_path / "two.json", [make_dialogue(1), make_dialogue(2)]))
        endless = make_dialogue(turns=20)
        endless["turns"] = endless["turns"][-1:]
        with pytest.raises(RecordError, match="20 in the history, the limit is 16"):
            read_dialogue(endless)
        listener = make_dialogue(turns=1)
        listener["turns"][0]["dialogue_history"].append({"index": 1, "role": "listener", "utterance": "Oh."})
        with pytest.raises(RecordError, match="does not end with the speaker"):
            read_dialogue(listener)


class TestRealData:
    def test_empathetic_dialogues(self, real_data):
        """The counts are those that the folder's own files give when counted without this package."""
        folder = real_data("ed_sample")
        for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
            raw = json.loads((folder / f"{name}.json").read_text())
            examples, report = read_examples(folder, split)
            assert report.dialogues == len(raw) and not report.dropped
            gold = [(d["conversation_id"], t["response"].strip().replace("’", "'")) for d in raw for t in d["turns"]]
            assert [(e.conversation_id, e.response.text) for e in examples] == gold

    def test_challenge_test_file(self, real_data):
        folder = real_data("avamerg_test_excerpt")
        raw = json.loads((folder / "test.json").read_text())
        examples, report = read_examples(folder, "test", recover_responses=True)
        empty = [d["conversation_id"] for d in raw if not d["turns"]]
        assert [d.conversation for d in report.dropped if d.reason == "turns is empty"] == empty
        assert report.reasons("turn") == {"history does not end with the speaker": 1}
        assert report.examples == sum(len(d["turns"]) for d in raw) - 1
        assert report.notes["turns out of order"] == sum(
            [t["turn_id"] for t in d["turns"]] != sorted(t["turn_id"] for t in d["turns"]) for d in raw
        )
        recovered = {e.id: e.response.text for e in examples if e.response}
        for dialogue in raw:
            turns = {int(turn["turn_id"]): turn for turn in dialogue["turns"]}
            for number in turns:
                longer = turns.get(number + 1)
                if longer is not None:
                    gold = longer["dialogue_history"][2 * number + 1]["utterance"]
                    assert recovered.pop(f"test/{dialogue['conversation_id']}/{number}") == " ".join(
                        gold.replace("’", "'").split()
                    )
        assert set(recovered) == {"test/03912/0"}  # turn 1 is missing, but turn 2's history contains its response
