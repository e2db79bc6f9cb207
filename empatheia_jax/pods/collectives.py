"""What the devices of a compiled program say to each other: every collective of its HLO, with how often it runs.

XLA's own cost analysis counts the body of a loop once and says nothing of networks. Here a loop's body counts as often
as the loop turns, an asynchronous pair counts once (by its start), and replica groups become axes of the mesh.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np

from empatheia_jax.pods.hlo import Computations, HloError, Instruction, read_computations
from empatheia_jax.pods.loops import trip_count

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_BITS = re.compile(r"^[a-z]+?(\d+)")  # of an element type's name: bf16, s32, f8e4m3fn
_WRITTEN = re.compile(rf"[\])}}] (?:{'|'.join(KINDS)})(?:-start)?\(")  # after an instruction's shape
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=\s]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
# A product whose operand travels round a ring while it is multiplied by (XLA's collective matmul): a loop that passes
# the operand on in all turns but the last.
_PASSES_ON = re.compile(r"true_computation=%?([\w.\-]+), false_computation=%?last_iteration_noop")
_IOTA = re.compile(r"^\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"^mesh\[([^\]]*)\](?:,? ?device_ids=\(\[([\d,]*)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All runs of one instruction, or of several alike, in one step."""

    kind: str  # one of KINDS
    axes: tuple[str, ...]  # of the mesh, that its groups span
    group: int  # devices that speak with each other
    count: int  # runs a step
    payload: int  # bytes of the whole array, a run: gathered, reduced or exchanged
    where: str = ""  # op_name of the first

    @property
    def moved(self) -> float:
        """Bytes that a device sends in a step, all runs together, by the usual ring algorithms."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.count * self.payload * factor.get(self.kind, share)


def find_collectives(hlo: str, mesh_shape: dict[str, int]) -> list[Collective]:
    """The collectives of an optimised program.

    Args:
      hlo: `jax.stages.Compiled.as_text()`. mesh_shape: {axis: size} of the mesh it was compiled for; its devices, in
        order, are the program's partitions.
    Returns:
      most bytes first; collectives over groups of one device are none.
    Raises:
      HloError: a loop whose number of turns is not in the text, replica groups in a form that is not known, or
        collectives in a part of the text that was not understood.
    """
    computations, entry = read_computations(hlo)
    written = len(_WRITTEN.findall(hlo))
    read = sum(one.opcode.removesuffix("-start") in KINDS for found in computations.values() for one in found)
    if read != written:
        raise HloError(f"the text has {written} collectives, {read} of them were read")
    devices = np.arange(math.prod(mesh_shape.values())).reshape(tuple(mesh_shape.values()))
    found: dict[tuple, Collective] = {}
    for name, times in _runs(computations, entry).items():
        if _under_way(name, computations[name]):
            continue
        for instruction in computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            groups, pairs = _groups(instruction, devices.size)
            if pairs is None and (groups.shape[1] == 1 or not len(groups)):
                continue
            if pairs is not None and not len(pairs):
                continue
            axes = _axes(groups if pairs is None else pairs, devices, tuple(mesh_shape))
            group = groups.shape[1] if pairs is None else math.prod(mesh_shape[axis] for axis in axes)
            payload = _payload(instruction, kind, group)
            key = kind, axes, group, payload
            before = found.get(key)
            if before:
                found[key] = dataclasses.replace(before, count=before.count + times)
            else:
                said = re.search(r'op_name="([^"]*)"', instruction.rest)
                found[key] = Collective(kind, axes, group, times, payload, said.group(1) if said else "")
    return sorted(found.values(), key=lambda one: -one.moved)


def _runs(computations: Computations, entry: str) -> dict[str, int]:
    """{computation: how often it runs}; of a conditional every branch counts, so that nothing is missed."""
    runs: dict[str, int] = {}

    def visit(name: str, times: int, loops: int) -> None:
        """`loops`: how many of the `times` are the last turn of the loop whose body this is."""
        runs[name] = runs.get(name, 0) + times
        for instruction in computations.get(name, ()):
            # A loop that communicates nothing may turn as often as it likes.
            counts = instruction.opcode == "while" and _communicates(instruction, computations)
            turns = times * (trip_count(instruction, computations[name], computations) if counts else 1)
            if instruction.opcode.endswith(("-done", "-update")):
                continue  # names what its start has run
            passes_on = _PASSES_ON.search(instruction.rest) if instruction.opcode == "conditional" else None
            for called in _called(instruction):
                if called in computations:
                    last = loops if passes_on and called == passes_on.group(1) else 0
                    visit(called, turns - last, times if counts else 0)

    visit(entry, 1, 0)
    return {name: times for name, times in runs.items() if name in computations}


def _under_way(name: str, instructions: list[Instruction]) -> bool:
    """Whether the collectives of a computation are those of another that has begun them.

    libtpu hides a collective behind products by fusing it into them: one fusion starts it, those that it runs beside
    carry it along, a last one waits for it. Each of them names it.
    """
    return name.startswith("async_collective_fusion") or any(
        one.opcode == "custom-call" and 'custom_call_target="AsyncCollectiveDone"' in one.rest for one in instructions
    )


def _communicates(instruction: Instruction, computations: Computations) -> bool:
    """Whether there is a collective in what an instruction runs."""
    return any(
        one.opcode.removesuffix("-start") in KINDS or _communicates(one, computations)
        for called in _called(instruction)
        for one in computations.get(called, ())
    )


def _called(instruction: Instruction) -> Iterator[str]:
    if instruction.opcode in ("reduce", "sort", "scatter", "map", "reduce-window", "select-and-scatter"):
        return iter(())  # of scalars
    several = _BRANCHES.search(instruction.rest)
    branches = [one.strip().lstrip("%") for one in several.group(1).split(",")] if several else []
    return itertools.chain(_CALLED.findall(instruction.rest), branches)


def _arrays(shape: str) -> list[int]:
    """Bytes of every array of a shape, in order."""
    sizes = []
    for kind, dimensions in _ARRAY.findall(shape):
        bits = 8 if kind == "pred" else int(match.group(1)) if (match := _BITS.match(kind)) else 0
        count = math.prod(int(size.strip().lstrip("<=")) for size in dimensions.split(",") if size.strip())
        sizes.append(-(-count * bits // 8))
    return sizes


def _payload(instruction: Instruction, kind: str, group: int) -> int:
    """Bytes of the whole array that a collective works on, from what it gives."""
    sizes = _arrays(instruction.shape)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, contexts of 4 bytes): an all-reduce's start gives its results alone.
        inner = _elements(instruction.shape)
        if len(inner) >= 2:
            sizes = _arrays(inner[1])
    return sum(sizes) * (group if kind == "reduce-scatter" else 1)


def _elements(shape: str) -> list[str]:
    """The elements of a tuple's shape."""
    elements, depth, start = [], 0, 1
    for place, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            elements.append(shape[start:place].strip())
            start = place + 1
    return elements


