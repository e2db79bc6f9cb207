"""Where the parameters of a run are read from: its base, its newest checkpoint, and an adapter trained elsewhere."""

from pathlib import Path

from flax import nnx

from empatheia_jax.checkpoints import weights
from empatheia_jax.checkpoints.runs import Checkpoints, Position, load_base
from empatheia_jax.config import Config, ConfigError, LoraConfig
from empatheia_jax.model.construct import as_trained
from empatheia_jax.model.parameter_groups import ADAPTED, Group, in_groups


def is_complete(position: Position | None) -> bool:
    """Return whether a checkpoint and the base beside it hold every parameter: true once stage 0 is over."""
    return position is not None and position.stage > 0


def has_latents(position: Position) -> bool:
    """Return whether all of the latents have been trained at a checkpoint: true once stage 3 is over."""
    return position.stage > 3


def base_folder(folder: Path, config: Config) -> Path:
    """Return the folder of a run's base: the converted one, or DIR/base, which stage 0 writes."""
    return folder / "base" if config.base == "scratch" else Path(config.base)


def find_base(folder: Path, config: Config, position: Position | None, *, trains_base: bool) -> Path | None:
    """Return the folder of the base that a run begins or continues with; None where stage 0 has yet to train it.

    Args:
      folder: the run's.
      config: settings of the run.
      position: of the checkpoint that the run continues from; None: it begins.
      trains_base: whether the first stage to be trained is the one that trains the base.
    """
    exists = config.base != "scratch" or is_complete(position) or (position is None and not trains_base)
    return base_folder(folder, config) if exists else None


def read_base(folder: Path, state: nnx.State) -> nnx.State:
    """Return `state` with the base LLM of `folder`, read into the shapes and shardings of `state`.

    Raises:
      CheckpointError: no base there, or one of another shape.
    """
    return nnx.merge_state(state, load_base(folder, nnx.filter_state(state, in_groups(("base",)))))


def read_checkpoint(checkpoints: Checkpoints, position: Position, state: nnx.State) -> nnx.State:
    """Return `state` with the parameters of a checkpoint: the adapted parts, or all where stage 0 is not over.

    All are float32 then: rounded to `llm.param_dtype`, the base would not go on as it was.

    Raises:
      CheckpointError: parameters of another config.
    """
    saved = nnx.filter_state(state, in_groups(ADAPTED)) if is_complete(position) else as_trained(state)
    return nnx.merge_state(state, checkpoints.load_params(position, saved))


def restore(
    folder: Path, config: Config, checkpoints: Checkpoints, position: Position, *, state: nnx.State
) -> nnx.State:
    """Return all parameters of a run whose base is trained: the base, and the adapted parts of a checkpoint.

    Args:
      folder: the run's.
      config: settings of the run.
      checkpoints: the run's.
      position: of the checkpoint, which `is_complete`.
      state: shapes and shardings of all parameters; it may be abstract.

    Raises:
      CheckpointError: no base there, or parameters of another config.
    """
    return read_checkpoint(checkpoints, position, read_base(base_folder(folder, config), state))


def check_base(config: Config) -> None:
    """Check that `llm` is the architecture of the converted base, and `lora` that of the adapter.

    Raises:
      ConfigError: the architectures differ, or there is no such base or adapter.
    """
    if config.adapter:
        _check_adapter(config)
    if config.base == "scratch":
        return
    if not Path(config.base).exists():
        raise ConfigError(f"base {config.base}: not there; `python -m converters vicuna` makes it from published ones")
    if weights.is_weights(config.base):
        saved, expected = weights.read_metadata(config.base)["architecture"], weights.architecture(config.llm)
        differences = [
            f"{n} {expected.get(n)} (there {saved.get(n)})" for n in weights.differing_fields(saved, expected)
        ]
        if differences:
            raise ConfigError(
                f"base {config.base} is another LLM than the config's llm: {', '.join(differences)}; "
                "`load_llm_config(base)` of empatheia_jax.config.load gives the settings of a converted base"
            )


def _check_adapter(config: Config) -> None:
    if config.base == "scratch":
        raise ConfigError(f"adapter {config.adapter}: it belongs to a base, and base is 'scratch': name that one")
    if not weights.is_weights(config.adapter):
        raise ConfigError(f"adapter {config.adapter}: none there; `python -m converters peft` makes one of PEFT's")
    saved, expected = weights.read_metadata(config.adapter)["architecture"], adapter_architecture(config.lora)
    if saved != expected:
        raise ConfigError(f"adapter {config.adapter} is {saved}, the config's lora is {expected}: make them agree")


def adapter_architecture(lora: LoraConfig) -> dict:
    """Return the fields of a `LoraConfig` that determine an adapter's parameters and arithmetic, as JSON values."""
    return {"family": "LoraConfig", "rank": lora.rank, "alpha": lora.alpha, "targets": sorted(lora.targets)}


def load_adapter(config: Config, state: nnx.State) -> nnx.State:
    """Return `state` with the LoRA of `config.adapter`, and with its new tokens where it has them.

    Raises:
      CheckpointError: the adapter is of another LLM.
    """
    folder = Path(config.adapter)
    has_new_tokens = "new_tokens/input" in weights.read_index(folder)
    groups: tuple[Group, ...] = ("lora", "new_tokens") if has_new_tokens else ("lora",)
    adapted = nnx.filter_state(state, in_groups(groups))
    return nnx.merge_state(state, weights.load_weights(folder, adapted, prefix="llm/"))
