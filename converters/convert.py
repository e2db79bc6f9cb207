"""One family's checkpoint -> a folder that `encoders.frozen.FrozenNetwork` reads."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters import clip, hubert
from converters.readers import ConversionError, open_checkpoint
from converters.rules import plan
from empatheia_jax.checkpoint import filled, named
from empatheia_jax.encoders.frozen import save_weights

FAMILIES: dict[str, ModuleType] = {"hubert": hubert, "clip": clip}


def convert(family: str, source: Path, output: Path, dtype: str = "float32") -> dict[str, int]:
    """Convert a transformers directory; `output` appears when all of it is written, or not at all.

    Args:
      dtype: of the parameters that are not norms, "float32" or "bfloat16".
    Returns:
      counts: tensors used, left aside (known to be harmless), parameters and their numbers.
    Raises:
      ConversionError: a checkpoint that does not fit, with everything that is wrong; an output that is there already.
    """
    table, source, output = FAMILIES[family], Path(source), Path(output)
    if output.exists():
        raise ConversionError(f"{output}: is there already; choose another folder or remove it")
    folder = source if source.is_dir() else source.parent
    if not (folder / "config.json").exists():
        raise ConversionError(f"{folder}: no config.json beside the weights")
    settings = json.loads((folder / "config.json").read_text())
    preprocessor = folder / "preprocessor_config.json"
    config = table.config_of(settings, json.loads(preprocessor.read_text()) if preprocessor.exists() else None)
    config = dataclasses.replace(config, param_dtype=dtype)
    tensors = open_checkpoint(source)
    state = nnx.state(nnx.eval_shape(lambda: table.NETWORK(config, rngs=nnx.Rngs(0))))
    shapes = named(state)
    targets = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    fitted = plan(table.rules(config, tensors), targets, tensors, table.HARMLESS)
    state = filled(state, {name: jnp.asarray(fitted.array(name, leaf.dtype)) for name, leaf in shapes.items()})
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_weights(partial, config, state)
    partial.rename(output)
    used = {name for rules in fitted.fill.values() for rule, layer in rules for name in rule.names(layer)}
    return {
        "tensors": len(used), "left_aside": len(tensors) - len(used), "parameters": len(targets),
        "numbers": sum(int(np.prod(shape)) for shape in targets.values()),
    }  # fmt: skip
