"""A stop requested from outside, by Ctrl-C or SIGTERM, that loses no step."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax

from empatheia_jax.runtime import signals


class Stop:
    """A flag that Ctrl-C and SIGTERM set and that the training loop reads between steps; a second one ends at once.

    Attributes:
      requested: whether one of them has come.
      exit_code: of this process, once it has stopped: 130 after Ctrl-C, so that what follows in a script is not run; 0
        after SIGTERM, by which a scheduler asks a run to save.
    """

    def __init__(self):
        """Have this flag respond to signals from now on, where they are watched (`runtime.signals`)."""
        self.requested, self.exit_code = False, 0
        self._finish: Callable[[], None] | None = None
        signals.respond_with(self._request)

    @contextlib.contextmanager
    def at_once(self, finish: Callable[[], None]) -> Iterator[None]:
        """Let a stop end the process inside the block, where no step is lost and the next one may be minutes away.

        With several processes a stop waits for the next step nevertheless: the others would take it for a loss.

        Args:
          finish: called before the end, in another thread: completes what is being written.
        """
        self._finish = finish if jax.process_count() == 1 else None
        try:
            yield
        finally:
            self._finish = None

    def close(self) -> None:
        """Leave later signals to `runtime.signals`: all is written, and they end the process."""
        signals.respond_with(None)

    def _request(self, number: int) -> int | None:
        if self.requested:
            return 128 + number
        self.requested, self.exit_code = True, 128 + number if number == signal.SIGINT else 0
        if self._finish is not None:
            signals.end(number, self.exit_code, complete=self._finish)
        signals.say("stopping after this step; the checkpoint is being written", descriptor=1)
        return None
