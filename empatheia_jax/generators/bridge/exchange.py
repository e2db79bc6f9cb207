"""One array between JAX and torch: by DLPack without a copy where that is safe, by a counted copy where it is not.

JAX arrays never change; torch tensors may. So what torch is lent is watched (`lend`), and what torch hands over is
shared only if nothing in torch can reach it any more (`as_array`).
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
import torch._dynamo  # which the first operator under a mode imports, in several threads of callbacks at once
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from empatheia_jax.generators.bridge.errors import BridgeError

# What was copied ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Copies:
    """Copies since the program began (or `reset_copies`): how many arrays, and their bytes."""

    to_torch: int = 0
    to_jax: int = 0
    bytes: int = 0


_counted, _lock = Copies(), threading.Lock()


def copies() -> Copies:
    """What has been copied so far, by all threads."""
    with _lock:
        return dataclasses.replace(_counted)


def reset_copies() -> None:
    """Count from 0 again."""
    with _lock:
        _counted.to_torch = _counted.to_jax = _counted.bytes = 0


def _count(way: str, size: int) -> None:
    with _lock:
        setattr(_counted, way, getattr(_counted, way) + 1)
        _counted.bytes += size


# JAX -> torch ---------------------------------------------------------------------------------------------------------


def as_tensor(array: jax.Array | np.ndarray, device: torch.device | None = None, copy: bool = False) -> torch.Tensor:
    """A concrete array as a tensor of the same dtype, on `device` (default: where the array is).

    Without `copy` it shares the array's memory where it can: see `lend`.

    Raises:
      BridgeError: a dtype that torch lacks, an array in parts on several devices, a key of random numbers.
    """
    if isinstance(array, np.ndarray | np.generic):
        kept = jax.dtypes.canonicalize_dtype(array.dtype)  # as everywhere in JAX
        tensor, shared = _of_numpy(np.asarray(array, kept)), False
    else:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise BridgeError("a key of random numbers means nothing to torch: pass numbers that are drawn already")
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
            tensor, shared = _of_numpy(np.asarray(array)), False
            _count("to_torch", tensor.nbytes)
    if device is not None and tensor.device != device:
        _count("to_torch", tensor.nbytes)
        return tensor.to(device)
    if shared and copy:
        _count("to_torch", tensor.nbytes)
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


def _of_numpy(array: np.ndarray) -> torch.Tensor:
    """A tensor with memory of its own."""
    if array.dtype not in _DTYPES:
        raise BridgeError(f"torch has no {array.dtype}")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


class _Watch(TorchDispatchMode):
    """Before an operator writes to lent memory, the tensors there get memory of their own."""

    def __init__(self, lent: "Lent"):
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
                        self.lent.free(tensor.untyped_storage())
        return func(*args, **kwargs)


class Lent:
    """Memory of JAX arrays that torch may read for a while."""

    def __init__(self, tensors: Sequence[torch.Tensor]):
        storages = [t.untyped_storage() for t in tensors if t.device.type == "cpu" and t.nbytes]
        # What torch has allocated itself can grow; what it was lent cannot.
        self._storages = {s.data_ptr(): StorageWeakRef(s) for s in storages if not s.resizable()}
        self.taken = 0  # times that torch wrote to it, or kept it

    def __bool__(self) -> bool:
        return bool(self._storages)

    def free(self, storage: torch.UntypedStorage) -> None:
        """Give a lent storage (and every tensor on it) memory of its own; the JAX array keeps what it has."""
        if self._storages.pop(storage.data_ptr(), None) is None:
            return
        room = shutil.disk_usage("/dev/shm").free
        if storage.nbytes() > room:
            raise BridgeError(
                f"torch writes to (or keeps) an argument of {storage.nbytes():,} bytes, and shared memory has "
                f"{room:,} left to move it to: pass copy=True"
            )
        storage.share_memory_()  # torch's one way to move all views of a storage at once
        self.taken += 1
        _count("to_torch", storage.nbytes())

    def end(self) -> None:
        """Free what torch still holds."""
        for weak in list(self._storages.values()):
            if not weak.expired():
                self.free(torch.UntypedStorage._new_with_weak_ptr(weak.cdata))


@contextlib.contextmanager
def lend(tensors: Sequence[torch.Tensor]) -> Iterator[Lent]:
    """Within, torch may do as it likes with `tensors` that share memory with JAX arrays: those do not change.

    On leaving, whoever still holds one has a copy. The caller's own references must be gone by then.
    """
    lent = Lent(tensors)
    del tensors
    if not lent:
        yield lent
        return
    try:
        with _Watch(lent):
            yield lent
    except BaseException:
        with contextlib.suppress(BridgeError):  # what was raised says more
            lent.end()
        raise
    lent.end()


def as_owned_tensors(arrays: Sequence[jax.Array], others: Sequence[jax.Array]) -> list[torch.Tensor]:
    """Arrays that a program has just returned as tensors that torch may write to.

    Args:
      others: arrays that live on; what shares memory with one of them, or with an array before it, is copied.
    """
    seen = {_address(array) for array in others}
    made = []
    for array in arrays:
        place = _address(array)
        made.append(as_tensor(array, copy=place in seen))
        seen.add(place)
    return made


def _address(array: jax.Array) -> int | None:
    return array.unsafe_buffer_pointer() if array.nbytes else None


# torch -> JAX ---------------------------------------------------------------------------------------------------------


def _holders(tensor: torch.Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


_ALONE = _holders(torch.empty(1))


def as_array(tensor: torch.Tensor, mine: bool = False) -> jax.Array:
    """A tensor as an array on the same device; float64 and int64 become what JAX has for them.

    Args:
      mine: share the memory if no other tensor reaches it. Without, it is shared in any case: for as long as the caller
        knows that nothing writes to it.
    """
    tensor, wide = tensor.detach(), jax.config.jax_enable_x64
    shared = not mine or (_holders(tensor) == _ALONE and tensor.untyped_storage().resizable())
    made = _canonical(tensor, wide)
    if made is tensor and not shared:
        _count("to_jax", made.nbytes)
        made = made.clone(memory_format=torch.contiguous_format)
    try:
        return jnp.from_dlpack(made, copy=False)
    except (ValueError, RuntimeError, BufferError, jax.errors.JaxRuntimeError):  # not aligned as XLA wants it, say
        _count("to_jax", made.nbytes)
        return jnp.array(as_numpy(made, wide))


def as_arrays(tensors: list[torch.Tensor]) -> list[jax.Array]:
    """`as_array(mine=True)` of each; the list is emptied, so that it reaches none of them itself."""
    tensors.reverse()
    return [as_array(tensors.pop(), mine=True) for _ in range(len(tensors))]


def _canonical(tensor: torch.Tensor, wide: bool) -> torch.Tensor:
    """The tensor itself where JAX can have it as it is, else a copy: compact, of 64 bits only if `wide`."""
    made = tensor.resolve_conj().resolve_neg()
    if made.dtype in _WIDE:
        made = made.to(_WIDE[made.dtype][wide])
    made = made.contiguous()
    if made.data_ptr() == tensor.data_ptr() and made.dtype == tensor.dtype:
        return tensor
    _count("to_jax", made.nbytes)
    return made


_WIDE = {
    torch.float64: (torch.float32, torch.float64),
    torch.int64: (torch.int32, torch.int64),
    torch.uint64: (torch.uint32, torch.uint64),
    torch.complex128: (torch.complex64, torch.complex128),
}
"""What JAX has of it, without and with jax_enable_x64."""


def as_numpy(tensor: torch.Tensor, wide: bool) -> np.ndarray:
    """A tensor as numpy on the host, sharing its memory if it is there: for callbacks, whose results are copied.

    `wide`: jax_enable_x64 where the program was traced; a callback comes in a thread of its own, which may not know.
    """
    tensor = _canonical(tensor.detach(), wide).cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def conjugate(tensor: torch.Tensor) -> torch.Tensor:
    """Of gradients with respect to a complex number, JAX's convention and torch's are each other's conjugate."""
    return tensor.conj().resolve_conj() if tensor.is_complex() else tensor
