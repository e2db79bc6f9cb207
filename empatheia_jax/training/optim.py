"""AdamW with warm-up and cosine decay (Table 9: lr 5e-5, weight decay 1e-3); every stage starts a new one."""

import jax
import optax

from empatheia_jax.config import OptimConfig, StageConfig


def schedule(stage: StageConfig, steps: int) -> optax.Schedule:
    """Return a linear warm-up over `warmup_share` of a stage's `steps`, then a cosine to a tenth of the peak.

    The paper gives the rate only; the shape is this project's.
    """
    warmup = max(1, round(stage.warmup_share * steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=stage.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=0.1 * stage.learning_rate,
    )


def optimizer(optim: OptimConfig, stage: StageConfig, steps: int, decayed) -> optax.GradientTransformation:
    """Return AdamW on clipped gradients.

    Args:
      optim: settings of the whole run.
      stage: settings of the stage, which override the run's weight decay.
      steps: of the whole stage.
      decayed: tree or vector like the parameters, 1 where weight decay applies, else 0 (`decay_mask`).
    """
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.scale_by_adam(b1=optim.b1, b2=optim.b2),
        _decay(optim.weight_decay if stage.weight_decay is None else stage.weight_decay, decayed),
        optax.scale_by_learning_rate(schedule(stage, steps)),
    )


def _decay(weight: float, decayed) -> optax.GradientTransformation:
    def add(updates, params):
        return jax.tree.map(lambda update, param, mask: update + weight * mask * param, updates, params, decayed)

    return optax.stateless(add)


def decay_mask(params):
    """Return a tree of one float a leaf: 1.0 for matrices and tables, 0.0 for vectors (norms, biases, gains).

    The norms and biases of stacked layers have two axes and are not decayed either.
    """

    def decayed(path, leaf):
        name = jax.tree_util.keystr(path)
        return float(leaf.ndim >= 2 and "norm" not in name and "bias" not in name)

    return jax.tree_util.tree_map_with_path(decayed, params)
