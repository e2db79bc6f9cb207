"""Loads a trained run from its folder: the model, its tokenizer and its config."""

import dataclasses
from pathlib import Path

import jax
from flax import nnx

from empatheia_jax.checkpoints.answer_lengths import answer_limit
from empatheia_jax.checkpoints.model_inputs import model_widths
from empatheia_jax.checkpoints.restore import has_latents, is_complete, restore
from empatheia_jax.checkpoints.run_paths import require_paths
from empatheia_jax.checkpoints.runs import Checkpoints, Position
from empatheia_jax.checkpoints.workdir import saved_config
from empatheia_jax.config import Config, ConfigError, GeneratorConfig, MeshConfig
from empatheia_jax.data.prompts import tokenizer as tokenizers
from empatheia_jax.data.prompts.tokenizer import Tokenizer
from empatheia_jax.inference.engine import Engine
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.model.empatheia import Empatheia


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained run in memory."""

    model: Empatheia
    tokenizer: Tokenizer
    config: Config  # with the generators and the quantization that were asked for
    position: Position  # of the checkpoint that was read


def load_run(
    folder: Path | str,
    *,
    generators: GeneratorConfig | None = None,
    quantization: str | None = None,
    mesh: MeshConfig | None = None,
) -> LoadedRun:
    """Load a trained run onto the first device, or onto all devices as a mesh.

    Args:
      folder: workdir of the run.
      generators: those that will speak and animate, where they differ from the run's own setting.
      quantization: of the base, as `LlamaConfig.quantization`; None: the run's own.
      mesh: how all devices of this process share the parameters and the work; None: the first device does all.

    Raises:
      ShardingError: the mesh does not cover the devices, or does not divide the parameters.
      ConfigError: `folder` is no run, or has no checkpoint yet, or none with trained latents; or its base is not there,
        or cannot be quantised as asked, or qwix is not installed.
      CheckpointError: its checkpoint does not belong to its config.
      StoreError: it was trained for other generators' weights; or it is an older run whose feature store, which holds
        the widths, is missing.
    """
    folder = Path(folder)
    config = saved_config(folder)
    if generators is not None:
        config = dataclasses.replace(config, generators=generators)
    if quantization is not None:
        config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, quantization=quantization))
    require_paths(config, folder, "base")
    widths = model_widths(folder, config)
    tokenizer = tokenizers.load(folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints")
    position = checkpoints.latest()
    if position is None or not is_complete(position):
        raise ConfigError(f"{folder}: no checkpoint after stage 0 yet: train it first, or wait for one")
    if widths is not None and not has_latents(position):
        raise ConfigError(
            f"{folder}: stopped before stage 4 (at stage {position.stage}), its latents are not trained yet: finish it "
            "with train.py --resume"
        )
    devices = sharding.make_mesh(mesh) if mesh else sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    graphdef, abstract = abstract_model(config, widths, devices)
    state = restore(folder, config, checkpoints, position, state=abstract)
    checkpoints.close()
    return LoadedRun(nnx.merge(graphdef, state), tokenizer, config, position)


def load_engine(
    folder: Path | str,
    *,
    batch: int = 1,
    max_new_tokens: int | None = None,
    generators: GeneratorConfig | None = None,
    quantization: str | None = None,
    mesh: MeshConfig | None = None,
) -> Engine:
    """Load a trained run as an engine; arguments and errors are those of `load_run` and `Engine`.

    `max_new_tokens` is by default the run's own limit (`checkpoints.answer_lengths`).
    """
    run = load_run(folder, generators=generators, quantization=quantization, mesh=mesh)
    limit = answer_limit(Path(folder), run.config, max_new_tokens)
    return Engine(run.model, run.tokenizer, run.config, batch=batch, max_new_tokens=limit)
