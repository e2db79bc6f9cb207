"""Mutated records and media: each is read as it stands, or rejected with its place named; nothing else may happen."""

import copy
import json
import re
import signal
import unicodedata

import numpy as np
import pytest

from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.media.reading import MediaError, duration, read_audio, read_video
from empatheia_jax.data.media.writing import write_audio, write_video
from empatheia_jax.data.schema import RecordError

RECORDS, FILES, MEDIA = 2000, 200, 300
SECONDS = 30  # limit for one file: a hang is a failure

ODD_VALUES = (
    None,
    True,
    False,
    0,
    -1,
    3,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\t\n",
    "x",
    "7",
    "-1",
    "00",
    "1e3",
    "x" * 20_000,
    "\u0000",
    "\ufeffI am sad.",
    "caf\u00e9",
    "e\u0301t\u00e9",
    "\ud800",
    "\U0001f600",
    "\u0645\u0631\u062d\u0628\u0627",
    "speaker",
    "Listener ",
    "two  spaces",
    "a\u200bb",
    "a\rb",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    ["speaker"],
    [{}],
)


def json_paths(value, path=()):
    """Yield every path into a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from json_paths(child, (*path, key))


def mutate(dialogue: dict, rng: np.random.Generator) -> object:
    """Return a copy of a dialogue with one to three changes."""
    dialogue = copy.deepcopy(dialogue)
    for _ in range(int(rng.integers(1, 4))):
        paths = [path for path in json_paths(dialogue) if path]
        if not paths:
            return dialogue
        path = paths[int(rng.integers(len(paths)))]
        parent = dialogue
        for key in path[:-1]:
            parent = parent[key]
        change, last = rng.integers(6), path[-1]
        if change == 0:
            del parent[last]
        elif change == 1 and isinstance(parent, list):
            parent.insert(int(rng.integers(len(parent) + 1)), copy.deepcopy(parent[last]))
        elif change == 2 and isinstance(parent, list):
            parent.reverse()
        elif change == 3 and isinstance(parent, dict):
            parent[f"{last}x"] = parent.pop(last)
        elif change == 4 and isinstance(parent[last], str) and parent[last]:
            at, inserted = int(rng.integers(len(parent[last]))), str(rng.choice(["  ", "\u00e9", "\u0007", "\n", "9"]))
            parent[last] = parent[last][:at] + inserted + parent[last][at:]
        else:
            parent[last] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    return dialogue


def to_one_line(text: str) -> str:
    """Return how a text is read: composed, without control characters, one space between words."""
    text = re.sub("[\ufeff\u200b]", "", unicodedata.normalize("NFC", text))
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc").split())


def assert_faithful(example, raw: dict) -> None:
    """Assert that an Example has the texts of some turn of the raw dialogue, to the letter but for white space."""

    def has_same_texts(turn) -> bool:
        history = turn.get("dialogue_history") if isinstance(turn, dict) else None
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            return False
        number = turn.get("turn_id")
        if number is not None and str(number).strip() not in (str(example.turn_id), f"{example.turn_id:02d}"):
            return False
        read = [(utterance.role, utterance.text) for utterance in example.history]
        return [(str(e.get("role")).strip().lower(), to_one_line(str(e.get("utterance")))) for e in history] == read

    matching = [turn for turn in raw["turns"] if has_same_texts(turn)]
    assert matching, (example, raw)
    turn = matching[0]
    assert example.response.text == to_one_line(turn["response"])
    if example.chain is not None:
        chain = turn["chain_of_empathy"]
        assert example.chain.speaker_emotion == str(chain["speaker_emotion"]).strip().lower()
        assert example.chain.goal_to_response == to_one_line(chain["goal_to_response"])
    else:
        assert not turn.get("chain_of_empathy")
    for role in ("speaker", "listener"):
        profile, raw_profile = getattr(example, f"{role}_profile"), raw.get(f"{role}_profile")
        assert (profile is None) or profile.age == re.sub(r"[\s_]+", "-", raw_profile["age"].strip().lower())


def test_mutated_records(tmp_path, make_dialogue, seed):
    rng = np.random.default_rng([seed, 1])
    before, after = make_dialogue(41), make_dialogue(43, turns=1)
    neighbours = read_examples(_write(tmp_path / "intact.json", [before, after]), "train", validation_share=0.0)[0]
    accepted = rejected = 0
    for number in range(RECORDS):
        raw = mutate(make_dialogue(2, turns=3), rng)
        path = _write(tmp_path / "mutated.json", [before, raw, after])
        examples, report = read_examples(path, "train", on_error="skip", validation_share=0.0)
        unchanged = [example for example in examples if example in neighbours]
        assert unchanged == neighbours, f"record {number}: its neighbours changed"
        mutated = [example for example in examples if example not in neighbours]
        for example in mutated:
            assert_faithful(example, raw)
        assert (
            report.turns == report.examples + sum(report.reasons("turn").values()) + report.turns_of_dropped_dialogues
        )
        for drop in report.dropped:
            assert str(path) in drop.message and ("conversation" in drop.message or not drop.conversation)
        try:
            strict, _ = read_examples(path, "train", on_error="stop", validation_share=0.0)
            assert strict == examples
            accepted += 1
        except RecordError as error:
            assert str(path) in str(error) and report.dropped
            rejected += 1
    assert accepted > RECORDS // 10 and rejected > RECORDS // 10  # both happen, or nothing was tried


def _write(path, dialogues):
    path.write_text(json.dumps(dialogues), encoding="utf-8")
    return path


def test_mutated_json_files(tmp_path, make_dialogue, seed):
    """Bytes changed, cut, nested too deeply: an error with the file's name, or Examples."""
    rng = np.random.default_rng([seed, 2])
    intact = json.dumps([make_dialogue(1), make_dialogue(2)]).encode()
    path = tmp_path / "bytes.json"
    cases = [_mutate_bytes(intact, rng) for _ in range(FILES)]
    cases += [b"", b"[" * 100_000, b"[" + b"9" * 10_000 + b"]", b"\xff\xfe\x00", b"null", b"{}", b"[[]]"]
    cases += [b'{"turns": []}', intact.replace(b"Utterance", b"\xc3\x28"), b"\xef\xbb\xbf" + intact]
    for content in cases:
        path.write_bytes(content)
        try:
            read_examples(path, "train", on_error="skip", validation_share=0.0)
        except RecordError as error:
            assert str(path) in str(error)


