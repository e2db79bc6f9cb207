"""Parser of a compiled program's text: computations, their instructions, and how often a loop's body runs."""

import dataclasses
import re

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COPIES = ("copy", "bitcast", "convert", "reshape")  # opcodes that keep a scalar's value


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


def trip_count(loop: Instruction, around: list[Instruction], computations: Computations) -> int:
    """Return the number of iterations of a `while`: XLA's annotation, or else from its counter's start, step and end.

    libtpu writes no annotation, and steps the counter of a loop that it has unrolled by two.

    Args:
      loop: the `while` instruction.
      around: the computation that contains it.
      computations: all computations of the program.
    Raises:
      HloError: the program's text has neither.
    """
    if known := _KNOWN_TRIP_COUNT.search(loop.rest):
        return int(known.group(1))
    condition, body = (computations.get(loop.attribute(name), []) for name in ("condition", "body"))
    try:
        comparison = _root(condition)
        counter, limit = comparison.operands
        index = _tuple_index(counter, condition)
        if index is None:
            raise ValueError("no counter")
        initial = _instruction(loop.operands[0], around)
        addition = _origin(_root(body).operands[index], body)
        left, right = addition.operands
        step = right if _tuple_index(left, body) == index else left if _tuple_index(right, body) == index else ""
        opcodes = (comparison.opcode, addition.opcode, initial.opcode)
        if opcodes != ("compare", "add", "tuple") or "direction=LT" not in comparison.rest:
            raise ValueError("no counter")
        start, end = _constant(initial.operands[index], around), _constant(limit, condition)
        return max(0, -(-(end - start) // _constant(step, body)))
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise HloError(f"loop {loop.name}: its number of iterations is not in the program's text") from error


def closing_parenthesis(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise HloError(f"unbalanced: {text[:200]}")


def _split_instruction(text: str) -> tuple[str, str, str]:
    """Split the text after an instruction's `=` into (shape, opcode, rest); a tuple's shape has spaces."""
    if text.startswith("("):
        end = closing_parenthesis(text, 0) + 1
    else:
        end = text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, rest = text.partition("(")
    return shape, opcode, rest


def _root(instructions: list[Instruction]) -> Instruction:
    (root,) = [instruction for instruction in instructions if instruction.is_root]
    return root


def _instruction(name: str, instructions: list[Instruction]) -> Instruction:
    (named,) = [instruction for instruction in instructions if instruction.name == name]
    return named


def _origin(name: str, instructions: list[Instruction]) -> Instruction:
    """Return the instruction that computes a value, looking through copies."""
    instruction = _instruction(name, instructions)
    return _origin(instruction.operands[0], instructions) if instruction.opcode in _COPIES else instruction


def _tuple_index(name: str, instructions: list[Instruction]) -> int | None:
    """Return which element of a tuple a value is, `get-tuple-element` or `%tuple#3`; None where it is none."""
    name, _, number = name.partition("#")
    if number:
        return int(number)
    instruction = _instruction(name, instructions)
    if instruction.opcode in _COPIES:
        return _tuple_index(instruction.operands[0], instructions)
    return int(instruction.attribute("index")) if instruction.opcode == "get-tuple-element" else None


def _constant(name: str, instructions: list[Instruction]) -> int:
    instruction = _origin(name, instructions)
    if instruction.opcode != "constant":
        raise ValueError("no constant")
    return int(instruction.rest.partition(")")[0])
