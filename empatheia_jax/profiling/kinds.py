"""The kind of work of each operation of a compiled program: from the program's text, or else from the operation's name.

The names in a trace are those of the optimised program's instructions, and tell little: a fusion `ynn_fusion.3` may
hold a matrix product or not. The program's text lists what it holds.
"""

import dataclasses
import re

KINDS = {  # kind -> operations that are counted under it
    "matmul": "matrix products, with what is fused to them; convolutions",
    "attention": "attention kernels",
    "elementwise": "elementwise arithmetic and reductions, fused or not",
    "copy": "copies, transposes, slices: moving data",
    "collective": "communication between devices",
    "host": "transfers to and from the host, callbacks",
    "other": "gathers, scatters, sorts, random numbers, other kernels",
}
CONTROL = "control"  # loops and branches: their time is that of the operations in them

_COLLECTIVE = re.compile(
    r"(ragged-)?all-(reduce|gather|to-all)|reduce-scatter|collective-(permute|broadcast)|nccl|^(send|recv)(-done)?$"
)
_MATMUL = re.compile(r"dot|conv(?!ert)|gemm|gemv|matmul|cublas|cutlass|nvjet|wgmma|xmma")
_ATTENTION = re.compile(r"fmha|attention|flash|splash")
_HOST = re.compile(r"infeed|outfeed|callback|memcpy ?(h2d|d2h)|host")
_MOVES = frozenset(
    "copy copy-start copy-done transpose reshape bitcast bitcast-convert slice slice-start slice-done concatenate pad "
    "dynamic-slice dynamic-update-slice broadcast reverse iota constant parameter tuple get-tuple-element".split()
)
_OTHER = frozenset(
    "gather scatter sort topk rng rng-bit-generator rng-get-and-update-state fft cholesky triangular-solve "
    "custom-call".split()
)
_CONTAINERS = frozenset(("while", "conditional"))
_CALLERS = frozenset(("fusion", "call", "async-start", "async-update", "async-done"))
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([a-z][\w\-]*)\(")
_MODULE = re.compile(r"^HloModule ([^\s,]+)")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction of a program."""

    kind: str  # one of KINDS, or CONTROL
    source: str  # its place in the traced functions; "": unknown


@dataclasses.dataclass(frozen=True)
class Program:
    """The operations of a compiled program."""

    name: str  # as in a trace
    operations: dict[str, Operation]


def read_program(text: str) -> Program:
    """Read a `Program` from the text of an optimised HLO module (`Compiled.as_text`)."""
    module = _MODULE.match(text)
    instructions: list[tuple[str, str, str]] = []  # (name, opcode, line)
    opcodes: dict[str, set[str]] = {}  # {computation: its opcodes}
    calls: dict[str, set[str]] = {}  # {computation: the computations that it calls}
    computation = ""
    for line in text.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction:
            name, opcode = instruction.groups()
            instructions.append((name, opcode, line))
            opcodes[computation].add(_describe(opcode, line))
            calls[computation] |= set(_callees(opcode, line))
        elif header := _COMPUTATION.match(line):
            computation = header.group(1)
            opcodes[computation], calls[computation] = set(), set()

    def contents(computation: str, seen: frozenset[str] = frozenset()) -> set[str]:
        if computation in seen or computation not in opcodes:
            return set()
        inner = (contents(callee, seen | {computation}) for callee in calls[computation])
        return opcodes[computation].union(*inner)

    operations = {}
    for name, opcode, line in instructions:
        inside = set().union(*(contents(callee) for callee in _callees(opcode, line)))
        source = re.search(r'op_name="([^"]*)"', line)
        operations[name] = Operation(_kind(opcode, line, inside), source.group(1) if source else "")
    return Program(module.group(1) if module else "", operations)


def _callees(opcode: str, line: str) -> list[str]:
    """Return the computations that make up an instruction's time; the addition of a reduction is not one of them."""
    return re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line) if opcode in _CALLERS else []


def _describe(opcode: str, line: str) -> str:
    """Return an opcode; for a kernel from outside XLA followed by its target and its source."""
    if opcode != "custom-call":
        return opcode
    matches = re.search(r'custom_call_target="([^"]*)"', line), re.search(r'op_name="([^"]*)"', line)
    return " ".join([opcode, *(match.group(1).lower() for match in matches if match)])


def _kind(opcode: str, line: str, inside: set[str]) -> str:
    opcodes = {_describe(opcode, line)} if opcode not in _CALLERS else inside
    kernels = [text.split(" ", 2)[1:] for text in opcodes if text.startswith("custom-call")]  # [target, source]
    products = [kernel for kernel in kernels if kernel and _MATMUL.search(kernel[0])]
    if any(_ATTENTION.search(" ".join(kernel)) for kernel in kernels if kernel not in products):
        return "attention"
    if any(_COLLECTIVE.search(text) for text in opcodes if not text.startswith("custom-call")):
        return "collective"
    if opcodes & {"dot", "convolution"} or products:
        return "matmul"
    if any(map(_HOST.search, opcodes)):
        return "host"
    if opcode in _CONTAINERS or (opcode == "call" and opcodes & _CONTAINERS):
        return CONTROL
    if kernels or opcodes & _OTHER:
        return "other"
    if opcodes and opcodes <= _MOVES:
        return "copy"
    return "elementwise"


def kind_of_name(name: str) -> str:
    """Guess the kind of an operation without its program's text, from its name or its kernel's."""
    name = name.lower()
    stem = re.sub(r"[.\d]+$", "", name.removeprefix("wrapped_"))
    if stem in _CONTAINERS:
        return CONTROL
    if _COLLECTIVE.search(stem.replace("_", "-")) or "nccl" in name:
        return "collective"
    if _ATTENTION.search(name):
        return "attention"
    if _MATMUL.search(name):
        return "matmul"
    if _HOST.search(name):
        return "host"
    if "fusion" in name and not re.search(r"copy|transpose|slice|concatenate|broadcast", name):
        return "elementwise"
    if re.search(r"copy|transpose|slice|concatenate|memcpy|memset|broadcast|bitcast|reshape|\bpad\b", name):
        return "copy"
    if stem.replace("_", "-") in _OTHER:
        return "other"
    return "elementwise"
