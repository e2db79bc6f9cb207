"""Counting collectives in compiled programs: a loop counts like its unrolled body, an asynchronous pair once."""

import pytest

from empatheia_jax.planning.pods.collectives import Collective, HloError, find_collectives
from support.programs import program_result, read_hlo

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.fixture(scope="module")
def results():
    return program_result("count_collectives", devices=8)


def test_nested_loops_send_what_their_unrolled_bodies_send(results):
    assert results["scanned"] == pytest.approx(results["unrolled"])
    # 3 micro-batches x 5 layers: a layer's weights [64, 128 / 2] over fsdp for both products, and rows' sums
    # [16 / 4, 64] over tensor.
    assert results["scanned"]["all-gather ('fsdp',)"] == 15 * 2 * 64 * 64 * 4 / 2
    assert results["scanned"]["all-reduce ('tensor',)"] == 15 * 4 * 64 * 4


def test_a_programs_written_collectives_are_found(results):
    facts = {kind: (axes, group, count, payload) for kind, axes, group, count, payload in results["explicit"]}
    size = 8 * 32 * 4
    assert facts["all-gather"] == (["fsdp"], 2, 7, size)
    assert facts["all-reduce"] == (["tensor"], 2, 7, size)
    assert facts["reduce-scatter"] == (["fsdp"], 2, 7, size)
    assert facts["collective-permute"] == (["data"], 2, 1, size // 2)


HLO = read_hlo("loops")
GROUPS = (
    "mesh['axis_0'=4,'axis_1'=2] {'axis_0'}",
    "[2,4]<=[4,2]T(1,0)",
    "{{0,2,4,6},{1,3,5,7}}",
    "mesh['a'=8] {'a':(1)4}",
    "mesh['a'=2,'b'=2,'c'=2], device_ids=([4,2]T(1,0)) {'b','c'}",
)


def find_by_kind(hlo: str) -> dict[str, Collective]:
    return {collective.kind: collective for collective in find_collectives(hlo, MESH)}


@pytest.mark.parametrize("groups", GROUPS[:3])
def test_pairs_count_once_and_loops_as_often_as_their_counter_goes_to_its_limit(groups):
    """From 1 by 2 up to 12, as libtpu writes a loop that it has unrolled: 6 iterations."""
    by_kind = find_by_kind(HLO.replace("GROUPS", groups))
    kinds = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute")
    assert set(by_kind) == set(kinds)
    gather, scatter, reduce, permute = (by_kind[kind] for kind in kinds)
    assert (gather.axes, gather.count, gather.payload, gather.bytes_sent) == (("fsdp",), 6, 128, 6 * 64)
    assert (scatter.axes, scatter.count, scatter.payload) == (("fsdp",), 6, 2 * 8 * 8 * 4)
    assert (reduce.axes, reduce.group, reduce.count, reduce.payload) == (("data", "fsdp"), 4, 1, 24)
    assert reduce.bytes_sent == 2 * 24 * 3 / 4
    assert (permute.axes, permute.count, permute.payload) == (("tensor",), 1, 64)


def test_elements_of_a_tuple_may_be_named_where_they_are_used():
    """Newer versions of libtpu write them so, instead of a `get-tuple-element` each."""
    text = HLO.replace("GROUPS", GROUPS[0]).replace("add(%by, %i)", "add(%t#0, %by)").replace("(%i.2,", "(%t.1#0,")
    assert "%t#0" in text and "%t.1#0" in text
    gather = find_by_kind(text)["all-gather"]
    assert gather.count == 6


def test_parts_of_an_axis_and_other_orders_of_devices():
    part = find_by_kind(HLO.replace("GROUPS", GROUPS[3]))["all-reduce"]
    assert (part.axes, part.group) == (("data", "fsdp"), 4)  # of 8 = 4 x 2, the first 4
    reordered = find_by_kind(HLO.replace("GROUPS", GROUPS[4]))["all-reduce"]
    # Devices 0 2 4 6 1 3 5 7 as 2 x 2 x 2: the first four are a group.
    assert (reordered.axes, reordered.group) == (("data", "fsdp"), 4)


TRAVELLING = read_hlo("travelling_operand")


def test_an_operand_that_travels_is_not_passed_on_in_the_last_turn():
    """libtpu writes a product with a gathered operand so, piece by piece: 5 layers x (4 iterations - 1)."""
    (permute,) = find_collectives(TRAVELLING, MESH)
    assert (permute.kind, permute.axes, permute.count, permute.payload) == ("collective-permute", ("fsdp",), 15, 128)


BEHIND_PRODUCTS = read_hlo("beside_products")


def test_a_collective_that_runs_beside_products_counts_once():
    """libtpu writes it so for a v5e: started, carried along by a product, waited for."""
    (gather,) = find_collectives(BEHIND_PRODUCTS, MESH)
    assert (gather.kind, gather.axes, gather.count, gather.payload) == ("all-gather", ("fsdp",), 1, 128)


def test_what_is_not_understood_is_an_error():
    with pytest.raises(HloError, match="unknown form: somehow"):
        find_collectives(HLO.replace("GROUPS", "somehow"), MESH)
    for known, unknown in (
        ("constant(12)", "add(%l, %m)"),
        ("constant(2)", "add(%l, %m)"),
        ("copy(%zero)", "add(%l)"),
        ("direction=LT", "direction=GT"),
        ("add(%by, %i)", "multiply(%by, %i)"),
    ):
        assert known in HLO
        with pytest.raises(HloError, match="while.1: its number of iterations"):
            find_collectives(HLO.replace("GROUPS", "{}").replace(known, unknown), MESH)
    with pytest.raises(HloError, match="the text has 5 collectives, 4 of them were read"):
        find_collectives(HLO.replace("GROUPS", "{}").replace('"b":"several lines"', "}"), MESH)
    with pytest.raises(HloError, match="no ENTRY"):
        find_collectives("nothing", MESH)
