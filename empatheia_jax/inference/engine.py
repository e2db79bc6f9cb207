"""A trained run, ready to answer: prompts in; text, signal states, styles and contents out.

Answering is four compiled pieces, each traced once a shape bucket: `write` (prefill, then the decoding loop), `read`
(one pass over response, </s> and signals on the prompt's cache, then the style disentangler), and the content
synchronizer's two halves, which wait for the phonemes and for their durations.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax import sharding
from empatheia_jax.checkpoint import Checkpoints
from empatheia_jax.config import Config, ConfigError, GeneratorConfig, MeshConfig
from empatheia_jax.data import tokenizer as tokenizers
from empatheia_jax.data.encoded import encode_prompt
from empatheia_jax.data.pipeline import widths_of
from empatheia_jax.data.prompts import ParsedResponse, before_signals, find_response, parse_generated
from empatheia_jax.data.schema import Example, Profile, Widths
from empatheia_jax.data.tokenizer import SIGNALS, Tokenizer
from empatheia_jax.empatheia import Empatheia
from empatheia_jax.llm.decode import append, generate
from empatheia_jax.training.run import abstract_model, complete, restore, saved_config
from empatheia_jax.training.run_data import open_store

Features = Mapping[str, Mapping[str, np.ndarray]]  # utterance key -> {"audio": [Na, Da], "video": [Nv, Dv]}
PROMPT_BUCKET, CHUNK_BUCKET, CONTENT_BUCKET = 64, 16, 32


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the LLM and the disentangler say to one Example."""

    text: str  # as generated
    parsed: ParsedResponse
    response_states: np.ndarray  # r^t float32 [R, D], R tokens of the response (0 where it wrote none)
    style_speech: np.ndarray  # S_speech float32 [style_dim]; [0] of a text-only run
    style_video: np.ndarray  # S_video, likewise
    labels: dict[str, np.ndarray]  # emotion [7], age [4], gender [2], timbre [3]: probabilities
    tokens: int  # generated, </s> not counted


