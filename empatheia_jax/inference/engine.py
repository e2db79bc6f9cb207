"""A trained model, ready to answer: prompts in; text, response states, styles and contents out.

An answer is made by compiled functions, each traced once for every shape bucket: `admit` (prefill of sequences),
`advance` (the decoding loop), `read` (one pass over response, </s> and signals on a sequence's cache, then the style
disentangler), and the content synchronizer's two halves, which need the phonemes and their durations.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from empatheia_jax.config import Config
from empatheia_jax.data.batches.encoder import encode_prompt
from empatheia_jax.data.prompts.dialogue import (
    ParsedResponse,
    PromptKind,
    encode_profile_line,
    find_response_span,
    parse_generated,
)
from empatheia_jax.data.prompts.tokenizer import SIGNALS, Tokenizer
from empatheia_jax.data.schema import Example, Profile
from empatheia_jax.inference.prompt import BUCKETS, PROMPT_BUCKET, Features, Prompt, pad_prompts
from empatheia_jax.llm.batching import (
    ContinuousBatcher,
    DecodeState,
    DecodeStats,
    admit,
    advance,
    empty_decode_state,
    shard_decode_state,
    share_prefix,
    shared_prefix_length,
)
from empatheia_jax.llm.cache import take_sequences
from empatheia_jax.llm.decode import appended_states
from empatheia_jax.model import sharding
from empatheia_jax.model.empatheia import Empatheia, Signals
from empatheia_jax.runtime.buckets import bucket, next_power_of_two
from empatheia_jax.runtime.precision import float32_products

CHUNK_BUCKET, CONTENT_BUCKET, PROFILE_BUCKET = 64, 32, 32  # smallest size of each
GROUPS = 8  # on an accelerator, an eighth of the sequences is admitted and read at a time


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the LLM and the disentangler answer to one Example."""

    text: str  # as generated
    parsed: ParsedResponse
    response_states: np.ndarray  # r^t float32 [R, D], R tokens of the response (0 where none was written)
    style_speech: np.ndarray  # S_speech float32 [style_dim]; [0] of a text-only run
    style_video: np.ndarray  # S_video, likewise
    labels: dict[str, np.ndarray]  # emotion [7], age [4], gender [2], timbre [3]: probabilities
    tokens: int  # generated, </s> not counted
    truncated: bool = False  # the limit of tokens came before </s>


