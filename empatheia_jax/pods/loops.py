"""How often the loops of a compiled program turn."""

import re

from empatheia_jax.pods.hlo import Computations, HloError, Instruction

_NOTED = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SAME = ("copy", "bitcast", "convert", "reshape")  # of a scalar: its value stays


def trip_count(loop: Instruction, around: list[Instruction], computations: Computations) -> int:
    """Turns of a `while`: as XLA noted them, else from where its counter begins, what a turn adds and where it ends.

    libtpu notes nothing, and has the counter of a loop that it has unrolled go by two.

    Args:
      around: the computation that the loop stands in.
    Raises:
      HloError: neither is in the program's text.
    """
    if noted := _NOTED.search(loop.rest):
        return int(noted.group(1))
    condition, body = (computations.get(loop.attribute(name), []) for name in ("condition", "body"))
    try:
        less = _root(condition)
        counter, limit = less.operands
        place = _place(counter, condition)
        begin = _found(loop.operands[0], around)
        added = _origin(_root(body).operands[place], body)
        one, other = added.operands
        step = other if _place(one, body) == place else one if _place(other, body) == place else ""
        opcodes = (less.opcode, added.opcode, begin.opcode)
        if opcodes != ("compare", "add", "tuple") or "direction=LT" not in less.rest:
            raise ValueError("no counter")
        first, last = _constant(begin.operands[place], around), _constant(limit, condition)
        return max(0, -(-(last - first) // _constant(step, body)))
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise HloError(f"loop {loop.name}: its number of turns is not in the program's text") from error


def _root(instructions: list[Instruction]) -> Instruction:
    (root,) = [one for one in instructions if one.root]
    return root


def _found(name: str, instructions: list[Instruction]) -> Instruction:
    (found,) = [one for one in instructions if one.name == name]
    return found


def _origin(name: str, instructions: list[Instruction]) -> Instruction:
    """The instruction that a value comes from, through copies."""
    found = _found(name, instructions)
    return _origin(found.operands[0], instructions) if found.opcode in _SAME else found


def _place(name: str, instructions: list[Instruction]) -> int | None:
    """Which element of a tuple a value is, `get-tuple-element` or `%tuple#3`; None: none."""
    name, _, number = name.partition("#")
    if number:
        return int(number)
    found = _found(name, instructions)
    if found.opcode in _SAME:
        return _place(found.operands[0], instructions)
    return int(found.attribute("index")) if found.opcode == "get-tuple-element" else None


def _constant(name: str, instructions: list[Instruction]) -> int:
    found = _origin(name, instructions)
    if found.opcode != "constant":
        raise ValueError("no constant")
    return int(found.rest.partition(")")[0])
