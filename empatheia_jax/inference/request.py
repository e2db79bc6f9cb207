"""What `empatheia respond` is asked: the request, its dialogue, its media and its portrait, read and checked."""

import collections
import dataclasses
from pathlib import Path

import numpy as np

from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.data import emotions
from empatheia_jax.data.corpus import text
from empatheia_jax.data.corpus.avamerg import read_dialogue
from empatheia_jax.data.features.store import MAX_SIDE
from empatheia_jax.data.media.errors import naming
from empatheia_jax.data.media.reading import MediaError, read_audio, read_video
from empatheia_jax.data.schema import Example, Profile, Utterance
from empatheia_jax.encoders import ModalityEncoder
from empatheia_jax.generators.avatars import choose_avatar
from empatheia_jax.generators.interfaces import Portrait
from empatheia_jax.inference import provenance
from empatheia_jax.runtime.outputs import with_json


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
    max_new_tokens: int | None = None  # most tokens of the answer; None: the run's own limit
    mesh: MeshConfig | None = None  # how all devices share the run; None: it is on the first device


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
    age, gender, timbre = words
    return Profile(age, gender, timbre)


def request_outputs(request: Request) -> list[tuple[str, Path]]:
    """Return (flag, path) of the files that answering writes, for `check_outputs`."""
    outputs = with_json(request.output)
    if request.trace is not None:
        outputs += [("--trace", request.trace / name) for name in ("profile.md", "programs")]
    return outputs


def request_inputs(request: Request) -> list[tuple[str, Path | None]]:
    """Return (flag, path) of the files and folders that a request names, for `check_outputs`."""
    names = ("dialogue", "speech", "video", "portrait", "speech_weights", "face_weights")
    named = [(name, getattr(request, name)) for name in names]
    named += [(name, path) for name, path in request.torch.items() if isinstance(path, Path)]
    return [(f"--{name.replace('_', '-')}", path) for name, path in named]


def recordings(example: Example) -> list[tuple[str, Path]]:
    """Return (name, path) of the recordings of a dialogue, or of the archives they are in, for `check_outputs`."""
    files = [media for utterance in example.history for media in (utterance.audio, utterance.video)]
    paths = [getattr(file, "archive", file) for file in files]
    return [("a recording of the dialogue,", path) for path in paths if isinstance(path, Path)]


def read_request(request: Request, config: Config, notes: list[str]) -> Example:
    """Return the Example to answer: from a dialogue file, or from one utterance given as text, speech and video.

    Args:
      request: names the file, or holds the utterance.
      config: of the run.
      notes: gets a line for each kind of change to what was written.

    Raises:
      RespondError: nothing to answer, or a dialogue file and an utterance at once.
      RecordError: a bad dialogue.
    """
    inputs = [value for value in (request.text, request.speech, request.video) if value is not None]
    if request.dialogue is not None:
        if inputs:
            raise RespondError("give either --dialogue or --text/--speech/--video, not both")
        return _read_dialogue(request.dialogue, config, notes)
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
    return _read_dialogue({"turns": [{"turn_id": "0", "context": "", "dialogue_history": [entry]}]}, config, notes)


def _read_dialogue(dialogue: Path | dict, config: Config, notes: list[str]) -> Example:
    counts: collections.Counter = collections.Counter()
    example = read_dialogue(dialogue, max_turns=config.data.max_turns, notes=counts)
    notes += [f"{change}: {counts[change]}" for change in text.CHANGES if counts[change]]
    return example


def encode_media(
    example: Example, config: Config, encoders: dict[str, ModalityEncoder], notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Encode all media of an Example.

    Args:
      example: its utterances name the files.
      config: limits of the media, and which modalities are read.
      encoders: by modality.
      notes: gets a line where the sound track of a video is heard because no recording was given, or cannot be heard,
        and what else is to be known about a file.

    Returns:
      By utterance key: {"audio": float32 [Na, Da], "video": float32 [Nv, Dv]}, without what is absent.

    Raises:
      MediaError: a file that is missing, unreadable, empty or over the limits.
    """
    limits: dict = {"max_seconds": config.data.max_seconds, "max_megabytes": config.data.max_megabytes}
    features: dict[str, dict[str, np.ndarray]] = {}
    for utterance in example.history:
        encoded: dict[str, np.ndarray] = {}
        if "audio" in config.modalities:
            encoder = encoders["audio"]
            is_seen = "video" in config.modalities
            samples = _hear(utterance, encoder.sample_rate, notes, is_seen=is_seen, limits=limits)
            if samples is not None:
                with naming(utterance.audio or utterance.video):
                    encoded["audio"] = encoder.encode([encoder.preprocess(samples)])[0]
        if utterance.video is not None and "video" in config.modalities:
            encoder = encoders["video"]
            frames = read_video(
                utterance.video, count=encoder.feature_shape[0], max_side=MAX_SIDE, notes=notes, **limits
            )
            with naming(utterance.video):
                encoded["video"] = encoder.encode([encoder.preprocess(frames)])[0]
        features[example.utterance_key(utterance)] = encoded
    return features


def _hear(
    utterance: Utterance, sample_rate: int, notes: list[str], *, is_seen: bool, limits: dict
) -> np.ndarray | None:
    """Read an utterance's recording, or the sound track of its video where it has one; what cannot be heard is noted.

    Args:
      utterance: names the files.
      sample_rate: Hz.
      notes: gets a line where a sound track is heard, or cannot be.
      is_seen: the pictures of the video are read as well; else a sound track that cannot be heard is an error.
      limits: of the media.
    """
    if utterance.audio is not None:
        return read_audio(utterance.audio, sample_rate, notes=notes, **limits)
    if utterance.video is None:
        return None
    try:
        samples = read_audio(utterance.video, sample_rate, notes=notes, **limits)
    except MediaError as error:
        if error.problem == "absent":
            return None
        if not is_seen:
            raise
        notes.append(f"the sound track is not heard: {error}")
        return None
    notes.append(f"heard the sound track of {utterance.video.name}")
    return samples


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
