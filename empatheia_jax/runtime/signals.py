"""How a process ends when a signal asks it to: Ctrl-C (SIGINT), SIGTERM, or a terminal that is closed (SIGHUP).

`watch` blocks these signals in the whole process and starts a thread that waits for them. A signal then takes effect
within moments wherever the main thread is: a Python handler would wait for C++ code (XLA compiles for minutes), and
the KeyboardInterrupt it raises can be swallowed by an `except` or met in a thread that nobody reads. Worker processes
inherit the block, so a terminal's Ctrl-C, which reaches all of them, disturbs none: this process alone decides.

The thread prints one line, kills the child processes, removes what is half-written (`removed_on_end`) and exits with
128 + the signal's number. Nothing else is unwound: files are written whole (`runtime.atomic`) and long work is resumed,
so that a SIGKILL loses nothing either. A second signal kills the process at once.
"""

import contextlib
import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PHRASES = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "its terminal was closed"}
_PATIENCE = 1.0  # seconds for each thing that may hang: a reader of stderr that is paused, a child that does not die

_lock = threading.RLock()
_removals: dict[int, Callable[[], object]] = {}
_numbers = itertools.count()
_watched: set[signal.Signals] = set()
_program, _advice = "", ""
_respond: Callable[[int], int | None] | None = None


def watch(program: str, advice: str = "nothing half-written is left", *, survives_hangup: bool = False) -> None:
    """Have signals end this process; call it in the main thread, before threads are started and before slow imports.

    Args:
      program: first words of the line that is printed.
      advice: its last words, such as how the work can be resumed.
      survives_hangup: ignore SIGHUP; it is also ignored where it was before, as below nohup.
    """
    global _program, _advice
    _program, _advice = program, advice
    if _watched:
        return
    if survives_hangup:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _watched.update(SIGNALS if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else SIGNALS - {signal.SIGHUP})
    block()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a second one does: see `end`
    threading.Thread(target=_wait_for_signals, name="signals", daemon=True).start()


def block() -> None:
    """Block the watched signals in this thread, again after a library has unblocked them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _watched)


def respond_with(function: Callable[[int], int | None] | None) -> None:
    """Have a function decide about signals from now on.

    Args:
      function: called with the signal's number, in a thread of its own; returns the exit code with which the process
        shall end now, or None where it goes on and sees to its end itself. None: end at every signal.
    """
    global _respond
    _respond = function


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let an end by a signal wait for the block, which must be short: making something that `end` has to know."""
    with _lock:
        yield


@contextlib.contextmanager
def removed_on_end(remove: Callable[[], object]) -> Iterator[None]:
    """Have `remove` called where a signal ends this process inside the block, after its children are dead.

    It may be called just after the block, too, when there is nothing left to remove.
    """
    number = next(_numbers)
    _removals[number] = remove
    try:
        yield
    finally:
        _removals.pop(number, None)


def say(text: str, descriptor: int = 2) -> None:
    """Write a line past Python's buffers, whose locks another thread may hold; given up where nobody reads."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(1000 * _PATIENCE):
            os.write(descriptor, f"{text}\n".encode())


def end(number: int, code: int | None = None, complete: Callable[[], object] | None = None) -> None:
    """End this process because of a signal: say so, kill its children, remove what is half-written.

    Args:
      number: of the signal.
      code: exit code; None: 128 + `number`.
      complete: called first, to complete what is being written; may take long, as another signal kills the process.
    """
    if complete is None:
        _begin_nothing()
    start = "\n" if number == signal.SIGINT and os.isatty(2) else ""  # after the terminal's ^C
    say(f"{start}{_program}: {_PHRASES.get(signal.Signals(number), f'signal {number}')}; {_advice}")
    with contextlib.suppress(OSError):  # what other threads say of the end is no news
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _watched)  # from here on another signal kills, whatever hangs
    if complete is not None:
        with contextlib.suppress(Exception):
            complete()
        _begin_nothing()
    removals = list(_removals.values())  # now: threads that miss a child leave their blocks
    remove_semaphores()
    _kill_children()
    for remove in reversed(removals):
        with contextlib.suppress(Exception):
            remove()
    os._exit(128 + number if code is None else code)


def _begin_nothing() -> None:
    """Keep other threads from beginning what an end would have to know, and from leaving with another exit code."""
    _lock.acquire(timeout=_PATIENCE)  # never released


def leave(code: int) -> None:
    """End this process with an exit code, without exit handlers: they wait for threads, such as a compilation's."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:  # a full disk: what was printed is lost
            say(f"{_program}: {getattr(stream, 'name', 'output')}: {error}")
            code = code or 2
    remove_semaphores()
    _lock.acquire()  # a signal that came before has the last word
    os._exit(code)


def remove_semaphores() -> None:
    """Remove the named semaphores of worker pools, as multiprocessing does at a usual exit."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        with contextlib.suppress(Exception):
            util._run_finalizers(0)


def _wait_for_signals() -> None:
    while True:
        number = signal.sigwait(_watched)
        code = _respond(number) if _respond is not None else 128 + number
        if code is not None:
            end(number, code)


def _children() -> set[int]:
    """Return the ids of this process's children, from /proc where there is one."""
    children: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children.update(map(int, path.read_text().split()))
    if not children and "multiprocessing" in sys.modules:
        import multiprocessing

        children = {child.pid for child in multiprocessing.active_children() if child.pid}
    return children


def _kill_children() -> None:
    """Kill all child processes and wait until they are gone, so that nothing they wrote is still locked."""
    children = _children()
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    while children and time.monotonic() < deadline:
        children = {child for child in children if _is_running(child)}
        time.sleep(0.005)


def _is_running(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    except ChildProcessError:  # another thread has collected it
        return False