def _groups(instruction: Instruction, devices: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(replica groups [groups, members], None), or for a permutation ([], pairs of different devices [n, 2])."""
    rest = instruction.rest
    if match := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        pairs = np.array([list(map(int, one)) for one in re.findall(r"\{(\d+),(\d+)\}", match.group(1))]).reshape(-1, 2)
        return np.zeros((0, 1), int), pairs[pairs[:, 0] != pairs[:, 1]]
    start = rest.find("replica_groups=")
    if start < 0:
        raise HloError(f"{instruction.opcode} {instruction.name}: no replica groups")
    text = rest[start + len("replica_groups=") :]
    if text.startswith("{}"):
        return np.arange(devices)[None], None
    if text.startswith("{{"):
        inside = text[1 : text.index("}}") + 1]
        return np.array([list(map(int, one.split(","))) for one in re.findall(r"\{([\d,]+)\}", inside)]), None
    if match := _IOTA.match(text):
        return _iota(match.group(2), match.group(3)).reshape(_numbers(match.group(1))), None
    if match := _MESH.match(text):
        return _mesh_groups(*match.groups()), None
    raise HloError(f"{instruction.opcode} {instruction.name}: replica groups in an unknown form: {text[:80]}")


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _iota(dimensions: str, order: str | None) -> np.ndarray:
    sizes = _numbers(dimensions)
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices if order is None else devices.transpose(_numbers(order))


def _mesh_groups(axes: str, dimensions: str | None, order: str | None, chosen: str) -> np.ndarray:
    """Groups over some axes of a mesh of XLA's own, `mesh['a'=4,'b'=2] {'b'}`; `'a':(2)2` is a part of an axis."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    count = math.prod(sizes.values())
    devices = (np.arange(count) if dimensions is None else _iota(dimensions, order)).reshape(-1)
    split: list[tuple[int, bool]] = []  # sizes of the parts of all axes, and whether a group spans them
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        parts.setdefault(name, []).append((int(before), int(size)) if before else (1, sizes[name]))
    for name, size in sizes.items():
        done = 1
        for before, part in sorted(parts.get(name, ())):
            split += [(before // done, False), (part, True)]
            done = before * part
        split.append((size // done, False))
    grid = devices.reshape([size for size, _ in split])
    kept = [place for place, (_, spans) in enumerate(split) if not spans]
    spanned = [place for place, (_, spans) in enumerate(split) if spans]
    return grid.transpose(kept + spanned).reshape(-1, math.prod(split[place][0] for place in spanned))


def _axes(groups: np.ndarray, devices: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """The mesh's axes along which members of a group differ."""
    places = np.stack(np.unravel_index(groups, devices.shape))  # [axes, groups, members]
    return tuple(name for name, place in zip(names, places, strict=True) if np.any(place != place[:, :1]))
