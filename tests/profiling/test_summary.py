"""The summary of a trace: of traces small enough to count by hand, of real programs, and against the clock."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.profiling.capture import traced
from empatheia_jax.profiling.kinds import kind_of_name, read_program
from empatheia_jax.profiling.summary import profile_page, summarise
from empatheia_jax.profiling.trace import Event, Trace, newest_trace, read_trace
from support.programs import read_hlo, run_program

HLO = read_hlo("other_backends")
MS = 1e6  # nanoseconds


def event(device, line, name, interval, *, is_async=False):
    return Event(device, line, name, "", interval[0] * MS, interval[1] * MS, is_async)


def test_exposed_communication_and_idle_time_of_two_gpus():
    """A step of 100 ms, twice: on GPU 0 a product of 40 beside a collective of 30 that it covers for 20."""
    events = []
    for start in (0, 100):
        events += [
            event("GPU:0", "Stream #1", "gemm_fusion_dot.1", (start + 10, start + 50)),
            event("GPU:0", "Stream #1", "loop_add_fusion", (start + 60, start + 70)),
            event("GPU:0", "Stream #2", "ncclDevKernel_AllReduce_Sum_f32_RING_LL", (start + 30, start + 60)),
            event("GPU:1", "Stream #1", "gemm_fusion_dot.1", (start, start + 80)),
        ]
    summary = summarise(Trace(events, [(0, 100 * MS), (100 * MS, 200 * MS)]))
    assert (summary.steps, summary.devices) == (2, 2)
    np.testing.assert_allclose(summary.step, 0.100)
    np.testing.assert_allclose(summary.window, 0.200)
    # GPU 0 works from 10 to 70 without a gap, GPU 1 from 0 to 80
    np.testing.assert_allclose([summary.idle, summary.idlest], [(0.4 + 0.2) / 2, 0.4])
    np.testing.assert_allclose([summary.collectives, summary.exposed], [0.030 / 2, 0.010 / 2])
    np.testing.assert_allclose(
        [summary.kinds[kind] for kind in ("matmul", "elementwise", "collective", "copy")],
        [(0.040 + 0.080) / 2, 0.010 / 2, 0.030 / 2, 0],
    )
    assert [row.name for row in summary.rows[:2]] == ["gemm_fusion_dot.1", "ncclDevKernel_AllReduce_Sum_f32_RING_LL"]
    np.testing.assert_allclose(summary.rows[0].share, 120 / 160)
    assert summary.rows[0].calls == 1


def test_a_loop_is_its_content_and_covers_no_communication():
    """A TPU's line of operations: a loop of 80 ms holds a product of 20 and the wait of 10 for a gather of 50."""
    events = [
        event("TPU:0", "XLA Ops", "while.1", (10, 90)),
        event("TPU:0", "XLA Ops", "convolution_fusion.2", (20, 40)),
        event("TPU:0", "XLA Ops", "all-gather-done.1", (60, 70)),
        event("TPU:0", "Async XLA Ops", "all-gather-start.1", (20, 70), is_async=True),
    ]
    summary = summarise(Trace(events, [(0, 100 * MS)]))
    np.testing.assert_allclose([summary.collectives, summary.exposed], [0.050, 0.030])
    np.testing.assert_allclose(summary.idle, 0.5)  # no operation before 20 and after 70
    assert {row.name: round(row.seconds, 6) for row in summary.rows} == {
        "convolution_fusion.2": 0.020,
        "all-gather-done.1": 0.010,
    }


def test_a_step_lasts_until_the_next_one_begins():
    marks = [(start * MS, (start + 5) * MS) for start in (0, 20, 41, 60)]
    summary = summarise(Trace([event("CPU:0", "thread", "dot.1", (0, 70))], [*marks[:-1], (60 * MS, 100 * MS)]))
    np.testing.assert_allclose(summary.step, 0.020)
    assert summary.idle == pytest.approx(0.3)


