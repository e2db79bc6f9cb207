"""`empatheia respond` with each generator in Flax and through torch: the same voice, the same face."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from spoken_run import REPLY, make_run, respond  # noqa: E402
from stand_in_checkouts import write_all  # noqa: E402

from empatheia_jax.data.media import read_audio, read_video  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory, seed):
    """(a run for small generators, the flags that name their stand-in checkouts)."""
    place = tmp_path_factory.mktemp("torch")
    settings = write_all(place, seed)
    flags = []
    for name, value in vars(settings).items():
        if isinstance(value, str) and value:
            flags += [f"--{name.replace('_', '-')}", value]
    return make_run(place), [*flags, "--any-commit"]


@pytest.mark.parametrize("source", ["generator", "synchronizer"])
def test_one_answer_four_ways(made, source):
    run, flags = made
    found = {}
    for speech in ("styletts2", "torch"):
        for face in ("dreamtalk", "torch"):
            words = ["--speech-generator", speech, "--face-generator", face, "--content-source", source, *flags]
            video, told = respond(run, f"{source}_{speech}_{face}.mp4", *words)
            assert told["response"] == REPLY
            made_by = told["provenance"]["speech_generator"], told["provenance"]["face_generator"]
            assert made_by == (speech, face)
            found[speech, face] = read_audio(video, 24_000), read_video(video).astype(int)
    heard, seen = found["styletts2", "dreamtalk"]
    for (speech, _), (other, frames) in found.items():
        if speech == "styletts2":
            np.testing.assert_array_equal(other, heard)
        assert np.corrcoef(heard, other)[0, 1] >= 0.9
        assert frames.shape == seen.shape and np.abs(frames - seen).mean() < 2  # levels, after the coder


def test_a_warm_answer_is_traced(made):
    run, _ = made
    (plain, told), (video, same) = respond(run, "plain.mp4"), respond(run, "traced.mp4", "--trace")
    changing = {"timings", "provenance"}
    assert {k: v for k, v in same.items() if k not in changing} == {k: v for k, v in told.items() if k not in changing}
    np.testing.assert_array_equal(read_video(video), read_video(plain))
    page = (run.parent / "traced.profile" / "profile.md").read_text()
    assert "a warm answer" in page and "| matmul |" in page and "jit__write_traced" in page
    assert len(list((run.parent / "traced.profile").rglob("*.xplane.pb"))) == 1
