"""Figure 3: encoder features and words go in, the LLM's states come out, and the latents read them.

words, <Aud>, <Vid> ──► embed ──► LLM ──┬──► r^t ──► content synchronizer ──► C_speech, C_video
                                        ├──► r^s ─┐
                                        └──► r^v ─┴► style disentangler ────► S_speech, S_video, labels
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.data.prompts.tokenizer import SIGNALS
from empatheia_jax.data.schema import Widths
from empatheia_jax.latents.content_synchronizer import ContentSynchronizer
from empatheia_jax.latents.style_disentangler import Style, StyleDisentangler
from empatheia_jax.llm.llama import Llama
from empatheia_jax.llm.new_tokens import NewTokens, embed, logits
from empatheia_jax.model.initial_values import NormalSource, draw_together
from empatheia_jax.model.projector import Projector
from empatheia_jax.model.shapes import Array, Bool, Float, Int, PRNGKeyArray

NOISE = 0.5  # share of noise, by norm, in a signal token that is initialised from a label token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signals:
    """States after the final norm at positions whose input is that token (section 4.2); None: not read."""

    response: Float[Array, "K R D"] | None = None  # r^t
    response_mask: Bool[Array, "K R"] | None = None
    speech: Float[Array, "K 16 D"] | None = None  # r^s
    video: Float[Array, "K 16 D"] | None = None  # r^v


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """What drives the generators (section 4.3), float32; None where its inputs were not given."""

    content_speech: Float[Array, "K P Cs"] | None = None
    content_video: Float[Array, "K F Cv"] | None = None
    content_kl: Float[Array, "K R"] | None = None  # of both contents, their mean; None where one of them is
    style: Style | None = None

    @property
    def contents(self) -> dict[str, Array]:
        """The contents that were read, by the names that `Batch.golds` has for them."""
        contents = {"content_speech": self.content_speech, "content_video": self.content_video}
        return {name: content for name, content in contents.items() if content is not None}

    @property
    def styles(self) -> dict[str, Array]:
        """The styles that were read, by the names that `Batch.golds` has for them."""
        return {} if self.style is None else {"style_speech": self.style.speech, "style_video": self.style.video}


class Empatheia(nnx.Module):
    """The whole model but for the frozen encoders and generators. A text-only one has no projectors and no latents."""

    def __init__(self, config: Config, widths: Widths | None, *, rngs: nnx.Rngs):
        """Draw every parameter; traceable, so `nnx.eval_shape` gives the shapes without memory.

        Args:
          config: of the run.
          widths: sizes that encoders and generators set. None builds a text-only model.
          rngs: to draw from.
        """
        self.signal_loss = config.prompt.signal_loss
        self.llm = Llama(config.llm, config.lora, rngs=rngs)
        parts = draw_together(lambda normals: _create_parts(config, widths, normals), rngs)
        self.new_tokens: NewTokens = parts["new_tokens"]
        self.audio_projector: Projector | None = parts.get("audio_projector")
        self.video_projector: Projector | None = parts.get("video_projector")
        self.content_synchronizer: ContentSynchronizer | None = parts.get("content_synchronizer")
        self.style_disentangler: StyleDisentangler | None = parts.get("style_disentangler")

    def embed(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        """Embed token ids, new ones included, in the compute dtype."""
        return embed(self.llm, self.new_tokens, tokens)

    def token_logits(self, hidden: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Return the float32 logits of states over all targets: V, or V + 34 with `signal_loss`."""
        return logits(self.llm, self.new_tokens, hidden) if self.signal_loss else self.llm.logits(hidden)

    def fill_slots(
        self,
        embeddings: Float[Array, "B T D"],
        *,
        audio: Float[Array, "M Na Da"] | None = None,
        audio_start: Int[Array, " M"] | None = None,
        video: Float[Array, "M Nv Dv"] | None = None,
        video_start: Int[Array, " M"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Replace the placeholder embeddings by projected features (appendix D.1).

        Args:
          embeddings: of the tokens.
          audio: features, M = B * utterances a row, row by row; None leaves all audio placeholders.
          audio_start: flat index of a slot's first placeholder; -1 leaves the placeholder's own embedding, which so
            learns to mean "not heard".
          video: likewise.
          video_start: likewise ("not seen").

        Returns:
          The embeddings in their dtype.

        Raises:
          ValueError: features for a text-only model.
        """
        for projector, features, start in (
            (self.audio_projector, audio, audio_start),
            (self.video_projector, video, video_start),
        ):
            if features is None or start is None:
                continue
            if projector is None:
                raise ValueError("Empatheia: a text-only model has no projectors for audio and video features")
            embeddings = _scatter(embeddings, projector(features), start)
        return embeddings

    def hidden(
        self,
        batch: Batch[Array],
        *,
        dropout_key: PRNGKeyArray | None = None,
        slots: bool = True,
        max_segment_length: int | None = None,
    ) -> Float[Array, "B T D"]:
        """Compute the states of a packed batch after the final norm, in the LLM's compute dtype.

        Args:
          batch: one micro-batch.
          dropout_key: turns LoRA dropout on; None is evaluation.
          slots: False leaves all placeholders as they are (prompts without slots, text-only models).
          max_segment_length: most tokens of an Example, static; None: a whole row.
        """
        x = self.embed(batch.tokens)
        if slots:
            x = self.fill_slots(
                x,
                audio=batch.audio,
                audio_start=batch.audio_start,
                video=batch.video,
                video_start=batch.video_start,
            )
        states, _ = self.llm(
            x,
            batch.positions,
            segment_ids=batch.segment_ids,
            max_segment_length=max_segment_length,
            dropout_key=dropout_key,
        )
        return states

    def latents(
        self,
        signals: Signals,
        *,
        phonemes: Int[Array, "K P"] | None = None,
        phoneme_frames: Int[Array, "K P"] | None = None,
        video_frames: Int[Array, " K"] | None = None,
        frames: int = 0,
        content_key: PRNGKeyArray | None = None,
        style_key: PRNGKeyArray | None = None,
    ) -> Latents:
        """Read content and style from the LLM's states (section 4.3), each as soon as its inputs are known.

        Style needs r^s and r^v, C_speech r^t and the phonemes, C_video also their durations.

        Args:
          signals: the states.
          phonemes: symbol ids of the response, -1 on padding.
          phoneme_frames: their durations in units of 25 ms, 0 on padding.
          video_frames: valid frames of 40 ms; with `phoneme_frames`.
          frames: F, static.
          content_key: samples the content's z and turns dropout on; None takes the mean.
          style_key: likewise for the style.
        """
        content_speech = content_video = content_kl = style = None
        if self.style_disentangler is not None and signals.speech is not None and signals.video is not None:
            style = self.style_disentangler(signals.speech, signals.video, style_key)
        synchronizer, r_t, mask = self.content_synchronizer, signals.response, signals.response_mask
        if synchronizer is not None and r_t is not None and mask is not None and phonemes is not None:
            speech_key, video_key = (None, None) if content_key is None else jax.random.split(content_key)
            content_speech, latent_speech = synchronizer.speech_content(r_t, mask, phonemes, speech_key)
            if phoneme_frames is not None and video_frames is not None:
                content_video, latent_video = synchronizer.video_content(
                    r_t,
                    mask,
                    phonemes,
                    phoneme_frames,
                    video_frames=video_frames,
                    frames=frames,
                    key=video_key,
                )
                content_kl = 0.5 * (latent_speech.kl() + latent_video.kl())
        return Latents(content_speech, content_video, content_kl, style)


def _create_parts(config: Config, widths: Widths | None, rngs: NormalSource) -> dict[str, Any]:
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


def read_signals(
    hidden: Float[Array, "B T D"],
    response_index: Int[Array, "K R"] | None = None,
    signal_index: Int[Array, "K 32"] | None = None,
) -> Signals:
    """Gather r^t, r^s and r^v (section 4.2) from the states of a packed batch, as float32.

    An index is row * T + column and lies in its Example's own row; -1 is padding and gives zeros.

    Args:
      hidden: of the batch.
      response_index: flat positions of r^t; None: it is not read.
      signal_index: flat positions of r^s, then of r^v; None: they are not read.
    """
    response = mask = speech = video = None
    if response_index is not None:
        response, mask = _gather(hidden, response_index).astype(jnp.float32), response_index >= 0
    if signal_index is not None:
        states = _gather(hidden, signal_index).astype(jnp.float32)
        speech, video = states[:, :SIGNALS], states[:, SIGNALS:]
    return Signals(response, mask, speech, video)


def _columns(index: Int[Array, "*shape"], rows: int, length: int) -> Int[Array, "..."]:
    """Turn flat indices [K, ...] into columns [rows, K / rows, ...]; padding becomes `length`, out of bounds."""
    index = index.reshape(rows, -1, *index.shape[1:])
    first = (jnp.arange(rows) * length).reshape(-1, *(1,) * (index.ndim - 1))
    return jnp.where(index >= 0, index - first, length)


def _gather(hidden: Float[Array, "B T D"], index: Int[Array, "K R"]) -> Float[Array, "K R D"]:
    rows, length, width = hidden.shape
    columns = _columns(index, rows, length)  # [B, K/B, R]
    gathered = jax.vmap(lambda h, c: h.at[c].get(mode="fill", fill_value=0))(hidden, columns)
    return gathered.reshape(*index.shape, width)


def _scatter(
    embeddings: Float[Array, "B T D"], tokens: Float[Array, "M N D"], start: Int[Array, " M"]
) -> Float[Array, "B T D"]:
    rows, length, width = embeddings.shape
    count = tokens.shape[1]
    columns = _columns(start, rows, length)[..., None] + jnp.arange(count)  # [B, M/B, N]
    tokens = tokens.reshape(rows, -1, width).astype(embeddings.dtype)
    return jax.vmap(lambda e, c, t: e.at[c.reshape(-1)].set(t, mode="drop"))(embeddings, columns, tokens)
