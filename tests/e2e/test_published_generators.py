"""From text to video with both neural generators at their published sizes; with random weights the picture is noise.

With $EMPATHEIA_STYLETTS2_REPO and $EMPATHEIA_DREAMTALK_REPO, clones of the originals, these render the same answer.
"""

import os

import numpy as np
import pytest

from empatheia_jax.data.media.reading import duration, read_audio, read_metadata, read_video
from empatheia_jax.generators.avatars import AVATARS
from support.spoken_run import REPLY, convert_published, make_run, respond

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def run_and_files(tmp_path_factory, goldens):
    """Return the run and the published files."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("published")
    files = convert_published(folder, goldens)
    return make_run(folder), files


@pytest.fixture(scope="module")
def answer(run_and_files):
    return respond(run_and_files[0], "answer.mp4")


def test_five_seconds_from_text_to_video(answer):
    output, report = answer
    assert report["response"] == REPLY and report["seconds"] >= 5 and 1 <= report["avatar"] <= len(AVATARS)
    assert report["provenance"]["speech_generator"] == "styletts2"
    assert report["provenance"]["face_generator"] == "dreamtalk"
    frames = read_video(output)
    assert frames.shape == (report["frames"], 256, 256, 3) and frames.std() > 10
    assert abs(report["frames"] / 25 - report["seconds"]) <= 0.04
    audio_seconds, video_seconds = duration(output)
    assert abs(audio_seconds - video_seconds) <= 0.1
    assert any("synthetic: true" in value for value in read_metadata(output).values())


def test_the_originals_render_the_same_answer(run_and_files, answer):
    run, files = run_and_files
    clones = [os.environ.get(f"EMPATHEIA_{name}_REPO") for name in ("STYLETTS2", "DREAMTALK")]
    if not all(clones):
        pytest.skip("no clones of the originals: set EMPATHEIA_STYLETTS2_REPO and EMPATHEIA_DREAMTALK_REPO")
    output, report = respond(
        run,
        "original.mp4",
        "--speech-generator",
        "torch",
        "--face-generator",
        "torch",
        "--styletts2-repo",
        clones[0],
        "--styletts2-checkpoint",
        str(files["voice"]),
        "--dreamtalk-repo",
        clones[1],
        "--dreamtalk-checkpoint",
        str(files["denoiser"]),
        "--dreamtalk-renderer",
        str(files["renderer"]),
        "--dreamtalk-wav2vec",
        str(files["wav2vec"]),
    )
    video, expected = answer
    assert report["provenance"]["speech_generator"] == report["provenance"]["face_generator"] == "torch"
    assert report["response"] == expected["response"] and report["frames"] == expected["frames"]
    # The original sums phases in float32, we exactly: over 10 s the rounding of F0 makes them drift apart slowly.
    audio, original_audio = (read_audio(path, 24_000) for path in (video, output))
    assert np.corrcoef(audio, original_audio)[0, 1] >= 0.9
    difference = np.abs(read_video(video).astype(int) - read_video(output).astype(int))
    assert difference.mean() < 2, difference.mean()  # grey levels, after the video codec
