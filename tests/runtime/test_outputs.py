"""However an output and an input come to be one file: one line, exit code 2, and nothing is touched."""

import json
import os
import subprocess
import sys

import pytest
import random_llama

from converters.__main__ import main as converters
from empatheia_jax.__main__ import main
from empatheia_jax.checkpoints.workdir import check_inputs, save_config
from empatheia_jax.config import Config, DataConfig
from empatheia_jax.runtime.outputs import OutputError, check_outputs
from empatheia_jax.testing.corpus import write_text_corpus
from empatheia_jax.testing.tiny import small_config
from support.programs import ROOT, program_environment


def same_path(folder):
    return folder / "talk.json"


def hard_link(folder):
    os.link(folder / "talk.json", folder / "other.json")
    return folder / "other.json"


def symbolic_link(folder):
    (folder / "link.json").symlink_to("talk.json")
    return folder / "link.json"


def linked_folder(folder):
    (folder / "elsewhere").symlink_to(folder, target_is_directory=True)
    return folder / "elsewhere" / "talk.json"


def dots(folder):
    return folder / "deep" / ".." / "talk.json"


def relative(folder):
    return os.path.relpath(folder / "talk.json")


def trailing_slash(folder):
    return f"{folder}/talk.json/"


WAYS = (same_path, hard_link, symbolic_link, linked_folder, dots, relative, trailing_slash)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_file_by_two_names(way, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "talk.json").write_text("{}")
    output = way(tmp_path)
    with pytest.raises(OutputError, match="--output .*: it is --dialogue .*talk.json and would be overwritten"):
        check_outputs([("--output", output)], [("--dialogue", tmp_path / "talk.json")])
    check_outputs([("--output", tmp_path / "new.json"), ("--plot", None)], [("--dialogue", tmp_path / "talk.json")])


def test_folders_stand_for_what_is_in_them(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    weights = [("--checkpoint", tmp_path / "weights")]
    with pytest.raises(OutputError, match="a file of --checkpoint"):
        check_outputs([("--output", tmp_path / "weights" / "config.json")], weights)
    with pytest.raises(OutputError, match="lies in it"):
        check_outputs([("--output", tmp_path)], weights)
    check_outputs([("--output", tmp_path / "weights" / "new.json")], weights)  # overwrites nothing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run that has only its config, its data, a recording, and a dialogue that names it."""
    save_config(tmp_path / "run", small_config())
    write_text_corpus(tmp_path / "data", 4)
    (tmp_path / "me.mp4").write_bytes(b"the only copy")
    utterance = {"index": 0, "role": "speaker", "utterance": "Hello.", "video": "me.mp4"}
    turns = [{"turn_id": "0", "context": "", "dialogue_history": [utterance]}]
    (tmp_path / "talk.json").write_text(json.dumps({"turns": turns}))
    (tmp_path / "voice").mkdir()
    (tmp_path / "voice" / "config.json").write_text("{}")
    (tmp_path / "face.json").symlink_to("talk.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


COMMANDS = {
    "the json beside the mp4": "respond --run run --dialogue talk.json --output talk.mp4",
    "a link to the dialogue": "respond --run run --dialogue talk.json --output face.mp4",
    "the video of the person": "respond --run run --video me.mp4 --output me.mp4",
    "a recording in the dialogue": "respond --run run --dialogue talk.json --output me.mp4",
    "the run's config": "respond --run run --text hello --output run/config.mp4",
    "a profile among weights": "respond --run run --text hello --speech-weights voice --trace voice --output new.mp4",
    "weights of a voice": "speak --checkpoint voice --text hello --output voice/config.wav",
    "a reference": "speak --checkpoint voice --text hello --consent --reference me.wav --output me.wav",
    "a pose": "animate --checkpoint voice --audio me.wav --portrait p.png --consent --pose talk.json --output talk.mp4",
    "a report into the data": "check-data data --no-probe --json data/train.json",
    "a plot over the data": "check-data data/train.json --no-probe --plot data/train.json",
}


@pytest.mark.parametrize("case", COMMANDS)
def test_no_command_writes_over_what_it_reads(case, folder, capfd):
    (folder / "voice" / "profile.md").write_text("kept")
    (folder / "me.wav").write_bytes(b"the only copy")
    before = contents(folder)
    assert main(COMMANDS[case].split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "choose another name (nothing was written)" in err, err
    assert contents(folder) == before


def test_a_report_may_be_beside_the_data_and_written_again(folder):
    for _ in range(2):
        assert main(["check-data", "data", "--no-probe", "--json", "data/report.json"]) == 0


def test_a_run_writes_over_nothing_that_its_config_names(tmp_path):
    (tmp_path / "run" / "states").mkdir(parents=True)
    data = DataConfig(path=str(tmp_path / "run" / "states"))
    with pytest.raises(OutputError, match="data.path"):
        check_inputs(tmp_path / "run", Config(data=data), "config.py", resume=True, trains_base=True)
    base = Config(base=str(tmp_path / "run" / "base"))
    (tmp_path / "run" / "base").mkdir()
    with pytest.raises(OutputError, match="it is base"):
        check_inputs(tmp_path / "run", base, "config.py", resume=False, trains_base=True)
    check_inputs(tmp_path / "run", base, "config.py", resume=False, trains_base=False)


# Converters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_name", [False, True])
def test_an_input_at_the_place_where_the_output_grows_is_kept(other_name, tmp_path, capfd):
    source = tmp_path / "weights.partial"
    random_llama.write_checkpoint(source, "tiny")
    named = source
    if other_name:
        named = tmp_path / "link"
        named.symlink_to(source)
    before = contents(tmp_path)
    assert converters(["vicuna", "--input", str(named), "--output", str(tmp_path / "weights")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "is --input" in err and contents(tmp_path) == before


@pytest.mark.parametrize("command", ["vicuna", "peft", "export"])
def test_what_no_conversion_left_is_not_removed(command, tmp_path, capfd):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("the only copy")
    arguments = {
        "vicuna": ["vicuna", "--input", "source"],
        "peft": ["peft", "--input", "source", "--base", "source"],
        "export": ["export", "--weights", "source"],
    }[command]
    before = contents(tmp_path)
    arguments = [str(tmp_path / word) if word == "source" else word for word in arguments]
    assert converters([*arguments, "--output", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "no conversion left it" in err and contents(tmp_path) == before


def test_a_folder_that_a_killed_conversion_left_is_written_again(tmp_path):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    (tmp_path / "out.partial" / "params").mkdir(parents=True)
    (tmp_path / "out.partial" / "converting.json").write_text("{}")
    assert converters(["vicuna", "--input", str(tmp_path / "source"), "--output", str(tmp_path / "out")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}
    assert not (tmp_path / "out" / "converting.json").exists()


@pytest.mark.slow
def test_the_trainer_keeps_its_config_file(tmp_path):
    """`--workdir` is the folder of a converted base: its config.json would be the run's."""
    write_text_corpus(tmp_path / "data", 4)
    (tmp_path / "base" / "params").mkdir(parents=True)
    for name in ("config.json", "params/index.json"):
        (tmp_path / "base" / name).write_text("{}")
    command = [sys.executable, "train.py", "configs/tiny.py", "--workdir", str(tmp_path / "base")]
    flags = ["--base", str(tmp_path / "base"), "--data.path", str(tmp_path / "data")]
    before = contents(tmp_path / "base" / "params")
    ended = subprocess.run(
        [*command, *flags], cwd=ROOT, env=program_environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert contents(tmp_path / "base" / "params") == before
    assert (tmp_path / "base" / "config.json").read_text() == "{}"
