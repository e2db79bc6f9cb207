"""Published weights as files: one array a layer, restored slice by slice onto any mesh.

FOLDER/config.json           written last: a folder without it is unfinished
FOLDER/params/index.json     array -> its part, shape, dtype and SHA-256
FOLDER/params/part-00000/    Orbax; about `PART_BYTES` each, or one array that is larger

What a model stacks (axis `layers`) lies here layer by layer, named "layers/q_proj/kernel/7". Neither writing nor
restoring ever holds more of the host's memory than a few parts, whatever the size of the model; a process reads only
what its own devices hold.
"""

import concurrent.futures
import dataclasses
import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from empatheia_jax.atomic import write_json
from empatheia_jax.llm.quantized import quantizer, unquantized
from empatheia_jax.machine import release_memory
from empatheia_jax.states import CheckpointError, filled, named

PART_BYTES = 128 << 20
CHUNK_BYTES = 16 << 20  # what one read brings: a device that holds a slice reads little more than it
PARTS_BETWEEN_RELEASES = 4
# How a network is run, not what it is: weights of one serve another.
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


def architecture(config) -> dict:
    """What a network's config says of its parameters and arithmetic, as JSON gives it back; number formats left out."""
    fields = {"family": type(config).__name__} | dataclasses.asdict(config)
    return json.loads(json.dumps({name: value for name, value in fields.items() if name not in RUNTIME}))


def changed_fields(found: dict, wanted: dict) -> list[str]:
    """Names in which two `architecture`s differ."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def is_weights(folder: Path) -> bool:
    """Whether `folder` is laid out as described above, and finished."""
    return (Path(folder) / "params" / "index.json").exists() and (Path(folder) / "config.json").exists()


def read_facts(folder: Path) -> dict:
    """config.json of a finished folder: "architecture", "sha256" and what the writer added.

    Raises:
      CheckpointError: no finished weights there.
    """
    folder = Path(folder)
    if not is_weights(folder):
        raise CheckpointError(f"{folder}: no converted weights here; `python -m converters` writes them")
    return json.loads((folder / "config.json").read_text())


def architecture_of(folder: Path) -> tuple[str, dict]:
    """(name of the config's class, its fields) of a finished folder: what `architecture` was given.

    Raises:
      CheckpointError: no finished weights there.
    """
    fields = {name: tuples(value) for name, value in read_facts(Path(folder))["architecture"].items()}
    return fields.pop("family"), fields


def tuples(value):
    """A value that JSON or YAML gave with its lists, nested ones too, as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def read_index(folder: Path) -> dict[str, dict]:
    """params/index.json of a finished folder.

    Raises:
      CheckpointError: no finished weights there.
    """
    read_facts(folder)
    return json.loads((Path(folder) / "params" / "index.json").read_text())


class Writer:
    """Writes arrays in the order they come, a part at a time, in a thread of its own.

    On a folder that an interrupted writer left, whole parts are kept: `has` tells which arrays are in them.

    Raises:
      OSError: the disk is full, or something else the system refuses; `finish` has not run then.
    """

    def __init__(self, folder: Path):
        self._folder, self._params = Path(folder), Path(folder).absolute() / "params"
        self._params.mkdir(parents=True, exist_ok=True)
        path = self._params / "index.json"
        self._index: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
        whole = {entry["part"] for entry in self._index.values()}
        for stray in self._params.glob("part-*"):
            if stray.name not in whole:
                shutil.rmtree(stray)
        self._count = len(whole)
        self._held: dict[str, np.ndarray] = {}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "weights")
        self._saving: concurrent.futures.Future | None = None

    def has(self, name: str) -> bool:
        """Whether an array is written already."""
        return name in self._index

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one array [...]; it must not change afterwards."""
        self._held[name] = array
        if sum(held.nbytes for held in self._held.values()) >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        held, self._held = self._held, {}
        entries = {
            name: {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": _digest(array)}
            for name, array in held.items()
        }
        self._wait()
        if held:
            self._saving = self._thread.submit(self._save, held, entries, f"part-{self._count:05d}")
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
            except ValueError as error:  # as tensorstore reports what the system refused, in many words
                known = (os.strerror(code) for code in errno.errorcode)
                reason = max((text for text in known if text in str(error)), key=len, default=str(error)[:300])
                raise OSError(f"{self._params} cannot be written: {reason}") from error

    def finish(self, facts: dict) -> None:
        """Write what is left, then config.json: `facts` and the SHA-256 of all arrays."""
        self._flush()
        self._wait()
        self._thread.shutdown()
        write_json(self._folder / "config.json", facts | {"sha256": _hash(self._index)})

    def close(self) -> None:
        """Give up: what is being written comes to its end, and the folder stays unfinished."""
        self._thread.shutdown(cancel_futures=True)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8)).hexdigest()


def _hash(index: Mapping[str, dict]) -> str:
    digest = hashlib.sha256()
    for name in sorted(index):
        entry = index[name]
        digest.update(f"{name} {entry['dtype']} {entry['shape']} {entry['sha256']}\n".encode())
    return digest.hexdigest()


def save_weights(folder: Path, config, state: nnx.State) -> None:
    """Write the parameters of a whole module; arrays with a first logical axis `layers` go layer by layer."""
    writer = Writer(folder)
    for name, array in unstacked(state):
        writer.add(name, array)
    writer.finish({"architecture": architecture(config)})


def _stacked(variable: nnx.Variable) -> bool:
    return (variable.get_metadata().get("out_sharding") or (None,))[0] == "layers"


def slots(state: nnx.State, prefix: str = "") -> dict[str, tuple[str, int | None, tuple[int, ...]]]:
    """The arrays of a (possibly abstract) state on disk: name -> (parameter, layer or None, shape).

    `prefix` is where the module sits in a larger one, "llm/": names on disk do not have it.
    """
    found = {}
    for path, variable in nnx.to_flat_state(state):
        name = "/".join(map(str, path))
        short, shape = name.removeprefix(prefix), tuple(variable.shape)
        if _stacked(variable):
            found |= {f"{short}/{layer}": (name, layer, shape[1:]) for layer in range(shape[0])}
        else:
            found[short] = (name, None, shape)
    return found


def unstacked(state: nnx.State, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a concrete state as they lie on disk (`slots`)."""
    arrays = {name: np.asarray(jax.device_get(value)) for name, value in named(state).items()}
    for name, (target, layer, _) in slots(state, prefix).items():
        yield name, arrays[target] if layer is None else arrays[target][layer]


