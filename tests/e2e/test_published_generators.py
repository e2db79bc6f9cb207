"""From text to video with both neural generators at their published sizes (the picture is noise, the path is not)."""

import json

import pytest
from published_run import REPLY, command, make_run

from empatheia_jax.data.media import duration, read_metadata, read_video
from empatheia_jax.inference.avatars import AVATARS

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def run(tmp_path_factory, goldens):
    pytest.importorskip("torch")
    return make_run(tmp_path_factory.mktemp("published"), goldens)


def test_five_seconds_from_text_to_video(run):
    output = run.parent / "answer.mp4"
    command("-m", "empatheia_jax", "respond", "--run", str(run), "--text", "I saw the river again.", "--profile",
            "elderly,female,mid", "--output", str(output), cache=run.parent / "cache")  # fmt: skip
    told = json.loads(output.with_suffix(".json").read_text())
    assert told["response"] == REPLY and told["seconds"] >= 5 and 1 <= told["avatar"] <= len(AVATARS)
    assert told["provenance"]["speech_generator"] == "styletts2"
    assert told["provenance"]["face_generator"] == "dreamtalk"
    frames = read_video(output)
    assert frames.shape == (told["frames"], 256, 256, 3) and frames.std() > 10
    assert abs(told["frames"] / 25 - told["seconds"]) <= 0.04
    heard, seen = duration(output)
    assert abs(heard - seen) <= 0.1
    assert any("synthetic: true" in value for value in read_metadata(output).values())
