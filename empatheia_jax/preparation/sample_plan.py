"""Plans the sample corpus: its dialogues, their avatars, and the JSON records of the released layout.

Everything in this module is a pure function of (seed, number of dialogues); it makes no audio and no video.
"""

import collections
import dataclasses
import itertools
import random
from collections.abc import Iterator

from empatheia_jax.config import DataConfig
from empatheia_jax.data.corpus.avamerg import validation_ids
from empatheia_jax.data.emotions import AVATAR_EMOTIONS, FINE_TO_AVATAR
from empatheia_jax.generators.avatars import TEST_AVATARS, TRAIN_AVATARS, Avatar
from empatheia_jax.preparation.sample_events import Event
from empatheia_jax.preparation.sample_happy_events import HAPPY_EVENTS
from empatheia_jax.preparation.sample_hard_events import HARD_EVENTS
from empatheia_jax.preparation.sample_neutral import NEUTRAL_EVENTS
from empatheia_jax.preparation.sample_text import (
    Occasion,
    Script,
    assign_emotion,
    draw_occasion,
    write_emotional,
    write_neutral,
)

CANONICAL = {
    "happy": "joyful",
    "surprised": "surprised",
    "angry": "angry",
    "fear": "afraid",
    "sad": "sad",
    "disgusted": "disgusted",
    "contempt": "jealous",
}
"""The fine label of a neutral dialogue, by avatar emotion: nothing in such a dialogue tells a finer one."""

FINE_PER_EMOTION = 2
"""Number of fine emotions of each avatar emotion that a corpus uses, where it has as many."""

MIN_DIALOGUES, MAX_DIALOGUES = 14, 99_999
MAX_DISJOINT_DIALOGUES = 200
"""Largest corpus whose splits share no sentence: the grammar gives no more different dialogues."""

_MAX_DRAWS = 1000  # of one dialogue, before the draft is given up
_DRAFTS = 6  # corpora written in search of one whose test words all occur in train
_MIN_DIALOGUES_FOR_ALL_WORDS = 35  # in a smaller corpus, no draft has all its test words in train


class SampleError(ValueError):
    """A sample corpus that cannot be written; says why and what would work."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A script and the avatars that speak it."""

    conversation_id: str
    script: Script
    speaker: Avatar
    listener: Avatar

    @property
    def utterances(self) -> list[tuple[int, Avatar, str]]:
        """Every utterance in order: (index, avatar, text)."""
        lines = zip(self.script.queries, self.script.responses, strict=True)
        return [
            (2 * turn + offset, (self.speaker, self.listener)[offset], line[offset])
            for turn, line in enumerate(lines)
            for offset in (0, 1)
        ]

    def labelled(self) -> dict:
        """Return the record of train.json and v_test_v5_0.json: every field."""
        turns = []
        for turn, record in enumerate(self._turns()):
            chain = {
                "speaker_emotion": self.script.speaker_emotion,
                "event_scenario": self.script.event_scenario,
                "emotion_cause": self.script.emotion_cause,
                "goal_to_response": self.script.goals[turn],
            }
            turns.append(record | {"response": self.script.responses[turn], "chain_of_empathy": chain})
        return {
            "conversation_id": self.conversation_id,
            "speaker_profile": _profile_record(self.speaker),
            "listener_profile": _profile_record(self.listener),
            "topic": self.script.topic,
            "turns": turns,
        }

    def released(self) -> dict:
        """Return the record of test.json as the challenge released it: histories only."""
        return {"conversation_id": self.conversation_id, "turns": self._turns()}

    def _turns(self) -> list[dict]:
        entries = [
            {"index": index, "role": ("speaker", "listener")[index % 2], "utterance": text}
            for index, _, text in self.utterances
        ]
        return [
            {"turn_id": str(turn), "context": self.script.context, "dialogue_history": entries[: 2 * turn + 1]}
            for turn in range(len(self.script.queries))
        ]


def _profile_record(avatar: Avatar) -> dict:
    profile = avatar.profile
    return {"age": profile.age, "gender": profile.gender, "timbre": profile.timbre, "ID": profile.id}


