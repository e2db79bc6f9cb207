"""Checkpoints (Orbax): trainables, optimizer, counters; the base model by itself, once.

DIR/base/           the LLM that the adapters sit on, written after stage 0; a converted base stays where it is
DIR/checkpoints/    numbered by step; each is complete or absent (Orbax renames when all is written)
"""

import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp

from empatheia_jax import weights
from empatheia_jax.llm.quantized import quantized, unquantized
from empatheia_jax.states import CheckpointError, filled, named

KEPT = 2


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
        raise CheckpointError(
            f"{folder}: no base model here; train stage 0, or give the path of a converted one"
        )
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
    """The numbered checkpoints of one run, each params, optimizer, position and base; the newest `KEPT` stay.

    `base` is what the next ones are saved with.
    """

    def __init__(self, folder: Path):
        self._folder, self.base = folder, Base()
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.absolute()),
            preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
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

        Args:
          params: what cannot be had elsewhere: everything in stage 0, later the adapted parts without the base.
          opt_state: the optimizer's, stored by leaf number, so it belongs to one stage's trainable parameters.
        """
        if self._checkpointer.latest is not None and self._checkpointer.latest.step >= position.step:
            return
        leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(opt_state))}
        self._checkpointer.save_checkpointables_async(
            position.step,
            {
                "params": named(params),
                "optimizer": leaves,
                "position": dataclasses.asdict(position) | {"base": dataclasses.asdict(self.base)},
            },
        )

    def check_base(self, position: Position, base: Base) -> None:
        """See that a checkpoint was trained on this base.

        Raises:
          CheckpointError: its base was another.
        """
        saved = self._where(position.step)[1]
        if saved.sha256 and saved.sha256 != base.sha256:
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
        """Wait until everything is on disk."""
        self._checkpointer.close()