def load_weights(folder: Path, abstract: nnx.State, prefix: str = "") -> nnx.State:
    """Restore parameters into the shapes, dtypes and shardings of `abstract`.

    Layers are read one array at a time, each device its own slice, and put into the stack that is to hold them, what
    `abstract` holds quantised in its few bits. On many processes all call this alike.

    Raises:
      CheckpointError: no finished weights there, or other parameters than these.
      QuantizationError: qwix, which quantises, is not installed.
    """
    folder, index = Path(folder), read_index(folder)
    plain = unquantized(abstract)
    wanted = slots(plain, prefix)
    strays = sorted(wanted.keys() ^ index.keys())
    shapes = [n for n in wanted.keys() & index.keys() if tuple(index[n]["shape"]) != wanted[n][2]]
    if strays or shapes:
        raise CheckpointError(
            f"{folder}: weights of another architecture: {len(strays)} arrays are only there or only in the model "
            f"{strays[:3]}, {len(shapes)} have another shape {sorted(shapes)[:3]}; take the config that fits"
        )
    leaves, arrays, plain_leaves, pieces = named(abstract), {}, named(plain), quantizer(abstract)
    parts: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    for name, entry in index.items():
        target, layer, shape = wanted[name]
        place = plain_leaves[target].sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        place = place if layer is None else _slice_place(place)
        parts.setdefault(entry["part"], {})[name] = jax.ShapeDtypeStruct(shape, entry["dtype"], sharding=place)
    for number, part in enumerate(sorted(parts)):
        loaded = ocp.load(str((folder / "params" / part).absolute()), parts[part])
        for name in parts[part]:
            target, layer, _ = wanted[name]
            for piece, array in pieces(target, loaded.pop(name)).items():
                arrays[piece] = _put(arrays.get(piece), array, layer, leaves[piece])
        jax.block_until_ready(arrays)  # else parts are read faster than they find their place
        if number % PARTS_BETWEEN_RELEASES == PARTS_BETWEEN_RELEASES - 1:
            release_memory()
    release_memory()
    return filled(abstract, arrays)


def _slice_place(place: jax.sharding.Sharding) -> jax.sharding.Sharding:
    if not isinstance(place, NamedSharding):
        return place
    if place.spec and place.spec[0] is not None:
        raise CheckpointError(f"layers sharded over {place.spec[0]!r} cannot be restored one by one")
    return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))


def _put(stack: jax.Array | None, value: jax.Array, layer: int | None, like) -> jax.Array:
    dtype, place = np.dtype(like.dtype), like.sharding
    if layer is None:
        return value.astype(dtype)
    if stack is None:
        stack = jax.jit(functools.partial(jnp.zeros, like.shape, dtype), out_shardings=place)()
    return _updater(place)(stack, value, layer)


@functools.lru_cache(maxsize=64)
def _updater(place):
    def update(stack, value, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, value.astype(stack.dtype), layer, 0)

    return jax.jit(update, donate_argnums=0, out_shardings=place)


def read_arrays(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every array as numpy, a part at a time, whatever accelerator is there.

    Raises:
      CheckpointError: no finished weights there, or an array that is not what was written.
    """
    folder, index = Path(folder), read_index(folder)
    here = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    for part in sorted({entry["part"] for entry in index.values()}):
        entries = {name: entry for name, entry in index.items() if entry["part"] == part}
        abstract = {n: jax.ShapeDtypeStruct(tuple(e["shape"]), e["dtype"], sharding=here) for n, e in entries.items()}
        loaded = ocp.load(str((folder / "params" / part).absolute()), abstract)
        for name, entry in entries.items():
            array = np.asarray(loaded.pop(name))
            if _digest(array) != entry["sha256"]:
                raise CheckpointError(f"{folder}: {name} is damaged; convert the weights again")
            yield name, array
