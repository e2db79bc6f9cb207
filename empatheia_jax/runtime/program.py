"""A program from its first line to its exit code: what all entry points have in common.

`begin` stands before the imports that take seconds, `finish` runs the program and ends the process.
"""

import traceback
from collections.abc import Callable

from empatheia_jax.runtime import signals
from empatheia_jax.runtime.streams import outlive_readers


def begin(program: str, advice: str = "nothing half-written is left", *, survives_hangup: bool = False) -> None:
    """Have this process end well at signals, and outlive the readers of its lines; arguments as of `signals.watch`."""
    signals.watch(program, advice, survives_hangup=survives_hangup)
    outlive_readers()


def finish(main: Callable[[list[str]], int], argv: list[str]) -> None:
    """Call a program, and end this process with the exit code it returns; 1 after an error it did not expect."""
    try:
        code = main(argv)
    except Exception:
        traceback.print_exc()
        code = 1
    signals.leave(code)
