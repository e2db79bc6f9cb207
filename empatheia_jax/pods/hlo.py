"""The text of a compiled program, read: computations and their instructions."""

import dataclasses
import re

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


class HloError(ValueError):
    """A program's text that is not understood: names the line. Nothing is guessed."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `name = shape opcode(rest`."""

    name: str
    root: bool
    shape: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """Names of its operands, in order; `name#3` is an element of a tuple."""
        return re.findall(r"%([\w.\-]+(?:#\d+)?)", self.rest[: closing("(" + self.rest, 0)])

    def attribute(self, name: str) -> str:
        """The computation or number that an attribute names; "" where there is none."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return match.group(1) if match else ""


Computations = dict[str, list[Instruction]]


def read_computations(hlo: str) -> tuple[Computations, str]:
    """({computation: its instructions}, which of them is the program's).

    Args:
      hlo: `jax.stages.Compiled.as_text()`, or what libtpu dumps.
    Raises:
      HloError: no text of a compiled program.
    """
    computations: Computations = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if line == "}" or line.startswith("}, execution_thread"):
            current = None
        elif current is not None:
            if match := _INSTRUCTION.match(line):
                shape, opcode, rest = _cut(line[match.end() :])
                current.append(Instruction(match.group(2), bool(match.group(1)), shape, opcode, rest))
            elif current:  # an attribute over several lines, as Pallas kernels have them
                current[-1] = dataclasses.replace(current[-1], rest=f"{current[-1].rest}\n{line}")
        elif line.endswith("{") and (head := _HEAD.match(line)):
            current = computations.setdefault(head.group(1), [])
            entry = head.group(1) if line.startswith("ENTRY") else entry
    if not entry:
        raise HloError("no ENTRY computation: is this the text of a compiled program?")
    return computations, entry


def _cut(text: str) -> tuple[str, str, str]:
    """(shape, opcode, the rest) of what follows an instruction's `=`; a tuple's shape has parentheses and spaces."""
    if text.startswith("("):
        end = closing(text, 0) + 1
    else:
        end = text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, rest = text.partition("(")
    return shape, opcode, rest


def closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise HloError(f"unbalanced: {text[:200]}")
