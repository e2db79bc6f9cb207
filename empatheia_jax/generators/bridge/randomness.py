"""The state of torch's random number generators, so that a second forward draws what the first drew."""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch

_LOCK = threading.RLock()  # the generators are the process's; callbacks of several devices come in several threads


def random_state(device: torch.device | None) -> np.ndarray:
    """uint8 [n]: of the host's generator, and of the device's behind it."""
    states = [torch.get_rng_state().numpy()]
    if _has_own(device):
        states.append(torch.cuda.get_rng_state(device).numpy())
    return np.concatenate(states)


@contextlib.contextmanager
def drawing_from(device: torch.device | None, state: np.ndarray | None = None) -> Iterator[None]:
    """Within, generators begin at `state` (or where they are); after, they are as they were before."""
    with _LOCK, torch.random.fork_rng([device] if _has_own(device) else []):
        if state is not None:
            size = torch.get_rng_state().numel()
            torch.set_rng_state(torch.from_numpy(state[:size].copy()))
            if _has_own(device):
                torch.cuda.set_rng_state(torch.from_numpy(state[size:].copy()), device)
        yield


def _has_own(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"
