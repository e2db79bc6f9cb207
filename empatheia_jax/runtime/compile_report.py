"""Reports on compilation: its time, its cache hits, and the memory that a compiled program needs."""

import dataclasses
import threading
import time

import jax
import jax.monitoring

_COMPILED, _FROM_CACHE = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compilations:
    """The programs that this process has compiled, or read from the cache, so far."""

    programs: int = 0
    from_cache: int = 0  # programs that were read from the cache
    seconds: float = 0.0  # of all threads together

    def __str__(self) -> str:
        return f"{self.programs} programs, {self.from_cache} of them from the cache, in {self.seconds:.1f} s"


_so_far, _lock, _thread = Compilations(), threading.Lock(), threading.local()


def _count_seconds(event: str, duration_secs: float, **_) -> None:
    if event == _COMPILED:
        with _lock:
            _so_far.programs += 1
            _so_far.seconds += duration_secs


def _count_hit(event: str, **_) -> None:
    if event == _FROM_CACHE:
        _thread.hits = _thread_hits() + 1
        with _lock:
            _so_far.from_cache += 1


def _thread_hits() -> int:
    """Return the cache hits of this thread: JAX reports a compilation in the thread that asked for it."""
    return getattr(_thread, "hits", 0)


jax.monitoring.register_event_duration_secs_listener(_count_seconds)
jax.monitoring.register_event_listener(_count_hit)


def compilations() -> Compilations:
    """Return the compilations since this module was imported."""
    with _lock:
        return dataclasses.replace(_so_far)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program compiled ahead of time. Bytes are the compiler's, on one device; None where it reports none."""

    name: str
    lower_seconds: float
    compile_seconds: float
    from_cache: bool
    argument_bytes: int | None = None
    output_bytes: int | None = None
    alias_bytes: int | None = None  # output bytes that reuse the arguments' memory
    temporary_bytes: int | None = None
    code_bytes: int | None = None
    flops: float | None = None  # model FLOPs, counted by `flops`; None: not counted

    def __str__(self) -> str:
        source = "read from the cache" if self.from_cache else "compiled"
        parts = [f"{self.name}: lowered in {self.lower_seconds:.2f} s, {source} in {self.compile_seconds:.2f} s"]
        if self.argument_bytes is not None:
            sizes = (
                ("arguments", self.argument_bytes),
                ("output", self.output_bytes),
                ("in place", self.alias_bytes),
                ("temporary", self.temporary_bytes),
                ("code", self.code_bytes),
            )
            parts.append(", ".join(f"{name} {_format_bytes(size)}" for name, size in sizes if size))
        if self.flops is not None:
            parts.append(f"{self.flops:.3g} model FLOPs")
        return "; ".join(parts)


def compile_ahead_of_time(name: str, function, *arguments, flops: float | None = None):
    """Compile a jitted function ahead of time.

    Args:
      name: name of the program, for its report.
      function: the jitted function.
      *arguments: its arguments, which may be abstract (`jax.ShapeDtypeStruct`).
      flops: model FLOPs of a call, for the report; None: not counted.
    Returns:
      (the compiled function, its `Program`).
    """
    started = time.monotonic()
    lowered = function.lower(*arguments)
    lowered_at, hits = time.monotonic(), _thread_hits()
    compiled = lowered.compile()
    compile_seconds, memory = time.monotonic() - lowered_at, compiled.memory_analysis()
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
    lower_seconds, compile_seconds = round(lowered_at - started, 3), round(compile_seconds, 3)
    return compiled, Program(name, lower_seconds, compile_seconds, _thread_hits() > hits, **sizes, flops=flops)


def _format_bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.3g} {unit}"
