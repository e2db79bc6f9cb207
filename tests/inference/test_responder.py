"""A run that stays loaded: later answers load and compile nothing, and each reports when its parts were ready."""

import dataclasses
import json

import measure
import pytest
import respond as benchmark

from empatheia_jax.checkpoints.workdir import save_config
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.data.prompts.dialogue import encode_target
from empatheia_jax.inference.request import Request, RespondError
from empatheia_jax.inference.respond import Responder
from empatheia_jax.testing.tiny import make_examples, make_tokenizer, small_config

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def responder_and_request(tmp_path):
    """A responder whose LLM always gives one answer, and a request to it."""
    config = small_config()
    save_config(tmp_path / "run", config)
    request = dataclasses.replace(benchmark.write_media(tmp_path), face_size=64)
    words = make_tokenizer()
    target = encode_target(words, make_examples(1)[0].chain, "I see.", benchmark.PROFILE)
    responder, _ = benchmark.make_responder(request, words, target.ids[: target.response_span[1]])
    return responder, request


@pytest.mark.slow  # three answers are compiled and drawn
def test_later_answers_compile_nothing_and_each_says_when_its_parts_were_there(responder_and_request):
    responder, request = responder_and_request
    first = responder.respond(request)
    second = dataclasses.replace(request, output=request.output.with_name("second.mp4"))
    responder.respond(second)  # prefills only what differs from the first: a shorter program
    with measure.Compiling() as clock:
        warm = responder.respond(dataclasses.replace(request, output=request.output.with_name("again.mp4")))
    assert clock.seconds == 0
    for facts in (first, warm):
        ready = [facts["timings"]["encode"], *(facts["first"][part] for part in ("words", "audio", "frame"))]
        assert ready == sorted(ready) and ready[-1] <= facts["timings"]["total"] + 1e-3
        assert facts["response"] == "I see."
        assert facts["truncated"] and any("cut at the limit" in note for note in facts["notes"])  # a random LLM's
    assert json.loads(request.output.with_suffix(".json").read_text())["first"] == first["first"]
    assert len(read_video(request.output)) >= first["frames"] > 0
    assert abs(len(read_audio(request.output, 24_000)) / 24_000 - first["seconds"]) < 0.15


def test_a_request_for_another_size_is_refused(tmp_path):
    save_config(tmp_path / "run", small_config())
    request = Request(run=tmp_path / "run", output=tmp_path / "answer.mp4", text="Hello.", face_size=64)
    other = dataclasses.replace(request, face_size=128, output=tmp_path / "other.mp4")
    with pytest.raises(RespondError, match="another run, generators or size"):
        Responder(request).respond(other)
    assert not other.output.exists()


def test_the_published_system_has_its_encoders_and_generators(tmp_path):
    tiny = benchmark.make_config("tiny", "classical", tmp_path)
    assert tiny.generators.speech == "classical" and tiny.encoders.audio == "classical"
    neural = benchmark.make_config("1b", "neural", tmp_path)
    assert neural.llm.width == 2048 and neural.encoders.hubert == "large" and neural.generators.face == "dreamtalk"
