"""The collectives of a compiled program: every one in its HLO, with how often it runs.

XLA's own cost analysis counts the body of a loop once and leaves communication out. Here a loop's body counts once per
iteration, an asynchronous pair counts once (by its start), and replica groups are named by the axes of the mesh.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np

from empatheia_jax.planning.pods.hlo import Computations, HloError, Instruction, read_computations, trip_count

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_BITS = re.compile(r"^[a-z]+?(\d+)")  # bits in an element type's name: bf16, s32, f8e4m3fn
_COLLECTIVE = re.compile(rf"[\])}}] (?:{'|'.join(KINDS)})(?:-start)?\(")  # after an instruction's shape
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=\s]*)\]")
_CALLEE = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
# XLA's collective matmul: a loop multiplies by an operand and sends it round a ring, in all iterations but the last.
_SENDS_ON = re.compile(r"true_computation=%?([\w.\-]+), false_computation=%?last_iteration_noop")
_IOTA = re.compile(r"^\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"^mesh\[([^\]]*)\](?:,? ?device_ids=\(\[([\d,]*)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All runs in one step of one instruction, or of several with the same groups and payload."""

    kind: str  # one of KINDS
    axes: tuple[str, ...]  # axes of the mesh that its groups span
    group: int  # devices in a group
    count: int  # runs in a step
    payload: int  # bytes of the whole array that a run gathers, reduces or exchanges
    where: str = ""  # op_name of the first instruction

    @property
    def bytes_sent(self) -> float:
        """Bytes that a device sends in a step, all runs together, with the usual ring algorithms."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.count * self.payload * factor.get(self.kind, share)


def find_collectives(hlo: str, mesh_shape: dict[str, int]) -> list[Collective]:
    """Find the collectives of an optimised program.

    Args:
      hlo: `jax.stages.Compiled.as_text()`.
      mesh_shape: {axis: size} of the mesh that it was compiled for, whose devices in order are its partitions.
    Returns:
      Those with the most bytes first; collectives over groups of one device are left out.
    Raises:
      HloError: the text does not give a loop's number of iterations, has replica groups in an unknown form, or has
        collectives in a part that was not understood.
    """
    computations, entry = read_computations(hlo)
    expected = len(_COLLECTIVE.findall(hlo))
    read = sum(
        instruction.opcode.removesuffix("-start") in KINDS
        for instructions in computations.values()
        for instruction in instructions
    )
    if read != expected:
        raise HloError(f"the text has {expected} collectives, {read} of them were read")
    devices = np.arange(math.prod(mesh_shape.values())).reshape(tuple(mesh_shape.values()))
    collectives: dict[tuple, Collective] = {}
    for name, runs in _count_runs(computations, entry).items():
        if _continues_collective(name, computations[name]):
            continue
        for instruction in computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            groups, pairs = _groups(instruction, devices.size)
            members = groups if pairs is None else pairs
            if not len(members) or members.shape[1] == 1:
                continue
            axes = _axes(members, devices, tuple(mesh_shape))
            group = groups.shape[1] if pairs is None else math.prod(mesh_shape[axis] for axis in axes)
            payload = _payload(instruction, kind, group)
            key = kind, axes, group, payload
            known = collectives.get(key)
            if known:
                collectives[key] = dataclasses.replace(known, count=known.count + runs)
            else:
                source = re.search(r'op_name="([^"]*)"', instruction.rest)
                collectives[key] = Collective(kind, axes, group, runs, payload, source.group(1) if source else "")
    return sorted(collectives.values(), key=lambda collective: -collective.bytes_sent)


def _count_runs(computations: Computations, entry: str) -> dict[str, int]:
    """Return {computation: how often it runs}; every branch of a conditional counts, so that nothing is missed."""
    runs: dict[str, int] = {}

    def visit(name: str, count: int, last_iterations: int) -> None:
        """Add `count` runs of a computation, of which `last_iterations` are the last iteration of its loop."""
        runs[name] = runs.get(name, 0) + count
        for instruction in computations.get(name, ()):
            # The number of iterations does not matter for a loop without collectives.
            is_counted = instruction.opcode == "while" and _communicates(instruction, computations)
            iterations = count * (trip_count(instruction, computations[name], computations) if is_counted else 1)
            if instruction.opcode.endswith(("-done", "-update")):
                continue  # names the computation that its start runs
            sends_on = _SENDS_ON.search(instruction.rest) if instruction.opcode == "conditional" else None
            for callee in _callees(instruction):
                if callee in computations:
                    skipped = last_iterations if sends_on and callee == sends_on.group(1) else 0
                    visit(callee, iterations - skipped, count if is_counted else 0)

    visit(entry, 1, 0)
    return {name: count for name, count in runs.items() if name in computations}


def _continues_collective(name: str, instructions: list[Instruction]) -> bool:
    """Return whether the collectives of a computation were started, and are counted, in another.

    libtpu hides a collective behind matrix products by fusing it into them: one fusion starts it, others run beside it,
    a last one waits for it. The collective stands in each of them.
    """
    return name.startswith("async_collective_fusion") or any(
        instruction.opcode == "custom-call" and 'custom_call_target="AsyncCollectiveDone"' in instruction.rest
        for instruction in instructions
    )


def _communicates(instruction: Instruction, computations: Computations) -> bool:
    """Return whether the computations that an instruction calls hold a collective."""
    return any(
        inner.opcode.removesuffix("-start") in KINDS or _communicates(inner, computations)
        for callee in _callees(instruction)
        for inner in computations.get(callee, ())
    )


def _callees(instruction: Instruction) -> Iterator[str]:
    if instruction.opcode in ("reduce", "sort", "scatter", "map", "reduce-window", "select-and-scatter"):
        return iter(())  # they call arithmetic on scalars
    listed = _BRANCHES.search(instruction.rest)
    branches = [name.strip().lstrip("%") for name in listed.group(1).split(",")] if listed else []
    return itertools.chain(_CALLEE.findall(instruction.rest), branches)


def _array_bytes(shape: str) -> list[int]:
    """Return the bytes of each array in a shape, in order."""
    sizes = []
    for kind, dimensions in _ARRAY.findall(shape):
        bits = 8 if kind == "pred" else int(match.group(1)) if (match := _BITS.match(kind)) else 0
        count = math.prod(int(size.strip().lstrip("<=")) for size in dimensions.split(",") if size.strip())
        sizes.append(-(-count * bits // 8))
    return sizes


def _payload(instruction: Instruction, kind: str, group: int) -> int:
    """Return the bytes of the whole array that a collective works on, from the shape of its result."""
    sizes = _array_bytes(instruction.shape)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # Its shape is (operands, results, contexts of 4 bytes); that of an all-reduce has its results alone.
        elements = _tuple_elements(instruction.shape)
        if len(elements) >= 2:
            sizes = _array_bytes(elements[1])
    return sum(sizes) * (group if kind == "reduce-scatter" else 1)


def _tuple_elements(shape: str) -> list[str]:
    """Return the shapes of a tuple's elements."""
    elements, depth, start = [], 0, 1
    for index, character in enumerate(shape):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            elements.append(shape[start:index].strip())
            start = index + 1
    return elements


