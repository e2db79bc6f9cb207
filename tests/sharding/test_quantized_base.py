"""A quantised base on 8 simulated devices: the same bits and losses as on one, sharded as plain kernels."""

import pytest

from support.programs import program_result

pytestmark = pytest.mark.slow  # a minute: two programs are compiled for eight devices


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("qwix")
    return program_result("quantized_on_eight_devices", "int8", "nf4", devices=8)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_eight_devices_train_on_a_quantised_base_as_one_does(report, kind):
    assert report[kind]["same_bits"]
    single, eight = report[kind]["losses"]
    assert eight == pytest.approx(single, rel=1e-4)
    assert all(later < earlier for earlier, later in zip(single, single[1:], strict=False))


def test_codes_and_scales_are_split_as_the_kernel(report):
    kernel = [1, 2, 2]  # [L, embed over fsdp, mlp over tensor]
    assert report["nf4"]["split"] == {"codes": kernel, "scales": kernel}
    assert report["int8"]["split"] == {"codes": kernel, "scales": [1, 1, 2]}  # a scale a channel of the output


def test_tiles_that_the_mesh_does_not_divide_are_named(report):
    assert "down_proj/kernel/scales" in report["indivisible"] and "'mlp' of 3" in report["indivisible"]
