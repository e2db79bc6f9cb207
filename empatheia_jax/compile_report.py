"""What compiling takes, what of it comes from the cache, and what a compiled program needs."""

import dataclasses
import threading
import time

import jax
import jax.monitoring

_COMPILED, _FROM_CACHE = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compilations:
    """Programs compiled, or taken from the cache, by this process so far. Seconds of all threads together."""

    programs: int = 0
    from_cache: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.programs} programs, {self.from_cache} of them from the cache, in {self.seconds:.1f} s"


_so_far, _lock, _here = Compilations(), threading.Lock(), threading.local()


def _count_seconds(event: str, seconds: float, **_) -> None:
    if event == _COMPILED:
        with _lock:
            _so_far.programs += 1
            _so_far.seconds += seconds


def _count_hit(event: str, **_) -> None:
    if event == _FROM_CACHE:
        _here.hits = _hits_here() + 1
        with _lock:
            _so_far.from_cache += 1


def _hits_here() -> int:
    """Programs that this thread had from the cache: JAX tells of a compilation in the thread that asked for it."""
    return getattr(_here, "hits", 0)


jax.monitoring.register_event_duration_secs_listener(_count_seconds)
jax.monitoring.register_event_listener(_count_hit)


def compilations() -> Compilations:
    """What was compiled since this module was imported."""
    with _lock:
        return dataclasses.replace(_so_far)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program compiled ahead of time. Bytes are the compiler's, on one device; None where it does not say."""

    name: str
    lower_seconds: float
    compile_seconds: float
    from_cache: bool
    argument_bytes: int | None = None
    output_bytes: int | None = None
    alias_bytes: int | None = None  # of the output, where it lies in the arguments
    temporary_bytes: int | None = None
    code_bytes: int | None = None
    flops: float | None = None  # the model's, by hand; None where they are not counted

    def __str__(self) -> str:
        how = "read from the cache" if self.from_cache else "compiled"
        said = [f"{self.name}: lowered in {self.lower_seconds:.2f} s, {how} in {self.compile_seconds:.2f} s"]
        if self.argument_bytes is not None:
            parts = (
                ("arguments", self.argument_bytes),
                ("output", self.output_bytes),
                ("in place", self.alias_bytes),
                ("temporary", self.temporary_bytes),
                ("code", self.code_bytes),
            )
            said.append(", ".join(f"{name} {_size(number)}" for name, number in parts if number))
        if self.flops is not None:
            said.append(f"{self.flops:.3g} model FLOPs")
        return "; ".join(said)


def compile_ahead_of_time(name: str, function, *arguments, flops: float | None = None):
    """(compiled, `Program`) of a jitted function for arguments that may be abstract."""
    started = time.monotonic()
    lowered = function.lower(*arguments)
    between, hits = time.monotonic(), _hits_here()
    compiled = lowered.compile()
    took, memory = time.monotonic() - between, compiled.memory_analysis()
    sizes = (
        {}
        if memory is None
        else {
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "alias_bytes": memory.alias_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "code_bytes": memory.generated_code_size_in_bytes,
        }
    )
    lower, took = round(between - started, 3), round(took, 3)
    return compiled, Program(name, lower, took, _hits_here() > hits, **sizes, flops=flops)


def _size(number: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.3g} {unit}"