def plan_corpus(seed: int = 0, dialogues: int = 150) -> dict[str, list[Dialogue]]:
    """Plan the dialogues of "train" and "test", five to two, with the same number for each avatar emotion.

    Half of each split is neutral; 150 dialogues make 105 and 42. No sentence, no pair of event and thing, and no avatar
    of test occurs in train, while the words of test do (as far as possible: small corpora have few words).

    A corpus of more than `MAX_DISJOINT_DIALOGUES` is several such corpora one after the other: they repeat each other's
    events, and a sentence of one's test may be in another's train. It is for load tests, not for learning.

    Args:
      seed: seed of all choices.
      dialogues: number of dialogues, rounded down to a multiple of seven.

    Raises:
      SampleError: `dialogues` is out of range.
    """
    if not MIN_DIALOGUES <= dialogues <= MAX_DIALOGUES:
        raise SampleError(f"a sample corpus has {MIN_DIALOGUES} to {MAX_DIALOGUES:,} dialogues, not {dialogues}")
    if dialogues > MAX_DISJOINT_DIALOGUES:
        return _plan_several(seed, dialogues)
    count = _DRAFTS if dialogues >= _MIN_DIALOGUES_FOR_ALL_WORDS else 1
    drafts = (_draft(random.Random(f"sample corpus, seed {seed}, draft {n}"), dialogues) for n in range(count))
    best: dict[str, list[Dialogue]] | None = None
    fewest_new_words = 0
    for draft in drafts:
        new_words = len(_words(draft["test"]) - _words(draft["train"])) if draft else 0
        if draft and (best is None or new_words < fewest_new_words):
            best, fewest_new_words = draft, new_words
        if best is not None and fewest_new_words == 0:
            break
    if best is None:
        raise SampleError(f"the events are used up before {dialogues} dialogues are written: ask for fewer")
    return best


