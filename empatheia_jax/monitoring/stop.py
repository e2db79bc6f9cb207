"""A stop requested from outside, by Ctrl-C or SIGTERM, that loses no step."""

import signal


class Stop:
    """A flag that Ctrl-C and SIGTERM set and that the training loop reads between steps."""

    def __init__(self):
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, *_) -> None:
        if self.requested:  # a second Ctrl-C ends the run at once
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step; the checkpoint is being written", flush=True)
