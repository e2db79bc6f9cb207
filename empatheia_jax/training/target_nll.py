"""Negative log-likelihood of target tokens, one value a position, without keeping logits for the backward pass."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

CHUNK = 512  # positions of a row whose logits [CHUNK, V] are in memory at a time

Scores = tuple[jax.Array, jax.Array]  # float32 [R] negative log-likelihood, bool [R] whether the target is likeliest
LogitsOf = Callable[[jax.Array], jax.Array]  # [..., D] -> float32 [..., V]


def target_nll(hidden: jax.Array, targets: jax.Array, logits_of: LogitsOf, frozen: bool) -> Scores:
    """Scores of states [R, D] and targets int [R].

    With `frozen`, nothing that `logits_of` holds is differentiated: a position's gradient is then its own, and it is
    taken while its logits are there. [R, D] is kept and nothing is computed twice (the idea of Hsu et al., Liger
    Kernel, 2024). Otherwise the backward pass computes the logits again.
    """
    score = _frozen(logits_of) if frozen else jax.checkpoint(lambda h, t: _scores(h, t, logits_of))
    count = targets.shape[0]
    if count <= CHUNK:
        return score(hidden, targets)
    chunks = -(-count // CHUNK)
    padding = chunks * CHUNK - count
    hidden, targets = jnp.pad(hidden, [(0, padding), (0, 0)]), jnp.pad(targets, (0, padding))
    parts = jax.lax.map(lambda part: score(*part), (hidden.reshape(chunks, CHUNK, -1), targets.reshape(chunks, CHUNK)))
    return tuple(part.reshape(-1)[:count] for part in parts)


def _frozen(logits_of: LogitsOf):
    @jax.custom_vjp
    def score(hidden, targets):
        return _scores(hidden, targets, logits_of)

    def forward(hidden, targets):
        nll, pull, right = jax.vjp(lambda h: _scores(h, targets, logits_of), hidden, has_aux=True)
        return (nll, right), pull(jnp.ones_like(nll))[0]

    def backward(gradient, cotangents):
        return (gradient * cotangents[0][:, None]).astype(gradient.dtype), None

    score.defvjp(forward, backward)
    return score


def _scores(hidden: jax.Array, targets: jax.Array, logits_of: LogitsOf) -> Scores:
    logits = logits_of(hidden)
    most = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    wanted = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    nll = jnp.log(jnp.sum(jnp.exp(logits - most[:, None]), axis=-1)) + most - wanted
    return nll, wanted >= most
