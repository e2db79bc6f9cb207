"""`Empatheia` from its config: first the shapes and shardings of all parameters, then their values on their devices."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.schema import Widths
from empatheia_jax.llm.quantized import parameter_count
from empatheia_jax.model import sharding
from empatheia_jax.model.empatheia import Empatheia
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups


def _create(config: Config, widths: Widths | None):
    return lambda key: Empatheia(config, widths, rngs=nnx.Rngs(key))


def abstract_model(config: Config, widths: Widths | None, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the graphdef, and the shape, dtype and sharding of every parameter; allocates nothing.

    Args:
      config: settings of the run.
      widths: sizes that encoders and generators set; None: a text-only model.
      mesh: mesh of the run; its devices need not be there.

    Raises:
      ShardingError: a dimension that the mesh does not divide.
    """
    graphdef, abstract = nnx.split(nnx.eval_shape(_create(config, widths), jax.random.key(0)))
    return graphdef, sharding.with_shardings(abstract, sharding.shardings(abstract, mesh))


def initialise(config: Config, widths: Widths | None, abstract: nnx.State, base: bool = True) -> nnx.State:
    """Draw every parameter on its own devices, from `config.seed`.

    Args:
      config: settings of the run.
      widths: sizes that encoders and generators set; None: a text-only model.
      abstract: the whole model's state, with shardings.
      base: whether to draw the LLM too; where not, it stays abstract, so that no memory is taken for what is read.
    """
    drawn = in_groups(("base", *ADAPTED) if base else ADAPTED)
    create = _create(config, widths)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, nnx.filter_state(abstract, drawn))
    draw = jax.jit(lambda key: nnx.filter_state(nnx.split(create(key))[1], drawn), out_shardings=shardings)
    return nnx.merge_state(abstract, draw(jax.random.key(config.seed)))


def as_trained(state: nnx.State) -> nnx.State:
    """Return parameters, abstract or not, in the dtype in which they are trained: float32, with their shardings."""

    def convert(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)
        return leaf.astype(jnp.float32)

    return jax.tree.map(convert, state)


def as_stored(state: nnx.State, abstract: nnx.State) -> nnx.State:
    """Return all parameters in the dtypes of `abstract`: a base that was trained is rounded to `llm.param_dtype`.

    A run that goes on after stage 0 has the same base as one that reads it from its folder.
    """
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), state, abstract)


def describe(state: nnx.State) -> str:
    """Return one line with the number of parameters of each part."""
    sizes: dict[str, int] = {}
    for path, variable in nnx.to_flat_state(state):
        part = "lora" if isinstance(variable, nnx.LoRAParam) else str(path[0])
        sizes[part] = sizes.get(part, 0) + parameter_count(variable)
    return ", ".join(f"{part} {size:,}" for part, size in sizes.items())
