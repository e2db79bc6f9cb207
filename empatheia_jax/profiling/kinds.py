"""What kind of work an operation of a compiled program is: read from the program's own text, else from names.

The names in a trace are those of the optimized program's instructions, and say little: a fusion that is called
`ynn_fusion.3` holds a product of matrices or none. The program's text says what is in it.
"""

import dataclasses
import re

KINDS = {  # kind -> what is counted under it
    "matmul": "products of matrices, with what is fused to them; convolutions",
    "attention": "attention kernels",
    "elementwise": "elementwise arithmetic and reductions, fused or not",
    "copy": "copies, transposes, slices: data that only moves",
    "collective": "communication between devices",
    "host": "transfers to and from the host, callbacks",
    "other": "gathers, scatters, sorts, random numbers, other kernels",
}
CONTROL = "control"  # loops and branches: they hold operations, and do nothing themselves

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
    """An instruction of a program: its kind, and where in the traced functions it comes from ("" unknown)."""

    kind: str
    source: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program's operations, by the name that its trace shows."""

    name: str
    operations: dict[str, Operation]


def read_program(text: str) -> Program:
    """A `Program` from an optimized HLO module's text (`Compiled.as_text`)."""
    module = _MODULE.match(text)
    found: list[tuple[str, str, str, str]] = []  # name, opcode, its line, the computation it is in
    opcodes: dict[str, set[str]] = {}  # of each computation
    calls: dict[str, set[str]] = {}
    computation = ""
    for line in text.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction:
            name, opcode = instruction.groups()
            found.append((name, opcode, line, computation))
            opcodes[computation].add(_words(opcode, line))
            calls[computation] |= set(_called(opcode, line))
        elif header := _COMPUTATION.match(line):
            computation = header.group(1)
            opcodes[computation], calls[computation] = set(), set()

    def contents(computation: str, seen: frozenset[str] = frozenset()) -> set[str]:
        if computation in seen or computation not in opcodes:
            return set()
        inner = (contents(one, seen | {computation}) for one in calls[computation])
        return opcodes[computation].union(*inner)

    operations = {}
    for name, opcode, line, _ in found:
        inside = set().union(*(contents(one) for one in _called(opcode, line)))
        source = re.search(r'op_name="([^"]*)"', line)
        operations[name] = Operation(_kind(opcode, line, inside), source.group(1) if source else "")
    return Program(module.group(1) if module else "", operations)


def _called(opcode: str, line: str) -> list[str]:
    """Computations whose work an instruction's time is; a reduction's addition is not one of them."""
    return re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line) if opcode in _CALLERS else []


def _words(opcode: str, line: str) -> str:
    """An opcode; of a kernel from outside XLA with its name, and for its kind with its source."""
    if opcode != "custom-call":
        return opcode
    said = re.search(r'custom_call_target="([^"]*)"', line), re.search(r'op_name="([^"]*)"', line)
    return " ".join([opcode, *(one.group(1).lower() for one in said if one)])


def _kind(opcode: str, line: str, inside: set[str]) -> str:
    words = {_words(opcode, line)} if opcode not in _CALLERS else inside
    kernels = [one.split(" ", 2)[1:] for one in words if one.startswith("custom-call")]  # target, source
    products = [one for one in kernels if one and _MATMUL.search(one[0])]
    if any(_ATTENTION.search(" ".join(one)) for one in kernels if one not in products):
        return "attention"
    if any(_COLLECTIVE.search(one) for one in words if not one.startswith("custom-call")):
        return "collective"
    if words & {"dot", "convolution"} or products:
        return "matmul"
    if any(_HOST.search(one) for one in words):
        return "host"
    if opcode in _CONTAINERS or (opcode == "call" and words & _CONTAINERS):
        return CONTROL
    if kernels or words & _OTHER:
        return "other"
    if words and words <= _MOVES:
        return "copy"
    return "elementwise"


def kind_of_name(name: str) -> str:
    """The kind of an operation of which no program's text is known, guessed from its or its kernel's name."""
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
