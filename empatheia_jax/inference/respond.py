"""`empatheia respond`: answers a dialogue (words, voice, face; at least one of them) with out.mp4 and out.json."""

import dataclasses
import functools
import time
from pathlib import Path

import numpy as np
from flax import nnx

from empatheia_jax.config import Config, ConfigError
from empatheia_jax.data import emotions
from empatheia_jax.data.batches.encoder import prompt_profile
from empatheia_jax.data.corpus.avamerg import read_dialogue
from empatheia_jax.data.media.reading import MediaError, duration, read_audio, read_video
from empatheia_jax.data.media.writing import write_video
from empatheia_jax.data.schema import Example, Profile, Utterance
from empatheia_jax.encoders import ModalityEncoder, build_encoders
from empatheia_jax.generators.avatars import choose_avatar
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.interfaces import FaceGenerator, Portrait, SpeechGenerator
from empatheia_jax.inference import provenance
from empatheia_jax.inference.conversation import Conversation
from empatheia_jax.inference.engine import Answer, Engine
from empatheia_jax.inference.synthesis import SynthesizedAnswer, synthesize
from empatheia_jax.profiling.capture import traced
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.training.loop import saved_config
from empatheia_jax.training.stages import ADAPTED
from empatheia_jax.training.step import in_groups


class RespondError(ValueError):
    """A request that cannot be answered: says what is wrong and what to change."""


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of `empatheia respond`; see its --help."""

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
    trace: Path | None = None  # folder for the trace of a second, warm answer
    quantization: str | None = None  # of the base; None: as it was trained


def parse_profile(value: str) -> Profile:
    """Parse "AGE,GENDER,TIMBRE".

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
    """Return the Example to answer: from a dialogue file, or from one utterance given as text, speech and video.

    Raises:
      RespondError: nothing to answer, or a dialogue file and an utterance at once.
      RecordError: a bad dialogue.
    """
    inputs = [value for value in (request.text, request.speech, request.video) if value is not None]
    if request.dialogue is not None:
        if inputs:
            raise RespondError("give either --dialogue or --text/--speech/--video, not both")
        return read_dialogue(request.dialogue, max_turns=config.data.max_turns)
    if not inputs:
        raise RespondError("nothing to answer: give --dialogue FILE.json, or --text, --speech, --video (one or more)")
    if request.text is not None and len(inputs) == 1 and not any(c.isalnum() for c in request.text):
        raise RespondError(f"--text {request.text!r}: there are no words in it; say something or give --speech")
    if not config.modalities and request.text is None:
        raise RespondError(f"{request.run} was trained on words only: give --text")
    entry = {"index": 0, "role": "speaker", "utterance": request.text or ""}
    for name, path in (("speech", request.speech), ("video", request.video)):
        if path is not None:
            entry[name] = str(Path(path).absolute())
    return read_dialogue({"turns": [{"turn_id": "0", "context": "", "dialogue_history": [entry]}]})


