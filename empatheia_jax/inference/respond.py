"""`empatheia respond`: a dialogue (words, voice, face; at least one of them) in, out.mp4 and out.json out."""

import dataclasses
import functools
import time
from pathlib import Path

import numpy as np
from flax import nnx

from empatheia_jax.atomic import write_json
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.data import emotions
from empatheia_jax.data.avamerg import read_dialogue
from empatheia_jax.data.encoded import prompt_profile
from empatheia_jax.data.media import MediaError, duration, read_audio, read_video
from empatheia_jax.data.media_writing import write_video
from empatheia_jax.data.schema import Example, Profile, Utterance
from empatheia_jax.encoders import ModalityEncoder, build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.interfaces import FaceGenerator, Portrait, SpeechGenerator
from empatheia_jax.inference import provenance
from empatheia_jax.inference.avatars import choose_avatar
from empatheia_jax.inference.conversation import Conversation
from empatheia_jax.inference.engine import Answer, Engine
from empatheia_jax.inference.perform import perform
from empatheia_jax.profiling.capture import traced
from empatheia_jax.training.run import saved_config
from empatheia_jax.training.stages import ADAPTED
from empatheia_jax.training.step import trains


class RespondError(ValueError):
    """A request that cannot be answered: says what is wrong and what would do."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What `empatheia respond` is asked for; see its --help."""

    run: Path
    output: Path
    dialogue: Path | None = None
    text: str | None = None
    speech: Path | None = None
    video: Path | None = None
    profile: Profile | None = None
    portrait: Path | None = None
    consent: bool = False
    speech_generator: str | None = None
    speech_weights: Path | None = None
    face_generator: str | None = None
    face_weights: Path | None = None
    content_source: str | None = None
    torch: dict[str, Path | bool | None] = dataclasses.field(default_factory=dict)  # by name of `TorchConfig`
    face_size: int = 256
    trace: Path | None = None  # where a second, warm answer is traced to
    quantization: str | None = None  # of the base; None: as it was trained


def parse_profile(value: str) -> Profile:
    """ "AGE,GENDER,TIMBRE" -> Profile.

    Raises:
      RespondError: a word that is not in its table.
    """
    words = [word.strip().lower() for word in value.split(",")]
    tables = {"age": emotions.AGES, "gender": emotions.GENDERS, "timbre": emotions.TIMBRES}
    if len(words) != 3:
        raise RespondError(f"--profile {value!r}: give AGE,GENDER,TIMBRE, such as young,female,mid")
    for word, (name, table) in zip(words, tables.items(), strict=True):
        if word not in table:
            raise RespondError(f"--profile: {name} {word!r} is not one of {', '.join(table)}")
    return Profile(*words)


def read_request(request: Request, config: Config) -> Example:
    """The Example to answer: from a dialogue file, or from one utterance given as text, speech and video.

    Raises:
      RespondError: nothing to answer, or both ways at once. RecordError: a bad dialogue.
    """
    loose = [value for value in (request.text, request.speech, request.video) if value is not None]
    if request.dialogue is not None:
        if loose:
            raise RespondError("give either --dialogue or --text/--speech/--video, not both")
        return read_dialogue(request.dialogue, max_turns=config.data.max_turns)
    if not loose:
        raise RespondError("nothing to answer: give --dialogue FILE.json, or --text, --speech, --video (one or more)")
    if request.text is not None and len(loose) == 1 and not any(c.isalnum() for c in request.text):
        raise RespondError(f"--text {request.text!r}: there are no words in it; say something or give --speech")
    if not config.modalities and request.text is None:
        raise RespondError(f"{request.run} was trained on words only: give --text")
    said = {"index": 0, "role": "speaker", "utterance": request.text or ""}
    for name, path in (("speech", request.speech), ("video", request.video)):
        if path is not None:
            said[name] = str(Path(path).absolute())
    return read_dialogue({"turns": [{"turn_id": "0", "context": "", "dialogue_history": [said]}]})


