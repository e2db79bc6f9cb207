"""A step of every stage on 8 simulated devices, mesh 2 x 2 x 2, is that of one; arrays lie where the table says."""

import pytest

from support.programs import program_result


@pytest.fixture(scope="module")
def report():
    return program_result("step_on_eight_devices", "4", devices=8)


def check(result: dict) -> None:
    assert result["loss"][1] == pytest.approx(result["loss"][0], rel=1e-5)
    assert result["metrics"] < 1e-4
    assert result["update"][1] < 2e-3, result["update"]
    assert result["moved"] > 0.9


def test_one_step_of_stage_4_on_eight_devices_is_the_step_on_one(report):
    assert report["devices"] == 8
    check(report["stages"]["4"])


@pytest.mark.slow
def test_one_step_of_every_other_stage_too():
    stages = program_result("step_on_eight_devices", "0123", devices=8)["stages"]
    assert set(stages) == set("0123")
    for result in stages.values():
        check(result)


def test_nothing_large_is_on_every_device_of_a_7b_model(report):
    assert report["unsharded"] == []


def test_tensor_splits_heads_and_mlp_and_vocabulary(report):
    layers = "llm/layers/"
    expected = {
        f"{layers}q_proj/kernel": (2, "tensor"),  # [L, embed, heads, head_dim]
        f"{layers}k_proj/kernel": (2, "tensor"),
        f"{layers}v_proj/kernel": (2, "tensor"),
        f"{layers}o_proj/kernel": (1, "tensor"),  # [L, heads, head_dim, embed]
        f"{layers}gate_proj/kernel": (2, "tensor"),
        f"{layers}up_proj/kernel": (2, "tensor"),
        f"{layers}down_proj/kernel": (1, "tensor"),
        "llm/embedding": (0, "tensor"),
        "style_disentangler/ffn_speech/up/kernel": (1, "tensor"),
        "content_synchronizer/speech/encoder/attention/query/kernel": (2, "tensor"),
    }
    for name, (axis, mesh_axis) in expected.items():
        spec, split = report["places"][name]
        assert spec[axis] == mesh_axis and split[axis] == 2, (name, spec, split)
    embed = report["places"][f"{layers}q_proj/kernel"]
    assert embed[0][1] == "fsdp" and embed[1][1] == 2
    assert all(report["batch"])  # batch rows, and Examples and utterances with them, over data x fsdp


def test_a_dimension_that_does_not_divide_is_named(report):
    assert "k_proj/kernel" in report["indivisible"] and "'kv_heads' of 1" in report["indivisible"]