def encode_media(
    example: Example, config: Config, encoders: dict[str, ModalityEncoder], notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Encode all media of an Example.

    Args:
      example: its utterances name the files.
      config: limits of the media, and which modalities are read.
      encoders: by modality.
      notes: gets a line where the sound track of a video is heard because no recording was given.

    Returns:
      By utterance key: {"audio": float32 [Na, Da], "video": float32 [Nv, Dv]}, without what is absent.

    Raises:
      MediaError: a file that is missing, unreadable, empty or over the limits.
    """
    limits = {"max_seconds": config.data.max_seconds, "max_megabytes": config.data.max_megabytes}
    features: dict[str, dict[str, np.ndarray]] = {}
    for utterance in example.history:
        encoded: dict[str, np.ndarray] = {}
        audio = utterance.audio or _sound_track(utterance, notes)
        if audio is not None and "audio" in config.modalities:
            encoder = encoders["audio"]
            samples = read_audio(audio, encoder.sample_rate, **limits)
            encoded["audio"] = encoder.encode([encoder.preprocess(samples)])[0]
        if utterance.video is not None and "video" in config.modalities:
            encoder = encoders["video"]
            frames = read_video(utterance.video, count=encoder.feature_shape[0], max_side=512, **limits)
            encoded["video"] = encoder.encode([encoder.preprocess(frames)])[0]
        features[example.utterance_key(utterance)] = encoded
    return features


def _sound_track(utterance: Utterance, notes: list[str]) -> Path | None:
    """Return the path of the utterance's video where it has a sound track."""
    if utterance.video is None:
        return None
    try:
        seconds, _ = duration(utterance.video)
    except MediaError:
        return None  # read_video will raise with a better message
    if seconds > 0:
        notes.append(f"heard the sound track of {utterance.video.name}")
        return utterance.video
    return None


def choose_portrait(
    request: Request, profile: Profile, notes: list[str], face: str = "classical"
) -> tuple[Portrait, int | None]:
    """Return the portrait to animate, and the avatar's number.

    Args:
      request: may name a portrait file.
      profile: of the avatar.
      notes: gets a line about what is special about the file's face.
      face: the target backend of the face generator: "classical" takes the portrait's colours, "dreamtalk" the picture.

    Returns:
      The portrait, and the avatar's number or None where the portrait is from a file.

    Raises:
      ConsentError: a portrait without consent.
      PortraitError: not a picture, or no face in it.
    """
    avatar = choose_avatar(profile)
    if request.portrait is None:
        return avatar.portrait, avatar.id
    provenance.record_consent(request.consent, request.portrait)
    from empatheia_jax.generators.classical.portrait import PortraitError, appearance_from_portrait, read_portrait

    picture = read_portrait(request.portrait)
    try:
        appearance, portrait_notes = appearance_from_portrait(picture, avatar.appearance)
    except PortraitError as error:
        raise PortraitError(f"{request.portrait}: {error}") from error
    notes += portrait_notes
    # A face generator of photographs animates the picture itself.
    return Portrait(image=picture if face == "dreamtalk" else None, appearance=appearance), None


_PER_REQUEST = ("output", "dialogue", "text", "speech", "video", "profile", "portrait", "consent", "trace")


class Responder:
    """A run that answers requests: what one request has loaded and compiled is kept for the next."""

    def __init__(self, request: Request, **engine):
        """Read the run's config; nothing large is loaded yet.

        Args:
          request: its run, generators and size are those of all later requests.
          engine: further arguments of `Engine`.

        Raises:
          ConfigError: no run, or generators for which its latents were not trained.
        """
        self.loaded_settings = _loaded_settings(request)
        self.run, self.face_size = request.run, request.face_size
        self._engine = {"quantization": request.quantization} | engine
        config = saved_config(request.run)
        self.config = dataclasses.replace(config, generators=_generators(request, config))

    @functools.cached_property
    def encoders(self) -> dict[str, ModalityEncoder]:
        """The encoders by modality; none for a run on words."""
        return build_encoders(self.config.encoders) if self.config.modalities else {}

    @functools.cached_property
    def engine(self) -> Engine:
        """The run's engine.

        Raises:
          RespondError: the run has no latents; and what `Engine` raises.
        """
        engine = Engine(self.run, generators=self.config.generators, **self._engine)
        if engine.widths is None:
            raise RespondError(f"{self.run} was trained on words only, without voice and face: train stages 2 to 4")
        return engine

    @functools.cached_property
    def conversation(self) -> Conversation:
        """The conversation so far: of a request that continues the previous one, only what is new is prefilled."""
        return Conversation(self.engine)

    @functools.cached_property
    def generators(self) -> tuple[SpeechGenerator, FaceGenerator]:
        """The speech and the face generator."""
        return build_generators(self.config.generators, self.face_size)

    def respond(self, request: Request) -> dict:
        """Answer a request: write `output` (mp4) and a .json beside it, and return what the .json holds.

        Nothing is written where an error is raised.

        Raises:
          RespondError: a request that cannot be answered, or an answer without a response.
          RecordError: a bad dialogue.
          MediaError: media that cannot be read.
          ConfigError: no run, or one that cannot answer yet.
          StoreError: the run's feature store is missing.
          CheckpointError: the checkpoint does not belong to the run's config.
        """
        started = time.monotonic()
        notes: list[str] = []
        timings: dict[str, float] = {}
        first: dict[str, float] = {}

        def mark(name: str) -> None:
            timings[name] = round(time.monotonic() - started - sum(timings.values()), 3)

        def on_ready(part: str) -> None:
            first[part] = round(time.monotonic() - started, 4)

        if request.output.suffix != ".mp4":
            raise RespondError(f"--output {request.output}: the answer is a video, name it .mp4")
        if _loaded_settings(request) != self.loaded_settings:
            raise RespondError("another run, generators or size than this responder's: make one for them")
        config = self.config
        example = read_request(request, config)
        if request.profile is not None:
            example = dataclasses.replace(example, listener_profile=request.profile)
        features = encode_media(example, config, self.encoders, notes)
        # Checked before the model is loaded: a portrait without a face.
        choose_portrait(request, request.profile or Profile("young", "female", "mid"), [])
        mark("encode")
        engine = self.engine
        mark("load")
        known_profile = prompt_profile(example, config)
        answer = self.conversation.answer(example, features.get, known_profile, on_ready)
        if answer.parsed.response is None:
            raise RespondError(
                f"the model wrote no response (missing: {', '.join(answer.parsed.missing)}); it wrote {answer.text!r}"
            )
        mark("reason")
        profile = request.profile or known_profile or predicted_profile(answer)
        portrait, avatar_id = choose_portrait(request, profile, notes, config.generators.target_backend["face"])
        speech, face = self.generators
        source = config.generators.content_source
        synthesized = synthesize(engine, speech, face, answer, portrait=portrait, source=source, on_ready=on_ready)
        if synthesized.content_source != source:
            notes.append(
                f"the synchronizer agrees with the response on {synthesized.agreement:.0%} of its phonemes (under "
                "90 %): the generator's own content was spoken"
            )
        mark("generate")
        facts = provenance.provenance(
            speech=speech.name,
            face=face.name,
            weights=self._weights_hash,
            step=engine.position.step,
            content=synthesized.content_source,
        )
        if engine.config.llm.quantization != "none":
            facts |= {"quantization": engine.config.llm.quantization}
        if request.portrait is not None:
            facts |= {
                "portrait": str(request.portrait),
                "consent": provenance.record_consent(request.consent, request.portrait),
            }
        result = describe_answer(
            answer, profile, synthesized, given_profile=request.profile or known_profile, avatar=avatar_id, notes=notes
        )
        write_video(
            request.output,
            synthesized.frames,
            audio=synthesized.speech.audio,
            sample_rate=synthesized.speech.sample_rate,
            metadata=provenance.tags(facts),
        )
        mark("encode_video")
        total = round(time.monotonic() - started, 3)
        result |= {"timings": timings | {"total": total}, "first": first, "provenance": facts}
        write_json(request.output.with_suffix(".json"), result)
        if request.trace is not None:
            with traced(request.trace, "a warm answer"):
                (again,) = engine.answer([example], features.get, [known_profile])
                synthesize(engine, speech, face, again, portrait=portrait, source=source)
        return result

    @functools.cached_property
    def _weights_hash(self) -> str:
        return provenance.weights_hash(nnx.filter_state(self.engine.state, in_groups(ADAPTED)))


def respond(request: Request) -> dict:
    """Answer one request, as `Responder.respond` does."""
    return Responder(request).respond(request)


def _loaded_settings(request: Request) -> dict:
    """Return the fields of a request that say what is loaded."""
    return {name: value for name, value in vars(request).items() if name not in _PER_REQUEST}


def _generators(request: Request, config: Config):
    changes = {
        "speech": request.speech_generator,
        "speech_weights": str(request.speech_weights or ""),
        "face_weights": str(request.face_weights or ""),
        "face": request.face_generator,
        "content_source": request.content_source,
    }
    torch = {name: str(value) if isinstance(value, Path) else value for name, value in request.torch.items() if value}
    changes["torch"] = dataclasses.replace(config.generators.torch, **torch) if torch else None
    chosen = dataclasses.replace(config.generators, **{name: value for name, value in changes.items() if value})
    for name in ("speech", "face"):
        trained, requested = config.generators.target_backend[name], chosen.target_backend[name]
        if trained != requested:
            raise ConfigError(
                f"--{name}-generator {requested}: this run's latents are for {trained!r}; train a run for {requested!r}"
            )
    return chosen


def predicted_profile(answer: Answer) -> Profile:
    """Return the listener's profile as the disentangler reads it from r^s and r^v: the likeliest labels."""
    picked = {name: int(np.argmax(answer.labels[name])) for name in ("age", "gender", "timbre")}
    return Profile(emotions.AGES[picked["age"]], emotions.GENDERS[picked["gender"]], emotions.TIMBRES[picked["timbre"]])


def describe_answer(
    answer: Answer,
    profile: Profile,
    synthesized: SynthesizedAnswer,
    *,
    given_profile: Profile | None,
    avatar: int | None,
    notes: list[str],
) -> dict:
    """Return what out.json says of an answer, without "timings", "first" and "provenance".

    Args:
      answer: of the engine.
      profile: with which the answer was synthesised.
      synthesized: speech and video.
      given_profile: the profile where one was given; None: `profile` is predicted.
      avatar: number of the avatar; None with a portrait file.
      notes: for the user.
    """
    parsed = answer.parsed
    emotion = {
        name: round(float(p), 4) for name, p in zip(emotions.AVATAR_EMOTIONS, answer.labels["emotion"], strict=True)
    }
    seconds = len(synthesized.speech.audio) / synthesized.speech.sample_rate
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
            "source": "given" if given_profile is not None else "predicted",
        },
        "avatar": avatar,
        "content_source": synthesized.content_source,
        "content_agreement": synthesized.agreement,
        "seconds": round(seconds, 3),
        "frames": len(synthesized.frames),
        "notes": notes,
    }
