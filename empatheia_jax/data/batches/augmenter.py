"""What a training Example loses or exchanges in an epoch, drawn from (seed, epoch, Example), so that runs resume alike.

Dropout: of speech, of video, of the profile line, and of words (`data.modality_dropout`, `profile_dropout`,
`word_dropout`, `text_dropout`).

Word swaps (`data.word_swap`) exchange a dialogue's topic words for those of other dialogues. A small LLM trained from
scratch must read the dialogue instead of learning it by heart. The topic words of a dialogue (words that its utterances
share with its event scenario) are exchanged in prompt and target alike. What stays, and so what the model must learn,
is how feelings are worded, and that scenario, cause and response take their nouns from the prompt. In overall tuning it
also keeps the model from inferring by heart, from the words, what voice and face should tell it. The recordings still
have the old words, so a swapped Example has no content gold.

Speaker substitution (`data.recast`) has the same words spoken by other people. Who speaks and who listens come from
other dialogues of the same avatar emotion. The speaker's voice and face are those of one such dialogue; the listener's
earlier utterances, profile and style gold are those of another. In this corpus whoever answers a sad speaker does so in
their own voice, so the golds stay true; what is lost is the chance to learn a dialogue by heart and with it the
listener's profile. The content gold stays the Example's own, since it depends on the words.
"""

import collections
import dataclasses
import re

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.batches.encoder import EncodedExample, ExampleEncoder
from empatheia_jax.data.schema import Example, Profile

SPARE_TOKENS = 8  # by which swapped words and another profile may be longer than what they replace
COMMON_SHARE = 0.15  # a word of more dialogues than this is a function word, not a topic
_WORD = re.compile(r"[A-Za-z][a-z]{2,}")


class WordSwap:
    """Exchanges the topic words of Examples; the words to draw from are collected from the training Examples."""

    def __init__(self, examples: list[Example]):
        dialogues_with: dict[str, set[str]] = collections.defaultdict(set)
        for example in examples:
            for word in _words(_history_text(example)):
                dialogues_with[word].add(example.conversation_id)
        dialogues = len({example.conversation_id for example in examples})
        limit = max(3, COMMON_SHARE * dialogues)
        self._common = {word for word, ids in dialogues_with.items() if len(ids) > limit}
        self.pool = sorted({word for example in examples for word in self.topic_words(example)})

    def topic_words(self, example: Example) -> list[str]:
        """Return the words that an Example's utterances share with its event scenario, common words left out."""
        if example.chain is None:
            return []
        shared = _words(_history_text(example)) & _words(example.chain.event_scenario)
        return sorted(shared - self._common)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Return the Example with each of its topic words exchanged, everywhere in it, for one of the pool."""
        words = self.topic_words(example)
        if len(self.pool) < 2 or not words:
            return example
        drawn = rng.choice(self.pool, size=len(words), replace=len(words) > len(self.pool))
        exchange = dict(zip(words, map(str, drawn), strict=True))

        def swap(text: str) -> str:
            return _WORD.sub(lambda match: _match_case(match[0], exchange.get(match[0].lower())), text)

        history = tuple(dataclasses.replace(u, text=swap(u.text)) for u in example.history)
        response = example.response and dataclasses.replace(example.response, text=swap(example.response.text))
        chain = example.chain and dataclasses.replace(
            example.chain,
            event_scenario=swap(example.chain.event_scenario),
            emotion_cause=swap(example.chain.emotion_cause),
            goal_to_response=swap(example.chain.goal_to_response),
        )
        return dataclasses.replace(example, history=history, response=response, chain=chain)


def _history_text(example: Example) -> str:
    return " ".join(utterance.text for utterance in example.history)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _match_case(old: str, new: str | None) -> str:
    """Return `new` with the initial case of `old`; `old` itself where there is nothing new."""
    if new is None:
        return old
    return new.capitalize() if old[0].isupper() else new


@dataclasses.dataclass(frozen=True)
class SpeakerAssignment:
    """Whose recordings stand in for an Example's own."""

    feature_keys: dict[str, str]  # feature-store key of each of the Example's utterances -> key to read instead
    listener_profile: Profile | None
    style_key: str  # feature-store key of the utterance whose style is the gold


