"""Figure 3: encoder features and words go in, the LLM's states come out, and the latents read them.

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
from empatheia_jax.latents.content_synchronizer import ContentSynchronizer
from empatheia_jax.latents.style_disentangler import StyleDisentangler
from empatheia_jax.llm.llama import Llama
from empatheia_jax.llm.new_tokens import NewTokens, embed, logits
from empatheia_jax.model.initial_values import draw_together

SIGNALS = 16  # <AUD1..16>, and as many <VID>
NOISE = 0.5  # share of noise, by norm, in a signal token that is initialised from a label token


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
        """Draw every parameter; traceable, so `nnx.eval_shape` gives the shapes without memory.

        Args:
          config: of the run.
          widths: sizes that encoders and generators set. None builds a text-only model: the LLM and the new tokens,
            no projectors and no latents.
          rngs: to draw from.
        """
        self.signal_loss = config.prompt.signal_loss
        self.llm = Llama(config.llm, config.lora, rngs=rngs)
        for name, part in draw_together(lambda rngs: _parts(config, widths, rngs), rngs).items():
            setattr(self, name, part)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Embed token ids int32 [B, T], new ones included: [B, T, D]."""
        return embed(self.llm, self.new_tokens, tokens)

    def token_logits(self, hidden: jax.Array) -> jax.Array:
        """Return float32 logits of states [..., D] over all targets: [..., V], or [..., V + 34] with `signal_loss`."""
        return logits(self.llm, self.new_tokens, hidden) if self.signal_loss else self.llm.logits(hidden)

    def fill_slots(
        self,
        embeddings: jax.Array,
        *,
        audio: jax.Array | None = None,
        audio_start: jax.Array | None = None,
        video: jax.Array | None = None,
        video_start: jax.Array | None = None,
    ) -> jax.Array:
        """Replace the placeholder embeddings by projected features (appendix D.1).

        Args:
          embeddings: [B, T, D].
          audio: [M, Na, Da], M = B * utterances a row, row by row; None leaves all audio placeholders.
          audio_start: int32 [M], flat index of a slot's first placeholder; -1 leaves the placeholder's own embedding,
            which so learns to mean "not heard".
          video: [M, Nv, Dv], likewise.
          video_start: int32 [M], likewise ("not seen").

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
        """Compute the states of a packed batch after the final norm.

        Args:
          batch: the arrays of `schema.Batch`.
          dropout_key: turns LoRA dropout on; None is evaluation.
          slots: False leaves all placeholders as they are (prompts without slots, text-only models).
          longest: most tokens of an Example, static; None: a whole row.

        Returns:
          [B, T, D] in the LLM's compute dtype.
        """
        x = self.embed(batch["tokens"])
        if slots:
            x = self.fill_slots(x, **{n: batch[n] for n in ("audio", "audio_start", "video", "video_start")})
        states, _ = self.llm(
            x, batch["positions"], segment_ids=batch["segment_ids"], longest=longest, dropout_key=dropout_key
        )
        return states


def _parts(config: Config, widths: Widths | None, rngs) -> dict[str, nnx.Module]:
    """Create everything but the LLM, by attribute name."""
    width, latents = config.llm.width, config.latents
    parts = {"new_tokens": NewTokens(width, rngs=rngs)}
    if widths is None:
        return parts
    return parts | {
        "audio_projector": Projector(config.projector, widths.audio, width, rngs=rngs),
        "video_projector": Projector(config.projector, widths.video, width, rngs=rngs),
        "content_synchronizer": ContentSynchronizer(
            latents,
            width,
            widths.symbols,
            speech_dim=widths.content_speech,
            video_dim=widths.content_video,
            rngs=rngs,
        ),
        "style_disentangler": StyleDisentangler(latents, width, widths.style_speech, widths.style_video, rngs=rngs),
    }


Statistics = dict[str, tuple[np.ndarray, np.ndarray]]  # "audio", "video" -> mean [D], standard deviation [D]


def calibrate_new_parameters(
    state: nnx.State, statistics: Statistics | None = None, label_tokens: np.ndarray | None = None
) -> nnx.State:
    """Scale the untrained parts to the base once it is loaded or trained.

    Slots and new tokens get the size of the base's embeddings; the projectors standardise their inputs by the training
    features' `statistics`. The signal tokens of each modality start as the embeddings of `label_tokens`, what they are
    to be read for, and noise.

    Args:
      state: all parameters, concrete.
      statistics: by modality; one that is absent keeps shift 0 and scale 1.
      label_tokens: int [16], ids of the base's vocabulary, one a signal token (`data.prompts`); None: noise alone.

    Returns:
      A new state with the same shapes and shardings.
    """
    flat = dict(nnx.to_flat_state(state))
    embedding = flat[("llm", "embedding")]
    size = jnp.sqrt(jnp.mean(jnp.square(embedding[...].astype(jnp.float32))))
    for path, variable in flat.items():
        if path[-1] == "gain":
            flat[path] = variable.replace(jnp.broadcast_to(size, variable.shape))
        elif path == ("new_tokens", "input"):
            table = variable[...] / jnp.sqrt(jnp.mean(jnp.square(variable[...])))
            if label_tokens is not None:
                labels = embedding[...][jnp.tile(label_tokens, 2)].astype(jnp.float32)  # [32, D]
                labels = labels / jnp.sqrt(jnp.mean(jnp.square(labels), axis=-1, keepdims=True))
                table = table.at[-2 * SIGNALS :].multiply(NOISE).at[-2 * SIGNALS :].add((1 - NOISE**2) ** 0.5 * labels)
            flat[path] = variable.replace(table * size)
    for modality, (mean, deviation) in (statistics or {}).items():
        projector = f"{modality}_projector"
        for name, value in (("shift", mean), ("scale", 1.0 / np.maximum(deviation, 0.05))):
            variable = flat[(projector, name)]
            flat[(projector, name)] = variable.replace(jax.device_put(value.astype(np.float32), variable[...].sharding))
    return nnx.from_flat_state(list(flat.items()))


def read_signals(hidden: jax.Array, response_index: jax.Array, signal_index: jax.Array) -> Signals:
    """Gather r^t, r^s and r^v (section 4.2) from the states of a packed batch.

    An index is row * T + column and lies in its Example's own row; -1 is padding and gives zeros.

    Args:
      hidden: [B, T, D].
      response_index: int32 [K, R], flat.
      signal_index: int32 [K, 32], flat.

    Returns:
      The states as float32.
    """
    response = _gather(hidden, response_index).astype(jnp.float32)
    signals = _gather(hidden, signal_index).astype(jnp.float32)
    return Signals(response, response_index >= 0, signals[:, :SIGNALS], signals[:, SIGNALS:])


def _columns(index: jax.Array, rows: int, length: int) -> jax.Array:
    """Turn flat indices [K, ...] into columns [rows, K / rows, ...]; padding becomes `length`, out of bounds."""
    index = index.reshape(rows, -1, *index.shape[1:])
    first = (jnp.arange(rows) * length).reshape(-1, *(1,) * (index.ndim - 1))
    return jnp.where(index >= 0, index - first, length)


def _gather(hidden: jax.Array, index: jax.Array) -> jax.Array:
    rows, length, width = hidden.shape
    columns = _columns(index, rows, length)  # [B, K/B, R]
    gathered = jax.vmap(lambda h, c: h.at[c].get(mode="fill", fill_value=0))(hidden, columns)
    return gathered.reshape(*index.shape, width)


def _scatter(embeddings: jax.Array, tokens: jax.Array, start: jax.Array) -> jax.Array:
    rows, length, width = embeddings.shape
    count = tokens.shape[1]
    columns = _columns(start, rows, length)[..., None] + jnp.arange(count)  # [B, M/B, N]
    tokens = tokens.reshape(rows, -1, width).astype(embeddings.dtype)
    return jax.vmap(lambda e, c, t: e.at[c.reshape(-1)].set(t, mode="drop"))(embeddings, columns, tokens)
