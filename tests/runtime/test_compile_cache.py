"""The compilation cache: used, repaired, kept small, turned off; and the report of what compiling takes."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from empatheia_jax.runtime.compile_cache import cpu_name, default_folder, remove_broken, remove_oldest
from empatheia_jax.runtime.compile_report import compilations, compile_ahead_of_time
from support.programs import run_program


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that runs the program with caches in `tmp_path`, and returns the words it prints."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def run(**variables: str) -> list[str]:
        settings = {"JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(tmp_path / "c")}
        # JAX warns of a cache that it cannot read.
        return run_program("compile_with_cache", **{"PYTHONWARNINGS": "error"} | settings | variables).split()

    return run


def test_a_second_process_compiles_nothing_and_a_half_written_entry_is_replaced(start, tmp_path):
    folder, first, *_ = start()
    assert Path(folder) == tmp_path / "c" / "empatheia_jax" / "compiled" / cpu_name() and first == "False"
    assert Path(folder).stat().st_mode & 0o077 == 0  # for its owner alone
    entries = list(Path(folder).glob("*-cache"))
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])  # as SIGKILL in the middle leaves it
    assert start()[1] == "False"
    _, last, hits, programs = start()
    assert last == "True" and hits == programs


def test_it_is_turned_off_or_put_elsewhere_by_jaxs_own_variables(start, tmp_path):
    assert start(JAX_ENABLE_COMPILATION_CACHE="false")[:2] == ["None", "False"]
    assert not (tmp_path / "c").exists()
    assert start(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))[0] == str(tmp_path / "mine")
    assert list((tmp_path / "mine").glob("*-cache")) and not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_made_is_warned_of(start, tmp_path):
    (tmp_path / "c").touch()
    printed = start(PYTHONWARNINGS="ignore")
    assert printed[:2] == ["None", "False"]


def test_only_entries_that_cannot_be_read_are_removed(tmp_path):
    import zlib

    (tmp_path / "good-cache").write_bytes(zlib.compress(b"0" * 100))
    for name, content in (("empty", b""), ("zeros", bytes(50)), ("half", zlib.compress(os.urandom(100))[:50])):
        (tmp_path / f"{name}-cache").write_bytes(content)
    (tmp_path / "someone's file").write_bytes(b"")
    assert remove_broken(tmp_path) == 3 and remove_broken(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"good-cache", "someone's file", ".checked"}


def test_the_longest_unused_go_first(tmp_path):
    for age, name in enumerate("abcd"):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    assert remove_oldest(tmp_path, 400) == 0
    assert remove_oldest(tmp_path, 250) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a-cache", "b-cache"}


def test_the_folder_is_below_xdg_cache_home_or_the_homes(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder().parent == Path("/caches/empatheia_jax/compiled")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_folder().parent == Path("/home/somebody/.cache/empatheia_jax/compiled")


def test_a_programs_report_is_that_of_its_arrays():
    def function(donated, matrix):
        return donated + 1, matrix @ matrix

    donated, matrix = jax.ShapeDtypeStruct((100,), jnp.float32), jax.ShapeDtypeStruct((30, 30), jnp.float32)
    before = compilations()
    compiled, program = compile_ahead_of_time("f", jax.jit(function, donate_argnums=0), donated, matrix, flops=54_000.0)
    assert (program.argument_bytes, program.alias_bytes) == (4 * (100 + 900), 400)
    assert program.output_bytes == pytest.approx(4 * (100 + 900), abs=16)  # and a tuple of two pointers
    assert compilations().programs == before.programs + 1 and compilations().seconds > before.seconds
    assert not program.from_cache and program.lower_seconds + program.compile_seconds > 0
    assert "arguments 4 kB" in str(program) and "in place 400 B" in str(program) and "5.4e+04" in str(program)