@dataclasses.dataclass
class _Dialogue:
    """The utterances of one dialogue, as feature-store keys in the order they were spoken."""

    speaker: list[str] = dataclasses.field(default_factory=list)
    listener: list[str] = dataclasses.field(default_factory=list)
    listener_profile: Profile | None = None


class SpeakerSubstitution:
    """Draws speakers for labelled Examples from the dialogues of the same avatar emotion."""

    def __init__(self, examples: list[Example]):
        dialogues: dict[str, dict[str, _Dialogue]] = collections.defaultdict(dict)
        for example in examples:
            if example.chain is None or example.response is None:
                continue
            emotion = emotions.avatar_emotion(example.chain.speaker_emotion)
            dialogue = dialogues[emotion].setdefault(f"{example.split}/{example.conversation_id}", _Dialogue())
            dialogue.listener_profile = example.listener_profile
            for utterance in example.utterances:
                keys = dialogue.speaker if utterance.role == "speaker" else dialogue.listener
                if (key := example.utterance_key(utterance)) not in keys:
                    keys.append(key)
        self._by_emotion = {emotion: list(by_id.values()) for emotion, by_id in dialogues.items()}

    def __call__(self, example: Example, rng: np.random.Generator) -> SpeakerAssignment | None:
        """Draw speaker and listener for `example`; None where it has no emotion label or no response."""
        if example.chain is None or example.response is None:
            return None
        choices = self._by_emotion[emotions.avatar_emotion(example.chain.speaker_emotion)]
        speaker, listener = (choices[int(index)] for index in rng.integers(len(choices), size=2))
        offsets = rng.integers(16, size=2)
        feature_keys, counts = {}, [0, 0]
        for utterance in example.utterances:
            role = 0 if utterance.role == "speaker" else 1
            keys = (speaker.speaker, listener.listener)[role]
            feature_keys[example.utterance_key(utterance)] = keys[(counts[role] + offsets[role]) % len(keys)]
            counts[role] += 1
        return SpeakerAssignment(
            feature_keys, listener.listener_profile, style_key=feature_keys[example.utterance_key(example.response)]
        )


@dataclasses.dataclass(frozen=True)
class AugmentedExample:
    """An Example as an epoch has it."""

    example: Example
    encoded: EncodedExample
    inputs: np.ndarray  # int32 [length]; `encoded.ids`, those of blanked words replaced by padding
    shown: dict[str, bool]  # "audio", "video" -> whether its slots are filled
    is_spoken: bool  # whether the words are those of the response's recording
    assignment: SpeakerAssignment | None  # None: the Example's own recordings


