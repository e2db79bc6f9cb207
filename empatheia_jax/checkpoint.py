"""Checkpoints (Orbax): trainables, optimizer, counters; the base model by itself, once.

DIR/base/           the LLM that the adapters sit on, written after stage 0; a converted base stays where it is
DIR/checkpoints/    numbered by step; each is complete or absent (Orbax renames when all is written), its manifest last
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import logging
import re
import shutil
import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp

from empatheia_jax import processes, weights
from empatheia_jax.llm.quantized import quantized, unquantized
from empatheia_jax.manifest import write_manifest
from empatheia_jax.states import CheckpointError, DiskError, filled, named

KEPT = 2
# What a disk says that is full or away for a while, in Python's words and in TensorStore's.
_DISK = re.compile(
    r"no space left|file too large|disk quota|input/output error|stale file|read-only file system|permission denied",
    re.IGNORECASE,
)
POLL = 0.2  # seconds


class _Background(logging.Filter):
    """The first error of a save in Orbax's threads, which log it at once, with a traceback that is not printed.

    Orbax raises it where the end of the save is waited for. With several processes that end does not come: this one and
    the others wait for each other at different barriers, 20 minutes by Orbax's default.
    """

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if "/orbax/" not in record.pathname or record.exc_info is None:
            return True
        self.error = self.error or record.exc_info[1]
        return False


_background = _Background()
logging.getLogger("absl").addFilter(_background)


def _of_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) or bool(_DISK.search(str(error)))


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands: `step` over the run, `stage_step` finished steps of `stage`.

    At the end of stage s it is (step, s + 1, 0).
    """

    step: int
    stage: int
    stage_step: int


def state_hash(state: nnx.State) -> str:
    """SHA-256 of parameters, names and bytes: 64 hex digits."""
    digest = hashlib.sha256()
    for path, variable in sorted(nnx.to_flat_state(state), key=lambda item: str(item[0])):
        digest.update(str(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(variable[...])).tobytes())
    return digest.hexdigest()


def _abstract(arrays):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)


def _check(saved: dict, wanted: dict, where: Path) -> None:
    """Compare names and shapes before any byte is read."""
    missing, strange = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    shapes = [name for name in wanted.keys() & saved.keys() if tuple(saved[name].shape) != tuple(wanted[name].shape)]
    if missing or strange or shapes:
        raise CheckpointError(
            f"{where} was written by another config: {len(missing)} parameters missing {missing[:3]}, {len(strange)} "
            f"unknown {strange[:3]}, {len(shapes)} of another shape {sorted(shapes)[:3]}; use the run's own config"
        )


def save_base(folder: Path, base: nnx.State) -> None:
    """Write the base once; an older one is replaced only when the new one is complete."""
    ocp.save(str(folder.absolute()), named(base), overwrite=True)


def load_base(folder: Path, base: nnx.State) -> nnx.State:
    """Restore a base, stage 0's or a converted one, into the shapes, shardings and (a converted one) dtypes of `base`.

    What `base` holds quantised is quantised as it is read: the same bits each time.

    Raises:
      CheckpointError: no base there, or one of another shape.
      QuantizationError: qwix, which quantises, is not installed.
    """
    folder = Path(folder)
    if weights.is_weights(folder):
        return weights.load_weights(folder, base, prefix="llm/")
    if not folder.exists():
        raise CheckpointError(f"{folder}: no base model here; train stage 0, or give the path of a converted one")
    wanted = named(unquantized(base))
    _check(ocp.metadata(str(folder.absolute())).metadata, wanted, folder)
    return quantized(ocp.load(str(folder.absolute()), _abstract(wanted)), base)


@dataclasses.dataclass(frozen=True)
class Base:
    """The base that adapters belong to: where it was, and the SHA-256 of its files ("" while stage 0 trains it)."""

    folder: str = ""
    sha256: str = ""


def identify_base(folder: Path) -> Base:
    """Hash the files below `folder`, names and bytes: a copy elsewhere has the same hash.

    A converted base is hashed when it is written, and not read again.
    """
    folder, digest = Path(folder), hashlib.sha256()
    if weights.is_weights(folder):
        return Base(str(folder), weights.read_facts(folder)["sha256"])
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return Base(str(folder), digest.hexdigest())


