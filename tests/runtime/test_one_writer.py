"""One writer at a time: the second is told who the first is, and the dead hold nothing."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest
import random_llama

from converters.__main__ import main as converters
from empatheia_jax.__main__ import main
from empatheia_jax.checkpoints.workdir import claim_workdir, save_config
from empatheia_jax.data.features.records import Journal, StoreError
from empatheia_jax.runtime import one_writer as locks
from empatheia_jax.runtime.one_writer import BusyError, lock_beside, lock_file, one_writer
from empatheia_jax.testing.tiny import small_config
from support.programs import start_program


@pytest.fixture
def hold():
    """Return a function that starts a process which holds a lock; all are ended afterwards."""
    started: list[subprocess.Popen] = []

    def start(lock) -> subprocess.Popen:
        holder = start_program("hold_lock", lock)
        started.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


def test_the_second_is_told_who_the_first_is(hold, tmp_path):
    holder = hold(tmp_path / "writer.lock")
    with pytest.raises(BusyError, match=rf"run: process {holder.pid} on .+, since 20\d\d-.+, is writing it"):
        with one_writer(tmp_path / "writer.lock", "run"):
            pass
    assert (tmp_path / "writer.lock").exists()  # it is the first one's


def test_a_killed_process_holds_nothing(hold, tmp_path):
    lock = tmp_path / "writer.lock"
    holder = hold(lock)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads(lock.read_text())["pid"] == holder.pid  # left behind
    with one_writer(lock, "run"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_an_unreadable_lock_file_of_a_dead_process_is_no_hindrance(tmp_path):
    (tmp_path / "writer.lock").write_text('{"pid": ')
    with one_writer(tmp_path / "writer.lock", "run"):
        pass


def test_the_folder_is_made_and_what_stays_empty_is_removed(tmp_path):
    with one_writer(tmp_path / "a" / "b" / "writer.lock", "run"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with one_writer(tmp_path / "a" / "b" / "writer.lock", "run"):
        (tmp_path / "a" / "kept").touch()
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "kept"}


def test_all_names_of_an_output_have_one_lock(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "answer.mp4").touch()
    (tmp_path / "out" / "same.mp4").symlink_to(tmp_path / "answer.mp4")
    assert lock_beside(tmp_path / "link" / "x.mp4") == lock_beside(tmp_path / "out" / ".." / "out" / "x.mp4")
    assert lock_beside(tmp_path / "link" / "same.mp4") == lock_beside(tmp_path / "answer.mp4")


def test_a_file_system_without_locks_gets_a_note_and_no_error(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    locks._note_no_locks.cache_clear()
    for _ in range(2):
        with one_writer(tmp_path / "writer.lock", "run"):
            pass
    journal = Journal(tmp_path / "shard.journal")
    journal.close()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"note: {tmp_path}: its file system has no locks" in err


def test_any_other_error_of_the_lock_is_raised(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "a broken disk")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="a broken disk"), one_writer(tmp_path / "writer.lock", "run"):
        pass


def test_a_journal_has_one_writer(hold, tmp_path, monkeypatch):
    monkeypatch.setattr("empatheia_jax.data.features.records._LOCK_TIMEOUT", 0.3)
    hold(tmp_path / "shard.journal")
    with pytest.raises(StoreError, match="another process is extracting this"):
        Journal(tmp_path / "shard.journal")


# Commands -------------------------------------------------------------------------------------------------------------


def test_a_run_has_one_writer(hold, tmp_path, monkeypatch):
    holder = hold(tmp_path / "run" / "writer.lock")
    with pytest.raises(BusyError, match=rf"--workdir .*run: process {holder.pid} on"), claim_workdir(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    with claim_workdir(tmp_path / "run"), claim_workdir(tmp_path / "other"):
        with pytest.raises(BusyError), claim_workdir(tmp_path / "run"):
            pass
        monkeypatch.setattr("empatheia_jax.runtime.processes.is_first", lambda: False)
        with claim_workdir(tmp_path / "run"):  # another process of the same run
            pass


@pytest.mark.parametrize("flags", [["--resume"], pytest.param([], marks=pytest.mark.slow)])
def test_a_second_trainer_ends_with_one_line(flags, hold, tmp_path):
    save_config(tmp_path / "run", small_config())
    holder = hold(tmp_path / "run" / "writer.lock")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    ended = start_program("../../../train", "configs/tiny.py", "--workdir", tmp_path / "run", *flags)
    _, err = ended.communicate(timeout=120)
    assert ended.returncode == 2 and err.count("\n") == 1 and f"process {holder.pid} on" in err, err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("lock", "command"),
    [
        ("report/.report.html.lock", "evaluate --run run --output report"),
        (".sample.lock", "sample --output sample --dialogues 14"),
    ],
)
def test_a_second_command_ends_with_one_line(lock, command, hold, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    save_config(tmp_path / "run", small_config())
    holder = hold(tmp_path / lock)
    assert main(command.split()) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and f"process {holder.pid} on" in err, err


def test_a_second_conversion_ends_with_one_line_and_what_the_first_wrote_stays(hold, tmp_path, capfd):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "converting.json").write_text("{}")
    (tmp_path / "out.partial" / "half").touch()
    holder = hold(lock_beside(tmp_path / "out"))
    arguments = ["vicuna", "--input", str(tmp_path / "source"), "--output", str(tmp_path / "out")]
    assert converters(arguments) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and f"process {holder.pid} on" in err, err
    assert (tmp_path / "out.partial" / "half").exists()
    holder.kill()
    holder.wait()
    assert converters(arguments) == 0 and (tmp_path / "out" / "config.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_programs_that_the_holder_starts_do_not_keep_its_lock(tmp_path):
    with (tmp_path / "writer.lock").open("w") as first, (tmp_path / "writer.lock").open("w") as second:
        assert lock_file(first) and not lock_file(second)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        first.close()
        assert lock_file(second)
        child.communicate(b"\n")