def _plan_several(seed: int, dialogues: int) -> dict[str, list[Dialogue]]:
    """Plan several corpora, each with a seed of its own, and number their dialogues consecutively."""
    parts = -(-dialogues // MAX_DISJOINT_DIALOGUES)
    corpus: dict[str, list[Dialogue]] = {"train": [], "test": []}
    for part in range(parts):
        count = (part + 1) * dialogues // parts - part * dialogues // parts
        for split, planned in plan_corpus(seed * MAX_DIALOGUES + part, count).items():
            corpus[split] += [
                dataclasses.replace(dialogue, conversation_id=f"{number:05d}")
                for number, dialogue in enumerate(planned, start=len(corpus[split]) + 1)
            ]
    return corpus


def _draft(rng: random.Random, dialogues: int) -> dict[str, list[Dialogue]] | None:
    """Plan a corpus once; None where the events do not suffice for it."""
    per_emotion = dialogues // len(AVATAR_EMOTIONS)
    test = max(1, round(per_emotion * 2 / 7))
    writer = _ScriptWriter(rng)
    try:
        scripts = {"train": writer.write(per_emotion - test), "test": writer.write(test)}
    except _UsedUp:
        return None
    return {
        "train": _assign_avatars(rng, scripts["train"], TRAIN_AVATARS),
        "test": _assign_avatars(rng, scripts["test"], TEST_AVATARS),
    }


def _words(dialogues: list[Dialogue]) -> set[str]:
    return {word for dialogue in dialogues for word in dialogue.script.words}


class _UsedUp(Exception):
    """None of many draws gave a dialogue that repeats nothing."""


class _ScriptWriter:
    """Writes the scripts of one split after the other; none repeats a sentence of an earlier split."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._earlier_sentences: set[str] = set()  # of earlier splits
        self._vocabulary: set[str] | None = None  # words of earlier splits
        self._earlier_pairs: set[tuple[Event, str]] = set()  # of event and thing, in earlier splits
        self._thing_counts: collections.Counter[str] = collections.Counter()  # in all splits
        self._fine: dict[str, list[str]] = {}  # fine emotions of the emotional half, by avatar emotion

    def write(self, per_emotion: int) -> list[Script]:
        """Write `per_emotion` scripts for each avatar emotion, in the order of the emotions, halves interleaved."""
        neutral = self._write_neutral_half(per_emotion)
        scripts = []
        pairs: set[tuple[Event, str]] = set()
        queries: set[str] = set()
        for position, emotion in enumerate(AVATAR_EMOTIONS):
            count = (per_emotion + (position + 1) % 2) // 2  # even positions have one emotional dialogue more
            emotional = self._write_emotional_half(emotion, count, pairs, queries)
            longer, shorter = (emotional, neutral[emotion])[:: 1 if position % 2 == 0 else -1]
            scripts += [script for pair in itertools.zip_longest(longer, shorter) for script in pair if script]
        self._earlier_sentences |= {sentence for script in scripts for sentence in script.sentences}
        self._vocabulary = (self._vocabulary or set()) | {word for script in scripts for word in script.words}
        self._earlier_pairs |= pairs
        return scripts

    def _write_emotional_half(self, emotion: str, count: int, pairs: set, queries: set) -> list[Script]:
        """Write the emotional scripts of one avatar emotion; `pairs` and `queries` are those of the split so far."""
        first = emotion not in self._fine
        fine = self._choose_fine(emotion) if first else self._rng.sample(self._fine[emotion], len(self._fine[emotion]))
        labels = list(itertools.islice(itertools.cycle(fine), count))
        if first:
            self._fine[emotion] = sorted(set(labels))
        # the event may be of any fine emotion of the class; the words about the feeling are those of the label
        names = [name for name, avatar in FINE_TO_AVATAR.items() if avatar == emotion]
        events = [event for name in names for event in (HAPPY_EVENTS | HARD_EVENTS)[name]]
        shuffled = itertools.cycle(self._rng.sample(events, len(events)))
        scripts = []
        for preferred, length in zip(labels, self._turn_counts(count), strict=True):

            def draw(attempt, preferred=preferred, length=length):
                label = preferred if attempt < _MAX_DRAWS // 8 else self._rng.choice(self._fine[emotion])
                event = next(shuffled)
                occasion = draw_occasion(self._rng, event, self._choose_thing(event), length)
                return occasion, write_emotional(self._rng, occasion, label, length)

            scripts.append(self._draw_new(draw, pairs, queries)[1])
        return scripts

    def _write_neutral_half(self, per_emotion: int) -> dict[str, list[Script]]:
        """Write the neutral scripts, by emotion: first all their words, then an emotion is assigned to each."""
        counts = [per_emotion - (per_emotion + (position + 1) % 2) // 2 for position in range(len(AVATAR_EMOTIONS))]
        lengths = [length for count in counts for length in self._turn_counts(count)]
        pairs, queries = set(), set()
        shuffled = self._rng.sample(NEUTRAL_EVENTS, len(NEUTRAL_EVENTS))
        position = itertools.count()

        def draw(length):
            event = shuffled[next(position) % len(shuffled)]
            occasion = draw_occasion(self._rng, event, self._choose_thing(event), length)
            return occasion, write_neutral(self._rng, occasion, length)

        written = {length: [] for length in (2, 3)}
        for length in self._rng.sample(lengths, len(lengths)):
            written[length].append(self._draw_new(lambda attempt, length=length: draw(length), pairs, queries))
        result, next_length = {}, iter(lengths)
        meetings: collections.Counter[tuple[str, str]] = collections.Counter()  # of (event or thing, emotion)
        for emotion, count in zip(AVATAR_EMOTIONS, counts, strict=True):
            result[emotion] = [
                self._take_script(written[next(next_length)], CANONICAL[emotion], meetings) for _ in range(count)
            ]
        self._earlier_pairs |= pairs
        return result

    def _take_script(self, written: list[tuple[Occasion, Script]], fine: str, meetings: collections.Counter) -> Script:
        """Take a script from `written` and assign an emotion to it without repeating a sentence of an earlier split.

        Scripts whose event and thing have had this emotion least often (`meetings`) are tried first, so that neither
        event nor thing tells the emotion.
        """

        def count_meetings(position: int) -> tuple[int, int]:
            occasion = written[position][0]
            return meetings[occasion.event.statement, fine], meetings[occasion.thing, fine]

        for position in sorted(range(len(written)), key=count_meetings):
            occasion, neutral = written[position]
            for _ in range(20):
                script = assign_emotion(self._rng, neutral, occasion.thing, fine)
                if self._is_new(script):
                    del written[position]
                    meetings[occasion.event.statement, fine] += 1
                    meetings[occasion.thing, fine] += 1
                    return script
        raise _UsedUp

    def _draw_new(self, draw, pairs: set, queries: set) -> tuple[Occasion, Script]:
        """Return the first draw that repeats nothing.

        In the first half of the draws only words of earlier splits are allowed, in the first quarter only pairs of
        event and thing that are new in this split (`pairs`, `queries`: those so far, to which the draw's are added).
        """
        for attempt in range(_MAX_DRAWS):
            occasion, script = draw(attempt)
            pair = (occasion.event, occasion.thing)
            repeats = pair in self._earlier_pairs or queries & set(script.queries) or not self._is_new(script)
            if repeats or (pair in pairs and attempt < _MAX_DRAWS // 4):
                continue
            if self._vocabulary is not None and attempt < _MAX_DRAWS // 2 and not script.words <= self._vocabulary:
                continue
            pairs.add(pair)
            self._thing_counts[occasion.thing] += 1
            queries.update(script.queries)
            return occasion, script
        raise _UsedUp

    def _choose_thing(self, event: Event) -> str:
        """Choose a thing of the event; in the first split mostly the least used, so that its vocabulary is wide."""
        things = self._rng.sample(event.things, len(event.things))
        if self._vocabulary is not None or self._rng.random() < 0.3:
            return things[0]
        return min(things, key=self._thing_counts.__getitem__)

    def _is_new(self, script: Script) -> bool:
        return not script.sentences & self._earlier_sentences

    def _choose_fine(self, emotion: str) -> list[str]:
        """Choose the fine emotions of an avatar emotion: the canonical one and `FINE_PER_EMOTION` - 1 more.

        With all 32 labels, a model trained from scratch on a hundred dialogues would see each only once or twice.
        """
        fine = [name for name, avatar in FINE_TO_AVATAR.items() if avatar == emotion and name != CANONICAL[emotion]]
        return [*self._rng.sample(fine, min(len(fine), FINE_PER_EMOTION - 1)), CANONICAL[emotion]]

    def _turn_counts(self, count: int) -> list[int]:
        """Return numbers of turns: two and three alternating, beginning with either."""
        start = self._rng.randrange(2)
        return [2 + (start + position) % 2 for position in range(count)]


def _assign_avatars(rng: random.Random, scripts: list[Script], avatars: tuple[Avatar, ...]) -> list[Dialogue]:
    """Choose who speaks and who listens in each script; return the dialogues in the order of their ids, from 00001.

    The ids are random, except that those which the default validation split holds out are spread evenly over the
    scripts, which come sorted by emotion; so validation and the rest of train are as balanced as the split.
    """
    listeners, speakers = _cycle_avatars(rng, avatars), _cycle_avatars(rng, avatars)
    roles = []
    for _ in scripts:
        listener = next(listeners)
        roles.append((next(avatar for avatar in speakers if avatar.id != listener.id), listener))
    numbers = [f"{number:05d}" for number in range(1, len(scripts) + 1)]
    held_out = sorted(validation_ids(numbers, DataConfig().validation_share))
    kept = sorted(set(numbers) - set(held_out))
    positions = {int((number + 0.5) * len(scripts) / len(held_out)) for number in range(len(held_out))}
    rng.shuffle(held_out)
    rng.shuffle(kept)
    dialogues = [
        Dialogue((held_out if position in positions else kept).pop(), script, *roles[position])
        for position, script in enumerate(scripts)
    ]
    return sorted(dialogues, key=lambda dialogue: dialogue.conversation_id)


def _cycle_avatars(rng: random.Random, avatars: tuple[Avatar, ...]) -> Iterator[Avatar]:
    """Yield avatars without end: every profile once in each round, with ages, genders and timbres alternating.

    Scripts come sorted by emotion, so the alternation also balances the profiles within each emotion.
    """
    by_profile: dict[tuple[str, str, str], list[Avatar]] = {}
    for avatar in avatars:
        by_profile.setdefault((avatar.profile.age, avatar.profile.gender, avatar.profile.timbre), []).append(avatar)
    ages, genders, timbres = (sorted({profile[axis] for profile in by_profile}) for axis in range(3))
    for round_number in itertools.count():
        ages, genders, timbres = (rng.sample(axis, len(axis)) for axis in (ages, genders, timbres))
        for step in range(24):
            # 4 ages and 3 timbres make all pairs in 12 steps; the second 12 steps have the other gender
            profile = ages[step % 4], genders[(step + step // 12) % 2], timbres[step % 3]
            candidates = by_profile[profile]
            yield candidates[round_number % len(candidates)]
