"""Summary of a trace on one page: operations by time, idle devices, exposed communication, step time, MFU."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from empatheia_jax.profiling.kinds import CONTROL, KINDS, Operation, Program, kind_of_name
from empatheia_jax.profiling.trace import Event, Trace

TOP = 25  # operations on the page


@dataclasses.dataclass(frozen=True)
class Row:
    """An operation of a program, in the table of the page. Seconds are those of a step, the mean over devices."""

    name: str
    module: str  # name of the program
    kind: str
    source: str
    calls: float  # per step and device
    seconds: float  # without operations nested in it
    share: float  # of the time of all operations


@dataclasses.dataclass(frozen=True)
class Summary:
    """The numbers of a trace. Times are seconds; operations and collectives are per step, the mean over devices."""

    steps: int
    devices: int
    window: float  # from the start of the first step to the end of the last
    step: float  # median time from the start of a step to the start of the next
    idle: float  # share of the window in which no operation ran, mean over devices
    idlest: float  # the same for the device that waited most
    collectives: float
    exposed: float  # time of collectives in which nothing else ran on the device
    kinds: dict[str, float]  # kind -> seconds
    rows: list[Row]  # longest first


def summarise(trace: Trace, programs: Sequence[Program] = ()) -> Summary:
    """Summarise a trace.

    The time of an operation excludes operations nested in it; loops and branches have none of their own. The part of a
    collective that no other operation of its device covers is exposed; waiting in it for another device counts.

    Args:
      trace: the trace.
      programs: the programs that were traced, for the kinds of their operations.
    Raises:
      ValueError: nothing was traced.
    """
    if not trace.events:
        raise ValueError("the trace holds no operation of any device")
    operations = _find_operations(trace.events, programs)
    start, end = _window(trace)
    steps, window = max(len(trace.marks), 1), (end - start) / 1e9
    lines: dict[tuple[str, str], list[Event]] = collections.defaultdict(list)
    for event in trace.events:
        lines[event.device, event.line].append(event)
    devices = sorted({event.device for event in trace.events})
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    calls: collections.Counter = collections.Counter()
    computing: dict[str, list[np.ndarray]] = {device: [] for device in devices}
    communicating: dict[str, list[np.ndarray]] = {device: [] for device in devices}
    for (device, _), events in lines.items():
        pieces = exclusive(np.array([(event.start, event.end) for event in events]))
        for event, piece in zip(events, pieces, strict=True):
            key = event.module, event.name
            kind = operations[key].kind
            if event.is_async:
                if kind == "collective":
                    communicating[device].append(np.array([[event.start, event.end]]))
                continue
            if kind == CONTROL:
                continue
            (communicating if kind == "collective" else computing)[device].append(piece)
            seconds[key] += total(piece) / 1e9
            calls[key] += 1
    idle, collectives, exposed = [], 0.0, 0.0
    for device in devices:
        work, communication = (clip(_concatenate(part[device]), start, end) for part in (computing, communicating))
        idle.append(1 - total(np.concatenate([work, communication])) / 1e9 / window)
        collectives += total(communication) / 1e9
        exposed += total(subtract(communication, work)) / 1e9
    runs = steps * len(devices)
    total_seconds = sum(seconds.values()) or 1.0
    rows = [
        Row(
            name,
            module,
            operations[module, name].kind,
            operations[module, name].source,
            calls[module, name] / runs,
            value / runs,
            value / total_seconds,
        )
        for (module, name), value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    kinds = {kind: sum(row.seconds for row in rows if row.kind == kind) for kind in KINDS}
    return Summary(
        steps,
        len(devices),
        window,
        _step_time(trace, window),
        float(np.mean(idle)),
        max(idle),
        collectives / runs,
        exposed / runs,
        kinds,
        rows,
    )


def _concatenate(pieces: list[np.ndarray]) -> np.ndarray:
    return union(np.concatenate(pieces)) if pieces else np.zeros((0, 2))


def _window(trace: Trace) -> tuple[float, float]:
    if trace.marks:
        return trace.marks[0][0], max(end for _, end in trace.marks)
    return min(event.start for event in trace.events), max(event.end for event in trace.events)


def _step_time(trace: Trace, window: float) -> float:
    starts = np.array([start for start, _ in trace.marks])
    return float(np.median(np.diff(starts))) / 1e9 if len(starts) > 1 else window


def _find_operations(events: list[Event], programs: Sequence[Program]) -> dict[tuple[str, str], Operation]:
    """Return {(module, name): operation} of the events.

    Of several programs with the name of a module, that which has most of its events counts.
    """
    traced: dict[str, set[str]] = collections.defaultdict(set)
    for event in events:
        traced[event.module].add(event.name)
    operations = {}
    for module, names in traced.items():
        candidates = [program for program in programs if program.name == module] or ([] if module else list(programs))
        best = max(candidates, key=lambda program: len(names & program.operations.keys()), default=None)
        for name in names:
            operation = best.operations.get(name) if best else None
            operations[module, name] = operation or Operation(kind_of_name(name), "")
    return operations


def achieved_flops(summary: Summary, flops: float | None) -> float | None:
    """Return the model FLOP/s of all devices, from the model FLOPs of a step; None where these are not known."""
    return None if flops is None else flops / summary.step


def profile_page(
    title: str, summary: Summary, device_kind: str, *, flops: float | None = None, mfu: float | None = None
) -> str:
    """Return the summary as Markdown.

    Args:
      title: title of the page.
      summary: the summary.
      device_kind: JAX's name of the device.
      flops: model FLOPs of a step, all devices together; None: not known.
      mfu: model FLOPs utilisation; None: not known.
    """
    flops_per_second, steps = achieved_flops(summary, flops), summary.steps
    exposed_share = summary.exposed * steps / summary.window
    facts = [
        ("devices", f"{summary.devices} x {device_kind}"),
        ("traced", f"{steps} step{'s' if steps > 1 else ''}, {summary.window:.3f} s"),
        ("step time, median", _format_seconds(summary.step)),
        ("devices idle", f"{summary.idle:.1%} of the time" + _idlest_device(summary)),
        ("communication", f"{_format_seconds(summary.collectives)} a step"),
        ("of it exposed", f"{_format_seconds(summary.exposed)} a step, {exposed_share:.1%} of the time"),
        ("model FLOP/s", "not known" if flops_per_second is None else f"{flops_per_second:.3g}"),
        ("MFU", "not known" if mfu is None else f"{mfu:.1%}"),
    ]
    total_seconds = sum(summary.kinds.values()) or 1.0
    kinds = [
        (kind, _format_seconds(seconds), f"{seconds / total_seconds:.1%}", KINDS[kind])
        for kind, seconds in sorted(summary.kinds.items(), key=lambda item: -item[1])
        if seconds
    ]
    rows = [
        (f"`{row.name}`", row.kind, f"{row.calls:.4g}", _format_seconds(row.seconds), f"{row.share:.1%}", _source(row))
        for row in summary.rows[:TOP]
    ]
    rest = summary.rows[TOP:]
    if rest:
        seconds, share = sum(row.seconds for row in rest), sum(row.share for row in rest)
        rows.append((f"{len(rest)} more", "", "", _format_seconds(seconds), f"{share:.1%}", ""))
    return (
        "\n\n".join(
            [
                f"# {title}",
                _table(("", ""), facts),
                "Times of operations are per step and device, without what is nested in them; shares are of their sum.",
                _table(("kind", "time", "share", "operations"), kinds),
                _table(("operation", "kind", "calls", "time", "share", "from"), rows),
            ]
        )
        + "\n"
    )


def summary_line(summary: Summary, mfu: float | None = None) -> str:
    """Return the summary in one line."""
    total_seconds = sum(summary.kinds.values()) or 1.0
    longest = sorted(summary.kinds.items(), key=lambda item: -item[1])[:3]
    parts = [
        f"step {_format_seconds(summary.step)}",
        f"idle {summary.idle:.0%}",
        f"exposed communication {_format_seconds(summary.exposed)}",
        *(f"{kind} {seconds / total_seconds:.0%}" for kind, seconds in longest if seconds),
        *([] if mfu is None else [f"MFU {mfu:.1%}"]),
    ]
    return ", ".join(parts)


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.3f} ms"


def _idlest_device(summary: Summary) -> str:
    return f"; {summary.idlest:.1%} of the idlest" if summary.devices > 1 else ""


def _source(row: Row) -> str:
    source = row.source.replace("|", "/")
    return f"{row.module}: ..{source[-70:]}" if len(source) > 70 else f"{row.module}: {source}".strip(": ")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# Sets of points in time, as float64 [N, 2] arrays of intervals (start, end) -------------------------------------------


def union(intervals: np.ndarray) -> np.ndarray:
    """Return the same points as disjoint intervals [M, 2] in order, touching ones merged and empty ones removed."""
    intervals = np.asarray(intervals, float).reshape(-1, 2)
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    if not len(intervals):
        return intervals
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.concatenate([[True], intervals[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([intervals[first, 0], reach[last]], axis=1)


def total(intervals: np.ndarray) -> float:
    """Return the total length of the points; overlaps count once."""
    disjoint = union(intervals)
    return float(np.sum(disjoint[:, 1] - disjoint[:, 0]))


def clip(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the points that lie in [start, end]."""
    return union(np.clip(np.asarray(intervals, float).reshape(-1, 2), start, end))


