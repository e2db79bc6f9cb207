"""Parser of a compiled program's text: computations and their instructions."""

import dataclasses
import re

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


class HloError(ValueError):
    """A program's text that is not understood; the message names the place."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation, `name = shape opcode(rest`."""

    name: str
    is_root: bool
    shape: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """Names of its operands, in order; `name#3` is an element of a tuple."""
        return re.findall(r"%([\w.\-]+(?:#\d+)?)", self.rest[: closing_parenthesis("(" + self.rest, 0)])

    def attribute(self, name: str) -> str:
        """Return the computation or number that an attribute names; "" where it is not there."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return match.group(1) if match else ""


Computations = dict[str, list[Instruction]]


def read_computations(hlo: str) -> tuple[Computations, str]:
    """Read the text of a compiled program.

    Args:
      hlo: `jax.stages.Compiled.as_text()`, or the text that libtpu dumps.
    Returns:
      ({name of a computation: its instructions}, name of the entry computation).
    Raises:
      HloError: this is not the text of a compiled program.
    """
    computations: Computations = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if line == "}" or line.startswith("}, execution_thread"):
            current = None
        elif current is not None:
            if match := _INSTRUCTION.match(line):
                shape, opcode, rest = _split_instruction(line[match.end() :])
                current.append(Instruction(match.group(2), bool(match.group(1)), shape, opcode, rest))
            elif current:  # an attribute of several lines, as in Pallas kernels
                current[-1] = dataclasses.replace(current[-1], rest=f"{current[-1].rest}\n{line}")
        elif line.endswith("{") and (head := _HEAD.match(line)):
            current = computations.setdefault(head.group(1), [])
            entry = head.group(1) if line.startswith("ENTRY") else entry
    if not entry:
        raise HloError("no ENTRY computation: is this the text of a compiled program?")
    return computations, entry


def _split_instruction(text: str) -> tuple[str, str, str]:
    """Split the text after an instruction's `=` into (shape, opcode, rest); a tuple's shape has spaces."""
    if text.startswith("("):
        end = closing_parenthesis(text, 0) + 1
    else:
        end = text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, rest = text.partition("(")
    return shape, opcode, rest


def closing_parenthesis(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise HloError(f"unbalanced: {text[:200]}")
