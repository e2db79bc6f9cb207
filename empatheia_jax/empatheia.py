"""Figure 3 in one file: encoders' features and words go in, signal states come out, the latents read them.

words, <Aud>, <Vid> ──► embed ──► LLM ──┬──► r^t ──► content synchronizer ──► C_speech, C_video
                                        ├──► r^s ─┐
                                        └──► r^v ─┴► style disentangler ────► S_speech, S_video, labels
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.schema import Widths
from empatheia_jax.encoders.projector import Projector
from empatheia_jax.initial_values import draw_together
from empatheia_jax.latents.content_synchronizer import ContentSynchronizer
from empatheia_jax.latents.style_disentangler import StyleDisentangler
from empatheia_jax.llm.llama import Llama
from empatheia_jax.llm.new_tokens import NewTokens, embed, logits

SIGNALS = 16  # <AUD1..16>, and as many <VID>
NOISE = 0.5  # share of noise, by size, in a signal that starts out as a word


@dataclasses.dataclass(frozen=True)
class Signals:
    """States after the final norm at positions whose input is that token (section 4.2)."""

    response: jax.Array  # r^t [K, R, D]
    response_mask: jax.Array  # bool [K, R]
    speech: jax.Array | None  # r^s [K, 16, D]; None where the states of responses are cached
    video: jax.Array | None  # r^v [K, 16, D]


class Empatheia(nnx.Module):
    """The whole model but for the frozen encoders and generators."""

    def __init__(self, config: Config, widths: Widths | None, *, rngs: nnx.Rngs):
        """Draw every parameter; traceable, so that shapes can be had without memory (`nnx.eval_shape`).

        Args:
          widths: sizes that encoders and generators set. None builds a text-only model: the LLM and the new tokens,
            no projectors and no latents.
        """
        self.signal_loss = config.prompt.signal_loss
        self.llm = Llama(config.llm, config.lora, rngs=rngs)
        for name, part in draw_together(lambda rngs: _parts(config, widths, rngs), rngs).items():
            setattr(self, name, part)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Token ids [B, T], new ones included -> [B, T, D]."""
        return embed(self.llm, self.new_tokens, tokens)

    def token_logits(self, hidden: jax.Array) -> jax.Array:
        """States [..., D] -> float32 logits over what targets may be: [..., V], or [..., V + 34] with `signal_loss`."""
        return logits(self.llm, self.new_tokens, hidden) if self.signal_loss else self.llm.logits(hidden)

    def fill_slots(self, embeddings, audio=None, audio_start=None, video=None, video_start=None) -> jax.Array:
        """Replace the placeholder embeddings by projected features (appendix D.1).

        Args:
          embeddings: [B, T, D]. audio: [M, Na, Da], video: [M, Nv, Dv], M = B * utterances a row, row by row.
          audio_start, video_start: int32 [M] flat index of a slot's first placeholder; -1 leaves the placeholder's own
            embedding, which so learns to mean "not heard" or "not seen".
        Returns:
          [B, T, D] in the dtype of `embeddings`.
        """
        for projector, features, start in (
            (self.audio_projector, audio, audio_start),
            (self.video_projector, video, video_start),
        ):
            if features is not None:
                embeddings = _scatter(embeddings, projector(features), start)
        return embeddings

    def hidden(
        self, batch: dict[str, jax.Array], dropout_key=None, slots: bool = True, longest: int | None = None
    ) -> jax.Array:
        """States of a packed batch after the final norm, [B, T, D] in the LLM's compute dtype.

        Args:
          batch: the arrays of `schema.Batch`. dropout_key: turns LoRA dropout on; None is evaluation.
          slots: False leaves all placeholders as they are (prompts without slots, text-only models).
          longest: most tokens of an Example, static; None: a whole row.
        """
        x = self.embed(batch["tokens"])
        if slots:
            x = self.fill_slots(x, batch["audio"], batch["audio_start"], batch["video"], batch["video_start"])
        states, _ = self.llm(
            x, batch["positions"], segment_ids=batch["segment_ids"], longest=longest, dropout_key=dropout_key
        )
        return states


def _parts(config: Config, widths: Widths | None, rngs) -> dict[str, nnx.Module]:
    """Everything but the LLM, by attribute name."""
    width, latents = config.llm.width, config.latents
    parts = {"new_tokens": NewTokens(width, rngs=rngs)}
    if widths is None:
        return parts
    return parts | {
        "audio_projector": Projector(config.projector, widths.audio, width, rngs=rngs),
        "video_projector": Projector(config.projector, widths.video, width, rngs=rngs),
        "content_synchronizer": ContentSynchronizer(
            latents, width, widths.symbols, widths.content_speech, widths.content_video, rngs=rngs
        ),
        "style_disentangler": StyleDisentangler(latents, width, widths.style_speech, widths.style_video, rngs=rngs),
    }