def _bucket(length: int, step: int) -> int:
    return max(step, -(-length // step) * step)


class Engine:
    """A run's model with its tokenizer. `batch` rows are answered at a time."""

    def __init__(
        self, folder: Path | str, *, batch: int = 1, max_new_tokens: int = 160,
        generators: GeneratorConfig | None = None, quantization: str | None = None,
    ):  # fmt: skip
        """Load a run.

        Args:
          generators: those that will perform, where it is not the run's own setting; weights for which the latents were
            not trained are a StoreError.
          quantization: of the base, as `LlamaConfig.quantization`; None: the run's own.
        Raises:
          ConfigError: `folder` is no run, or has no checkpoint yet, or none with trained latents; a base that cannot be
            quantised so, or not here.
          CheckpointError: its checkpoint does not belong to its config.
          StoreError: its feature store, which tells the widths, is not there.
        """
        self.folder, self.batch, self.max_new_tokens = Path(folder), batch, max_new_tokens
        self.config: Config = saved_config(self.folder)
        if generators is not None:
            self.config = dataclasses.replace(self.config, generators=generators)
        if quantization is not None:
            llm = dataclasses.replace(self.config.llm, quantization=quantization)
            self.config = dataclasses.replace(self.config, llm=llm)
        self.widths = self._widths()
        self.tokenizer: Tokenizer = tokenizers.load(self.folder / "tokenizer")
        mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
        checkpoints = Checkpoints(self.folder / "checkpoints")
        self.position = checkpoints.latest()
        if not complete(self.position):
            raise ConfigError(f"{self.folder}: no checkpoint after stage 0 yet: train it first, or wait for one")
        if self.widths is not None and self.position.stage < 4:
            raise ConfigError(
                f"{self.folder}: stopped before stage 4 (at stage {self.position.stage}), its latents are not trained "
                "yet: finish it with train.py --resume"
            )
        self.graphdef, abstract = abstract_model(self.config, self.widths, mesh)
        self.state = restore(self.folder, self.config, checkpoints, self.position, abstract, training=False)
        checkpoints.close()
        self._compile()

    def _compile(self) -> None:
        self._write = jax.jit(self._write_traced)
        self._read = jax.jit(self._read_traced)
        self._speech = jax.jit(self._speech_traced)
        self._video = jax.jit(self._video_traced, static_argnums=6)

    def _widths(self) -> Widths | None:
        if not self.config.modalities:
            return None
        return widths_of(open_store(self.folder, self.config))

    @property
    def style(self) -> str:
        """Prompt style of the run: with slots, or words only."""
        return "all" if self.config.modalities else "text"

    # Compiled pieces --------------------------------------------------------------------------------------------------

    def _model(self, state: nnx.State) -> Empatheia:
        return nnx.merge(self.graphdef, state)

    def _write_traced(self, state, tokens, lengths, audio, audio_start, video, video_start):
        model = self._model(state)
        embeddings = model.embed(tokens)
        if self.widths is not None:
            embeddings = model.fill_slots(embeddings, audio, audio_start, video, video_start)
        return generate(
            model.llm, model.embed, embeddings, lengths, max_new_tokens=self.max_new_tokens,
            eos_id=self.tokenizer.eos_id, reserve=self.max_new_tokens + 2 * SIGNALS + 32,
        )  # fmt: skip

    def _read_traced(self, state, cache, chunk, start, lengths, signal_column):
        model = self._model(state)
        hidden = append(model.llm, cache, model.embed(chunk), start, lengths)  # [B, C, D]
        columns = signal_column[:, None] + jnp.arange(2 * SIGNALS)
        signals = jnp.take_along_axis(hidden, columns[..., None], axis=1).astype(jnp.float32)
        if self.widths is None:
            return hidden, None
        style = model.style_disentangler(signals[:, :SIGNALS], signals[:, SIGNALS:])
        labels = {name: jax.nn.softmax(logits) for name, logits in style.logits.items()}
        return hidden.astype(jnp.float32), (style.speech, style.video, labels)

    def _speech_traced(self, state, r_t, mask, phonemes):
        return self._model(state).content_synchronizer.speech_content(r_t, mask, phonemes)[0]

    def _video_traced(self, state, r_t, mask, phonemes, phoneme_frames, video_frames, frames):
        synchronizer = self._model(state).content_synchronizer
        return synchronizer.video_content(r_t, mask, phonemes, phoneme_frames, video_frames, frames)[0]

    # Answers ----------------------------------------------------------------------------------------------------------

    def answer(
        self, examples: list[Example], features: Callable[[str], Mapping | None], profiles: list[Profile | None],
        reached: Callable[[str], None] = lambda name: None,
    ) -> list[Answer]:  # fmt: skip
        """Answer Examples, `batch` at a time.

        Args:
          features: utterance key -> {"audio", "video"} features, or None where it was neither heard nor seen.
          profiles: who answers, one an Example, written into the prompt; None leaves the line out.
          reached: called with "words" when those of a batch are written (they leave the device together).
        Returns:
          one `Answer` an Example, in order; greedy, latents at their means.
        """
        answers: list[Answer] = []
        order = range(0, len(examples), self.batch)
        encoded = [
            encode_prompt(example, self.style, self.config, self.tokenizer, profile)
            for example, profile in zip(examples, profiles, strict=True)
        ]
        # One bucket and one slot count for all: one compilation.
        length = _bucket(max(len(ids) for ids, _ in encoded), PROMPT_BUCKET)
        slots = max(1, *(len(slots) for _, slots in encoded))
        again = [before_signals(self.tokenizer, profile) for profile in profiles]
        for first in order:
            part = slice(first, first + self.batch)
            found = self._answer_batch(encoded[part], again[part], length, slots, features, reached)
            answers += found[: len(encoded[part])]
        return answers

    def _answer_batch(self, encoded, again, length: int, slots: int, features, reached) -> list[Answer]:
        again = again + [again[-1]] * (self.batch - len(again))
        padded = encoded + [encoded[-1]] * (self.batch - len(encoded))  # rows beyond the data repeat the last
        tokens = np.zeros((self.batch, length), np.int32)
        lengths = np.array([len(ids) for ids, _ in padded], np.int32)
        for row, (ids, _) in enumerate(padded):
            tokens[row, : len(ids)] = ids
        media = self._slots(padded, length, slots, features)
        generated = self._write(self.state, tokens, lengths, *media)
        texts = [self._ids(generated, row) for row in range(self.batch)]
        reached("words")
        spans = [find_response(self.tokenizer, ids) or (len(ids), len(ids)) for ids in texts]
        chunk_length = _bucket(
            max(len(ids) - span[0] + len(more) for ids, span, more in zip(texts, spans, again, strict=True))
            + 1 + 2 * SIGNALS,
            CHUNK_BUCKET,
        )  # fmt: skip
        chunk = np.zeros((self.batch, chunk_length), np.int32)
        start, sizes, signals = (np.zeros(self.batch, np.int32) for _ in range(3))
        for row, (ids, span, more) in enumerate(zip(texts, spans, again, strict=True)):
            written = [*ids[span[0] :], self.tokenizer.eos_id, *more, *self.tokenizer.signal_ids]
            chunk[row, : len(written)] = written
            start[row], sizes[row] = lengths[row] + span[0], len(written)
            signals[row] = len(written) - 2 * SIGNALS
        hidden, style = self._read(self.state, generated.cache, chunk, start, sizes, signals)
        return self._collect(texts, spans, np.asarray(hidden), jax.device_get(style))

    def _collect(self, texts, spans, hidden, style) -> list[Answer]:
        answers = []
        for row, (ids, span) in enumerate(zip(texts, spans, strict=True)):
            text = self.tokenizer.decode(ids)
            speech, video, labels = style if style is not None else (np.zeros((len(texts), 0)),) * 2 + ({},)
            answers.append(
                Answer(
                    text, parse_generated(text), hidden[row, : span[1] - span[0]], speech[row], video[row],
                    {name: value[row] for name, value in labels.items()}, len(ids),
                )
            )  # fmt: skip
        return answers

    def _ids(self, generated, row: int) -> list[int]:
        return np.asarray(generated.tokens)[row, : int(generated.lengths[row])].tolist()

    def _slots(self, padded, length: int, slots: int, features):
        """Feature arrays and flat starts of a batch's slots, as `Empatheia.fill_slots` takes them."""
        if self.widths is None:
            return None, None, None, None
        count = self.batch * slots
        arrays = {"audio": np.zeros((count, *self.widths.audio), np.float32)}
        arrays["video"] = np.zeros((count, *self.widths.video), np.float32)
        starts = {name: np.full(count, -1, np.int32) for name in arrays}
        for row, (_, places) in enumerate(padded):
            for number, slot in enumerate(places):
                found = features(slot.key)
                if found is not None and slot.modality in found:
                    arrays[slot.modality][row * slots + number] = found[slot.modality]
                    starts[slot.modality][row * slots + number] = row * length + slot.position
        return arrays["audio"], starts["audio"], arrays["video"], starts["video"]

    # Contents ---------------------------------------------------------------------------------------------------------

    def speech_content(self, states: np.ndarray, phonemes: np.ndarray) -> np.ndarray:
        """Eqs. 1-2: r^t [R, D] and symbol ids [P] -> C_speech [P, content_dim]."""
        r_t, mask = self._response(states)
        padded = _padded(phonemes, _bucket(len(phonemes), CONTENT_BUCKET), -1)
        return np.asarray(self._speech(self.state, r_t, mask, padded[None]))[0, : len(phonemes)]

    def video_content(self, states: np.ndarray, phonemes: np.ndarray, phoneme_frames: np.ndarray, frames: int):
        """Eqs. 1-2: r^t [R, D], symbol ids and 25 ms durations [P] -> C_video [frames, content_dim]."""
        r_t, mask = self._response(states)
        size = _bucket(len(phonemes), CONTENT_BUCKET)
        content = self._video(
            self.state, r_t, mask, _padded(phonemes, size, -1)[None], _padded(phoneme_frames, size, 0)[None],
            np.array([frames], np.int32), _bucket(frames, CONTENT_BUCKET),
        )  # fmt: skip
        return np.asarray(content)[0, :frames]

    def _response(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = _bucket(len(states), CONTENT_BUCKET)
        r_t = np.zeros((1, size, self.config.llm.width), np.float32)
        r_t[0, : len(states)] = states
        return r_t, (np.arange(size) < len(states))[None]


def _padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    return np.concatenate([values, np.full(size - len(values), fill)]).astype(np.int32)
