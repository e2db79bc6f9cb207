"""Published weights as files: one array a layer, restored slice by slice onto any mesh.

FOLDER/config.json           written last: a folder without it is unfinished
FOLDER/params/index.json     array -> its part, shape, dtype and SHA-256
FOLDER/params/part-00000/    Orbax; about `PART_BYTES` each, or one array that is larger

Parameters that a model stacks (axis `layers`) are stored layer by layer, named "layers/q_proj/kernel/7". Neither
writing nor restoring holds more than a few parts in the host's memory, whatever the size of the model; a process reads
only what its own devices hold.
"""

import concurrent.futures
import dataclasses
import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from empatheia_jax.checkpoints.named_arrays import CheckpointError, named_arrays, with_arrays
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.json_files import read_json
from empatheia_jax.runtime.machine import release_memory

PART_BYTES = 128 << 20
CHUNK_BYTES = 16 << 20  # the unit of reading: a device that holds a slice reads little more than that slice
PARTS_BETWEEN_RELEASES = 4  # of the host's freed memory to the system
# Settings of how a network runs; networks that differ in these alone have the same weights.
RUNTIME = (
    "compute_dtype",
    "param_dtype",
    "quantization",
    "quantization_tile",
    "attention",
    "remat",
    "init_std",
    "init_match",
    "max_length",
)

ADDED = {"style_networks": True}
"""Fields that configs have got since folders were first written, and what holds where a folder does not have them."""


def architecture(config) -> dict:
    """Return the fields of a network's config that determine its parameters and arithmetic, as JSON values."""
    fields = {"family": type(config).__name__} | dataclasses.asdict(config)
    known = {name: value for name, value in fields.items() if name not in RUNTIME and ADDED.get(name) != value}
    return json.loads(json.dumps(known))


def differing_fields(saved: dict, expected: dict) -> list[str]:
    """Return the names of the fields in which two `architecture`s differ."""
    return sorted(name for name in saved.keys() | expected.keys() if saved.get(name) != expected.get(name))


def is_weights(folder: Path | str) -> bool:
    """Whether `folder` is laid out as described above, and finished."""
    return (Path(folder) / "params" / "index.json").exists() and (Path(folder) / "config.json").exists()


def read_metadata(folder: Path | str) -> dict:
    """Read config.json of a finished folder: "architecture", "sha256" and what the writer added.

    Raises:
      CheckpointError: no finished weights there.
    """
    folder = Path(folder)
    if not is_weights(folder):
        raise CheckpointError(f"{folder}: no converted weights here; `python -m converters` writes them")
    return read_json(folder / "config.json")


def read_architecture(folder: Path | str) -> tuple[str, dict]:
    """Read (name of the config's class, its fields) of a finished folder: the argument of `architecture`.

    Raises:
      CheckpointError: no finished weights there.
    """
    fields = {name: to_tuples(value) for name, value in read_metadata(folder)["architecture"].items()}
    return fields.pop("family"), fields


def to_tuples(value) -> Any:
    """Return a value from JSON or YAML with its lists, nested ones too, as tuples."""
    return tuple(map(to_tuples, value)) if isinstance(value, list) else value


def read_index(folder: Path | str) -> dict[str, dict]:
    """Read params/index.json of a finished folder: array -> its part, shape, dtype and SHA-256.

    Raises:
      CheckpointError: no finished weights there.
    """
    read_metadata(folder)
    return read_json(Path(folder) / "params" / "index.json")