class Engine:
    """A model with its tokenizer, as compiled functions.

    Attributes:
      config: of the run.
      tokenizer: the run's.
      batch: sequences that are decoded at a time.
      max_new_tokens: most tokens of an answer.
      graphdef: the model's structure.
      state: the model's parameters.
      mesh: of several devices, where the parameters lie on one: every function runs on it; None: on one device.
      stats: counts of what `answer` has written so far.
    """

    def __init__(
        self, model: Empatheia, tokenizer: Tokenizer, config: Config, *, batch: int = 1, max_new_tokens: int = 160
    ):
        """Take a model; nothing is compiled yet. `load.load_engine` loads one from a run's folder.

        Args:
          model: text-only where `config` has no modalities.
          tokenizer: the run's.
          config: of the run.
          batch: sequences that are decoded at a time.
          max_new_tokens: most tokens of an answer.
        """
        self.tokenizer, self.config, self.batch, self.max_new_tokens = tokenizer, config, batch, max_new_tokens
        self.graphdef, self.state = nnx.split(model)
        self.mesh = sharding.mesh_of(self.state)
        projectors = {"audio": model.audio_projector, "video": model.video_projector}
        self._feature_shapes = {name: part.feature_shape for name, part in projectors.items() if part is not None}
        self.stats = DecodeStats()
        self._admit = jax.jit(self._admit_traced, static_argnames="window", donate_argnums=1)
        self._advance = jax.jit(self._advance_traced, donate_argnums=1)
        self._share = jax.jit(self._share_traced, donate_argnums=1)
        self._read = jax.jit(self._read_traced)
        self._speech = jax.jit(self._speech_traced)
        self._video = jax.jit(self._video_traced, static_argnames="frames")

    @property
    def prompt_kind(self) -> PromptKind:
        """The kind of the run's prompts: "all" with media slots, "text" with words only."""
        return "all" if self.config.modalities else "text"

    # Compiled functions -----------------------------------------------------------------------------------------------

    def _model(self, state: nnx.State) -> Empatheia:
        return nnx.merge(self.graphdef, state)

    def _admit_traced(self, state, decode_state, sequences, *, tokens, start, lengths, budgets, media, window):
        model = self._model(state)
        admitted = admit(
            model.llm,
            decode_state,
            sequences,
            model.fill_slots(model.embed(tokens), **media),
            start=start,
            lengths=lengths,
            budgets=budgets,
            eos_id=self.tokenizer.eos_id,
            window=window,
        )
        return shard_decode_state(admitted)

    def _advance_traced(self, state, decode_state, stop_at, max_steps):
        model, eos_id = self._model(state), self.tokenizer.eos_id
        advanced, steps = advance(
            model.llm, model.embed, decode_state, stop_at=stop_at, max_steps=max_steps, eos_id=eos_id
        )
        return shard_decode_state(advanced), steps

    def _share_traced(self, state, decode_state, tokens):
        model = self._model(state)
        return shard_decode_state(share_prefix(model.llm, decode_state, model.embed(tokens)))

    def _read_traced(self, state, decode_state, sequences, chunk, *, start, lengths, signal_start):
        model = self._model(state)
        cache = take_sequences(decode_state.cache, sequences)
        hidden = appended_states(model.llm, cache, model.embed(chunk), start=start, lengths=lengths)  # [G, C, D]
        columns = signal_start[:, None] + jnp.arange(2 * SIGNALS)
        signals = jnp.take_along_axis(hidden, columns[..., None], axis=1).astype(jnp.float32)
        truncated = (decode_state.written >= decode_state.budget) & (decode_state.next_token != self.tokenizer.eos_id)
        truncated = jnp.take(truncated, sequences, mode="clip")
        with float32_products():
            style = model.latents(Signals(speech=signals[:, :SIGNALS], video=signals[:, SIGNALS:])).style
        if style is None:  # text-only
            return hidden, None, truncated
        labels = {name: jax.nn.softmax(logits) for name, logits in style.logits.items()}
        return hidden.astype(jnp.float32), (style.speech, style.video, labels), truncated

    def _speech_traced(self, state, r_t, mask, phonemes):
        with float32_products():
            return self._model(state).latents(Signals(r_t, mask), phonemes=phonemes).content_speech

    def _video_traced(self, state, r_t, mask, **timing):
        with float32_products():
            return self._model(state).latents(Signals(r_t, mask), **timing).content_video

    # Answers ----------------------------------------------------------------------------------------------------------

    def answer(
        self,
        examples: list[Example],
        features: Features,
        profiles: list[Profile | None],
        on_ready: Callable[[str], None] = lambda part: None,
    ) -> list[Answer]:
        """Answer Examples, `batch` at a time; an answered one makes room for the next.

        Args:
          examples: to answer.
          features: utterance key -> {"audio", "video"} features, or None where it was neither heard nor seen.
          profiles: of the listener who answers each Example, written into its prompt; None leaves the line out.
          on_ready: called with "words" when the words of a group are written (they leave the device together).

        Returns:
          An `Answer` to each Example, in order; greedy, latents at their means.
        """
        prompts = [self.prompt(e, features, profile) for e, profile in zip(examples, profiles, strict=True)]
        if not prompts:
            return []
        shared = shared_prefix_length([prompt.ids_until_slot for prompt in prompts])
        longest, max_slots = max(len(prompt.ids) for prompt in prompts), max(len(prompt.slots) for prompt in prompts)
        length = shared + bucket(longest - shared, PROMPT_BUCKET, BUCKETS)
        batch = min(self.batch, next_power_of_two(len(prompts)))
        decode_state = self.empty_decode_state(batch, self.capacity(length, prompts))
        if shared:
            decode_state = self.share(decode_state, prompts[0].ids[:shared])

        def admit_group(decode_state, sequences, indices):
            group = [prompts[index] for index in indices]
            return self.admit(decode_state, sequences, group, start=shared, max_slots=max_slots)

        def read_group(decode_state, sequences, indices, texts):
            on_ready("words")
            return self.read(decode_state, sequences, [prompts[index] for index in indices], texts)

        batcher = ContinuousBatcher(
            decode_state,
            admit_group,
            self.advance,
            read_group,
            group_size=1 if jax.default_backend() == "cpu" else max(1, batch // GROUPS),
            stats=self.stats,
        )
        finished = tqdm(
            batcher.run(len(prompts)),
            total=len(prompts),
            unit="answer",
            desc="answer",
            mininterval=2.0,
            disable=len(prompts) <= self.batch,
        )
        answers: dict[int, Answer] = dict(finished)
        return [answers[index] for index in range(len(prompts))]

    # The steps of an answer -------------------------------------------------------------------------------------------

    def prompt(self, example: Example, features: Features, profile: Profile | None) -> Prompt:
        """Return the prompt of an Example; arguments as in `answer`."""
        ids, slots = encode_prompt(example, self.prompt_kind, self.config, self.tokenizer, profile=profile)
        return Prompt(ids, slots, encode_profile_line(self.tokenizer, profile), features, self.max_new_tokens)

    def capacity(self, longest: int, prompts: Sequence[Prompt]) -> int:
        """Return the positions needed for prompts of up to `longest` tokens, answers, profile lines and signals."""
        appended = bucket(1 + max(len(prompt.profile_line) for prompt in prompts), PROFILE_BUCKET, BUCKETS)
        return longest + self.max_new_tokens + appended + 2 * SIGNALS

    def empty_decode_state(self, batch: int, capacity: int) -> DecodeState:
        """Return `batch` empty sequences of `capacity` positions."""

        def create() -> DecodeState:
            return shard_decode_state(empty_decode_state(self.config.llm, batch, capacity, self.max_new_tokens))

        if self.mesh is None:
            return create()
        with sharding.on_mesh(self.mesh):
            return jax.jit(create)()

    def admit(
        self,
        decode_state: DecodeState,
        sequences: np.ndarray,
        prompts: list[Prompt],
        *,
        start: int,
        max_slots: int,
        window: int | None = None,
    ) -> DecodeState:
        """Prefill prompts into sequences; `decode_state` is donated.

        Args:
          decode_state: the batch.
          sequences: int32 [G], an index for each prompt, then indices out of range.
          prompts: at most G.
          start: how many first tokens of its prompt every one of these sequences holds already.
          max_slots: no prompt has more media slots from `start` on.
          window: positions of the cache that are read and written; None: as few as needed.
        """
        padded = pad_prompts(
            prompts, len(sequences), start=start, max_slots=max_slots, feature_shapes=self._feature_shapes
        )
        window = window or start + padded["tokens"].shape[1]
        with sharding.on_mesh(self.mesh):
            return self._admit(self.state, decode_state, sequences, window=window, **padded)

    def share(self, decode_state: DecodeState, prefix: list[int]) -> DecodeState:
        """Write the first tokens of all prompts into every sequence; `decode_state` is donated."""
        with sharding.on_mesh(self.mesh):
            return self._share(self.state, decode_state, np.array([prefix], np.int32))

    def advance(
        self, decode_state: DecodeState, stop_at: int = 0, max_steps: int | None = None
    ) -> tuple[DecodeState, jax.Array]:
        """Write until no more than `stop_at` answers are unfinished, or for `max_steps`; `decode_state` is donated.

        Args:
          decode_state: the batch.
          stop_at: how many answers may be unfinished; 0: every one is written to its end.
          max_steps: most tokens of an answer in this call; None: as many as there is room for.

        Returns:
          The batch, and the number of steps made.
        """
        with sharding.on_mesh(self.mesh):
            return self._advance(self.state, decode_state, stop_at, max_steps or self.max_new_tokens)

    def read(
        self, decode_state: DecodeState, sequences: np.ndarray, prompts: list[Prompt], texts: list[list[int]]
    ) -> Callable[[], list[Answer]]:
        """Run the second pass: response, </s>, profile line and signals on the cache of their sequences.

        Args:
          decode_state: the batch; it is not changed.
          sequences: int32 [G], an index for each prompt, then indices out of range.
          prompts: at most G.
          texts: ids that were written after each prompt.

        Returns:
          A function that waits for the device and returns the answers.
        """
        spans = [find_response_span(self.tokenizer, ids) or (len(ids), len(ids)) for ids in texts]
        written = [
            [*ids[span[0] :], self.tokenizer.eos_id, *prompt.profile_line, *self.tokenizer.signal_ids]
            for ids, span, prompt in zip(texts, spans, prompts, strict=True)
        ]
        group = len(sequences)
        chunk = np.zeros((group, bucket(max(map(len, written)), CHUNK_BUCKET, BUCKETS)), np.int32)
        start, lengths, signal_start = (np.zeros(group, np.int32) for _ in range(3))
        for member, (ids, span, prompt) in enumerate(zip(written, spans, prompts, strict=True)):
            chunk[member, : len(ids)] = ids
            start[member], lengths[member], signal_start[member] = (
                len(prompt.ids) + span[0],
                len(ids),
                len(ids) - 2 * SIGNALS,
            )
        with sharding.on_mesh(self.mesh):
            outputs = self._read(
                self.state, decode_state, sequences, chunk, start=start, lengths=lengths, signal_start=signal_start
            )

        def collect() -> list[Answer]:
            hidden, style, truncated = jax.device_get(outputs)
            return self._collect(texts, spans, hidden, style, truncated=truncated)

        return collect

    def _collect(self, texts, spans, hidden, style, *, truncated) -> list[Answer]:
        answers = []
        for member, (ids, span) in enumerate(zip(texts, spans, strict=True)):
            text = self.tokenizer.decode(ids)
            speech, video, labels = style if style is not None else (np.zeros((len(texts), 0)),) * 2 + ({},)
            answers.append(
                Answer(
                    text,
                    parse_generated(text),
                    hidden[member, : span[1] - span[0]],
                    speech[member],
                    video[member],
                    {name: value[member] for name, value in labels.items()},
                    len(ids),
                    bool(truncated[member]),
                )
            )
        return answers

    # Contents ---------------------------------------------------------------------------------------------------------

    def speech_content(self, states: np.ndarray, phonemes: np.ndarray) -> np.ndarray:
        """Return C_speech float32 [P, content_dim] (Eqs. 1-2) from r^t [R, D] and symbol ids [P]."""
        r_t, mask = self._padded_states(states)
        padded = _padded(phonemes, bucket(len(phonemes), CONTENT_BUCKET, BUCKETS), -1)
        with sharding.on_mesh(self.mesh):
            content = self._speech(self.state, r_t, mask, padded[None])
        return np.asarray(content)[0, : len(phonemes)]

    def video_content(
        self, states: np.ndarray, phonemes: np.ndarray, phoneme_frames: np.ndarray, frames: int
    ) -> np.ndarray:
        """Return C_video float32 [frames, content_dim] (Eqs. 1-2).

        Args:
          states: r^t float32 [R, D].
          phonemes: symbol ids int32 [P].
          phoneme_frames: durations int32 [P] in units of 25 ms.
          frames: video frames, at 25 fps.
        """
        r_t, mask = self._padded_states(states)
        size = bucket(len(phonemes), CONTENT_BUCKET, BUCKETS)
        with sharding.on_mesh(self.mesh):
            content = self._video(
                self.state,
                r_t,
                mask,
                phonemes=_padded(phonemes, size, -1)[None],
                phoneme_frames=_padded(phoneme_frames, size, 0)[None],
                video_frames=np.array([frames], np.int32),
                frames=bucket(frames, CONTENT_BUCKET, BUCKETS),
            )
        return np.asarray(content)[0, :frames]

    def _padded_states(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = bucket(len(states), CONTENT_BUCKET, BUCKETS)
        r_t = np.zeros((1, size, self.config.llm.width), np.float32)
        r_t[0, : len(states)] = states
        return r_t, (np.arange(size) < len(states))[None]


def _padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    return np.concatenate([values, np.full(size - len(values), fill)]).astype(np.int32)