def encode_media(
    example: Example, config: Config, encoders: dict[str, ModalityEncoder], notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Features of all media of an Example, by utterance key: {"audio": float32 [Na, Da], "video": [Nv, Dv]}.

    A video with sound and no recording beside it is heard, and `notes` gets a line about it.

    Raises:
      MediaError: a file that is missing, unreadable, empty or over the limits.
    """
    limits = {"max_seconds": config.data.max_seconds, "max_megabytes": config.data.max_megabytes}
    features: dict[str, dict[str, np.ndarray]] = {}
    for utterance in example.history:
        found: dict[str, np.ndarray] = {}
        audio = utterance.audio or _sound_of(utterance, notes)
        if audio is not None and "audio" in config.modalities:
            encoder = encoders["audio"]
            heard = read_audio(audio, encoder.sample_rate, **limits)
            found["audio"] = encoder.encode([encoder.preprocess(heard)])[0]
        if utterance.video is not None and "video" in config.modalities:
            encoder = encoders["video"]
            frames = read_video(utterance.video, count=encoder.feature_shape[0], max_side=512, **limits)
            found["video"] = encoder.encode([encoder.preprocess(frames)])[0]
        features[example.utterance_key(utterance)] = found
    return features


def _sound_of(utterance: Utterance, notes: list[str]) -> Path | None:
    """The video itself, where it has a sound track and no recording was given."""
    if utterance.video is None:
        return None
    try:
        sound, _ = duration(utterance.video)
    except MediaError:
        return None  # read_video reports it better
    if sound > 0:
        notes.append(f"heard the sound track of {utterance.video.name}")
        return utterance.video
    return None


def choose_portrait(
    request: Request, profile: Profile, notes: list[str], face: str = "classical"
) -> tuple[Portrait, int | None]:
    """Who is shown: the avatar of the profile, or a given portrait; and the avatar's number, None with a portrait.

    `face` says whose golds the generator's are: the drawn one takes a portrait's colours, dreamtalk the picture.

    Raises:
      ConsentError: a portrait without consent. PortraitError: not a picture, or no face in it.
    """
    avatar = choose_avatar(profile)
    if request.portrait is None:
        return avatar.portrait, avatar.id
    provenance.consent(request.consent, request.portrait)
    from empatheia_jax.generators.classical.portrait import PortraitError, appearance_from_portrait, read_portrait

    picture = read_portrait(request.portrait)
    try:
        appearance, said = appearance_from_portrait(picture, avatar.appearance)
    except PortraitError as error:
        raise PortraitError(f"{request.portrait}: {error}") from error
    notes += said
    # A face generator that draws photographs takes the picture itself.
    return Portrait(image=picture if face == "dreamtalk" else None, appearance=appearance), None


_ASKED = ("output", "dialogue", "text", "speech", "video", "profile", "portrait", "consent", "trace")


class Responder:
    """A run that answers requests: what one needed is loaded and compiled for the next."""

    def __init__(self, request: Request, **engine):
        """For requests to the run, with the generators and at the size of `request`; nothing large is loaded yet.

        Args:
          engine: settings of `Engine`.
        Raises:
          ConfigError: no run, or generators that its latents do not speak to.
        """
        self.loaded_for = _loaded_for(request)
        self.run, self.face_size = request.run, request.face_size
        self._engine = {"quantization": request.quantization} | engine
        config = saved_config(request.run)
        self.config = dataclasses.replace(config, generators=_generators(request, config))

    @functools.cached_property
    def encoders(self) -> dict[str, ModalityEncoder]:
        """What hears and sees; none of a run on words."""
        return build_encoders(self.config.encoders) if self.config.modalities else {}

    @functools.cached_property
    def engine(self) -> Engine:
        """The run itself. Raises as `Engine`, and RespondError where it has no latents."""
        engine = Engine(self.run, generators=self.config.generators, **self._engine)
        if engine.widths is None:
            raise RespondError(f"{self.run} was trained on words only, without voice and face: train stages 2 to 4")
        return engine

    @functools.cached_property
    def conversation(self) -> Conversation:
        """What has been read: of a request that goes on from the one before, only what is new is read."""
        return Conversation(self.engine)

    @functools.cached_property
    def generators(self) -> tuple[SpeechGenerator, FaceGenerator]:
        """Voice and face."""
        return build_generators(self.config.generators, self.face_size)

    def respond(self, request: Request) -> dict:
        """Answer a request; writes `output` (mp4) and its .json beside it, and returns what the .json holds.

        Raises:
          RespondError, RecordError, MediaError, ConfigError, StoreError, CheckpointError: one clear error, nothing
            written.
        """
        started = time.monotonic()
        notes: list[str] = []
        timings: dict[str, float] = {}
        first: dict[str, float] = {}

        def mark(name: str) -> None:
            timings[name] = round(time.monotonic() - started - sum(timings.values()), 3)

        def reached(name: str) -> None:
            first[name] = round(time.monotonic() - started, 4)

        if request.output.suffix != ".mp4":
            raise RespondError(f"--output {request.output}: the answer is a video, name it .mp4")
        if _loaded_for(request) != self.loaded_for:
            raise RespondError("another run, generators or size than this responder's: make one for them")
        config = self.config
        example = read_request(request, config)
        if request.profile is not None:
            example = dataclasses.replace(example, listener_profile=request.profile)
        features = encode_media(example, config, self.encoders, notes)
        # a portrait without a face fails before the model is loaded
        choose_portrait(request, request.profile or Profile("young", "female", "mid"), [])
        mark("encode")
        engine = self.engine
        mark("load")
        known = prompt_profile(example, config)
        answer = self.conversation.answer(example, features.get, known, reached)
        if answer.parsed.response is None:
            raise RespondError(
                f"the model wrote no response (missing: {', '.join(answer.parsed.missing)}); it wrote {answer.text!r}"
            )
        mark("reason")
        profile = request.profile or known or predicted_profile(answer)
        portrait, avatar_id = choose_portrait(request, profile, notes, config.generators.golds_of["face"])
        speech, face = self.generators
        performance = perform(engine, speech, face, answer, portrait, config.generators.content_source, reached)
        if performance.content_source != config.generators.content_source:
            notes.append(
                f"the synchronizer agrees with the response on {performance.agreement:.0%} of its phonemes (under "
                "90 %): the generator's own content was spoken"
            )
        mark("generate")
        facts = provenance.provenance(
            speech=speech.name,
            face=face.name,
            weights=self._weights_hash,
            step=engine.position.step,
            content=performance.content_source,
        )
        if engine.config.llm.quantization != "none":
            facts |= {"quantization": engine.config.llm.quantization}
        if request.portrait is not None:
            facts |= {
                "portrait": str(request.portrait),
                "consent": provenance.consent(request.consent, request.portrait),
            }
        result = describe(answer, profile, request.profile or known, performance, avatar_id, notes)
        write_video(
            request.output,
            performance.frames,
            audio=performance.speech.audio,
            sample_rate=performance.speech.sample_rate,
            metadata=provenance.tags(facts),
        )
        mark("encode_video")
        total = round(time.monotonic() - started, 3)
        result |= {"timings": timings | {"total": total}, "first": first, "provenance": facts}
        write_json(request.output.with_suffix(".json"), result)
        if request.trace is not None:
            with traced(request.trace, "a warm answer"):
                (again,) = engine.answer([example], features.get, [known])
                perform(engine, speech, face, again, portrait, config.generators.content_source)
        return result

    @functools.cached_property
    def _weights_hash(self) -> str:
        return provenance.weights_hash(nnx.filter_state(self.engine.state, trains(ADAPTED)))


def respond(request: Request) -> dict:
    """Answer one request, as `Responder.respond`."""
    return Responder(request).respond(request)


def _loaded_for(request: Request) -> dict:
    """The part of a request that says what is loaded: all but what is asked."""
    return {name: value for name, value in vars(request).items() if name not in _ASKED}


def _generators(request: Request, config: Config):
    changes = {
        "speech": request.speech_generator,
        "speech_weights": str(request.speech_weights or ""),
        "face_weights": str(request.face_weights or ""),
        "face": request.face_generator,
        "content_source": request.content_source,
    }
    given = {name: str(value) if isinstance(value, Path) else value for name, value in request.torch.items() if value}
    changes["torch"] = dataclasses.replace(config.generators.torch, **given) if given else None
    chosen = dataclasses.replace(config.generators, **{name: value for name, value in changes.items() if value})
    for name in ("speech", "face"):
        trained, asked = config.generators.golds_of[name], chosen.golds_of[name]
        if trained != asked:
            raise ConfigError(
                f"--{name}-generator {asked}: this run's latents speak to {trained!r}; train a run for {asked!r}"
            )
    return chosen


def predicted_profile(answer: Answer) -> Profile:
    """The listener that the disentangler reads from r^s and r^v: the likeliest age, gender and timbre."""
    picked = {name: int(np.argmax(answer.labels[name])) for name in ("age", "gender", "timbre")}
    return Profile(emotions.AGES[picked["age"]], emotions.GENDERS[picked["gender"]], emotions.TIMBRES[picked["timbre"]])


def describe(answer: Answer, profile: Profile, given: Profile | None, performance, avatar_id, notes) -> dict:
    """What out.json says of an answer, but for "timings" and "provenance"; `given` None: the profile is predicted."""
    parsed = answer.parsed
    emotion = {
        name: round(float(p), 4) for name, p in zip(emotions.AVATAR_EMOTIONS, answer.labels["emotion"], strict=True)
    }
    seconds = len(performance.speech.audio) / performance.speech.sample_rate
    return {
        "chain_of_empathy": {
            "event_scenario": parsed.event_scenario,
            "speaker_emotion": parsed.speaker_emotion,
            "emotion_cause": parsed.emotion_cause,
            "goal_to_response": parsed.goal_to_response,
            "missing": list(parsed.missing),
        },
        "response": parsed.response,
        "emotion": {"chain": parsed.avatar_emotion, "style": max(emotion, key=emotion.get), "probabilities": emotion},
        "profile": {
            "age": profile.age,
            "gender": profile.gender,
            "timbre": profile.timbre,
            "source": "given" if given is not None else "predicted",
        },
        "avatar": avatar_id,
        "content_source": performance.content_source,
        "content_agreement": performance.agreement,
        "seconds": round(seconds, 3),
        "frames": len(performance.frames),
        "notes": notes,
    }
