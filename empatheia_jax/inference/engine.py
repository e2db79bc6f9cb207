"""A trained run, ready to answer: prompts in; text, signal states, styles and contents out.

Answering is compiled pieces, each traced once a shape bucket: `admit` (prefill into slots of the cache), `advance` (the
decoding loop), `read` (one pass over response, </s> and signals on a slot's cache, then the style disentangler), and
the content synchronizer's two halves, which wait for the phonemes and for their durations.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from empatheia_jax import sharding
from empatheia_jax.buckets import bucket, power_of_two
from empatheia_jax.checkpoint import Checkpoints
from empatheia_jax.config import Config, ConfigError, GeneratorConfig, MeshConfig
from empatheia_jax.data import tokenizer as tokenizers
from empatheia_jax.data.encoded import Slot, encode_prompt
from empatheia_jax.data.pipeline import widths_of
from empatheia_jax.data.prompts import ParsedResponse, before_signals, find_response, parse_generated
from empatheia_jax.data.schema import Example, Profile, Widths
from empatheia_jax.data.tokenizer import SIGNALS, Tokenizer
from empatheia_jax.empatheia import Empatheia
from empatheia_jax.llm.batching import (
    Continuous,
    Slots,
    Tally,
    admit,
    advance,
    empty_slots,
    share_prefix,
    shared_length,
)
from empatheia_jax.llm.cache import take_rows
from empatheia_jax.llm.decode import append
from empatheia_jax.training.run import abstract_model, complete, restore, saved_config
from empatheia_jax.training.run_data import open_store

Features = Mapping[str, Mapping[str, np.ndarray]]  # utterance key -> {"audio": [Na, Da], "video": [Nv, Dv]}
PROMPT_BUCKET, CHUNK_BUCKET, CONTENT_BUCKET, AGAIN_BUCKET, SLOT_BUCKET = 64, 64, 32, 32, 4  # the smallest of each
BUCKETS = 2  # an octave
GROUP = 8  # an accelerator fills and reads an eighth of its slots at a time


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked, in ids; what stands in its slots; and what stands before the signals."""

    ids: list[int]
    slots: tuple[Slot, ...]
    again: list[int]
    features: Callable[[str], Mapping | None]

    def medium(self, slot: Slot) -> np.ndarray | None:
        """The features of a slot, None where that was neither heard nor seen."""
        return (self.features(slot.key) or {}).get(slot.modality)

    @property
    def until_slot(self) -> list[int]:
        """The ids up to the first of the first slot."""
        return self.ids[: self.slots[0].position + 1] if self.slots else self.ids


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


