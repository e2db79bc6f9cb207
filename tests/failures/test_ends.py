"""Every way a command ends: Ctrl-C, SIGTERM, a closed terminal, a reader that goes away, a platform that is absent."""

import os
import signal
import subprocess
import sys
import time

import pytest
import random_llama

from empatheia_jax import cli
from empatheia_jax.__main__ import main
from empatheia_jax.runtime import platforms
from empatheia_jax.testing.corpus import write_text_corpus
from support.ending import end, leftovers, start, waits_for_signals
from support.programs import PROGRAMS, ROOT, program_environment

HOLD = PROGRAMS / "hold.py"


def wait_for(path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)


# What holds the main thread -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, number, group",
    [
        ("file", signal.SIGINT, False),
        ("file", signal.SIGHUP, True),
        ("workers", signal.SIGINT, True),
        ("workers", signal.SIGTERM, False),
    ],
)
def test_a_signal_ends_what_does_not_return_to_python(mode, number, group, tmp_path):
    process = start(HOLD, tmp_path, mode)
    ended = end(process, (tmp_path / "ready").exists, number, group=group)
    assert ended is not None and ended.code == 128 + number and not ended.survivors
    assert ended.err.count("\n") == 1 and ended.err.startswith("hold: ") and "try again" in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"ready"} and ended.seconds < 5


def test_the_first_signal_may_be_answered_and_the_second_ends_at_once(tmp_path):
    process = start(HOLD, tmp_path, "graceful")
    wait_for(tmp_path / "ready", process)
    for number in (signal.SIGHUP, signal.SIGTERM):  # it survives the one and has an answer to the other
        process.send_signal(number)
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.count("\n") == 1 and "interrupted" in err
    assert not leftovers(tmp_path)


def test_a_reader_that_goes_away_ends_nothing(tmp_path):
    """Both streams lose their reader in the middle, then one is closed from the start."""
    process = start(HOLD, tmp_path, "print")
    assert process.stdout.readline() == "a line of the work\n"
    process.stdout.close()
    process.stderr.close()
    time.sleep(0.1)
    (tmp_path / "enough").touch()
    assert process.wait(20) == 0 and (tmp_path / "result").read_text() == "whole"
    (tmp_path / "result").unlink()
    command = f'"{sys.executable}" "{HOLD}" "{tmp_path}" print >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], env=program_environment(), timeout=60).returncode == 0
    assert (tmp_path / "result").read_text() == "whole"


def test_a_terminal_that_is_closed_ends_nothing_that_survives_it(tmp_path):
    """The other end of a pseudo-terminal is closed: writes fail with EIO."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, HOLD, tmp_path, "print"], env=program_environment(), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    assert b"a line" in os.read(ours, 100)
    os.close(ours)
    time.sleep(0.1)
    (tmp_path / "enough").touch()
    assert process.wait(20) == 0 and (tmp_path / "result").read_text() == "whole"


# The commands themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample", "extract", "evaluate", "respond", "train.py", "converters"])
def test_ctrl_c_while_a_command_is_imported(name, tmp_path):
    """Imports take seconds, and a command that waits for them has written nothing."""
    module = {"train.py": ["train.py"], "converters": ["-m", "converters"]}.get(name, ["-m", "empatheia_jax", name])
    process = start(*module, "--output", tmp_path / "output")
    ended = end(process, lambda: waits_for_signals(process.pid))
    ended.assert_clean()
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_workers_render_and_the_same_command_goes_on(tmp_path):
    words = ("-m", "empatheia_jax", "sample", "--output", tmp_path / "sample", "--dialogues", "14", "--workers", "2")
    media = tmp_path / "sample" / "audio_v5_0"
    end(start(*words), lambda: media.exists() and any(media.iterdir())).assert_clean()
    assert not leftovers(tmp_path) and not (tmp_path / "sample" / "train.json").exists()


# JAX_PLATFORMS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("setting, reason", [("cpuu", "no platform 'cpuu'"), ("cuda", "none"), ("tpu,rocm", "none")])
def test_a_platform_that_is_not_there_is_one_line_in_every_command(command, setting, reason, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", setting)
    monkeypatch.setattr(platforms, "_DEVICE_FILES", dict.fromkeys(platforms._DEVICE_FILES, ()))
    assert main([command, "anything"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"JAX_PLATFORMS={setting}: " in err and reason in err
    assert "set JAX_PLATFORMS=cpu" in err


def test_a_list_with_a_platform_that_is_there_is_accepted(monkeypatch):
    for setting in ("cpu", "cuda,cpu", "", " cpu "):
        monkeypatch.setenv("JAX_PLATFORMS", setting)
        platforms.check_devices()


def test_training_refuses_a_platform_that_is_not_there_and_a_conversion_needs_none(tmp_path):
    random_llama.write_checkpoint(tmp_path / "llama", "tiny")
    source = ("--input", tmp_path / "llama", "--output", tmp_path / "weights")
    converting = start("-m", "converters", "vicuna", *source, JAX_PLATFORMS="tpu")
    config = ROOT / "tests" / "support" / "configs" / "text_only.py"
    training = start("train.py", config, "--workdir", tmp_path / "run", JAX_PLATFORMS="cpuu")
    _, err = training.communicate(timeout=120)
    assert training.returncode == 2 and err.count("\n") == 1 and "JAX_PLATFORMS=cpuu" in err, err
    assert not (tmp_path / "run").exists()
    _, err = converting.communicate(timeout=120)
    assert converting.returncode == 0, err
    assert (tmp_path / "weights" / "config.json").exists()


def test_a_report_for_nobody_is_no_error(tmp_path):
    process = start("-m", "empatheia_jax", "check-data", write_text_corpus(tmp_path / "data", 2))
    process.stdout.close()
    assert process.wait(60) == 0
    with process.stderr as stream:
        assert stream.read() == ""
