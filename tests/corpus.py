"""A small corpus with media in the released layout, written in a second."""

import json
from pathlib import Path

import numpy as np

from empatheia_jax.data.media.writing import write_audio, write_video

PROFILE = {"gender": "female", "timbre": "mid"}


WORDS = ("I saw the river again.", "I saw the old house again.", "I saw the train again.", "I saw the letter again.")


def _media(folder: Path, name: str, rng, seconds: int) -> None:
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


def write_corpus(folder: Path, dialogues: int = 5, words: tuple[str, ...] = WORDS, seconds: int = 1) -> Path:
    """Write dialogues of four utterances, two of the speaker and two of the listener, and return the folder.

    Args:
      folder: where the corpus is written.
      dialogues: number of dialogues.
      words: the four utterances of every dialogue.
      seconds: length of each recording.
    """
    rng = np.random.default_rng(0)
    for name in ("audio_v5_0", "video_v5_0"):
        (folder / name).mkdir(parents=True)
    entries = []
    for number in range(dialogues):
        history = [
            {"index": i, "role": ("speaker", "listener")[i % 2], "utterance": text} for i, text in enumerate(words)
        ]
        turns = [
            {
                "turn_id": str(turn),
                "context": "A walk.",
                "dialogue_history": history[: 2 * turn + 1],
                "response": words[2 * turn + 1],
                "chain_of_empathy": {
                    "speaker_emotion": "sad",
                    "event_scenario": "A walk",
                    "emotion_cause": "A view",
                    "goal_to_response": "Listen",
                },
            }
            for turn in range(2)
        ]
        entries.append(
            {
                "conversation_id": f"{number:05d}",
                "topic": "Life Events",
                "turns": turns,
                "speaker_profile": {**PROFILE, "age": "young", "ID": 1},
                "listener_profile": {**PROFILE, "age": "elderly", "ID": 2},
            }
        )
        for index in range(4):
            _media(folder, f"dia{number:05d}utt{index}_{1 + index % 2}", rng, seconds)
    (folder / "train.json").write_text(json.dumps(entries))
    return folder