class Checkpoints:
    """The numbered checkpoints of one run, each params, optimizer, position and base.

    `base` is what the next ones are saved with.
    """

    def __init__(self, folder: Path, kept: int = KEPT, kept_every: int = 0):
        """The newest `kept` stay, and one of every `kept_every` steps (0: none)."""
        self._folder, self.base = folder, Base()
        policies = ocp.training.preservation_policies
        self._preserved = policies.LatestN(kept)
        if kept_every:
            spread = policies.EveryNSteps(kept_every, exact_interval=False)
            self._preserved = policies.AnyPreservationPolicy([self._preserved, spread])
        self._checkpointer = self._open()
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "seal")
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._failed = ""

    def _open(self) -> ocp.training.Checkpointer:
        return ocp.training.Checkpointer(
            str(self._folder.absolute()),
            preservation_policy=self._preserved,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        )

    def latest(self) -> Position | None:
        """Position of the newest complete checkpoint; None where there is none."""
        newest = self._checkpointer.latest
        if newest is None:
            return None
        return self._where(newest.step)[0]

    def _where(self, step: int) -> tuple[Position, Base]:
        saved = dict(self._checkpointer.load_checkpointables(step, {"position": None})["position"])
        base = Base(**saved.pop("base", {}))  # runs from before bases were recorded have none
        return Position(**saved), base

    def save(self, position: Position, params: nnx.State, opt_state) -> None:
        """Save asynchronously; a step that is not after the newest one does nothing.

        A save that the disk refuses is said, leaves nothing behind, and the run goes on: the next one tries again. What
        several processes write together cannot be given up by one of them: there it is an error.

        Args:
          params: what cannot be had elsewhere: everything in stage 0, later the adapted parts without the base.
          opt_state: the optimizer's, stored by leaf number, so it belongs to one stage's trainable parameters.
        Raises:
          DiskError: the disk refused the save before this one, and the run has several processes.
        """
        self.wait()
        if self._checkpointer.latest is not None and self._checkpointer.latest.step >= position.step:
            return
        leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(opt_state))}
        values = {
            "params": named(params),
            "optimizer": leaves,
            "position": dataclasses.asdict(position) | {"base": dataclasses.asdict(self.base)},
        }
        self._failed, _background.error = "", None
        try:
            response = self._checkpointer.save_checkpointables_async(position.step, values)
        except Exception as error:
            self._refused(position.step, error)
            return
        self._pending = position.step, self._sealer.submit(self._seal, position.step, response)

    def _seal(self, step: int, response) -> None:
        """Wait for a save, and write down what its files are."""
        response.result()
        if processes.first():
            write_manifest(self._folder / str(step))

    def wait(self) -> None:
        """Until the last save is on disk, or was refused.

        Raises:
          DiskError: it was refused, and the run has several processes.
        """
        if self._pending is None:
            return
        step, sealed = self._pending
        while not concurrent.futures.wait([sealed], POLL).done:
            self.check()
        self._pending = None
        try:
            sealed.result()
        except Exception as error:
            self._refused(step, error)

    def check(self) -> None:
        """See whether the save that is under way goes well: with several processes, nobody may wait for one that fails.

        Raises:
          DiskError: it was refused, and the run has several processes.
        """
        error = _background.error
        if self._pending is not None and error is not None and jax.process_count() > 1 and _of_disk(error):
            (step, _), self._pending = self._pending, None
            self._refused(step, error)

    def _refused(self, step: int, error: Exception) -> None:
        """A save failed: say so and make ready for the next, unless it is no matter of the disk."""
        if not _of_disk(error):
            raise error
        found = _DISK.search(str(error))
        reason = found.group(0) if found else str(error).strip().splitlines()[0]
        self._failed = f"checkpoint {step} could not be written below {self._folder}: {reason.lower()}"
        if jax.process_count() > 1:
            raise DiskError(f"{self._failed}; free space and --resume") from error
        with contextlib.suppress(Exception):  # it raises the same error once more
            self._checkpointer.close()
        self._remove_half(step)
        self._checkpointer = self._open()
        print(f"{self._failed}; the run goes on, and the next checkpoint tries again", file=sys.stderr, flush=True)

    def _remove_half(self, step: int, seconds: float = 10.0) -> None:
        """Delete what a refused save has written; its other threads may be writing still."""
        deadline = time.monotonic() + seconds
        while halves := [path for path in self._folder.glob(f"{step}*") if path.name.split(".")[0] == str(step)]:
            for half in halves:
                shutil.rmtree(half, ignore_errors=True)
            if time.monotonic() > deadline:
                return  # a resume tries again
            time.sleep(0.05)

    def check_base(self, position: Position, base: Base) -> None:
        """See that a checkpoint was trained on this base.

        Raises:
          CheckpointError: its base was another.
        """
        saved = self._where(position.step)[1]
        if saved.sha256 and saved.sha256 != base.sha256:
            if saved.folder == base.folder:
                raise CheckpointError(
                    f"{base.folder} has changed since it was written, or is damaged: its hash was {saved.sha256[:16]} "
                    f"and is {base.sha256[:16]}; put that base back, or train anew"
                )
            raise CheckpointError(
                f"{base.folder} is not the base of {self._folder / str(position.step)}, which was {saved.folder} with "
                f"hash {saved.sha256[:16]}, not {base.sha256[:16]}: put that one back, or train anew"
            )

    def load_params(self, position: Position, params: nnx.State) -> nnx.State:
        """Parameters of a checkpoint, in the shapes and shardings of `params` (which may be abstract).

        Raises:
          CheckpointError: other parameters or shapes are in it.
        """
        wanted = named(params)
        metadata = self._checkpointer.checkpointables_metadata(position.step).metadata["params"]
        _check(metadata, wanted, self._folder / str(position.step))
        loaded = self._checkpointer.load_checkpointables(position.step, {"params": _abstract(wanted)})
        return filled(params, loaded["params"])

    def load_optimizer(self, position: Position, opt_state):
        """Optimizer state of a checkpoint, in the structure and shardings of `opt_state`, the same stage's."""
        leaves, structure = jax.tree.flatten(opt_state)
        wanted = {str(index): leaf for index, leaf in enumerate(leaves)}
        loaded = self._checkpointer.load_checkpointables(position.step, {"optimizer": _abstract(wanted)})["optimizer"]
        return jax.tree.unflatten(structure, [loaded[str(index)] for index in range(len(leaves))])

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
          DiskError: the disk refused the last save.
        """
        self.wait()
        self._sealer.shutdown()
        self._checkpointer.close()
        if self._failed:
            raise DiskError(f"{self._failed}; free space and --resume, which goes on from the one before")
