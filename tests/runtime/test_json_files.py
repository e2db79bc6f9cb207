"""JSON files that are damaged: one error that names the file, wherever they are read."""

import pytest

from empatheia_jax.checkpoints.weights import read_metadata
from empatheia_jax.checkpoints.workdir import saved_config
from empatheia_jax.data.corpus.tfds_records import INFO, split_names
from empatheia_jax.evaluation.conditions import neutral_conversations
from empatheia_jax.runtime.json_files import JsonFileError, read_json


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected a JSON dict, found list"),
        (b"null", "expected a JSON dict, found NoneType"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, reason):
    for name in ("config.json", "labels.json", INFO):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "index.json").write_text("{}")
    readers = {
        "config.json": [saved_config, read_metadata, lambda folder: read_json(folder / "config.json")],
        "labels.json": [lambda folder: neutral_conversations(folder, "test")],
        INFO: [split_names],
    }
    for name, functions in readers.items():
        for read in functions:
            with pytest.raises(JsonFileError) as error:
                read(tmp_path)
            assert str(error.value).startswith(f"{tmp_path / name}: {reason}") and "\n" not in str(error.value)


def test_what_was_asked_for_is_read(tmp_path):
    (tmp_path / "a.json").write_text('["caf\u00e9"]', encoding="utf-8")
    assert read_json(tmp_path / "a.json", list) == ["caf\u00e9"]
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
