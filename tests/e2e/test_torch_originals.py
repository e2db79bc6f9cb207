"""`empatheia respond` with each generator in Flax and through torch: the same sound, the same pictures."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from empatheia_jax.data.media.reading import read_audio, read_video
from support.spoken_run import REPLY, make_run, respond
from support.stand_in_checkouts import write_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_and_flags(tmp_path_factory, seed):
    """Return a run for small generators, and the flags that name the stand-ins for their originals' checkouts."""
    folder = tmp_path_factory.mktemp("torch")
    settings = write_all(folder, seed)
    flags = []
    for name, value in vars(settings).items():
        if isinstance(value, str) and value:
            flags += [f"--{name.replace('_', '-')}", value]
    return make_run(folder), [*flags, "--any-commit"]


@pytest.mark.parametrize("source", ["generator", "synchronizer"])
def test_one_answer_four_ways(run_and_flags, source):
    run, flags = run_and_flags
    answers = {}
    for speech in ("styletts2", "torch"):
        for face in ("dreamtalk", "torch"):
            arguments = ["--speech-generator", speech, "--face-generator", face, "--content-source", source, *flags]
            video, report = respond(run, f"{source}_{speech}_{face}.mp4", *arguments)
            assert report["response"] == REPLY
            backends = report["provenance"]["speech_generator"], report["provenance"]["face_generator"]
            assert backends == (speech, face)
            answers[speech, face] = read_audio(video, 24_000), read_video(video).astype(int)
    audio, frames = answers["styletts2", "dreamtalk"]
    for (speech, _), (other_audio, other_frames) in answers.items():
        if speech == "styletts2":
            np.testing.assert_array_equal(other_audio, audio)
        assert np.corrcoef(audio, other_audio)[0, 1] >= 0.9
        # in grey levels, after the video codec
        assert other_frames.shape == frames.shape and np.abs(other_frames - frames).mean() < 2


def test_a_warm_answer_is_traced(run_and_flags):
    run, _ = run_and_flags
    (untraced, report), (video, traced_report) = respond(run, "plain.mp4"), respond(run, "traced.mp4", "--trace")
    varying = {"timings", "provenance"}
    assert {k: v for k, v in traced_report.items() if k not in varying} == {
        k: v for k, v in report.items() if k not in varying
    }
    np.testing.assert_array_equal(read_video(video), read_video(untraced))
    page = (run.parent / "traced.profile" / "profile.md").read_text()
    assert "a warm answer" in page and "| matmul |" in page and "jit__write_traced" in page
    assert len(list((run.parent / "traced.profile").rglob("*.xplane.pb"))) == 1