class Writer:
    """Writes arrays in the order in which they are added, a part at a time, in a thread of its own.

    In a folder that an interrupted writer left, complete parts are kept: `has` tells which arrays are in them.

    Raises:
      OSError: the disk is full, or the system refuses the write for another reason; the folder stays unfinished.
    """

    def __init__(self, folder: Path | str):
        """Create `folder`, or continue one that is unfinished."""
        self._folder, self._params = Path(folder), Path(folder).absolute() / "params"
        self._params.mkdir(parents=True, exist_ok=True)
        path = self._params / "index.json"
        self._index: dict[str, dict] = read_json(path) if path.exists() else {}
        complete_parts = {entry["part"] for entry in self._index.values()}
        for stray in self._params.glob("part-*"):
            if stray.name not in complete_parts:
                shutil.rmtree(stray)
        self._count = len(complete_parts)
        self._pending: dict[str, np.ndarray] = {}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "weights")
        self._saving: concurrent.futures.Future | None = None

    def has(self, name: str) -> bool:
        """Whether an array is written already."""
        return name in self._index

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one array [...]; it must not change afterwards."""
        self._pending[name] = array
        if sum(pending.nbytes for pending in self._pending.values()) >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        arrays, self._pending = self._pending, {}
        entries = {
            name: {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": _hash_array(array)}
            for name, array in arrays.items()
        }
        self._wait()
        if arrays:
            self._saving = self._thread.submit(self._save, arrays, entries, f"part-{self._count:05d}")
            self._count += 1

    def _save(self, arrays: dict[str, np.ndarray], entries: dict[str, dict], part: str) -> None:
        context = ocp.Context()
        context.array.saving.use_compression = False  # weights do not compress; zstd would cost most of the time
        context.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
        with context:
            ocp.save(str(self._params / part), arrays)
        self._index |= {name: entry | {"part": part} for name, entry in entries.items()}
        write_json(self._params / "index.json", self._index)

    def _wait(self) -> None:
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except ValueError as error:  # tensorstore reports the system's errors as ValueError, in many words
                messages = (os.strerror(code) for code in errno.errorcode)
                reason = max((text for text in messages if text in str(error)), key=len, default=str(error)[:300])
                raise OSError(f"{self._params} cannot be written: {reason}") from error

    def finish(self, metadata: dict) -> None:
        """Write what is left, then config.json: `metadata` and the SHA-256 of all arrays."""
        self._flush()
        self._wait()
        self._thread.shutdown()
        write_json(self._folder / "config.json", metadata | {"sha256": _hash_index(self._index)})

    def close(self) -> None:
        """Stop writing: a part under way is completed, and the folder stays unfinished."""
        self._thread.shutdown(cancel_futures=True)


def _hash_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def _hash_index(index: Mapping[str, dict]) -> str:
    digest = hashlib.sha256()
    for name in sorted(index):
        entry = index[name]
        digest.update(f"{name} {entry['dtype']} {entry['shape']} {entry['sha256']}\n".encode())
    return digest.hexdigest()


def save_weights(folder: Path | str, config, state: nnx.State) -> None:
    """Write the parameters of a module; arrays whose first logical axis is `layers` are written layer by layer."""
    writer = Writer(folder)
    for name, array in unstack_layers(state):
        writer.add(name, array)
    writer.finish({"architecture": architecture(config)})


def _is_stacked(variable: nnx.Variable) -> bool:
    return (variable.get_metadata().get("out_sharding") or (None,))[0] == "layers"


def stored_arrays(state: nnx.State, prefix: str = "") -> dict[str, tuple[str, int | None, tuple[int, ...]]]:
    """List the arrays of a (possibly abstract) state as they are stored on disk.

    Args:
      state: of a module.
      prefix: path of the module within a larger one, "llm/"; names on disk do not have it.

    Returns:
      name on disk -> (parameter, layer or None, shape).
    """
    stored = {}
    for path, variable in nnx.to_flat_state(state):
        name = "/".join(map(str, path))
        short, shape = name.removeprefix(prefix), tuple(variable.shape)
        if _is_stacked(variable):
            stored |= {f"{short}/{layer}": (name, layer, shape[1:]) for layer in range(shape[0])}
        else:
            stored[short] = (name, None, shape)
    return stored


def unstack_layers(state: nnx.State, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a concrete state under their names on disk (`stored_arrays`)."""
    arrays = {name: np.asarray(jax.device_get(value)) for name, value in named_arrays(state).items()}
    for name, (parameter, layer, _) in stored_arrays(state, prefix).items():
        yield name, arrays[parameter] if layer is None else arrays[parameter][layer]


