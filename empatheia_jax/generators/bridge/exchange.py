"""Conversion of arrays between JAX and torch: by DLPack without a copy where that is safe, else by a counted copy.

JAX arrays are immutable, torch tensors are not. So memory that JAX lends to torch is watched for writes (`lend`), and
memory that torch returns is shared only if no tensor can reach it any more (`as_array`).
"""

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
import torch._dynamo  # else the first operator under a mode imports it, possibly in several callback threads at once
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from empatheia_jax.generators.bridge.errors import BridgeError

# Counts of copies -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Copies:
    """Counts of copied arrays since the program began or `reset_copies`, and their bytes."""

    to_torch: int = 0
    to_jax: int = 0
    bytes: int = 0


_copies, _lock = Copies(), threading.Lock()


def copies() -> Copies:
    """Return the counts of copies made so far by all threads."""
    with _lock:
        return dataclasses.replace(_copies)


def reset_copies() -> None:
    """Set the counts of copies to 0."""
    with _lock:
        _copies.to_torch = _copies.to_jax = _copies.bytes = 0


def _count_copy(direction: str, size: int) -> None:
    with _lock:
        setattr(_copies, direction, getattr(_copies, direction) + 1)
        _copies.bytes += size


def is_x64_enabled() -> bool:
    """Whether jax_enable_x64 is set in this thread."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


# JAX -> torch ---------------------------------------------------------------------------------------------------------


def as_tensor(array: jax.Array | np.ndarray, device: torch.device | None = None, copy: bool = False) -> torch.Tensor:
    """Return a concrete array as a tensor of the same dtype.

    Args:
      array: the array.
      device: the tensor's device; by default the array's.
      copy: copy the memory. Otherwise it is shared where possible (see `lend`).

    Raises:
      BridgeError: a dtype that torch lacks, an array sharded over several devices, or a random key.
    """
    if isinstance(array, np.ndarray | np.generic):
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)  # as everywhere in JAX
        tensor, shared = _from_numpy(np.asarray(array, dtype)), False
    else:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise BridgeError("a key of random numbers means nothing to torch: pass numbers sampled from it")
        if len(array.sharding.device_set) > 1:
            if not array.is_fully_replicated:
                raise BridgeError(
                    f"an array in {len(array.sharding.device_set)} parts would be gathered to one device: call the "
                    "function inside jax.shard_map, where every device has its own part"
                )
            array = array.addressable_shards[0].data
        try:
            tensor, shared = torch.from_dlpack(array), True
        except (RuntimeError, BufferError, ValueError, TypeError, jax.errors.JaxRuntimeError) as error:
            if array.dtype not in _DTYPES:
                raise BridgeError(f"torch has no {array.dtype}") from error
            tensor, shared = _from_numpy(np.asarray(array)), False
            _count_copy("to_torch", tensor.nbytes)
    if device is not None and tensor.device != device:
        _count_copy("to_torch", tensor.nbytes)
        return tensor.to(device)
    if shared and copy:
        _count_copy("to_torch", tensor.nbytes)
        return tensor.clone()
    return tensor


_DTYPES = {
    np.dtype(name)
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        ml_dtypes.bfloat16,
    )
}


def _from_numpy(array: np.ndarray) -> torch.Tensor:
    """Return a copy as a tensor."""
    if array.dtype not in _DTYPES:
        raise BridgeError(f"torch has no {array.dtype}")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


class _WriteWatch(TorchDispatchMode):
    """Mode that moves tensors out of lent memory just before an operator writes to it."""

    def __init__(self, lent: "LentMemory"):
        super().__init__()
        self.lent = lent

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for number, argument in enumerate(func._schema.arguments):
                if argument.alias_info is None or not argument.alias_info.is_write:
                    continue
                value = args[number] if number < len(args) else kwargs.get(argument.name)
                for tensor in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(tensor, torch.Tensor):
                        self.lent.unshare(tensor.untyped_storage())
        return func(*args, **kwargs)


class LentMemory:
    """Memory of JAX arrays that torch may read while a call lasts."""

    def __init__(self, tensors: Sequence[torch.Tensor]):
        storages = [t.untyped_storage() for t in tensors if t.device.type == "cpu" and t.nbytes]
        # Storages that torch has allocated are resizable; those that it was lent are not.
        self._storages = {s.data_ptr(): StorageWeakRef(s) for s in storages if not s.resizable()}
        self.unshared = 0  # how many storages torch wrote to or kept

    def __bool__(self) -> bool:
        return bool(self._storages)

    def unshare(self, storage: torch.UntypedStorage) -> None:
        """Move a lent storage, and so every tensor on it, to memory of its own; the JAX array keeps its memory.

        Raises:
          BridgeError: too little shared memory.
        """
        if self._storages.pop(storage.data_ptr(), None) is None:
            return
        available = shutil.disk_usage("/dev/shm").free
        if storage.nbytes() > available:
            raise BridgeError(
                f"torch writes to (or keeps) an argument of {storage.nbytes():,} bytes, and shared memory has "
                f"{available:,} left to move it to: pass copy=True"
            )
        storage.share_memory_()  # the only way in torch to move all views of a storage at once
        self.unshared += 1
        _count_copy("to_torch", storage.nbytes())

    def unshare_all(self) -> None:
        """Unshare every storage that torch still references."""
        for reference in list(self._storages.values()):
            if not reference.expired():
                self.unshare(torch.UntypedStorage._new_with_weak_ptr(reference.cdata))


@contextlib.contextmanager
def lend(tensors: Sequence[torch.Tensor]) -> Iterator[LentMemory]:
    """Protect JAX arrays from writes of torch to `tensors` that share their memory.

    Tensors that are still referenced when the context ends get copies of the memory. The caller must have dropped its
    own references by then.

    Args:
      tensors: the tensors that torch works on in the context.

    Yields:
      The lent memory, which counts the storages that had to be moved.

    Raises:
      BridgeError: too little shared memory for a storage that has to be moved.
    """
    lent = LentMemory(tensors)
    del tensors
    if not lent:
        yield lent
        return
    try:
        with _WriteWatch(lent):
            yield lent
    except BaseException:
        with contextlib.suppress(BridgeError):  # the original exception says more
            lent.unshare_all()
        raise
    lent.unshare_all()


def as_owned_tensors(arrays: Sequence[jax.Array], live_arrays: Sequence[jax.Array]) -> list[torch.Tensor]:
    """Return arrays that a program has just computed as tensors that torch may write to.

    Args:
      arrays: the arrays. One that shares memory with a live array, or with an array before it, is copied.
      live_arrays: arrays that JAX still uses.
    """
    addresses = {_address(array) for array in live_arrays}
    tensors = []
    for array in arrays:
        address = _address(array)
        tensors.append(as_tensor(array, copy=address in addresses))
        addresses.add(address)
    return tensors


def _address(array: jax.Array) -> int | None:
    return array.unsafe_buffer_pointer() if array.nbytes else None


# torch -> JAX ---------------------------------------------------------------------------------------------------------


def _reference_count(tensor: torch.Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


_SINGLE_OWNER = _reference_count(torch.empty(1))


def as_array(tensor: torch.Tensor, take_ownership: bool = False) -> jax.Array:
    """Return a tensor as an array on the same device, with JAX's dtypes for float64 and int64.

    Args:
      tensor: the tensor.
      take_ownership: share the memory only if no other tensor references it, else copy. Without it the memory is
        shared in any case, and the caller must make sure that nothing writes to it.
    """
    tensor, enable_x64 = tensor.detach(), is_x64_enabled()
    shared = not take_ownership or (_reference_count(tensor) == _SINGLE_OWNER and tensor.untyped_storage().resizable())
    converted = _canonical(tensor, enable_x64)
    if converted is tensor and not shared:
        _count_copy("to_jax", converted.nbytes)
        converted = converted.clone(memory_format=torch.contiguous_format)
    try:
        return jnp.from_dlpack(converted, copy=False)
    except (ValueError, RuntimeError, BufferError, jax.errors.JaxRuntimeError):  # for example, not aligned for XLA
        _count_copy("to_jax", converted.nbytes)
        return jnp.array(as_numpy(converted, enable_x64))


def as_arrays(tensors: list[torch.Tensor]) -> list[jax.Array]:
    """Return each tensor as an array that owns its memory; empties the list, whose references would prevent sharing."""
    tensors.reverse()
    return [as_array(tensors.pop(), take_ownership=True) for _ in range(len(tensors))]


def _canonical(tensor: torch.Tensor, enable_x64: bool) -> torch.Tensor:
    """Return the tensor itself if JAX supports its layout and dtype, else a contiguous copy of a supported dtype."""
    converted = tensor.resolve_conj().resolve_neg()
    if converted.dtype in _64_BIT_DTYPES:
        converted = converted.to(_64_BIT_DTYPES[converted.dtype][enable_x64])
    converted = converted.contiguous()
    if converted.data_ptr() == tensor.data_ptr() and converted.dtype == tensor.dtype:
        return tensor
    _count_copy("to_jax", converted.nbytes)
    return converted


_64_BIT_DTYPES = {
    torch.float64: (torch.float32, torch.float64),
    torch.int64: (torch.int32, torch.int64),
    torch.uint64: (torch.uint32, torch.uint64),
    torch.complex128: (torch.complex64, torch.complex128),
}
"""The dtypes that JAX uses for them, without and with jax_enable_x64."""


def as_numpy(tensor: torch.Tensor, enable_x64: bool) -> np.ndarray:
    """Return a tensor as a numpy array for a callback, whose results are copied; memory on the host is shared.

    Args:
      tensor: the tensor.
      enable_x64: jax_enable_x64 when the program was traced; the thread of a callback may have another value.
    """
    tensor = _canonical(tensor.detach(), enable_x64).cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def conjugate(tensor: torch.Tensor) -> torch.Tensor:
    """Convert a gradient between the conventions of JAX and torch, which are conjugate for complex numbers."""
    return tensor.conj().resolve_conj() if tensor.is_complex() else tensor
