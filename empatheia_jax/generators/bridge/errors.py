"""Errors of the bridge, and the last error that torch raised under `jit`."""

from collections.abc import Callable

_last: BaseException | None = None


class BridgeError(TypeError):
    """A value cannot pass between JAX and torch; the message says which and what to do."""


def last_error() -> BaseException | None:
    """Return the exception that torch last raised under `jit`; XLA passes on its type and message only, as text."""
    return _last


def record_error(function: Callable, *args):
    """Call a function; an exception that it raises becomes the `last_error`."""
    global _last
    try:
        return function(*args)
    except BaseException as error:
        _last = error
        raise