class Augmenter:
    """Draws what the Examples of a split lose and exchange; outside of training nothing.

    Attributes:
      encoded: every Example as it is.
      spare: tokens by which an augmented Example may be longer than that.
    """

    def __init__(
        self,
        examples: list[Example],
        encoder: ExampleEncoder,
        *,
        train: bool,
        seed: int,
        learn_text: bool,
        has_media: bool,
    ):
        """Encode the Examples, and collect what can be exchanged.

        Args:
          examples: all of the split.
          encoder: for the stage's prompts; its config has the shares.
          train: whether anything is drawn.
          seed: of the draws.
          learn_text: whether L_emp is taken; words are exchanged and blanked only then.
          has_media: whether there is a feature store.

        Raises:
          RecordError: an Example without the profile that the config demands.
        """
        self._examples, self._encoder, self._train, self._seed = examples, encoder, train, seed
        data, text_only = encoder.config.data, encoder.prompt_kind == "text"
        self._data = data
        self.encoded = [encoder(example) for example in examples]
        self._profile_dropout = data.profile_dropout if train and not text_only else 0.0
        if encoder.config.prompt.profile_in_prompt != "auto":
            self._profile_dropout = 0.0
        self._without_profile = self.encoded
        if self._profile_dropout:
            self._without_profile = [encoder(example, with_profile=False) for example in examples]
        self._word_swap = WordSwap(examples) if train and learn_text and data.word_swap else None
        # In stage 2 the LLM's inputs stay fixed.
        substitutes = train and has_media and (learn_text or not text_only)
        self._speaker_substitution = SpeakerSubstitution(examples) if substitutes and data.recast else None
        self.spare = SPARE_TOKENS if self._word_swap or self._speaker_substitution else 0
        self._word_dropout = data.word_dropout if train and learn_text else 0.0
        self._text_dropout = data.text_dropout if train and learn_text and encoder.prompt_kind == "all" else 0.0
        self._brace_tokens: list[list[int]] = [[], []]
        if self._word_dropout or self._text_dropout:
            tokenizer = encoder.tokenizer
            texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
            self._brace_tokens = [[i for i, text in enumerate(texts) if brace in text] for brace in "{}"]

    def draw(self, index: int, epoch: int) -> AugmentedExample:
        """Return Example `index` as `epoch` has it."""
        rng = np.random.default_rng([self._seed, 1, epoch, index])
        audio_draw, video_draw, profile_draw = rng.random(3)
        example, encoded, assignment = self._exchange(index, profile_draw >= self._profile_dropout, rng)
        dropout = self._data.modality_dropout if self._train else 0.0
        shown = {"audio": bool(audio_draw >= dropout), "video": bool(video_draw >= dropout)}
        inputs = encoded.ids
        if self._word_dropout or self._text_dropout:
            without_text = any(shown.values()) and rng.random() < self._text_dropout
            inputs = self._blank_words(encoded, 1.0 if without_text else self._word_dropout, rng)
        is_spoken = example.history == self._examples[index].history
        return AugmentedExample(example, encoded, inputs, shown, is_spoken, assignment)

    def _exchange(
        self, index: int, with_profile: bool, rng: np.random.Generator
    ) -> tuple[Example, EncodedExample, SpeakerAssignment | None]:
        """Return the Example with words swapped and speakers substituted; unchanged if it would exceed its size."""
        original, planned = self._examples[index], self.encoded[index]
        example, assignment = original, None
        if self._word_swap and rng.random() < self._data.word_swap:
            example = self._word_swap(example, rng)
        if self._speaker_substitution and rng.random() < self._data.recast:
            assignment = self._speaker_substitution(example, rng)
        if assignment is not None:
            example = dataclasses.replace(example, listener_profile=assignment.listener_profile)
        if example is not original:
            encoded = self._encoder(example, with_profile)
            if (
                len(encoded.ids) <= len(planned.ids) + self.spare
                and encoded.loss_mask.sum() <= planned.loss_mask.sum() + self.spare
            ):
                return example, encoded, assignment
        return original, planned if with_profile else self._without_profile[index], None

    def _blank_words(self, encoded: EncodedExample, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return the ids with a share of those between the prompt's braces replaced by padding; slots stay.

        The instruction comes before the braces, the profile after them.
        """
        prompt, ids = encoded.ids[: encoded.prompt_length], encoded.ids.copy()
        opening, closing = (np.nonzero(np.isin(prompt, tokens))[0] for tokens in self._brace_tokens)
        first = int(opening[0]) + 1 if len(opening) else 1
        dialogue = ids[first : int(closing[-1]) if len(closing) else encoded.prompt_length]
        blank = rng.random(len(dialogue)) < share
        dialogue[blank & (dialogue < self._encoder.tokenizer.vocab_size)] = self._encoder.tokenizer.pad_id
        return ids
