"""Stand still or move in a part of the clock, under the watchdog: ... PART SECONDS still|moving."""

import sys
import threading
import time

from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.monitoring.watchdog import Watchdog


def wait_for_ever(lock):
    lock.acquire()


part, seconds, moving = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "moving"
clock = Clock()
watchdog = Watchdog(clock, seconds)
lock = threading.Lock()
lock.acquire()
with clock("stage"):
    for _ in range(20 if moving else 1):
        with clock(part):
            if moving:
                time.sleep(0.1)
            elif part == "compile":
                time.sleep(2.0)
            else:
                wait_for_ever(lock)
watchdog.close()
print("done")