def subtract(intervals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the points of `intervals` that are not in `others`, as disjoint intervals."""
    disjoint, removed = union(intervals), union(others)
    if not len(disjoint) or not len(removed):
        return disjoint
    pieces = []
    for start, end in disjoint:
        first, last = np.searchsorted(removed[:, 1], start, "right"), np.searchsorted(removed[:, 0], end, "left")
        overlapping = removed[first:last]
        starts, ends = np.append(start, overlapping[:, 1]), np.append(overlapping[:, 0], end)
        pieces.append(np.stack([starts, ends], axis=1))
    return union(np.concatenate(pieces))


def exclusive(intervals: np.ndarray) -> list[np.ndarray]:
    """Return the part of each interval that no interval nested in it covers.

    Args:
      intervals: float64 [N, 2] of one timeline, which nest or follow one another; of two equal ones the later is
        nested.
    Returns:
      N arrays [M, 2], in the order of `intervals`.
    """
    intervals = np.asarray(intervals, float).reshape(-1, 2)
    children: list[list[int]] = [[] for _ in intervals]
    enclosing: list[int] = []
    for index in np.lexsort((np.arange(len(intervals)), -intervals[:, 1], intervals[:, 0])):
        while enclosing and intervals[enclosing[-1], 1] <= intervals[index, 0]:
            enclosing.pop()
        if enclosing:
            children[enclosing[-1]].append(int(index))
        enclosing.append(int(index))
    return [
        subtract(intervals[index : index + 1], intervals[nested]) if nested else union(intervals[index])
        for index, nested in enumerate(children)
    ]
