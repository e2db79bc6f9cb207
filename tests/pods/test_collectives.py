"""Counting collectives in compiled programs: a loop counts like its unrolled body, an asynchronous pair once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from empatheia_jax.planning.pods.collectives import Collective, HloError, find_collectives

ROOT = Path(__file__).resolve().parents[2]
MESH = {"data": 2, "fsdp": 2, "tensor": 2}

PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from empatheia_jax.planning.pods.collectives import find_collectives

mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
LAYERS, MICRO_BATCHES = 5, 3
place = lambda *axes: NamedSharding(mesh, P(*axes))
weights = jax.ShapeDtypeStruct((LAYERS, 64, 128), "float32", sharding=place(None, "fsdp", "tensor"))
rows = jax.ShapeDtypeStruct((MICRO_BATCHES, 16, 64), "float32", sharding=place(None, ("data", "fsdp")))

def layer(x, w):
    wide = jnp.tanh(jax.lax.with_sharding_constraint(x @ w, place(("data", "fsdp"), "tensor")))
    return jax.lax.with_sharding_constraint(jnp.tanh(wide @ w.T), place(("data", "fsdp")))

def scanned(w, x):
    def add_rows(total, rows):
        return total + jax.lax.scan(lambda x, w: (layer(x, w), None), rows, w)[0], None
    return jax.lax.scan(add_rows, jnp.zeros(x.shape[1:]), x)[0]

def unrolled(w, x):
    total = jnp.zeros(x.shape[1:])
    for rows in x:
        for number in range(LAYERS):
            # The barrier hides from XLA that the weights are the same: it must gather them again, as in a loop.
            w, rows = jax.lax.optimization_barrier((w, rows))
            rows = layer(rows, w[number])
        total = total + rows
    return total

def explicit(w, x):  # its collectives are written out
    def body(x, _):
        gathered = jax.lax.all_gather(x, "fsdp", tiled=True)
        return jax.lax.psum_scatter(jnp.tanh(jax.lax.psum(gathered, "tensor")), "fsdp", tiled=True), None
    return jax.lax.scan(body, x, length=7)[0] + jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])

results = {}
for name, function in (("scanned", scanned), ("unrolled", unrolled)):
    hlo = jax.jit(function, out_shardings=place(("data", "fsdp"))).lower(weights, rows).compile().as_text()
    sums = {}
    for collective in find_collectives(hlo, dict(mesh.shape)):
        key = f"{collective.kind} {collective.axes}"
        sums[key] = sums.get(key, 0) + collective.bytes_sent
    results[name] = sums
mapped = jax.shard_map(explicit, mesh=mesh, in_specs=(P(), P("fsdp")), out_specs=P("fsdp"), check_vma=False)
x = jax.ShapeDtypeStruct((8, 32), "float32", sharding=place("fsdp"))
hlo = jax.jit(mapped).lower(jnp.zeros(()), x).compile().as_text()
results["explicit"] = [[c.kind, c.axes, c.group, c.count, c.payload] for c in find_collectives(hlo, dict(mesh.shape))]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


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


HLO = """HloModule jit_step, is_scheduled=true

%scattered (p: f32[16,8]) -> f32[8,8] {
  %p = f32[16,8]{1,0} parameter(0)
  ROOT %reduce-scatter.1 = f32[8,8]{1,0} reduce-scatter(%p), channel_id=9, replica_groups=[4,2]<=[2,2,2]T(0,2,1)
}

%body (t: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %t = (s32[], /*index=1*/bf16[4,8]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %all-gather-start.1 = ((bf16[4,8]{1,0:T(8,128)(2,1)}), (bf16[8,8]{1,0:T(8,128)(2,1)}), u32[], u32[]) all-gather-start(%x), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
  %all-gather-done.1 = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather-done(%all-gather-start.1)
  %start.2 = ((f32[16,8]{1,0}), f32[8,8]{1,0}, s32[]) async-start(%y), calls=%scattered
  %done.2 = f32[8,8]{1,0} async-done(%start.2), calls=%scattered
  %kernel = f32[8,8]{1,0} custom-call(%w), custom_call_target="tpu_custom_call", frontend_attributes={note={"a":1,
"b":"several lines"
}}, metadata={op_name="a kernel"}
  %alone = f32[4]{0} all-reduce(%z), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%sum
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %by = s32[]{:T(128)} constant(2)
  %i.1 = s32[]{:T(128)S(6)} add(%by, %i), metadata={op_name="jit(step)/while"}
  ROOT %tuple = (s32[], bf16[4,8]{1,0}) tuple(%i.1, %x)
}

%condition (t: (s32[], bf16[4,8])) -> pred[] {
  %t.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%i.2, %limit), direction=LT
}