def _mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut bytes, overwrite some, double or remove a piece, or append something."""
    data = bytearray(content)
    kind, at = rng.integers(6), int(rng.integers(len(data)))
    length = int(min(len(data) - at, 1 + rng.integers(64)))
    if kind == 0:
        del data[at:]
    elif kind == 1:
        for position in rng.integers(0, len(data), int(rng.integers(1, 20))):
            data[int(position)] = int(rng.integers(256))
    elif kind == 2:
        data[at : at + length] = bytes(length)
    elif kind == 3:
        data[at:at] = data[at : at + length]
    elif kind == 4:
        del data[at : at + length]
    else:
        data += rng.bytes(length)
    return bytes(data)


@pytest.fixture
def start_timer():
    """Return a function that starts a timer, which fails the test when a file takes too long."""

    def fail(*_):
        raise AssertionError(f"a file took more than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, fail)
    yield lambda: signal.alarm(SECONDS)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def test_mutated_media(tmp_path, seed, start_timer):
    rng = np.random.default_rng([seed, 3])
    time_axis = np.arange(24_000) / 24_000
    sound = (0.3 * np.sin(2 * np.pi * 220 * time_axis) * (1 + np.sin(9 * time_axis))).astype(np.float32)
    frames = rng.integers(0, 255, (25, 32, 32, 3), np.uint8)
    write_audio(tmp_path / "intact.wav", sound, 24_000)
    write_video(tmp_path / "intact.mp4", frames, audio=sound, sample_rate=24_000)
    intact_audio = read_audio(tmp_path / "intact.wav", 24_000)
    outcomes = {"accepted": 0, "rejected": 0}
    for number in range(MEDIA):
        suffix = ("wav", "mp4")[number % 2]
        intact = (tmp_path / f"intact.{suffix}").read_bytes()
        content = _mutate_bytes(intact, rng)
        path = tmp_path / f"m{number}.{suffix}"
        path.write_bytes(content)
        start_timer()
        for reader in (lambda p: read_audio(p, 24_000), read_video, duration):
            try:
                result = reader(path)
            except MediaError as error:
                outcomes["rejected"] += 1
                assert str(path) in str(error)
                continue
            outcomes["accepted"] += 1
            if reader is duration:
                assert all(np.isfinite(result)) and min(result) >= 0
            elif reader is read_video:
                assert result.dtype == np.uint8 and result.ndim == 4 and len(result)
            else:
                assert result.dtype == np.float32 and np.isfinite(result).all() and np.abs(result).max() <= 1
                if suffix == "wav" and content == intact[: len(content)]:
                    np.testing.assert_array_equal(result, intact_audio)  # never read as a shorter recording
        path.unlink()
    assert min(outcomes.values()) > MEDIA // 10


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_what_is_cut_short_is_not_a_shorter_recording(tmp_path, suffix, seed):
    rng = np.random.default_rng([seed, 4])
    sound = (0.3 * np.sin(2 * np.pi * 220 * np.arange(48_000) / 24_000)).astype(np.float32)
    intact = tmp_path / f"intact.{suffix}"
    if suffix == "wav":
        write_audio(intact, sound, 24_000)
    else:
        write_video(intact, rng.integers(0, 255, (50, 32, 32, 3), np.uint8), audio=sound, sample_rate=24_000)
    content, path = intact.read_bytes(), tmp_path / f"cut.{suffix}"
    for share in rng.uniform(0.05, 0.95, 12):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(MediaError, match="cut"):
            read_audio(path, 24_000)
        if suffix == "mp4":
            with pytest.raises(MediaError, match="cut"):
                read_video(path)