Statistics = dict[str, tuple[np.ndarray, np.ndarray]]  # "audio", "video" -> mean [D], standard deviation [D]


def attune(state: nnx.State, statistics: Statistics | None = None, words: np.ndarray | None = None) -> nnx.State:
    """Fit the new parts to what is there before they train, once a base is loaded or trained.

    Slots and new tokens get the size of the base's words, so that they meet them on equal terms; the projectors
    standardise their inputs by the training features' `statistics`. The signals of each modality start out as `words`
    and noise: what they will be asked for, so that like attends to like.

    Args:
      state: all parameters, concrete. statistics: by modality; one that is absent keeps shift 0 and scale 1.
      words: int [16] ids of the base's vocabulary, one a signal (`data.prompts.signal_words`); None: noise alone.
    Returns:
      a new state with the same shapes and shardings.
    """
    flat = dict(nnx.to_flat_state(state))
    words_table = flat[("llm", "embedding")]
    size = jnp.sqrt(jnp.mean(jnp.square(words_table[...].astype(jnp.float32))))
    for path, variable in flat.items():
        if path[-1] == "gain":
            flat[path] = variable.replace(jnp.broadcast_to(size, variable.shape))
        elif path == ("new_tokens", "input"):
            rows = variable[...] / jnp.sqrt(jnp.mean(jnp.square(variable[...])))
            if words is not None:
                meant = words_table[...][jnp.tile(words, 2)].astype(jnp.float32)  # [32, D]
                meant = meant / jnp.sqrt(jnp.mean(jnp.square(meant), axis=-1, keepdims=True))
                rows = rows.at[-2 * SIGNALS :].multiply(NOISE).at[-2 * SIGNALS :].add((1 - NOISE**2) ** 0.5 * meant)
            flat[path] = variable.replace(rows * size)
    for modality, (mean, deviation) in (statistics or {}).items():
        projector = f"{modality}_projector"
        for name, value in (("shift", mean), ("scale", 1.0 / np.maximum(deviation, 0.05))):
            variable = flat[(projector, name)]
            flat[(projector, name)] = variable.replace(jax.device_put(value.astype(np.float32), variable[...].sharding))
    return nnx.from_flat_state(list(flat.items()))


def read_signals(hidden: jax.Array, response_index: jax.Array, signal_index: jax.Array) -> Signals:
    """Pick r^t, r^s, r^v (section 4.2) from states [B, T, D] by flat indices int32 [K, R] and [K, 32].

    An index is row * T + column and lies in its Example's own row; -1 is padding and gives zeros. Returns float32.
    """
    response = _gather(hidden, response_index).astype(jnp.float32)
    signals = _gather(hidden, signal_index).astype(jnp.float32)
    return Signals(response, response_index >= 0, signals[:, :SIGNALS], signals[:, SIGNALS:])


def _rows(index: jax.Array, rows: int, length: int) -> jax.Array:
    """Flat indices [K, ...] -> columns [rows, K / rows, ...]; padding becomes `length`, out of bounds."""
    index = index.reshape(rows, -1, *index.shape[1:])
    first = (jnp.arange(rows) * length).reshape(-1, *(1,) * (index.ndim - 1))
    return jnp.where(index >= 0, index - first, length)


def _gather(hidden: jax.Array, index: jax.Array) -> jax.Array:
    rows, length, width = hidden.shape
    columns = _rows(index, rows, length)  # [B, K/B, R]
    picked = jax.vmap(lambda h, c: h.at[c].get(mode="fill", fill_value=0))(hidden, columns)
    return picked.reshape(*index.shape, width)


def _scatter(embeddings: jax.Array, tokens: jax.Array, start: jax.Array) -> jax.Array:
    rows, length, width = embeddings.shape
    count = tokens.shape[1]
    columns = _rows(start, rows, length)[..., None] + jnp.arange(count)  # [B, M/B, N]
    tokens = tokens.reshape(rows, -1, width).astype(embeddings.dtype)
    return jax.vmap(lambda e, c, t: e.at[c.reshape(-1)].set(t, mode="drop"))(embeddings, columns, tokens)
