"""End by a signal at once."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
