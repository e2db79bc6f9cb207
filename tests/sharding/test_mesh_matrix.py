"""Every mesh of 8 devices: the loss curve of one device in every stage, and no large parameter left unsharded."""

import json

import pytest

from support.programs import program_result

MESHES = [(d, f, 8 // (d * f)) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if d * f <= 8]


@pytest.mark.slow
@pytest.mark.parametrize("stage", "01234")
def test_every_mesh_gives_the_curve_of_one_device(stage):
    curves = program_result("curves_on_meshes", stage, json.dumps(MESHES), devices=8, timeout=3000)
    assert len(curves) == 11
    single = curves.pop("[1, 1, 1]")
    assert single[0][0] != single[2][0]  # it learns
    for mesh, curve in curves.items():
        for values, expected in zip(curve, single, strict=True):
            assert values == pytest.approx(expected, rel=1e-3), mesh


@pytest.mark.slow
def test_large_parameters_of_a_7b_model_are_split_on_every_mesh():
    """`tensor` splits heads, MLP and vocabulary, `fsdp` the model's width; no large parameter is left unsharded."""
    layouts = program_result("layouts_on_meshes", json.dumps(MESHES), devices=8)
    layers = "llm/layers/"
    tensor = {f"{layers}{name}_proj/kernel": 2 for name in ("q", "k", "v", "gate", "up")}
    tensor |= {f"{layers}o_proj/kernel": 1, f"{layers}down_proj/kernel": 1, "llm/embedding": 0}
    fsdp = {f"{layers}{name}_proj/kernel": 1 for name in ("q", "k", "v", "gate", "up")}
    fsdp |= {f"{layers}o_proj/kernel": 3, f"{layers}down_proj/kernel": 2, "llm/embedding": 1}
    for data, fsdp_size, tensor_size in MESHES:
        layout = layouts[str([data, fsdp_size, tensor_size])]
        for axis, name, count in [(tensor, "tensor", tensor_size), (fsdp, "fsdp", fsdp_size)]:
            for parameter, dimension in axis.items():
                _, spec, split = layout[parameter]
                assert spec[dimension] == name and split[dimension] == count, (parameter, spec, split)
        large = {name: size for name, (size, _, split) in layout.items() if size > 2**20 and max(split) == 1}
        if fsdp_size > 1 and tensor_size > 1:
            assert not large, (data, fsdp_size, tensor_size, large)
        elif fsdp_size > 1 or tensor_size > 1:
            # With one of the two, parameters that only the other would split are on all devices: few, no base kernel.
            assert sum(large.values()) < 0.02 * sum(size for size, _, _ in layout.values()), large
            assert not any(name.startswith("llm/") and name.endswith("kernel") for name in large), large