class Engine:
    """A run's model with its tokenizer. `batch` slots are written at a time.

    `tally` counts what `answer` has written so far.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        batch: int = 1,
        max_new_tokens: int = 160,
        generators: GeneratorConfig | None = None,
        quantization: str | None = None,
    ):
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
        self.tally = Tally()
        self._admit = jax.jit(self._admit_traced, static_argnames="window", donate_argnums=1)
        self._advance = jax.jit(self._advance_traced, donate_argnums=1)
        self._share = jax.jit(self._share_traced, donate_argnums=1)
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

    def _admit_traced(
        self, state, slots, rows, tokens, start, lengths, budgets, audio, audio_start, video, video_start, window
    ):
        model = self._model(state)
        embeddings = model.embed(tokens)
        if self.widths is not None:
            embeddings = model.fill_slots(embeddings, audio, audio_start, video, video_start)
        return admit(
            model.llm, slots, rows, embeddings, start, lengths, budgets, eos_id=self.tokenizer.eos_id, window=window
        )

    def _advance_traced(self, state, slots, least, steps):
        model = self._model(state)
        return advance(model.llm, model.embed, slots, least, steps, eos_id=self.tokenizer.eos_id)

    def _share_traced(self, state, slots, tokens):
        model = self._model(state)
        return share_prefix(model.llm, slots, model.embed(tokens))

    def _read_traced(self, state, slots, rows, chunk, start, lengths, signal_column):
        model = self._model(state)
        cache = take_rows(slots.cache, rows)
        hidden = append(model.llm, cache, model.embed(chunk), start, lengths)  # [G, C, D]
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
        self,
        examples: list[Example],
        features: Callable[[str], Mapping | None],
        profiles: list[Profile | None],
        reached: Callable[[str], None] = lambda name: None,
    ) -> list[Answer]:
        """Answer Examples, `batch` at a time; whoever is answered makes room for the next.

        Args:
          features: utterance key -> {"audio", "video"} features, or None where it was neither heard nor seen.
          profiles: who answers, one an Example, written into the prompt; None leaves the line out.
          reached: called with "words" when those of a batch are written (they leave the device together).
        Returns:
          one `Answer` an Example, in order; greedy, latents at their means.
        """
        prompts = [self.prompt(e, features, profile) for e, profile in zip(examples, profiles, strict=True)]
        if not prompts:
            return []
        shared = shared_length([prompt.until_slot for prompt in prompts])
        most, places = max(len(prompt.ids) for prompt in prompts), max(len(prompt.slots) for prompt in prompts)
        longest = shared + bucket(most - shared, PROMPT_BUCKET, BUCKETS)
        rows = min(self.batch, power_of_two(len(prompts)))
        slots = self.empty_slots(rows, self.capacity(longest, prompts))
        if shared:
            slots = self._share(self.state, slots, np.array([prompts[0].ids[:shared]], np.int32))

        def put(slots, rows, numbers):
            return self.admit(slots, rows, [prompts[n] for n in numbers], shared, places)

        def read(slots, rows, numbers, texts):
            reached("words")
            return self.read(slots, rows, [prompts[n] for n in numbers], texts)

        together = 1 if jax.default_backend() == "cpu" else max(1, rows // GROUP)
        run = Continuous(
            slots, put, functools.partial(self._advance, self.state), read, together=together, tally=self.tally
        )
        answers: list[Answer | None] = [None] * len(prompts)
        few = len(prompts) <= self.batch
        for number, answer in tqdm(
            run.run(len(prompts)), total=len(prompts), unit="answer", desc="answer", mininterval=2.0, disable=few
        ):
            answers[number] = answer
        return answers

    # The steps of an answer -------------------------------------------------------------------------------------------

    def prompt(self, example: Example, features: Callable[[str], Mapping | None], profile: Profile | None) -> Prompt:
        """An Example as the LLM is asked; arguments as in `answer`."""
        ids, slots = encode_prompt(example, self.style, self.config, self.tokenizer, profile)
        return Prompt(ids, slots, before_signals(self.tokenizer, profile), features)

    def capacity(self, longest: int, prompts: Sequence[Prompt]) -> int:
        """Positions that prompts of up to `longest` tokens take with their answers and what is read behind these."""
        behind = bucket(1 + max(len(prompt.again) for prompt in prompts), AGAIN_BUCKET, BUCKETS) + 2 * SIGNALS
        return longest + self.max_new_tokens + behind

    def empty_slots(self, rows: int, capacity: int) -> Slots:
        """`rows` empty slots of `capacity` positions."""
        return empty_slots(self.config.llm, rows, capacity, self.max_new_tokens)

    def admit(
        self, slots: Slots, rows: np.ndarray, prompts: list[Prompt], start: int, places: int, window: int | None = None
    ) -> Slots:
        """Prefill `prompts` into slots, given up, that hold their first `start` tokens already.

        Args:
          rows: int32 [G], as many slots as prompts, then numbers of none.
          places: no prompt has more media slots from `start` on.
          window: positions of the cache that are looked at; None: as few as will do.
        """
        group, size = len(rows), bucket(max(len(p.ids) for p in prompts) - start, PROMPT_BUCKET, BUCKETS)
        tokens, lengths = np.zeros((group, size), np.int32), np.ones(group, np.int32)
        for row, prompt in enumerate(prompts):
            lengths[row] = len(prompt.ids) - start
            tokens[row, : lengths[row]] = prompt.ids[start:]
        media = self._media(prompts, group, start, size, bucket(places, SLOT_BUCKET, BUCKETS))
        starts, budgets = np.full(group, start, np.int32), np.full(group, self.max_new_tokens, np.int32)
        return self._admit(
            self.state, slots, rows, tokens, starts, lengths, budgets, *media, window=window or start + size
        )

    def advance(self, slots: Slots) -> Slots:
        """Write until every slot's answer has ended; the slots are given up."""
        return self._advance(self.state, slots, 0, self.max_new_tokens)[0]

    def read(
        self, slots: Slots, rows: np.ndarray, prompts: list[Prompt], texts: list[list[int]]
    ) -> Callable[[], list[Answer]]:
        """The second pass over `texts`, the ids written in slots `rows` after `prompts`; the call waits for it."""
        spans = [find_response(self.tokenizer, ids) or (len(ids), len(ids)) for ids in texts]
        written = [
            [*ids[span[0] :], self.tokenizer.eos_id, *prompt.again, *self.tokenizer.signal_ids]
            for ids, span, prompt in zip(texts, spans, prompts, strict=True)
        ]
        group = len(rows)
        chunk = np.zeros((group, bucket(max(map(len, written)), CHUNK_BUCKET, BUCKETS)), np.int32)
        start, sizes, signals = (np.zeros(group, np.int32) for _ in range(3))
        for row, (ids, span, prompt) in enumerate(zip(written, spans, prompts, strict=True)):
            chunk[row, : len(ids)] = ids
            start[row], sizes[row], signals[row] = len(prompt.ids) + span[0], len(ids), len(ids) - 2 * SIGNALS
        found = self._read(self.state, slots, rows, chunk, start, sizes, signals)
        return lambda: self._collect(texts, spans, *jax.device_get(found))

    def _collect(self, texts, spans, hidden, style) -> list[Answer]:
        answers = []
        for row, (ids, span) in enumerate(zip(texts, spans, strict=True)):
            text = self.tokenizer.decode(ids)
            speech, video, labels = style if style is not None else (np.zeros((len(texts), 0)),) * 2 + ({},)
            answers.append(
                Answer(
                    text,
                    parse_generated(text),
                    hidden[row, : span[1] - span[0]],
                    speech[row],
                    video[row],
                    {name: value[row] for name, value in labels.items()},
                    len(ids),
                )
            )
        return answers

    def _media(self, prompts: list[Prompt], group: int, start: int, size: int, places: int):
        """Feature arrays and flat starts of the slots from `start` on, as `Empatheia.fill_slots` takes them."""
        if self.widths is None:
            return None, None, None, None
        count = group * places
        arrays = {"audio": np.zeros((count, *self.widths.audio), np.float32)}
        arrays["video"] = np.zeros((count, *self.widths.video), np.float32)
        starts = {name: np.full(count, -1, np.int32) for name in arrays}
        for row, prompt in enumerate(prompts):
            later = [slot for slot in prompt.slots if slot.position >= start]
            for number, slot in enumerate(later, row * places):
                medium = prompt.medium(slot)
                if medium is not None:
                    arrays[slot.modality][number] = medium
                    starts[slot.modality][number] = row * size + slot.position - start
        return arrays["audio"], starts["audio"], arrays["video"], starts["video"]

    # Contents ---------------------------------------------------------------------------------------------------------

    def speech_content(self, states: np.ndarray, phonemes: np.ndarray) -> np.ndarray:
        """Eqs. 1-2: r^t [R, D] and symbol ids [P] -> C_speech [P, content_dim]."""
        r_t, mask = self._response(states)
        padded = _padded(phonemes, bucket(len(phonemes), CONTENT_BUCKET, BUCKETS), -1)
        return np.asarray(self._speech(self.state, r_t, mask, padded[None]))[0, : len(phonemes)]

    def video_content(self, states: np.ndarray, phonemes: np.ndarray, phoneme_frames: np.ndarray, frames: int):
        """Eqs. 1-2: r^t [R, D], symbol ids and 25 ms durations [P] -> C_video [frames, content_dim]."""
        r_t, mask = self._response(states)
        size = bucket(len(phonemes), CONTENT_BUCKET, BUCKETS)
        content = self._video(
            self.state,
            r_t,
            mask,
            _padded(phonemes, size, -1)[None],
            _padded(phoneme_frames, size, 0)[None],
            np.array([frames], np.int32),
            bucket(frames, CONTENT_BUCKET, BUCKETS),
        )
        return np.asarray(content)[0, :frames]

    def _response(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = bucket(len(states), CONTENT_BUCKET, BUCKETS)
        r_t = np.zeros((1, size, self.config.llm.width), np.float32)
        r_t[0, : len(states)] = states
        return r_t, (np.arange(size) < len(states))[None]


def _padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    return np.concatenate([values, np.full(size - len(values), fill)]).astype(np.int32)
