"""What goes wrong on the bridge, and what went wrong on the other side of it."""

from collections.abc import Callable

_last: BaseException | None = None


class BridgeError(TypeError):
    """Something that cannot pass between JAX and torch: says what, and what to do."""


def last_error() -> BaseException | None:
    """The exception with which torch last failed under `jit`: XLA passes on its type and message, as text only."""
    return _last


def remembered(function: Callable, *args):
    """Call it; what it raises is `last_error` from then on."""
    global _last
    try:
        return function(*args)
    except BaseException as error:
        _last = error
        raise
