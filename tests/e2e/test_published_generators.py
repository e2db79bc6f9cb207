"""From text to video with both neural generators at their published sizes (the picture is noise, the path is not).

With $EMPATHEIA_STYLETTS2_REPO and $EMPATHEIA_DREAMTALK_REPO, clones of the originals, they render the same answer.
"""

import os

import numpy as np
import pytest
from spoken_run import REPLY, convert_published, make_run, respond

from empatheia_jax.data.media import duration, read_audio, read_metadata, read_video
from empatheia_jax.inference.avatars import AVATARS

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def made(tmp_path_factory, goldens):
    """(the run, the published files)."""
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("published")
    files = convert_published(place, goldens)
    return make_run(place), files


@pytest.fixture(scope="module")
def answer(made):
    return respond(made[0], "answer.mp4")


def test_five_seconds_from_text_to_video(answer):
    output, told = answer
    assert told["response"] == REPLY and told["seconds"] >= 5 and 1 <= told["avatar"] <= len(AVATARS)
    assert told["provenance"]["speech_generator"] == "styletts2"
    assert told["provenance"]["face_generator"] == "dreamtalk"
    frames = read_video(output)
    assert frames.shape == (told["frames"], 256, 256, 3) and frames.std() > 10
    assert abs(told["frames"] / 25 - told["seconds"]) <= 0.04
    heard, seen = duration(output)
    assert abs(heard - seen) <= 0.1
    assert any("synthetic: true" in value for value in read_metadata(output).values())


def test_the_originals_render_the_same_answer(made, answer):
    run, files = made
    repos = [os.environ.get(f"EMPATHEIA_{name}_REPO") for name in ("STYLETTS2", "DREAMTALK")]
    if not all(repos):
        pytest.skip("no clones of the originals: set EMPATHEIA_STYLETTS2_REPO and EMPATHEIA_DREAMTALK_REPO")
    output, told = respond(
        run,
        "original.mp4",
        "--speech-generator",
        "torch",
        "--face-generator",
        "torch",
        "--styletts2-repo",
        repos[0],
        "--styletts2-checkpoint",
        str(files["voice"]),
        "--dreamtalk-repo",
        repos[1],
        "--dreamtalk-checkpoint",
        str(files["denoiser"]),
        "--dreamtalk-renderer",
        str(files["renderer"]),
        "--dreamtalk-wav2vec",
        str(files["wav2vec"]),
    )
    ours, said = answer
    assert told["provenance"]["speech_generator"] == told["provenance"]["face_generator"] == "torch"
    assert told["response"] == said["response"] and told["frames"] == said["frames"]
    # The original sums phases in float32, we exactly: they part slowly, by what F0's rounding makes of 10 s of them.
    heard, other = (read_audio(path, 24_000) for path in (ours, output))
    assert np.corrcoef(heard, other)[0, 1] >= 0.9
    apart = np.abs(read_video(ours).astype(int) - read_video(output).astype(int))
    assert apart.mean() < 2, apart.mean()  # levels, after the coder