def _groups(instruction: Instruction, devices: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (replica groups [groups, members], None), or for a permutation ([], pairs of different devices [n, 2])."""
    rest = instruction.rest
    if match := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        pairs = np.array(re.findall(r"\{(\d+),(\d+)\}", match.group(1)), int).reshape(-1, 2)
        return np.zeros((0, 1), int), pairs[pairs[:, 0] != pairs[:, 1]]
    start = rest.find("replica_groups=")
    if start < 0:
        raise HloError(f"{instruction.opcode} {instruction.name}: no replica groups")
    text = rest[start + len("replica_groups=") :]
    if text.startswith("{}"):
        return np.arange(devices)[None], None
    if text.startswith("{{"):
        inside = text[1 : text.index("}}") + 1]
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]+)\}", inside)]), None
    if match := _IOTA.match(text):
        return _iota(match.group(2), match.group(3)).reshape(_numbers(match.group(1))), None
    if match := _MESH.match(text):
        return _mesh_groups(*match.groups()), None
    raise HloError(f"{instruction.opcode} {instruction.name}: replica groups in an unknown form: {text[:80]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _iota(dimensions: str, order: str | None) -> np.ndarray:
    sizes = _numbers(dimensions)
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices if order is None else devices.transpose(_numbers(order))


def _mesh_groups(axes: str, dimensions: str | None, order: str | None, chosen: str) -> np.ndarray:
    """Return the groups of XLA's mesh notation, as `mesh['a'=4,'b'=2] {'b'}`; `'a':(2)2` is a part of an axis."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    count = math.prod(sizes.values())
    devices = (np.arange(count) if dimensions is None else _iota(dimensions, order)).reshape(-1)
    split: list[tuple[int, bool]] = []  # size of each part of each axis, and whether a group spans it
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        parts.setdefault(name, []).append((int(before), int(size)) if before else (1, sizes[name]))
    for name, size in sizes.items():
        covered = 1
        for before, part in sorted(parts.get(name, ())):
            split += [(before // covered, False), (part, True)]
            covered = before * part
        split.append((size // covered, False))
    grid = devices.reshape([size for size, _ in split])
    fixed = [index for index, (_, is_spanned) in enumerate(split) if not is_spanned]
    spanned = [index for index, (_, is_spanned) in enumerate(split) if is_spanned]
    return grid.transpose(fixed + spanned).reshape(-1, math.prod(split[index][0] for index in spanned))


def _axes(groups: np.ndarray, devices: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the axes of the mesh along which the members of a group differ."""
    coordinates = np.stack(np.unravel_index(groups, devices.shape))  # [axes, groups, members]
    return tuple(name for name, axis in zip(names, coordinates, strict=True) if np.any(axis != axis[:, :1]))
