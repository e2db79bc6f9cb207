"""Bad input to the command: one clear line on stderr, exit code 2, and nothing written."""

import json

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from empatheia_jax.__main__ import main
from empatheia_jax.checkpoints.workdir import save_config
from empatheia_jax.data import emotions
from empatheia_jax.inference.request import RespondError, parse_profile
from empatheia_jax.testing.tiny import small_config


@pytest.fixture
def folder(tmp_path):
    """A run that has only its config, an empty folder for the answer, and faulty media."""
    save_config(tmp_path / "run", small_config())
    (tmp_path / "out").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "long.wav", np.zeros(8000 * 61, np.float32), 8000)
    (tmp_path / "noise.wav").write_bytes(rng.bytes(4000))
    (tmp_path / "zero.wav").touch()
    (tmp_path / "cut.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + rng.bytes(2000))
    with av.open(str(tmp_path / "soundless.mp4"), "w") as container:  # a container with sound and no pictures
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    Image.fromarray(rng.integers(0, 255, (120, 120, 3), np.uint8)).save(tmp_path / "nobody.png")
    utterance = {"index": 0, "role": "speaker", "utterance": "Hello."}
    turns = [{"turn_id": "0", "context": "", "dialogue_history": [utterance]}]
    (tmp_path / "dialogue.json").write_text(json.dumps({"conversation_id": "1", "turns": turns}))
    (tmp_path / "many.json").write_text(json.dumps({"conversation_id": "1", "turns": _turns(17)}))
    (tmp_path / "broken.json").write_text('{"turns": [')
    return tmp_path


def _turns(count):
    history = [
        {"index": i, "role": ("speaker", "listener")[i % 2], "utterance": f"Line {i}."} for i in range(2 * count)
    ]
    return [
        {
            "turn_id": str(t),
            "context": "",
            "dialogue_history": history[: 2 * t + 1],
            "response": history[2 * t + 1]["utterance"],
        }
        for t in range(count)
    ]


CASES = {
    "nothing": ("", "nothing to answer"),
    "both ways": ("--dialogue {p}/dialogue.json --text hello", "not both"),
    "profile of two": ("--text hello --profile young,female", "AGE,GENDER,TIMBRE"),
    "profile unknown": ("--text hello --profile ancient,female,mid", "'ancient' is not one of child"),
    "no run": ("--text hello --run {p}/absent", "not a run"),
    "missing wav": ("--speech {p}/absent.wav", "absent.wav"),
    "wav without samples": ("--speech {p}/empty.wav", "empty.wav"),
    "file of 0 bytes": ("--speech {p}/zero.wav", "zero.wav"),
    "no audio at all": ("--speech {p}/noise.wav", "noise.wav"),
    "too long": ("--speech {p}/long.wav", "61.0 s, over the limit of 60 s"),
    "broken mp4": ("--video {p}/cut.mp4", "cut.mp4"),
    "mp4 without pictures": ("--video {p}/soundless.mp4", "no video stream"),
    "no consent": ("--text hello --portrait {p}/nobody.png", "--consent"),
    "portrait without a face": ("--text hello --portrait {p}/nobody.png --consent", "nobody.png"),
    "missing portrait": ("--text hello --portrait {p}/absent.png --consent", "absent.png"),
    "missing dialogue": ("--dialogue {p}/absent.json", "no such file"),
    "broken dialogue": ("--dialogue {p}/broken.json", "not JSON"),
    "too many turns": ("--dialogue {p}/many.json", "17"),
    "another backend": ("--text hello --speech-generator styletts2", "styletts2"),
    "other script": ("--text Привет,-мне-грустно", "Привет"),
    "no tokens": ("--text hello --max-new-tokens 0", "--max-new-tokens 0: give 1 or more"),
    "no words": ("--text ...", "..."),
}


def respond(folder, arguments, output="out/answer.mp4"):
    options = arguments.format(p=folder).split()
    run = [] if "--run" in options else ["--run", str(folder / "run")]
    return main(["respond", *run, *options, "--output", str(folder / output)])


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_code_2_and_nothing_written(folder, capfd, case):
    arguments, expected = CASES[case]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert respond(folder, arguments) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1 and err.startswith("empatheia respond: ") and expected in err, err
    assert out == ""
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_answer_is_an_mp4(folder, capfd):
    assert respond(folder, "--text hello", output="out/answer.avi") == 2
    assert ".mp4" in capfd.readouterr().err
    assert not list((folder / "out").iterdir())


def test_a_run_that_has_not_trained_yet_is_an_error(folder, capfd):
    assert respond(folder, "--text hello") == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not list((folder / "out").iterdir())


def test_commands_that_do_not_exist_and_help(capsys):
    assert main(["sing"]) == 2
    assert "no command 'sing'" in capsys.readouterr().err
    assert main([]) == 0 and main(["--help"]) == 0
    for command in ("sample", "check-data", "extract", "respond", "evaluate", "demo"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        with pytest.raises(SystemExit) as stopped:
            main([command, "--no-such-flag"])
        assert stopped.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "check-data {p}/absent",
        "extract {p}/absent.py --workdir {p}/out",
        "evaluate --run {p}/absent --output {p}/out/report",
        "evaluate --run {p}/run --output {p}/out/report",
    ],
)
def test_other_commands_report_in_one_line(folder, capfd, arguments):
    assert main(arguments.format(p=folder).split()) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"empatheia {arguments.split()[0]}: ")
    assert not list((folder / "out").iterdir())


def test_every_profile_can_be_asked_for():
    for age in emotions.AGES:
        for gender in emotions.GENDERS:
            for timbre in emotions.TIMBRES:
                profile = parse_profile(f" {age.upper()}, {gender},{timbre} ")
                assert (profile.age, profile.gender, profile.timbre) == (age, gender, timbre)
    with pytest.raises(RespondError):
        parse_profile("")