def load_weights(
    folder: Path | str,
    abstract: nnx.State,
    prefix: str = "",
    *,
    stored: nnx.State | None = None,
    convert: Callable[[str, jax.Array], dict[str, jax.Array]] = lambda name, array: {name: array},
) -> nnx.State:
    """Restore parameters into the shapes, dtypes and shardings of `abstract`.

    Layers are read one array at a time, each device its own slice, and written into their stacks. All processes of a
    run call this together.

    Args:
      folder: finished weights.
      abstract: of the module.
      prefix: path of the module within a larger one (`stored_arrays`).
      stored: the abstract parameters on disk, where `abstract` has others: a quantised model's, unquantised.
      convert: (name in `stored`, array of one layer) -> {name in `abstract`: array}; it quantises, say.

    Raises:
      CheckpointError: no finished weights there, or other parameters than these.
    """
    folder, index = Path(folder), read_index(folder)
    stored = abstract if stored is None else stored
    expected = stored_arrays(stored, prefix)
    strays = sorted(expected.keys() ^ index.keys())
    shapes = [n for n in expected.keys() & index.keys() if tuple(index[n]["shape"]) != expected[n][2]]
    if strays or shapes:
        raise CheckpointError(
            f"{folder}: weights of another architecture: {len(strays)} arrays are only there or only in the model "
            f"{strays[:3]}, {len(shapes)} have another shape {sorted(shapes)[:3]}; take the config that fits"
        )
    leaves, stored_leaves, arrays = named_arrays(abstract), named_arrays(stored), {}
    parts: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    for name, entry in index.items():
        parameter, layer, shape = expected[name]
        sharding = stored_leaves[parameter].sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        sharding = sharding if layer is None else _layer_sharding(sharding)
        parts.setdefault(entry["part"], {})[name] = jax.ShapeDtypeStruct(shape, entry["dtype"], sharding=sharding)
    for number, part in enumerate(sorted(parts)):
        loaded = ocp.load(str((folder / "params" / part).absolute()), parts[part])
        for name in parts[part]:
            parameter, layer, _ = expected[name]
            for target, array in convert(parameter, loaded.pop(name)).items():
                arrays[target] = _insert(arrays.get(target), array, layer, leaves[target])
        jax.block_until_ready(arrays)  # else parts are read faster than they are inserted
        if number % PARTS_BETWEEN_RELEASES == PARTS_BETWEEN_RELEASES - 1:
            release_memory()
    release_memory()
    return with_arrays(abstract, arrays)


def _layer_sharding(stack: jax.sharding.Sharding) -> jax.sharding.Sharding:
    if not isinstance(stack, NamedSharding):
        return stack
    if stack.spec and stack.spec[0] is not None:
        raise CheckpointError(f"layers sharded over {stack.spec[0]!r} cannot be restored one by one")
    return NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:]))


def _insert(stack: jax.Array | None, value: jax.Array, layer: int | None, like) -> jax.Array:
    dtype, sharding = np.dtype(like.dtype), like.sharding
    if layer is None:
        return value.astype(dtype)
    if stack is None:
        stack = jax.jit(functools.partial(jnp.zeros, like.shape, dtype), out_shardings=sharding)()
    return _layer_update(sharding)(stack, value, layer)


@functools.lru_cache(maxsize=64)
def _layer_update(sharding):
    def update(stack, value, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, value.astype(stack.dtype), layer, 0)

    return jax.jit(update, donate_argnums=0, out_shardings=sharding)


def read_arrays(folder: Path | str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of every array as numpy, a part at a time, on the CPU whatever accelerator there is.

    Raises:
      CheckpointError: no finished weights there, or an array that is not what was written.
    """
    folder, index = Path(folder), read_index(folder)
    cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    for part in sorted({entry["part"] for entry in index.values()}):
        entries = {name: entry for name, entry in index.items() if entry["part"] == part}
        abstract = {n: jax.ShapeDtypeStruct(tuple(e["shape"]), e["dtype"], sharding=cpu) for n, e in entries.items()}
        loaded = ocp.load(str((folder / "params" / part).absolute()), abstract)
        for name, entry in entries.items():
            array = np.asarray(loaded.pop(name))
            if _hash_array(array) != entry["sha256"]:
                raise CheckpointError(f"{folder}: {name} is damaged; convert the weights again")
            yield name, array
