"""Stopping a run from outside without losing a step."""

import signal


class Stop:
    """Turns Ctrl-C and SIGTERM into a wish that the loop reads between steps."""

    def __init__(self):
        self.wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_) -> None:
        if self.wanted:  # a second Ctrl-C means now
            raise KeyboardInterrupt
        self.wanted = True
        print("stopping after this step; the checkpoint is being written", flush=True)
