"""The state of torch's random number generators, so that a second forward draws what the first drew."""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch

_LOCK = threading.RLock()  # the generators are global, and callbacks of several devices run in several threads


def random_state(device: torch.device | None) -> np.ndarray:
    """Return the state of the host's generator followed by the device's, uint8 [n]."""
    states = [torch.get_rng_state().numpy()]
    if (cuda := _with_generator(device)) is not None:
        states.append(torch.cuda.get_rng_state(cuda).numpy())
    return np.concatenate(states)


@contextlib.contextmanager
def restored_generators(device: torch.device | None, state: np.ndarray | None = None) -> Iterator[None]:
    """Restore the generators' present state when the context ends; in it they start from `state`, if given."""
    cuda = _with_generator(device)
    with _LOCK, torch.random.fork_rng([] if cuda is None else [cuda]):
        if state is not None:
            size = torch.get_rng_state().numel()
            torch.set_rng_state(torch.from_numpy(state[:size].copy()))
            if cuda is not None:
                torch.cuda.set_rng_state(torch.from_numpy(state[size:].copy()), cuda)
        yield


def _with_generator(device: torch.device | None) -> torch.device | None:
    """Return the device if it has a generator of its own, else None."""
    return device if device is not None and device.type == "cuda" else None
