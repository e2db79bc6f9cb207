"""Fixtures of the data tests: small dialogues to change."""

import copy
from collections.abc import Callable

import pytest


@pytest.fixture
def make_dialogue() -> Callable[..., dict]:
    """Return a function that makes a dialogue of the released form; keywords replace its keys."""

    def make(number: int = 1, turns: int = 2, **changes) -> dict:
        texts = [f"Utterance {index} of dialogue {number}." for index in range(2 * turns)]
        dialogue = {
            "conversation_id": f"{number:05d}",
            "speaker_profile": {"age": "child", "gender": "male", "timbre": "high", "ID": 28},
            "listener_profile": {"age": "middle-aged", "gender": "female", "timbre": "mid", "ID": 18},
            "topic": "Life Events",
            "turns": [
                {
                    "turn_id": str(turn),
                    "context": "Something happened.",
                    "dialogue_history": [
                        {"index": index, "role": ("speaker", "listener")[index % 2], "utterance": texts[index]}
                        for index in range(2 * turn + 1)
                    ],
                    "response": texts[2 * turn + 1],
                    "chain_of_empathy": {
                        "speaker_emotion": "surprised",
                        "event_scenario": "A scenario",
                        "emotion_cause": "A cause",
                        "goal_to_response": "A goal",
                    },
                }
                for turn in range(turns)
            ],
        }
        return copy.deepcopy(dialogue | changes)

    return make
