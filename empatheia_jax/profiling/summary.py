"""One page on a trace: its operations by the time they took, idle devices, exposed communication, step time, MFU."""

import collections
import dataclasses

import numpy as np

from empatheia_jax.profiling.intervals import clip, own, subtract, total, union
from empatheia_jax.profiling.kinds import CONTROL, KINDS, Operation, Program, kind_of_name
from empatheia_jax.profiling.trace import Event, Trace

TOP = 25  # operations on the page


@dataclasses.dataclass(frozen=True)
class Row:
    """An operation of a program. Seconds are of a step, the mean over devices."""

    name: str
    module: str
    kind: str
    source: str
    calls: float  # a step and device
    seconds: float
    share: float  # of the time of all operations


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a trace says. Times are seconds; of operations and collectives those of a step, the mean over devices."""

    steps: int
    devices: int
    window: float  # from the first mark's start to the last one's end, all steps
    step: float  # median time from a step's start to the next one's
    idle: float  # share of the window in which no operation ran: mean over devices
    idlest: float  # of the device that waited most
    collectives: float
    exposed: float  # of them, while nothing else ran on the device
    kinds: dict[str, float]  # kind -> seconds
    rows: list[Row]  # the longest first


def summarise(trace: Trace, programs: list[Program] = ()) -> Summary:
    """Count a trace.

    An operation's own time is what is left of it without those inside it. Loops and branches are their content. What of
    a collective no other operation of its device covers is exposed; waiting in it for another device counts.

    Raises:
      ValueError: nothing was traced.
    """
    if not trace.events:
        raise ValueError("the trace holds no operation of any device")
    known = _operations(trace.events, programs)
    start, end = _window(trace)
    steps, span = max(len(trace.marks), 1), (end - start) / 1e9
    lines: dict[tuple[str, str], list[Event]] = collections.defaultdict(list)
    for event in trace.events:
        lines[event.device, event.line].append(event)
    devices = sorted({event.device for event in trace.events})
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    calls: collections.Counter = collections.Counter()
    work: dict[str, list[np.ndarray]] = {device: [] for device in devices}
    talk: dict[str, list[np.ndarray]] = {device: [] for device in devices}
    for (device, _), events in lines.items():
        pieces = own(np.array([(event.start, event.end) for event in events]))
        for event, piece in zip(events, pieces, strict=True):
            key = event.module, event.name
            kind = known[key].kind
            if event.apart:
                if kind == "collective":
                    talk[device].append(np.array([[event.start, event.end]]))
                continue
            if kind == CONTROL:
                continue
            (talk if kind == "collective" else work)[device].append(piece)
            seconds[key] += total(piece) / 1e9
            calls[key] += 1
    idle, collectives, exposed = [], 0.0, 0.0
    for device in devices:
        working, talking = (clip(_joined(one[device]), start, end) for one in (work, talk))
        idle.append(1 - total(np.concatenate([working, talking])) / 1e9 / span)
        collectives += total(talking) / 1e9
        exposed += total(subtract(talking, working)) / 1e9
    each = steps * len(devices)
    everything = sum(seconds.values()) or 1.0
    rows = [
        Row(
            name,
            module,
            known[module, name].kind,
            known[module, name].source,
            calls[module, name] / each,
            value / each,
            value / everything,
        )
        for (module, name), value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    kinds = {kind: sum(row.seconds for row in rows if row.kind == kind) for kind in KINDS}
    return Summary(
        steps,
        len(devices),
        span,
        _step(trace, span),
        float(np.mean(idle)),
        max(idle),
        collectives / each,
        exposed / each,
        kinds,
        rows,
    )


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return union(np.concatenate(pieces)) if pieces else np.zeros((0, 2))


def _window(trace: Trace) -> tuple[float, float]:
    if trace.marks:
        return trace.marks[0][0], max(end for _, end in trace.marks)
    return min(event.start for event in trace.events), max(event.end for event in trace.events)


def _step(trace: Trace, span: float) -> float:
    starts = np.array([start for start, _ in trace.marks])
    return float(np.median(np.diff(starts))) / 1e9 if len(starts) > 1 else span


def _operations(events: list[Event], programs: list[Program]) -> dict[tuple[str, str], Operation]:
    """(module, name) of the events -> what it is. Of several programs of a name that with most of its events counts."""
    traced: dict[str, set[str]] = collections.defaultdict(set)
    for event in events:
        traced[event.module].add(event.name)
    found = {}
    for module, names in traced.items():
        candidates = [one for one in programs if one.name == module] or ([] if module else list(programs))
        best = max(candidates, key=lambda one: len(names & one.operations.keys()), default=None)
        for name in names:
            operation = best.operations.get(name) if best else None
            found[module, name] = operation or Operation(kind_of_name(name), "")
    return found


def achieved(summary: Summary, flops: float | None) -> float | None:
    """Model FLOP/s of all devices, from the model FLOPs of a step; None where they are not known."""
    return None if flops is None else flops / summary.step


def page(title: str, summary: Summary, device_kind: str, flops: float | None = None, share: float | None = None) -> str:
    """The summary as Markdown.

    Args:
      flops: model FLOPs of a step, all devices together; None: not known. share: the MFU; None: no peak is known.
    """
    done, each = achieved(summary, flops), summary.steps
    bare = summary.exposed * each / summary.window
    facts = [
        ("devices", f"{summary.devices} x {device_kind}"),
        ("traced", f"{each} step{'s' if each > 1 else ''}, {summary.window:.3f} s"),
        ("step time, median", _time(summary.step)),
        ("devices idle", f"{summary.idle:.1%} of the time" + _worst(summary)),
        ("communication", f"{_time(summary.collectives)} a step"),
        ("of it exposed", f"{_time(summary.exposed)} a step, {bare:.1%} of the time"),
        ("model FLOP/s", "not known" if done is None else f"{done:.3g}"),
        ("MFU", "not known" if share is None else f"{share:.1%}"),
    ]
    spent = sum(summary.kinds.values()) or 1.0
    kinds = [
        (kind, _time(seconds), f"{seconds / spent:.1%}", KINDS[kind])
        for kind, seconds in sorted(summary.kinds.items(), key=lambda item: -item[1])
        if seconds
    ]
    rows = [
        (f"`{row.name}`", row.kind, f"{row.calls:.4g}", _time(row.seconds), f"{row.share:.1%}", _source(row))
        for row in summary.rows[:TOP]
    ]
    rest = summary.rows[TOP:]
    if rest:
        left = sum(row.seconds for row in rest), sum(row.share for row in rest)
        rows.append((f"{len(rest)} more", "", "", _time(left[0]), f"{left[1]:.1%}", ""))
    return (
        "\n\n".join(
            [
                f"# {title}",
                _table(("", ""), facts),
                "Times of operations are of a step and device, without what runs inside them; shares are of their sum.",
                _table(("kind", "time", "share", "what"), kinds),
                _table(("operation", "kind", "calls", "time", "share", "from"), rows),
            ]
        )
        + "\n"
    )


def short(summary: Summary, share: float | None = None) -> str:
    """The summary in one line."""
    spent = sum(summary.kinds.values()) or 1.0
    longest = sorted(summary.kinds.items(), key=lambda item: -item[1])[:3]
    parts = [
        f"step {_time(summary.step)}",
        f"idle {summary.idle:.0%}",
        f"exposed communication {_time(summary.exposed)}",
        *(f"{kind} {seconds / spent:.0%}" for kind, seconds in longest if seconds),
        *([] if share is None else [f"MFU {share:.1%}"]),
    ]
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.3f} ms"


def _worst(summary: Summary) -> str:
    return f"; {summary.idlest:.1%} of the idlest" if summary.devices > 1 else ""


def _source(row: Row) -> str:
    source = row.source.replace("|", "/")
    return f"{row.module}: ..{source[-70:]}" if len(source) > 70 else f"{row.module}: {source}".strip(": ")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
