"""Reader of xprof traces (`*.xplane.pb`): which operations ran, where and when, on CPUs, GPUs and TPUs.

| backend | plane | lines | an operation is |
|---|---|---|---|
| CPU | `/host:CPU` | threads | an event with the statistic `hlo_op`; `device_ordinal` is its device |
| GPU | `/device:GPU:0` | `Stream #..` | every kernel and copy, with `hlo_op` where it is known |
| TPU | `/device:TPU:0` | `XLA Ops`; `Async XLA Ops` | an event named by the instruction's whole line |
"""

import dataclasses
import re
from pathlib import Path

from jax.profiler import ProfileData

MARK = "profiled_step"  # name of the event that `capture` puts around a step or an answer
_DEVICE = re.compile(r"^/device:((?:GPU|TPU):\d+)$")


@dataclasses.dataclass(frozen=True)
class Event:
    """One run of an operation."""

    device: str
    line: str  # thread, stream or line of the plane; the events of a line nest or follow one another
    name: str  # name of the instruction, or of the kernel where that is unknown
    module: str  # name of the program; "": unknown
    start: float  # nanoseconds
    end: float  # nanoseconds
    is_async: bool = False  # a transfer of a TPU, which runs beside the line of operations


@dataclasses.dataclass(frozen=True)
class Trace:
    """The events of all devices of a process."""

    events: list[Event]
    marks: list[tuple[float, float]]  # (start, end) of each traced step, nanoseconds


def newest_trace(folder: Path) -> Path:
    """Return the newest `*.xplane.pb` below a folder.

    Raises:
      ValueError: there is none.
    """
    traces = sorted(Path(folder).glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise ValueError(f"{folder}: no trace there (*.xplane.pb)")
    return traces[-1]


def read_trace(path: Path) -> Trace:
    """Read a trace file of JAX's profiler."""
    host_events, device_events, marks = [], [], []
    for plane in ProfileData.from_file(str(path)).planes:
        device = _DEVICE.match(plane.name)
        if device:
            device_events += _device_events(plane, device.group(1))
        elif plane.name == "/host:CPU":
            for line in plane.lines:
                for event in line.events:
                    if event.name == MARK:
                        marks.append((event.start_ns, event.start_ns + event.duration_ns))
                    elif event.duration_ns > 0 and "hlo_op" in (statistics := dict(event.stats)):
                        device = f"CPU:{statistics.get('device_ordinal', 0)}"
                        host_events.append(_event(device, line.name, event, statistics))
    # With an accelerator, programs on the host do not hold up a step.
    return Trace(device_events or host_events, sorted(marks))


def _device_events(plane, device: str) -> list[Event]:
    lines = {line.name: line for line in plane.lines}
    streams = [name for name in lines if name.startswith("Stream")]
    events = []
    for name in streams or [name for name in ("XLA Ops", "Async XLA Ops") if name in lines]:
        for event in lines[name].events:
            if event.duration_ns > 0:
                events.append(_event(device, name, event, dict(event.stats), is_async=name == "Async XLA Ops"))
    return events


def _event(device: str, line: str, event, statistics: dict, *, is_async: bool = False) -> Event:
    name = str(statistics.get("hlo_op") or event.name)
    match = re.match(r"^%?([\w.\-]+) = ", name)  # a TPU's event is named by the instruction's whole line
    name = match.group(1) if match else name.removeprefix("%")
    module = str(statistics.get("hlo_module", ""))
    return Event(device, line, name, module, event.start_ns, event.start_ns + event.duration_ns, is_async)
