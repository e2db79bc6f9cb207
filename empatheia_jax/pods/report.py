"""A plan as a page of text and as JSON."""

import dataclasses
from importlib import metadata

from empatheia_jax.pods.changes import Change
from empatheia_jax.pods.memory_model import Memory
from empatheia_jax.pods.plan import Plan

GIB = 2**30


def verdict(plan: Plan, change: Change | None = None) -> str:
    """One line: fits or does not fit, why, and the smallest change found that would."""
    have = f"{plan.peak / GIB:.2f} of {plan.topology.memory / GIB:.2f} GiB a chip"
    if plan.fits:
        return f"fits: {have}"
    if change is None:
        return f"does not fit: {have}; no change of rows, remat or mesh that was tried fits: take more chips"
    would = f"{change.plan.peak / GIB:.2f} GiB, planned again"
    return f"does not fit: {have}; {' '.join(change.flags)} would ({would})"


def versions(plan: Plan) -> dict[str, str]:
    """Of what compiled it: other versions schedule and count otherwise."""
    return {name: metadata.version(name) for name in ("jax", *(() if plan.topology.simulated else ("libtpu",)))}


def facts(plan: Plan, change: Change | None = None) -> dict:
    """What `--output` keeps. Bytes and FLOPs are of one chip unless they say otherwise."""
    estimate, chip = plan.estimate, plan.topology.chip
    return {
        "config": plan.config.name,
        "stage": plan.stage.number,
        "topology": plan.topology.name,
        "chip": dataclasses.asdict(chip) | {"peak": chip.peak, "usable_memory": plan.topology.memory},
        "simulated": plan.topology.simulated,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "rows": plan.config.data.rows,
        "row_tokens": plan.config.data.row_tokens,
        "accumulate": plan.config.optim.accumulate,
        "attention": plan.config.llm.attention,
        "remat": plan.config.llm.remat,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "memory": {"compiled": _memory(plan.compiled), "model": _memory(plan.model), "peak": plan.peak},
        "flops": {
            "model": plan.model_flops / plan.chips,
            "recomputed": plan.recomputed / plan.chips,
            "compiler_loop_bodies_once": plan.compiler_flops,
        },
        "collectives": [
            dataclasses.asdict(one) | {"axes": list(one.axes), "moved": one.moved} for one in plan.collectives
        ],
        "bytes_communicated": plan.moved,
        "seconds": plan.seconds,
        "versions": versions(plan),
        "estimate": {
            "arithmetic_s": estimate.arithmetic,
            "memory_s": estimate.memory,
            "network_s": estimate.network,
            "overlapped_s": estimate.overlapped,
            "one_by_one_s": estimate.one_by_one,
            "mfu_overlapped": estimate.mfu(estimate.overlapped),
            "mfu_one_by_one": estimate.mfu(estimate.one_by_one),
            "tokens_per_second_per_chip_overlapped": plan.tokens / plan.chips / estimate.overlapped,
        },
        "replicated": [{"parameter": name, "bytes": size} for name, size in plan.replicated],
        "refused": plan.refused,
        "fits": plan.fits,
        "change": None if change is None else {"flags": change.flags, "peak": change.plan.peak},
        "verdict": verdict(plan, change),
    }


def _memory(memory: Memory | None) -> dict | None:
    return None if memory is None else dataclasses.asdict(memory) | {"peak": memory.peak}


def text(plan: Plan, change: Change | None = None) -> str:
    """A page for people; its last line is the verdict."""
    config, chip, estimate = plan.config, plan.topology.chip, plan.estimate
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"{config.name}, stage {plan.stage.number} ({plan.stage.title}) on {plan.topology.name}",
        f"  {plan.chips} x {chip.kind}: {mesh}",
        f"  a step: {config.optim.accumulate} x {config.data.rows} rows of {config.data.row_tokens} tokens; attention "
        f"{config.llm.attention}, remat {config.llm.remat}",
        f"  {plan.parameters:,} parameters, {plan.trained:,} trained",
        f"  traced in {plan.seconds['lower']:.0f} s, compiled in {plan.seconds['compile']:.0f} s by "
        + ", ".join(f"{name} {version}" for name, version in versions(plan).items()),
        "",
        f"  {'bytes a chip, GiB':32s} {'compiled':>10s} {'by hand':>10s}",
    ]
    rows = [
        ("arguments", "arguments"),
        ("temporaries", "temporaries"),
        ("output beside arguments", "output"),
        ("peak", "peak"),
    ]
    for title, name in rows:
        compiled = f"{getattr(plan.compiled, name) / GIB:.2f}" if plan.compiled else "refused"
        lines.append(f"  {title:32s} {compiled:>10s} {getattr(plan.model, name) / GIB:10.2f}")
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in plan.model.parts.items())
    lines.append(f"  temporaries by hand: {parts}")
    lines += ["  (beside gradients and residuals: latents or the rest, the larger)", ""]
    flops = f"{plan.model_flops / plan.chips:.3e} model FLOPs a chip, {plan.recomputed / plan.chips:.3e} computed again"
    lines.append(f"  {flops}; full rows supposed")
    if plan.compiler_flops is not None:
        lines.append(f"  {plan.compiler_flops:.3e} by the compiler, which counts the body of a loop once")
    lines += ["", *_collectives(plan), ""]
    lines += [
        f"  seconds a step at the vendor's peaks: arithmetic {estimate.arithmetic:.3f}, memory {estimate.memory:.3f}, "
        f"network {estimate.network:.3f}",
        f"  all overlapped {estimate.overlapped:.3f} s, MFU {estimate.mfu(estimate.overlapped):.1%}; one by one "
        f"{estimate.one_by_one:.3f} s, MFU {estimate.mfu(estimate.one_by_one):.1%}",
        f"  {plan.tokens / plan.chips / estimate.overlapped:,.0f} tokens/s a chip at best",
    ]
    for name, size in plan.replicated:
        lines.append(f"  warning: {name} ({size / 2**20:.1f} MiB) is whole on every chip though it would divide")
    lines += [f"  {note}" for note in _notes(plan)]
    return "\n".join([*lines, "", verdict(plan, change)])


def _collectives(plan: Plan) -> list[str]:
    if plan.refused:
        return [f"  the compiler refused: {plan.refused[:200]}"]
    head = f"  {'a step, a chip':20s} {'over':>18s} {'group':>6s} {'times':>7s} {'payload MiB':>12s} {'sent MiB':>10s}"
    lines = [head]
    most = [one for one in plan.collectives if one.moved >= 0.002 * plan.moved]
    for one in most:
        lines.append(
            f"  {one.kind:20s} {' x '.join(one.axes):>18s} {one.group:6d} {one.count:7d} {one.payload / 2**20:12.2f} "
            f"{one.moved / 2**20:10.1f}"
        )
    rest = plan.collectives[len(most) :]
    if rest:
        sent = sum(one.moved for one in rest)
        lines.append(
            f"  {f'{len(rest)} smaller kinds':20s} {'':>18s} {'':6s} {sum(one.count for one in rest):7d} "
            f"{'':12s} {sent / 2**20:10.1f}"
        )
    lines.append(
        f"  {'together':20s} {'':>18s} {'':6s} {sum(one.count for one in plan.collectives):7d} {'':12s} "
        f"{plan.moved / 2**20:10.1f}"
    )
    return lines


def _notes(plan: Plan) -> list[str]:
    if not plan.topology.simulated:
        return []
    return [
        "simulated on CPU devices: collectives are those of XLA's CPU compiler; its memory, with bfloat16 products in "
        "float32 and attention by xla, is no GPU's: the verdict goes by hand",
    ]
