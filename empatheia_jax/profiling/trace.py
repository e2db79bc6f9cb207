"""Events of an xprof trace (`*.xplane.pb`): what ran where and when, on CPUs, GPUs and TPUs.

| backend | plane | lines | an operation is |
|---|---|---|---|
| CPU | `/host:CPU` | threads | an event with the statistic `hlo_op`; `device_ordinal` says whose |
| GPU | `/device:GPU:0` | `Stream #..` | every kernel and copy; `hlo_op` where it is known |
| TPU | `/device:TPU:0` | `XLA Ops`; `Async XLA Ops` | named by its line of the program |
"""

import dataclasses
import re
from pathlib import Path

from jax.profiler import ProfileData

MARK = "profiled_step"  # what `capture` calls a step, or an answer
_DEVICE = re.compile(r"^/device:((?:GPU|TPU):\d+)$")


@dataclasses.dataclass(frozen=True)
class Event:
    """An operation that ran. Times are nanoseconds."""

    device: str
    line: str  # thread, stream or line of the plane: what is on one nests or follows one another
    name: str  # of the instruction where it is known, else of the kernel
    module: str  # the program's; "" unknown
    start: float
    end: float
    apart: bool = False  # from start to end of a transfer that runs beside the line of operations (TPU)


@dataclasses.dataclass(frozen=True)
class Trace:
    """Events of all devices of a process, and the marks (start, end) around its steps."""

    events: list[Event]
    marks: list[tuple[float, float]]


def newest(folder: Path) -> Path:
    """The `*.xplane.pb` below a folder that was written last.

    Raises:
      ValueError: there is none.
    """
    found = sorted(Path(folder).glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(f"{folder}: no trace there (*.xplane.pb)")
    return found[-1]


def read_trace(path: Path) -> Trace:
    """Read a trace file as JAX writes it."""
    on_host, on_devices, marks = [], [], []
    for plane in ProfileData.from_file(str(path)).planes:
        device = _DEVICE.match(plane.name)
        if device:
            on_devices += _of_device(plane, device.group(1))
        elif plane.name == "/host:CPU":
            for line in plane.lines:
                for event in line.events:
                    if event.name == MARK:
                        marks.append((event.start_ns, event.start_ns + event.duration_ns))
                    elif event.duration_ns > 0 and "hlo_op" in (facts := dict(event.stats)):
                        device = f"CPU:{facts.get('device_ordinal', 0)}"
                        on_host.append(_event(device, line.name, event, facts))
    # Beside an accelerator the host runs no program that a step waits for.
    return Trace(on_devices or on_host, sorted(marks))


def _of_device(plane, device: str) -> list[Event]:
    lines = {line.name: line for line in plane.lines}
    streams = [name for name in lines if name.startswith("Stream")]
    events = []
    for name in streams or [name for name in ("XLA Ops", "Async XLA Ops") if name in lines]:
        for event in lines[name].events:
            if event.duration_ns > 0:
                events.append(_event(device, name, event, dict(event.stats), name == "Async XLA Ops"))
    return events


def _event(device: str, line: str, event, facts: dict, apart: bool = False) -> Event:
    name = str(facts.get("hlo_op") or event.name)
    text = re.match(r"^%?([\w.\-]+) = ", name)  # a TPU's event is named by the whole line
    name = text.group(1) if text else name.removeprefix("%")
    module = str(facts.get("hlo_module", ""))
    return Event(device, line, name, module, event.start_ns, event.start_ns + event.duration_ns, apart)
