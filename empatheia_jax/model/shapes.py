"""Array types for annotations such as `Float[Array, "B T D"]`, with the axis letters of `data.schema`.

They are checked at run time in the tests (`tests/conftest.py`); elsewhere they cost nothing.
"""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

if TYPE_CHECKING:
    from jax import Array  # a checker is told of one kind of array, whose methods the functions may use
else:
    Array = jax.Array | np.ndarray  # numpy arrays are inputs from the host, or constants of a traced function

__all__ = ["Array", "Bool", "Float", "Int", "PRNGKeyArray"]
