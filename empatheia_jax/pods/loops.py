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
        counter, limit = (_origin(name, condition) for name in less.operands)
        place = int(counter.attribute("index"))
        (start,) = [one for one in around if one.name == loop.operands[0] and one.opcode == "tuple"]
        first = _constant(_origin(start.operands[place], around))
        added = _origin(_root(body).operands[place], body)
        one, step = sorted((_origin(name, body) for name in added.operands), key=lambda part: part.opcode == "constant")
        counts = less.opcode == "compare" and "direction=LT" in less.rest and added.opcode == "add"
        if not counts or one.attribute("index") != str(place):
            raise ValueError("no counter")
        return max(0, -(-(_constant(limit) - first) // _constant(step)))
    except (ValueError, IndexError) as error:
        raise HloError(f"loop {loop.name}: its number of turns is not in the program's text") from error


def _root(instructions: list[Instruction]) -> Instruction:
    (root,) = [one for one in instructions if one.root]
    return root


def _origin(name: str, instructions: list[Instruction]) -> Instruction:
    """The instruction that a value comes from, through copies."""
    (found,) = [one for one in instructions if one.name == name]
    return _origin(found.operands[0], instructions) if found.opcode in _SAME else found


def _constant(instruction: Instruction) -> int:
    if instruction.opcode != "constant":
        raise ValueError("no constant")
    return int(instruction.rest.partition(")")[0])
