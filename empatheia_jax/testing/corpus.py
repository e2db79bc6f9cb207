"""Small corpora in the released layout, with media or of text alone."""

import json
from pathlib import Path

import numpy as np

from empatheia_jax.data.media.writing import write_audio, write_video
from empatheia_jax.testing.tiny import FEELINGS, THINGS

WORDS = ("I saw the river again.", "I saw the old house again.", "I saw the train again.", "I saw the letter again.")
PROFILE = {"age": "young", "gender": "female", "timbre": "mid", "ID": 1}
OTHER_PROFILE = PROFILE | {"age": "elderly", "ID": 2}
WALK = {
    "speaker_emotion": "sad",
    "event_scenario": "A walk",
    "emotion_cause": "A view",
    "goal_to_response": "Listen",
}


def write_corpus(folder: Path, dialogues: int = 5, words: tuple[str, ...] = WORDS, seconds: int = 1) -> Path:
    """Write dialogues of four utterances with media, two of the speaker and two of the listener; takes a second.

    Args:
      folder: where the corpus is written.
      dialogues: number of dialogues.
      words: the four utterances of every dialogue.
      seconds: length of each recording.

    Returns:
      The folder.
    """
    rng = np.random.default_rng(0)
    for name in ("audio_v5_0", "video_v5_0"):
        (folder / name).mkdir(parents=True)
    entries = []
    for number in range(dialogues):
        entries.append(_dialogue(number, words, "A walk.", WALK, listener_profile=OTHER_PROFILE))
        for index in range(4):
            _write_media(folder, f"dia{number:05d}utt{index}_{1 + index % 2}", rng, seconds)
    (folder / "train.json").write_text(json.dumps(entries))
    return folder


def write_text_corpus(folder: Path, dialogues: int = 10) -> Path:
    """Write dialogues of four utterances without media, each about a thing of its own, and return the folder.

    Args:
      folder: where the corpus is written.
      dialogues: number of dialogues, at most as many as `THINGS`.
    """
    entries = []
    for number in range(dialogues):
        thing, feeling = THINGS[number], FEELINGS[number % len(FEELINGS)]
        words = (
            f"I lost my {thing}.",
            f"Was the {thing} dear?",
            f"Yes, I am {feeling}.",
            f"A {thing} can come back.",
        )
        chain = {
            "speaker_emotion": "sad",
            "event_scenario": f"losing a {thing}",
            "emotion_cause": "it is gone",
            "goal_to_response": "comfort",
        }
        entries.append(_dialogue(number, words, "Loss.", chain))
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(entries))
    return folder


def _dialogue(number: int, words: tuple[str, ...], context: str, chain: dict, *, listener_profile=PROFILE) -> dict:
    """Return a dialogue of two turns in the released form."""
    history = [{"index": i, "role": ("speaker", "listener")[i % 2], "utterance": text} for i, text in enumerate(words)]
    return {
        "conversation_id": f"{number:05d}",
        "topic": "Life Events",
        "turns": [
            {
                "turn_id": str(turn),
                "context": context,
                "dialogue_history": history[: 2 * turn + 1],
                "response": words[2 * turn + 1],
                "chain_of_empathy": chain,
            }
            for turn in range(2)
        ],
        "speaker_profile": PROFILE,
        "listener_profile": listener_profile,
    }


def _write_media(folder: Path, name: str, rng: np.random.Generator, seconds: int) -> None:
    """Write a voice-like tone at 24 kHz, and a face-like disc at 25 fps."""
    times = np.arange(24000 * seconds) / 24000
    pitch = rng.uniform(100, 300)
    audio = sum(np.sin(2 * np.pi * pitch * k * times) / k for k in range(1, 12))
    audio *= 0.55 - 0.45 * np.cos(25 * times)
    write_audio(folder / "audio_v5_0" / f"{name}.wav", (0.1 * audio).astype(np.float32), 24000)
    y, x = np.mgrid[:64, :64]
    frames = np.full((25 * seconds, 64, 64, 3), rng.integers(40, 90), np.uint8)
    frames[:, (y - 32) ** 2 + (x - 32) ** 2 < 22**2] = rng.integers(120, 220, 3)
    write_video(folder / "video_v5_0" / f"{name}.mp4", frames, preset="ultrafast")
