"""A run answers on a mesh of 8 simulated devices as on one."""

import argparse
import json

import pytest

from empatheia_jax.config import MeshConfig
from empatheia_jax.inference.flags import add_answering, mesh_of_flags
from empatheia_jax.model.sharding import ShardingError, make_mesh
from support.programs import program_result


def check(parts: str, *meshes: list[int]) -> None:
    report = program_result("answer_on_devices", parts, json.dumps(meshes), devices=8)
    assert report["devices"] == 8 and report["ids"][0] != report["ids"][1]  # the answers differ by Example
    for (data, fsdp, tensor), result in zip(meshes, report["meshes"], strict=True):
        assert result["ids"] == report["ids"]
        assert result["worst"] < 1e-4
        rows = data * fsdp if 4 % (data * fsdp) == 0 else 1
        assert result["split"] == {"kernel": [1, fsdp, tensor, 1], "cache": [1, rows, 1, tensor, 1]}


@pytest.mark.slow
def test_words_on_eight_devices_are_those_of_one():
    check("words", [2, 2, 2])


@pytest.mark.slow
def test_styles_contents_and_conversations_on_every_kind_of_mesh_too():
    check("all", [2, 2, 2], [8, 1, 1], [1, 8, 1], [1, 4, 2], [4, 1, 2])


def test_the_flags_of_a_mesh_are_those_of_training():
    parser = argparse.ArgumentParser()
    add_answering(parser)
    assert mesh_of_flags(parser.parse_args([])) is None
    assert mesh_of_flags(parser.parse_args(["--mesh.tensor", "4"])) == MeshConfig(data=-1, fsdp=1, tensor=4)
    assert mesh_of_flags(parser.parse_args(["--mesh.data", "1", "--mesh.fsdp", "-1"])) == MeshConfig(1, -1, 1)
    for sizes in ((0, 1, 1), (-1, 0, 1), (1, 1, -2), (-1, -1, 1)):
        with pytest.raises(ShardingError, match="-1"):
            make_mesh(MeshConfig(*sizes))
