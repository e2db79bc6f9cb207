"""Negative log-likelihood of target tokens, one value a position, without keeping logits for the backward pass."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from empatheia_jax.model.shapes import Array, Bool, Float, Int

CHUNK = 512  # positions of a row whose logits [CHUNK, V] are in memory at a time

Scores = tuple[Float[Array, " R"], Bool[Array, " R"]]  # negative log-likelihood, whether the target is likeliest
LogitsFunction = Callable[[Float[Array, "*shape D"]], Float[Array, "*shape V"]]  # float32


def target_nll(
    hidden: Float[Array, "R D"], targets: Int[Array, " R"], compute_logits: LogitsFunction, frozen: bool
) -> Scores:
    """Score the targets of one row.

    With `frozen`, the gradient of a position's negative log-likelihood with respect to its state is taken in the
    forward pass, while its logits are in memory: [R, D] is kept and nothing is computed twice (the idea of Hsu et al.,
    Liger Kernel, 2024). Otherwise the backward pass computes the logits again.

    Args:
      hidden: states of the positions that carry loss.
      targets: the token that follows each of them.
      compute_logits: [..., D] -> float32 [..., V].
      frozen: whether no parameter of `compute_logits` is differentiated.

    Returns:
      The negative log-likelihood of each target, and whether it is the likeliest token.
    """
    score = _frozen(compute_logits) if frozen else jax.checkpoint(lambda h, t: _scores(h, t, compute_logits))
    count = targets.shape[0]
    if count <= CHUNK:
        return score(hidden, targets)
    chunks = -(-count // CHUNK)
    padding = chunks * CHUNK - count
    hidden, targets = jnp.pad(hidden, [(0, padding), (0, 0)]), jnp.pad(targets, (0, padding))
    parts = jax.lax.map(lambda part: score(*part), (hidden.reshape(chunks, CHUNK, -1), targets.reshape(chunks, CHUNK)))
    return tuple(part.reshape(-1)[:count] for part in parts)


def _frozen(compute_logits: LogitsFunction) -> Callable:
    @jax.custom_vjp
    def score(hidden, targets):
        return _scores(hidden, targets, compute_logits)

    def forward(hidden, targets):
        nll, pullback, correct = jax.vjp(lambda h: _scores(h, targets, compute_logits), hidden, has_aux=True)
        return (nll, correct), pullback(jnp.ones_like(nll))[0]

    def backward(gradient, cotangents):
        return (gradient * cotangents[0][:, None]).astype(gradient.dtype), None

    score.defvjp(forward, backward)
    return score


def _scores(hidden: Float[Array, "R D"], targets: Int[Array, " R"], compute_logits: LogitsFunction) -> Scores:
    logits = compute_logits(hidden)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    nll = jnp.log(jnp.sum(jnp.exp(logits - largest[:, None]), axis=-1)) + largest - target_logits
    return nll, target_logits >= largest
