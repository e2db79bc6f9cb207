"""Replacement of the originals' random numbers by those of the Flax backend, so that both give the same result."""

from collections.abc import Iterable

import torch
from torch.overrides import TorchFunctionMode


class ReplacedNoise(TorchFunctionMode):
    """Context in which `torch.randn` and `torch.randn_like` return given tensors in order, where the sizes match."""

    def __init__(self, noise: Iterable[torch.Tensor]):
        super().__init__()
        self._noise = iter(noise)
        self._next = next(self._noise, None)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in (torch.randn, torch.randn_like) or self._next is None:
            return func(*args, **kwargs)
        if func is torch.randn_like:
            shape = args[0].shape
        else:
            shape = torch.Size(args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args)
        if self._next.numel() != shape.numel():  # drawn for a result that is not used
            return func(*args, **kwargs)
        noise, self._next = self._next.reshape(shape), next(self._noise, None)
        return noise
