"""A run that stays loaded: later answers load and compile nothing, and each reports when its parts were ready."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import pytest
from small import make_examples, make_tokenizer, small_config

from empatheia_jax.config import MeshConfig
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.data.prompts.dialogue import encode_target
from empatheia_jax.inference.respond import Responder, RespondError
from empatheia_jax.model import sharding
from empatheia_jax.planning.local import config_widths
from empatheia_jax.training.loop import abstract_model, initialise, save_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import measure  # noqa: E402
import respond as benchmark  # noqa: E402

pytestmark = pytest.mark.slow  # three answers are compiled and drawn

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def responder_and_request(tmp_path):
    """A responder whose LLM always gives one answer, and a request to it."""
    config = small_config()
    save_config(tmp_path / "run", config)
    request = dataclasses.replace(benchmark.write_media(tmp_path), face_size=64)
    responder, words = Responder(request), make_tokenizer()
    widths = config_widths(config)
    graphdef, abstract = abstract_model(config, widths, sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    target = encode_target(words, make_examples(1)[0].chain, "I see.", benchmark.PROFILE)
    responder.engine = benchmark.Rehearsed(
        responder.config,
        words,
        graphdef,
        initialise(config, widths, abstract),
        answer=target.ids[: target.response_span[1]],
        voice=lambda: responder.generators[0],
    )
    return responder, request


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
    assert json.loads(request.output.with_suffix(".json").read_text())["first"] == first["first"]
    assert len(read_video(request.output)) >= first["frames"] > 0
    assert abs(len(read_audio(request.output, 24_000)) / 24_000 - first["seconds"]) < 0.15
    other = dataclasses.replace(request, face_size=128, output=request.output.with_name("other.mp4"))
    with pytest.raises(RespondError, match="another run, generators or size"):
        responder.respond(other)
    assert not other.output.exists()


def test_the_published_system_has_its_encoders_and_generators(tmp_path):
    tiny = benchmark.make_config("tiny", "classical", tmp_path)
    assert tiny.generators.speech == "classical" and tiny.encoders.kind == "classical"
    neural = benchmark.make_config("1b", "neural", tmp_path)
    assert neural.llm.width == 2048 and neural.encoders.hubert == "large" and neural.generators.face == "dreamtalk"
