"""Numbers of iterations of a compiled program's loops."""

import re

from empatheia_jax.planning.pods.hlo import Computations, HloError, Instruction

_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COPIES = ("copy", "bitcast", "convert", "reshape")  # opcodes that keep a scalar's value


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