ENTRY %main (a: bf16[4,8]) -> f32[4] {
  %a = bf16[4,8]{1,0} parameter(0)
  %all-reduce-start.1 = (f32[4]{0}, f32[2]{0}) all-reduce-start(%b, %c), channel_id=3, replica_groups=GROUPS, to_apply=%sum
  %all-reduce-done.1 = (f32[4]{0}, f32[2]{0}) all-reduce-done(%all-reduce-start.1)
  %zero = s32[] constant(1)
  %begin = s32[]{:T(128)S(6)} copy(%zero)
  %tuple.3 = (s32[], bf16[4,8]{1,0}) tuple(%begin, %a)
  %while.1 = (s32[], bf16[4,8]{1,0}) while(%tuple.3), condition=%condition, body=%body
  %permute = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[], u32[]) collective-permute-start(%d), channel_id=5, source_target_pairs={{0,0},{1,0},{0,1}}
  ROOT %r = f32[4]{0} get-tuple-element(%all-reduce-done.1), index=0
}
"""  # noqa: E501
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


TRAVELLING = """HloModule jit_step, is_scheduled=true

%window_collective_permute (a: bf16[8,8]) -> (bf16[8,8]) {
  %a = bf16[8,8]{0,1} parameter(0)
  %sent = bf16[8,8]{0,1} collective-permute(%a), channel_id=7, source_target_pairs={{0,2},{2,0},{1,3},{3,1},{4,6},{6,4},{5,7},{7,5}}
  ROOT %passed = (bf16[8,8]{0,1}) tuple(%sent)
}

%last_iteration_noop (a.1: bf16[8,8]) -> (bf16[8,8]) {
  %a.1 = bf16[8,8]{0,1} parameter(0)
  ROOT %kept = (bf16[8,8]{0,1}) tuple(%a.1)
}

%inner_body (t: (bf16[8,8], u32[])) -> (bf16[8,8], u32[]) {
  %t = (bf16[8,8]{0,1}, u32[]) parameter(0)
  %i = u32[] get-tuple-element(%t), index=1
  %by = u32[] constant(1)
  %next = u32[] add(%i, %by)
  %more = pred[] compare(%next, %turns), direction=LT
  %on = (bf16[8,8]{0,1}) conditional(%more, %x, %x), true_computation=%window_collective_permute, false_computation=%last_iteration_noop
  ROOT %r = (bf16[8,8]{0,1}, u32[]) tuple(%y, %next)
}

%inner_condition (t.1: (bf16[8,8], u32[])) -> pred[] {
  %i.1 = u32[] get-tuple-element(%t.1), index=1
  %turns.1 = u32[]{:T(128)} constant(4)
  ROOT %less = pred[] compare(%i.1, %turns.1), direction=LT
}

%body (t.2: (s32[])) -> (s32[]) {
  %zero = u32[] constant(0)
  %z = (bf16[8,8]{0,1}, u32[]) tuple(%w, %zero)
  %while.2 = (bf16[8,8]{0,1}, u32[]) while(%z), condition=%inner_condition, body=%inner_body
  ROOT %r.1 = (s32[]) tuple(%j)
}

ENTRY %main (a: s32[]) -> s32[] {
  %while.1 = (s32[]) while(%tuple), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %r.2 = s32[] get-tuple-element(%while.1), index=0
}
"""  # noqa: E501


def test_an_operand_that_travels_is_not_passed_on_in_the_last_turn():
    """libtpu writes a product with a gathered operand so, piece by piece: 5 layers x (4 iterations - 1)."""
    (permute,) = find_collectives(TRAVELLING, MESH)
    assert (permute.kind, permute.axes, permute.count, permute.payload) == ("collective-permute", ("fsdp",), 15, 128)


BEHIND_PRODUCTS = """HloModule jit_step, is_scheduled=true

%begun (p: bf16[4,8]) -> (bf16[4,8], bf16[8,8], u32[]) {
  %p = bf16[4,8]{1,0} parameter(0)
  %all-gather.1 = bf16[8,8]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
  ROOT %state = (bf16[4,8]{1,0}, bf16[8,8]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.7 (p.1: bf16[4,8], x: f32[8,8]) -> (f32[8,8], bf16[8,8]) {
  %p.1 = bf16[4,8]{1,0} parameter(0)
  %x = f32[8,8]{1,0} parameter(1)
  %product = f32[8,8]{1,0} convolution(%x, %x), dim_labels=bf_io->bf
  %all-gather.2 = bf16[8,8]{1,0} all-gather(%p.1), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
  ROOT %both = (f32[8,8]{1,0}, bf16[8,8]{1,0}) tuple(%product, %all-gather.2)
}

%ended (p.2: bf16[4,8], q: bf16[8,8]) -> bf16[8,8] {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  %all-gather.3 = bf16[8,8]{1,0} all-gather(%p.2), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
  ROOT %whole = bf16[8,8]{1,0} custom-call(%p.2, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: bf16[4,8]) -> bf16[8,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %async-collective-start = (bf16[4,8]{1,0}, bf16[8,8]{1,0}, u32[]{:S(2)}) fusion(%a), kind=kCustom, calls=%begun
  %fusion.7 = (f32[8,8]{1,0}, bf16[8,8]{1,0}) fusion(%b, %c), kind=kOutput, calls=%async_collective_fusion.7
  ROOT %async-collective-done = bf16[8,8]{1,0} fusion(%d, %e), kind=kCustom, calls=%ended
}
"""  # noqa: E501


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
