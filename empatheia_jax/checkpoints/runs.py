"""Checkpoints (Orbax): trained parameters, optimizer and position; the base LLM in a folder of its own, written once.

DIR/base/           the LLM that the adapters belong to, written after stage 0; a converted base stays where it is
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

from empatheia_jax.checkpoints import weights
from empatheia_jax.checkpoints.manifest import write_manifest
from empatheia_jax.checkpoints.named_arrays import CheckpointError, DiskError, named_arrays, with_arrays
from empatheia_jax.llm.quantized import make_quantizer, quantize_arrays, unquantized
from empatheia_jax.runtime import processes

KEPT = 2
# Messages of Python and TensorStore for a disk that is full or unavailable for a while.
_DISK_MESSAGES = re.compile(
    r"no space left|file too large|disk quota|input/output error|stale file|read-only file system|permission denied",
    re.IGNORECASE,
)
POLL_SECONDS = 0.2


class _SaveErrorFilter(logging.Filter):
    """The first error of a save in Orbax's threads, taken from Orbax's log; its traceback is not printed.

    Orbax raises the error only where the end of the save is waited for. With several processes that wait does not end:
    this process and the others wait at different barriers, for 20 minutes by Orbax's default.
    """

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if "/orbax/" not in record.pathname or record.exc_info is None:
            return True
        self.error = self.error or record.exc_info[1]
        return False


_save_errors = _SaveErrorFilter()
logging.getLogger("absl").addFilter(_save_errors)


def _is_disk_error(error: BaseException) -> bool:
    return isinstance(error, OSError) or bool(_DISK_MESSAGES.search(str(error)))


@dataclasses.dataclass(frozen=True)
class Position:
    """The position of a run: `step` over the run, `stage_step` finished steps of `stage`.

    At the end of stage s it is (step, s + 1, 0).
    """

    step: int
    stage: int
    stage_step: int


def hash_state(state: nnx.State) -> str:
    """Return the SHA-256 of parameters, names and bytes: 64 hex digits."""
    digest = hashlib.sha256()
    for path, variable in sorted(nnx.to_flat_state(state), key=lambda item: str(item[0])):
        digest.update(str(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(variable[...])).tobytes())
    return digest.hexdigest()


def _abstract(arrays):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)


def _check(saved: dict, expected: dict, path: Path) -> None:
    """Compare names and shapes before any byte is read."""
    missing, unknown = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    shapes = [n for n in expected.keys() & saved.keys() if tuple(saved[n].shape) != tuple(expected[n].shape)]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"{path} was written by another config: {len(missing)} parameters missing {missing[:3]}, {len(unknown)} "
            f"unknown {unknown[:3]}, {len(shapes)} of another shape {sorted(shapes)[:3]}; use the run's own config"
        )


def save_base(folder: Path, base: nnx.State) -> None:
    """Write the base once; an older one is replaced only when the new one is complete."""
    ocp.save(str(folder.absolute()), named_arrays(base), overwrite=True)


def load_base(folder: Path, base: nnx.State) -> nnx.State:
    """Restore a base, stage 0's or a converted one, into the shapes, shardings and (a converted one) dtypes of `base`.

    Parameters that `base` holds quantised are quantised as they are read, to the same bits each time.

    Raises:
      CheckpointError: no base there, or one of another shape.
      QuantizationError: qwix, which quantises, is not installed.
    """
    folder = Path(folder)
    if weights.is_weights(folder):
        stored, quantize = unquantized(base), make_quantizer(base)
        return weights.load_weights(folder, base, "llm/", stored=stored, convert=quantize)
    if not folder.exists():
        raise CheckpointError(f"{folder}: no base model here; train stage 0, or give the path of a converted one")
    expected = named_arrays(unquantized(base))
    _check(ocp.metadata(str(folder.absolute())).metadata, expected, folder)
    return quantize_arrays(ocp.load(str(folder.absolute()), _abstract(expected)), base)


@dataclasses.dataclass(frozen=True)
class Base:
    """The base LLM that adapters belong to: its folder, and the SHA-256 of its files ("" while stage 0 trains it)."""

    folder: str = ""
    sha256: str = ""


def identify_base(folder: Path) -> Base:
    """Hash the files below `folder`, names and bytes, so that a copy elsewhere has the same hash.

    A converted base was hashed when it was written; its files are not read again.
    """
    folder, digest = Path(folder), hashlib.sha256()
    if weights.is_weights(folder):
        return Base(str(folder), weights.read_metadata(folder)["sha256"])
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return Base(str(folder), digest.hexdigest())


class Checkpoints:
    """The numbered checkpoints of one run, each with parameters, optimizer state, position and base.

    Attributes:
      base: the base that the next checkpoints are saved with.
    """

    def __init__(self, folder: Path, kept: int = KEPT, kept_every: int = 0):
        """Open `folder`; the newest `kept` checkpoints are kept, and one of every `kept_every` steps (0: none)."""
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
            preservation_policy=self._preserved,  # pyright: ignore[reportArgumentType]: Orbax types its policies as protocols
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore[reportArgumentType]
        )

    def latest(self) -> Position | None:
        """Return the position of the newest complete checkpoint; None where there is none."""
        newest = self._checkpointer.latest
        if newest is None:
            return None
        return self._read_position(newest.step)[0]

    def _read_position(self, step: int) -> tuple[Position, Base]:
        saved = dict(self._checkpointer.load_checkpointables(step, {"position": None})["position"])
        base = Base(**saved.pop("base", {}))  # older runs did not record it
        return Position(**saved), base

    def save(self, position: Position, params: nnx.State, opt_state) -> None:
        """Begin to save; does nothing at a step that is not after the newest checkpoint's.

        If the disk refuses a save, one line is printed, what was written is deleted, and the run continues: the next
        save tries again. With several processes it is an error, because one of them cannot abandon a save alone.

        Args:
          position: of the run.
          params: the parameters that are stored nowhere else: all in stage 0, later the adapted parts without the base.
          opt_state: the optimizer's, stored by leaf number, so it belongs to one stage's trainable parameters.

        Raises:
          DiskError: the disk refused the save before this one, and the run has several processes.
        """
        self.wait()
        if self._checkpointer.latest is not None and self._checkpointer.latest.step >= position.step:
            return
        leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(opt_state))}
        values = {
            "params": named_arrays(params),
            "optimizer": leaves,
            "position": dataclasses.asdict(position) | {"base": dataclasses.asdict(self.base)},
        }
        self._failed, _save_errors.error = "", None
        try:
            response = self._checkpointer.save_checkpointables_async(position.step, values)
        except Exception as error:
            self._handle_failure(position.step, error)
            return
        self._pending = position.step, self._sealer.submit(self._seal, position.step, response)

    def _seal(self, step: int, response) -> None:
        """Wait for the end of a save, and write its manifest."""
        response.result()
        if processes.is_first():
            write_manifest(self._folder / str(step))

    def wait(self) -> None:
        """Wait until the last save is on disk, or was refused.

        Raises:
          DiskError: it was refused, and the run has several processes.
        """
        if self._pending is None:
            return
        step, sealed = self._pending
        while not concurrent.futures.wait([sealed], POLL_SECONDS).done:
            self.check_pending()
        self._pending = None
        try:
            sealed.result()
        except Exception as error:
            self._handle_failure(step, error)

    def finish_pending(self) -> None:
        """Wait until a save under way is complete or has failed; may be called from any thread."""
        pending = self._pending
        if pending is not None:
            concurrent.futures.wait([pending[1]])

    def check_pending(self) -> None:
        """Check whether the save under way has failed: with several processes, waiting for a failed one does not end.

        Raises:
          DiskError: it was refused, and the run has several processes.
        """
        error = _save_errors.error
        if self._pending is not None and error is not None and jax.process_count() > 1 and _is_disk_error(error):
            (step, _), self._pending = self._pending, None
            self._handle_failure(step, error)

    def _handle_failure(self, step: int, error: BaseException) -> None:
        """Report a save that the disk refused, and prepare for the next one; raise any other error."""
        if not _is_disk_error(error):
            raise error
        match = _DISK_MESSAGES.search(str(error))
        reason = match.group(0) if match else str(error).strip().splitlines()[0]
        self._failed = f"checkpoint {step} could not be written below {self._folder}: {reason.lower()}"
        if jax.process_count() > 1:
            raise DiskError(f"{self._failed}; free space and --resume") from error
        with contextlib.suppress(Exception):  # it raises the same error again
            self._checkpointer.close()
        self._remove_unfinished(step)
        self._checkpointer = self._open()
        print(f"{self._failed}; the run goes on, and the next checkpoint tries again", file=sys.stderr, flush=True)

    def _remove_unfinished(self, step: int, seconds: float = 10.0) -> None:
        """Delete what a refused save has written; its other threads may still be writing."""
        deadline = time.monotonic() + seconds
        while unfinished := [path for path in self._folder.glob(f"{step}*") if path.name.split(".")[0] == str(step)]:
            for path in unfinished:
                shutil.rmtree(path, ignore_errors=True)
            if time.monotonic() > deadline:
                return  # a resume tries again
            time.sleep(0.05)

    def check_base(self, position: Position, base: Base) -> None:
        """Check that a checkpoint was trained on this base.

        Raises:
          CheckpointError: it was trained on another.
        """
        saved = self._read_position(position.step)[1]
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
        """Read the parameters of a checkpoint into the shapes and shardings of `params` (which may be abstract).

        Raises:
          CheckpointError: the checkpoint has other parameters or shapes.
        """
        expected = named_arrays(params)
        metadata = self._checkpointer.checkpointables_metadata(position.step).metadata["params"]
        _check(metadata, expected, self._folder / str(position.step))
        loaded = self._checkpointer.load_checkpointables(position.step, {"params": _abstract(expected)})
        return with_arrays(params, loaded["params"])

    def load_optimizer(self, position: Position, opt_state):
        """Read the optimizer state of a checkpoint into the structure and shardings of the same stage's `opt_state`."""
        leaves, structure = jax.tree.flatten(opt_state)
        expected = {str(index): leaf for index, leaf in enumerate(leaves)}
        loaded = self._checkpointer.load_checkpointables(position.step, {"optimizer": _abstract(expected)})["optimizer"]
        return jax.tree.unflatten(structure, [loaded[str(index)] for index in range(len(leaves))])

    def close(self) -> None:
        """Wait until everything is on disk, and close.

        Raises:
          DiskError: the disk refused the last save.
        """
        self.wait()
        self._sealer.shutdown()
        self._checkpointer.close()
        if self._failed:
            raise DiskError(f"{self._failed}; free space and --resume, which goes on from the one before")
