"""The sample corpus on paper: which dialogues there are, who plays them, and the json of the released layout.

Everything here is a pure function of (seed, number of dialogues); nothing is spoken or drawn.
"""

import collections
import dataclasses
import itertools
import random

from empatheia_jax.config import DataConfig
from empatheia_jax.data.avamerg import validation_ids
from empatheia_jax.data.emotions import AVATAR_EMOTIONS, FINE_TO_AVATAR
from empatheia_jax.inference.avatars import TEST_AVATARS, TRAIN_AVATARS, Avatar
from empatheia_jax.preparation.sample_events import EMOTIONAL_EVENTS, Event
from empatheia_jax.preparation.sample_neutral import NEUTRAL_EVENTS
from empatheia_jax.preparation.sample_text import (
    Occasion,
    Script,
    deal_emotion,
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
"""The fine label of a neutral dialogue: voice and face tell the avatar emotion, nothing tells a finer one."""

FINE_PER_EMOTION = 2

LEAST, MOST = 14, 99_999
TAUGHT = 200  # dialogues up to which a corpus keeps its splits apart; the grammar has no more to say
_TRIES = 1000  # draws before a dialogue is given up
_DRAFTS = 6  # corpora written in search of one whose test words all occur in train
_ENOUGH_FOR_ALL_WORDS = 35  # dialogues; in fewer, no draft has all its test words in train


class SampleError(ValueError):
    """A sample corpus that cannot be written: says why and what would work."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A script with its cast."""

    conversation_id: str
    script: Script
    speaker: Avatar
    listener: Avatar

    @property
    def utterances(self) -> list[tuple[int, Avatar, str]]:
        """(index, who, text) of everything said, in order."""
        lines = zip(self.script.queries, self.script.responses, strict=True)
        return [
            (2 * turn + offset, (self.speaker, self.listener)[offset], line[offset])
            for turn, line in enumerate(lines)
            for offset in (0, 1)
        ]

    def labelled(self) -> dict:
        """The record of train.json and v_test_v5_0.json: every field."""
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
        """The record of test.json as the challenge released it: histories only."""
        return {"conversation_id": self.conversation_id, "turns": self._turns()}

    def _turns(self) -> list[dict]:
        said = [
            {"index": index, "role": ("speaker", "listener")[index % 2], "utterance": text}
            for index, _, text in self.utterances
        ]
        return [
            {"turn_id": str(turn), "context": self.script.context, "dialogue_history": said[: 2 * turn + 1]}
            for turn in range(len(self.script.queries))
        ]


def _profile_record(avatar: Avatar) -> dict:
    profile = avatar.profile
    return {"age": profile.age, "gender": profile.gender, "timbre": profile.timbre, "ID": profile.id}


def plan_corpus(seed: int = 0, dialogues: int = 150) -> dict[str, list[Dialogue]]:
    """The dialogues of "train" and "test": five to two, rounded down to as many of each avatar emotion.

    Half of each is neutral; 150 make 105 and 42. No sentence, no pairing of event and thing, and no avatar of test
    occurs in train, while its words do (as far as that can be had: small corpora teach few words).

    More than `TAUGHT` are several such corpora one after the other: they repeat each other's events, and a sentence of
    one's test may be in another's train. They are for load, not for learning.

    Raises:
      SampleError: `dialogues` out of range.
    """
    if not LEAST <= dialogues <= MOST:
        raise SampleError(f"a sample corpus has {LEAST} to {MOST:,} dialogues, not {dialogues}")
    if dialogues > TAUGHT:
        return _plan_many(seed, dialogues)
    count = _DRAFTS if dialogues >= _ENOUGH_FOR_ALL_WORDS else 1
    drafts = (_draft(random.Random(f"sample corpus, seed {seed}, draft {n}"), dialogues) for n in range(count))
    best: dict[str, list[Dialogue]] | None = None
    fewest = 0
    for draft in drafts:
        new_words = len(_words(draft["test"]) - _words(draft["train"])) if draft else 0
        if draft and (best is None or new_words < fewest):
            best, fewest = draft, new_words
        if best is not None and fewest == 0:
            break
    if best is None:
        raise SampleError(f"the events are used up before {dialogues} dialogues are written: ask for fewer")
    return best


def _plan_many(seed: int, dialogues: int) -> dict[str, list[Dialogue]]:
    """Corpora of seeds of their own, their dialogues numbered through."""
    parts = -(-dialogues // TAUGHT)
    whole: dict[str, list[Dialogue]] = {"train": [], "test": []}
    for part in range(parts):
        count = (part + 1) * dialogues // parts - part * dialogues // parts
        for split, found in plan_corpus(seed * MOST + part, count).items():
            whole[split] += [
                dataclasses.replace(dialogue, conversation_id=f"{number:05d}")
                for number, dialogue in enumerate(found, start=len(whole[split]) + 1)
            ]
    return whole


def _draft(rng: random.Random, dialogues: int) -> dict[str, list[Dialogue]] | None:
    """One attempt at the whole corpus; None where the events did not suffice."""
    per_emotion = dialogues // len(AVATAR_EMOTIONS)
    test = max(1, round(per_emotion * 2 / 7))
    author = _Author(rng)
    try:
        scripts = {"train": author.write(per_emotion - test), "test": author.write(test)}
    except _UsedUp:
        return None
    return {
        "train": _cast(rng, scripts["train"], TRAIN_AVATARS),
        "test": _cast(rng, scripts["test"], TEST_AVATARS),
    }


def _words(dialogues: list[Dialogue]) -> set[str]:
    return {word for dialogue in dialogues for word in dialogue.script.words}


class _UsedUp(Exception):
    """No new dialogue was found among many drawn."""


class _Author:
    """Writes the scripts of one split after the other, each apart from all splits before."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._earlier: set[str] = set()  # sentences of earlier splits
        self._vocabulary: set[str] | None = None  # words of earlier splits
        self._taken: set[tuple[Event, str]] = set()  # pairings of event and thing that earlier splits used
        self._uses: collections.Counter[str] = collections.Counter()  # of things
        self._fine: dict[str, list[str]] = {}  # fine emotions of the emotional half, by avatar emotion

    def write(self, per_emotion: int) -> list[Script]:
        """`per_emotion` scripts for each avatar emotion, in the order of the emotions, halves interleaved."""
        neutral = self._neutral(per_emotion)
        scripts = []
        pairs: set[tuple[Event, str]] = set()
        queries: set[str] = set()
        for position, emotion in enumerate(AVATAR_EMOTIONS):
            count = (per_emotion + (position + 1) % 2) // 2  # even positions have one emotional dialogue more
            emotional = self._emotional(emotion, count, pairs, queries)
            longer, shorter = (emotional, neutral[emotion])[:: 1 if position % 2 == 0 else -1]
            scripts += [script for pair in itertools.zip_longest(longer, shorter) for script in pair if script]
        self._earlier |= {sentence for script in scripts for sentence in script.sentences}
        self._vocabulary = (self._vocabulary or set()) | {word for script in scripts for word in script.words}
        self._taken |= pairs
        return scripts

    def _emotional(self, emotion: str, count: int, pairs: set, queries: set) -> list[Script]:
        first = emotion not in self._fine
        fine = self._order_fine(emotion) if first else self._rng.sample(self._fine[emotion], len(self._fine[emotion]))
        labels = list(itertools.islice(itertools.cycle(fine), count))
        if first:
            self._fine[emotion] = sorted(set(labels))
        # what happens is that of all fine emotions of the class; how it is felt is the label's
        events = [
            event for name in FINE_TO_AVATAR if FINE_TO_AVATAR[name] == emotion for event in EMOTIONAL_EVENTS[name]
        ]
        deck = itertools.cycle(self._rng.sample(events, len(events)))
        scripts = []
        for wanted, length in zip(labels, self._turn_counts(count), strict=True):

            def draw(attempt, wanted=wanted, length=length):
                label = wanted if attempt < _TRIES // 8 else self._rng.choice(self._fine[emotion])
                event = next(deck)
                occasion = draw_occasion(self._rng, event, self._choose_thing(event), length)
                return occasion, write_emotional(self._rng, occasion, label, length)

            scripts.append(self._accept(draw, pairs, queries)[1])
        return scripts

    def _neutral(self, per_emotion: int) -> dict[str, list[Script]]:
        """The neutral scripts by emotion: first all words, then the emotions are dealt."""
        counts = [per_emotion - (per_emotion + (position + 1) % 2) // 2 for position in range(len(AVATAR_EMOTIONS))]
        lengths = [length for count in counts for length in self._turn_counts(count)]
        pairs, queries = set(), set()
        deck = self._rng.sample(NEUTRAL_EVENTS, len(NEUTRAL_EVENTS))
        place = itertools.count()

        def draw(length):
            event = deck[next(place) % len(deck)]
            occasion = draw_occasion(self._rng, event, self._choose_thing(event), length)
            return occasion, write_neutral(self._rng, occasion, length)

        written = {length: [] for length in (2, 3)}
        for length in self._rng.sample(lengths, len(lengths)):
            written[length].append(self._accept(lambda attempt, length=length: draw(length), pairs, queries))
        result, at = {}, iter(lengths)
        told: collections.Counter[tuple[str, str]] = collections.Counter()  # (event or thing, emotion)
        for emotion, count in zip(AVATAR_EMOTIONS, counts, strict=True):
            result[emotion] = [self._dealt(written[next(at)], CANONICAL[emotion], told) for _ in range(count)]
        self._taken |= pairs
        return result

    def _dealt(self, written: list[tuple[Occasion, Script]], fine: str, told: collections.Counter) -> Script:
        """A script that can end in this emotion without repeating an earlier split's sentence.

        Those whose event and thing have met this emotion least (`told`) come first: neither must tell it.
        """

        def met(place: int) -> tuple[int, int]:
            occasion = written[place][0]
            return told[occasion.event.said, fine], told[occasion.thing, fine]

        for place in sorted(range(len(written)), key=met):
            occasion, script = written[place]
            for _ in range(20):
                dealt = deal_emotion(self._rng, script, occasion.thing, fine)
                if self._is_new(dealt):
                    del written[place]
                    told[occasion.event.said, fine] += 1
                    told[occasion.thing, fine] += 1
                    return dealt
        raise _UsedUp

    def _accept(self, draw, pairs: set, queries: set) -> tuple[Occasion, Script]:
        """The first draw that repeats nothing; earlier splits' words are kept to while that is possible."""
        for attempt in range(_TRIES):
            occasion, script = draw(attempt)
            pair = (occasion.event, occasion.thing)
            repeats = pair in self._taken or queries & set(script.queries) or not self._is_new(script)
            if repeats or (pair in pairs and attempt < _TRIES // 4):
                continue
            if self._vocabulary is not None and attempt < _TRIES // 2 and not script.words <= self._vocabulary:
                continue
            pairs.add(pair)
            self._uses[occasion.thing] += 1
            queries.update(script.queries)
            return occasion, script
        raise _UsedUp

    def _choose_thing(self, event: Event) -> str:
        """A thing for the event: in the first split one that was used least, so that its vocabulary is the widest."""
        things = self._rng.sample(event.things, len(event.things))
        if self._vocabulary is not None or self._rng.random() < 0.3:
            return things[0]
        return min(things, key=self._uses.__getitem__)

    def _is_new(self, script: Script) -> bool:
        return not script.sentences & self._earlier

    def _order_fine(self, emotion: str) -> list[str]:
        """The canonical fine emotion of an avatar emotion and one more.

        A hundred dialogues spread over 32 labels would show a scratch model each label once or twice.
        """
        fine = [name for name, avatar in FINE_TO_AVATAR.items() if avatar == emotion and name != CANONICAL[emotion]]
        return [*self._rng.sample(fine, min(len(fine), FINE_PER_EMOTION - 1)), CANONICAL[emotion]]

    def _turn_counts(self, count: int) -> list[int]:
        """Twos and threes in turn, beginning with either."""
        start = self._rng.randrange(2)
        return [2 + (start + place) % 2 for place in range(count)]


def _cast(rng: random.Random, scripts: list[Script], avatars: tuple[Avatar, ...]) -> list[Dialogue]:
    """Who speaks and who listens in each script; the dialogues in the order of their numbers, from 00001.

    The numbers are random but for one thing: those that the default validation split picks go evenly through the
    scripts, which come sorted by emotion; so validation and what is left for training are as balanced as the whole.
    """
    listeners, speakers = _deal_avatars(rng, avatars), _deal_avatars(rng, avatars)
    roles = []
    for _ in scripts:
        listener = next(listeners)
        roles.append((next(avatar for avatar in speakers if avatar.id != listener.id), listener))
    numbers = [f"{number:05d}" for number in range(1, len(scripts) + 1)]
    held_out = sorted(validation_ids(numbers, DataConfig().validation_share))
    kept = sorted(set(numbers) - set(held_out))
    even = {int((place + 0.5) * len(scripts) / len(held_out)) for place in range(len(held_out))}
    rng.shuffle(held_out)
    rng.shuffle(kept)
    cast = [
        Dialogue((held_out if place in even else kept).pop(), script, *roles[place])
        for place, script in enumerate(scripts)
    ]
    return sorted(cast, key=lambda dialogue: dialogue.conversation_id)


def _deal_avatars(rng: random.Random, avatars: tuple[Avatar, ...]):
    """Avatars for ever: every profile once in each round, and within a round ages, genders and timbres alternate.

    Scripts come sorted by emotion, so an even alternation also balances the profiles within each emotion.
    """
    by_profile: dict[tuple[str, str, str], list[Avatar]] = {}
    for avatar in avatars:
        by_profile.setdefault((avatar.profile.age, avatar.profile.gender, avatar.profile.timbre), []).append(avatar)
    ages, genders, timbres = (sorted({profile[axis] for profile in by_profile}) for axis in range(3))
    for turn in itertools.count():
        ages, genders, timbres = (rng.sample(axis, len(axis)) for axis in (ages, genders, timbres))
        for step in range(24):
            # 4 ages and 3 timbres pair up in 12 steps; the second 12 steps meet the other gender
            profile = ages[step % 4], genders[(step + step // 12) % 2], timbres[step % 3]
            cast = by_profile[profile]
            yield cast[turn % len(cast)]