def test_an_empty_trace_is_said_to_be():
    with pytest.raises(ValueError, match="no operation"):
        summarise(Trace([], []))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop>", "matmul"),
        ("nvjet_hsh_128x256", "matmul"),
        ("loop_convert_fusion.3", "elementwise"),
        ("input_reduce_fusion", "elementwise"),
        ("ncclDevKernel_AllGather_RING_LL", "collective"),
        ("all-reduce-start.2", "collective"),
        ("reduce-scatter.7", "collective"),
        ("MemcpyH2D", "host"),
        ("MemcpyD2D", "copy"),
        ("transpose.4", "copy"),
        ("loop_transpose_fusion", "copy"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("sort.1", "other"),
        ("while.3", "control"),
    ],
)
def test_names_where_there_is_no_program(name, kind):
    assert kind_of_name(name) == kind


def test_a_programs_text_tells_what_its_operations_are(seed):
    """The kinds of what XLA compiles each function to, whatever the names of the operations."""

    def kinds(function, *arguments):
        text = jax.jit(function).lower(*arguments).compile().as_text()
        return {operation.kind for operation in read_program(text).operations.values()}

    x, w = jnp.ones((64, 32)), jnp.ones((32, 32))
    assert "matmul" in kinds(lambda x, w: jnp.tanh(x @ w), x, w)
    assert "matmul" not in kinds(lambda x: jnp.tanh(x).sum(0), x)
    assert {"elementwise"} <= kinds(lambda x: jnp.tanh(x).sum(0), x) <= {"elementwise", "copy", "control"}
    assert "other" in kinds(lambda x: jnp.sort(x, axis=0), x)
    assert "host" in kinds(
        lambda x: jax.pure_callback(lambda a: np.asarray(a) + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * 2, x
    )


def test_the_text_of_other_backends_programs():
    program = read_program(HLO)
    assert program.name == "jit_f"
    expected = {
        "fusion.1": "matmul",
        "fusion.2": "copy",
        "custom-call.1": "attention",
        "custom-call.2": "matmul",
        "custom-call.3": "attention",
        "async-start": "collective",
        "all-reduce.1": "collective",
    }
    assert {name: program.operations[name].kind for name in expected} == expected


def test_a_product_is_on_top_of_the_page_and_its_time_is_the_clocks(tmp_path):
    """A real trace of this backend: big matrix products, and little else."""

    @jax.jit
    def work(x):
        return jax.lax.fori_loop(0, 6, lambda _, x: jnp.tanh(x @ x), x)

    x = jnp.ones((600, 600)) / 600
    jax.block_until_ready(work(x))
    started = time.monotonic()
    with traced(tmp_path, "six products"):
        jax.block_until_ready(work(x))
        took = time.monotonic() - started
    text = (tmp_path / "profile.md").read_text()
    first = next(line for line in text.splitlines() if line.startswith("| `"))
    assert re.search(r"\| matmul \| 6 \|", first), text
    trace = read_trace(newest_trace(tmp_path))
    summary = summarise(trace, [read_program(path.read_text()) for path in (tmp_path / "programs").iterdir()])
    assert summary.rows[0].share > 0.5 and 0 < summary.rows[0].seconds <= took
    assert 0 <= summary.idle < 1 and summary.window <= took
    assert summary.exposed == 0 and "MFU" in profile_page("x", summary, "cpu")
    assert list(tmp_path.rglob("perfetto_trace.json.gz"))


def test_communication_between_two_devices_is_seen(tmp_path):
    run_program("trace_two_devices", tmp_path, devices=2)
    programs = [read_program(path.read_text()) for path in (tmp_path / "programs").iterdir()]
    summary = summarise(read_trace(newest_trace(tmp_path)), programs)
    assert summary.devices == 2
    assert 0 < summary.exposed <= summary.collectives
    assert 0 < summary.kinds["elementwise"]
