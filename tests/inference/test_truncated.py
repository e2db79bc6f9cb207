"""Answers that reach their limit of tokens are said to be cut; the limit comes from the run's training answers."""

import dataclasses
import json
import types

import numpy as np
import pytest

from empatheia_jax.checkpoints.answer_lengths import FILE_NAME, answer_limit, write_answer_lengths
from empatheia_jax.checkpoints.workdir import save_config
from empatheia_jax.config import ConfigError
from empatheia_jax.data.batches.encoder import encode_example
from empatheia_jax.data.prompts.dialogue import parse_generated
from empatheia_jax.evaluation import evaluate as evaluation
from empatheia_jax.inference.conversation import Conversation
from empatheia_jax.inference.engine import Answer
from empatheia_jax.inference.request import Request, RespondError
from empatheia_jax.inference.respond import Responder
from empatheia_jax.testing.tiny import (
    make_engine,
    make_examples,
    make_model,
    make_store,
    replace_fields,
    small_config,
)
from empatheia_jax.training.data import load_data

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = replace_fields(small_config(), "llm", tie_embeddings=False)  # tied, one token would be written again and again
EXAMPLES = make_examples(2)
STORE = make_store(EXAMPLES)
LIMIT = 12


def make_writer(eos_id: int | None = None):
    """Return a function from limits, one an Example, to (ids, answer) of each, and the same for one conversation."""
    engine = make_engine(make_model(CONFIG), CONFIG, max_new_tokens=LIMIT)
    engine.tokenizer.eos_id = engine.tokenizer.eos_id if eos_id is None else eos_id
    prompt, read = engine.prompt, engine.read

    def write(limits: list[int]) -> list[tuple[list[int], Answer]]:
        written, by_id = {}, dict(zip((e.id for e in EXAMPLES), limits, strict=True))

        def read_and_note(decode_state, sequences, prompts, texts):
            written.update((tuple(p.ids), text) for p, text in zip(prompts, texts, strict=True))
            return read(decode_state, sequences, prompts, texts)

        def limited(example, *rest):
            return dataclasses.replace(prompt(example, *rest), max_new_tokens=by_id[example.id])

        engine.prompt, engine.read = limited, read_and_note
        answers = engine.answer(EXAMPLES, STORE.get, [None] * len(EXAMPLES))
        ids = [written[tuple(prompt(e, STORE.get, None).ids)] for e in EXAMPLES]
        return list(zip(ids, answers, strict=True))

    def write_in_conversation(limit: int) -> Answer:
        engine.prompt = lambda *arguments: dataclasses.replace(prompt(*arguments), max_new_tokens=limit)
        return Conversation(engine).answer(EXAMPLES[0], STORE.get, None)

    return write, write_in_conversation


@pytest.mark.slow
def test_an_answer_is_cut_where_its_end_had_not_come_within_the_limit():
    write, _ = make_writer()
    free = write([LIMIT] * len(EXAMPLES))
    assert all(answer.truncated and len(ids) == LIMIT for ids, answer in free)  # random weights write no </s>
    texts = [ids for ids, _ in free]
    # A token that the first answer writes late for the first time is taken for </s>: it ends there.
    end = max(index for index, token in enumerate(texts[0]) if token not in texts[0][:index])
    assert end >= 2
    write, write_in_conversation = make_writer(texts[0][end])
    for limit in (end - 1, end, end + 1):  # at the limit itself </s> is what comes next: the answer is whole
        (ids, answer), *others = write([limit] * len(EXAMPLES))
        assert (len(ids), answer.truncated) == (min(limit, end), limit < end)
        assert write_in_conversation(limit).truncated == (limit < end)
        for text, (other, is_cut) in zip(texts[1:], others, strict=True):
            assert is_cut.truncated == (texts[0][end] not in text[: limit + 1]) and other == text[: len(other)]


def test_the_limit_is_what_nearly_all_training_answers_need(tmp_path):
    lengths = [*range(1, 1001), 5000]
    write_answer_lengths(tmp_path, lengths)
    limit = answer_limit(tmp_path, CONFIG)
    assert sum(length <= limit for length in lengths) >= 0.999 * len(lengths) and limit == 1000
    assert answer_limit(tmp_path, dataclasses.replace(CONFIG, max_new_tokens=77)) == 77
    assert answer_limit(tmp_path, dataclasses.replace(CONFIG, max_new_tokens=77), 5) == 5
    assert answer_limit(tmp_path / "older_run", CONFIG) == 160
    with pytest.raises(ConfigError, match="--max-new-tokens 0"):
        answer_limit(tmp_path, CONFIG, 0)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        dataclasses.replace(CONFIG, max_new_tokens=-1)


def test_training_records_the_lengths_of_its_answers(tmp_path):
    def turn(words):
        chain = {"speaker_emotion": "sad", "event_scenario": words, "emotion_cause": "a", "goal_to_response": "b"}
        entry = {"index": 0, "role": "speaker", "utterance": "I lost it."}
        return {"turn_id": "0", "dialogue_history": [entry], "response": words, "chain_of_empathy": chain}

    dialogues = [{"conversation_id": i, "turns": [turn("lost dog " * i)]} for i in range(1, 6)]
    (tmp_path / "train.json").write_text(json.dumps(dialogues))
    config = replace_fields(small_config(modalities=()), "data", path=str(tmp_path))
    data = load_data(tmp_path / "run", config)
    # Counted from what the loss is taken of: the answer and </s>.
    encoded = [encode_example(e, "text", config, data.tokenizer, profile=None) for e in data.train]
    longest = max(int(e.loss_mask.sum()) - 1 for e in encoded)
    recorded = json.loads((tmp_path / "run" / FILE_NAME).read_text())
    assert recorded == {"answers": len(data.train), "quantile_99.9": longest, "longest": longest}
    assert answer_limit(tmp_path / "run", config) == longest


def make_answer(text: str, truncated: bool) -> Answer:
    empty = np.zeros((0, 4), np.float32)
    return Answer(text, parse_generated(text), empty, empty, empty, {}, 3, truncated)


def test_an_evaluation_counts_cut_answers_as_incomplete():
    from empatheia_jax.data.prompts.dialogue import render_target

    whole = "".join(piece.text for piece in render_target(EXAMPLES[0].chain, "I see."))
    answers = [make_answer(whole, truncated) for truncated in (False, True, True, False)]
    entry = evaluation._accuracies(EXAMPLES[:4], answers, set())
    assert entry["truncated"] == 2 and entry["complete_chains"] == 0.5


def test_a_request_whose_answer_was_cut_before_its_response_says_so(tmp_path):
    save_config(tmp_path / "run", CONFIG)
    request = Request(run=tmp_path / "run", output=tmp_path / "a.mp4", text="Hello.", max_new_tokens=3)
    responder = Responder(request)
    responder.engine = types.SimpleNamespace(config=CONFIG)
    responder.conversation = types.SimpleNamespace(answer=lambda *_: make_answer("Firstly, I", True))
    with pytest.raises(RespondError, match=r"no response up to the limit of 3 tokens \(--max-new-tokens\)"):
        responder.respond(request)
    assert not request.output.exists()
