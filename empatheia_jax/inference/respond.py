"""`empatheia respond`: answers a dialogue (words, voice, face; at least one of them) with out.mp4 and out.json."""

import dataclasses
import functools
import time
from pathlib import Path

import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.answer_lengths import answer_limit
from empatheia_jax.checkpoints.inputs import run_inputs
from empatheia_jax.checkpoints.run_paths import require_paths
from empatheia_jax.checkpoints.runs import hash_state
from empatheia_jax.checkpoints.workdir import saved_config
from empatheia_jax.config import Config, ConfigError, GeneratorConfig
from empatheia_jax.data import emotions
from empatheia_jax.data.batches.encoder import prompt_profile
from empatheia_jax.data.media.writing import write_video
from empatheia_jax.data.schema import Profile
from empatheia_jax.encoders import ModalityEncoder, build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.interfaces import ConstructsStyle, FaceGenerator, SpeechGenerator
from empatheia_jax.inference import provenance
from empatheia_jax.inference.conversation import Conversation
from empatheia_jax.inference.engine import Answer, Engine
from empatheia_jax.inference.load import LoadedRun, load_run
from empatheia_jax.inference.request import (
    Request,
    RespondError,
    choose_portrait,
    encode_media,
    read_request,
    recordings,
    request_inputs,
    request_outputs,
)
from empatheia_jax.inference.synthesis import SynthesizedAnswer, synthesize
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.profiling.capture import traced
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.one_writer import lock_beside, one_writer
from empatheia_jax.runtime.outputs import check_outputs

_PER_REQUEST = ("output", "dialogue", "text", "speech", "video", "profile", "portrait", "consent", "trace")


class Responder:
    """A run that answers requests: what one request has loaded and compiled is kept for the next."""

    def __init__(self, request: Request, max_new_tokens: int | None = None):
        """Read the run's config; nothing large is loaded yet.

        Args:
          request: its run, generators and size are those of all later requests.
          max_new_tokens: most tokens of an answer; None: as the request says, else the run's own limit.

        Raises:
          ConfigError: no run, or generators for which its latents were not trained.
        """
        self.loaded_settings = _loaded_settings(request)
        self.folder, self.face_size = request.run, request.face_size
        self.quantization, self.mesh = request.quantization, request.mesh
        config = saved_config(request.run)
        self.max_new_tokens = answer_limit(request.run, config, max_new_tokens or request.max_new_tokens)
        self.config = dataclasses.replace(config, generators=_generators(request, config))

    @functools.cached_property
    def encoders(self) -> dict[str, ModalityEncoder]:
        """The encoders by modality; none for a run on words."""
        require_paths(self.config, self.folder, "encoders.hubert_weights", "encoders.clip_weights")
        return build_encoders(self.config.encoders) if self.config.modalities else {}

    @functools.cached_property
    def run(self) -> LoadedRun:
        """The run, loaded.

        Raises:
          RespondError: the run has no latents; and what `load_run` raises.
        """
        run = load_run(self.folder, generators=self.config.generators, quantization=self.quantization, mesh=self.mesh)
        if not run.config.modalities:
            raise RespondError(f"{self.folder} was trained on words only, without voice and face: train stages 2 to 4")
        return run

    @functools.cached_property
    def engine(self) -> Engine:
        """The run's engine."""
        return Engine(self.run.model, self.run.tokenizer, self.run.config, max_new_tokens=self.max_new_tokens)

    @functools.cached_property
    def conversation(self) -> Conversation:
        """The conversation so far: of a request that continues the previous one, only what is new is prefilled."""
        return Conversation(self.engine)

    @functools.cached_property
    def generators(self) -> tuple[SpeechGenerator, FaceGenerator]:
        """The speech and the face generator."""
        require_paths(self.config, self.folder, "generators.speech_weights", "generators.face_weights")
        return build_generators(self.config.generators, self.face_size)

    def respond(self, request: Request) -> dict:
        """Answer a request: write `output` (mp4) and a .json beside it, and return what the .json holds.

        Nothing is written where an error is raised.

        Raises:
          RespondError: a request that cannot be answered, or an answer without a response.
          RecordError: a bad dialogue.
          MediaError: media that cannot be read.
          ConfigError: no run, or one that cannot answer yet.
          StoreError: the run was trained for other generators; or the feature store of an older run is missing.
          CheckpointError: the checkpoint does not belong to the run's config.
          OutputError: the answer would overwrite something that is read.
          BusyError: another process is writing the same output.
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
        check_outputs(request_outputs(request), [*request_inputs(request), *run_inputs(request.run, config)])
        example = read_request(request, config, notes)
        check_outputs(request_outputs(request), recordings(example))
        if request.profile is not None:
            example = dataclasses.replace(example, listener_profile=request.profile)
        features = encode_media(example, config, self.encoders, notes)
        # Checked before the model is loaded: a portrait without a face.
        choose_portrait(request, request.profile or Profile("young", "female", "mid"), [])
        mark("encode")
        with one_writer(lock_beside(request.output), f"--output {request.output}"):
            engine = self.engine
            mark("load")
            known_profile = prompt_profile(example, config)
            answer = self.conversation.answer(example, features.get, known_profile, on_ready)
            limit = f"the limit of {self.max_new_tokens} tokens (--max-new-tokens)"
            if answer.parsed.response is None:
                cut = f" up to {limit}" if answer.truncated else ""
                raise RespondError(
                    f"the model wrote no response{cut} (missing: {', '.join(answer.parsed.missing)}); it wrote "
                    f"{answer.text!r}"
                )
            if answer.truncated:
                notes.append(f"the answer was cut at {limit}: the response may lack its end")
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
            if isinstance(speech, ConstructsStyle):
                notes += speech.notes_on_style(answer.style_speech)
            mark("generate")
            facts = self._provenance(request, synthesized)
            result = describe_answer(
                answer,
                profile,
                synthesized,
                given_profile=request.profile or known_profile,
                avatar=avatar_id,
                notes=notes,
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

    def _provenance(self, request: Request, synthesized: SynthesizedAnswer) -> dict:
        """Return the facts that the answer's files carry."""
        speech, face = self.generators
        facts = provenance.provenance(
            speech=speech.name,
            face=face.name,
            weights=self._weights_hash,
            step=self.run.position.step,
            content=synthesized.content_source,
        )
        if self.run.config.llm.quantization != "none":
            facts |= {"quantization": self.run.config.llm.quantization}
        if request.portrait is not None:
            consent = provenance.record_consent(request.consent, request.portrait)
            facts |= {"portrait": str(request.portrait), "consent": consent}
        return facts

    @functools.cached_property
    def _weights_hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the adapted parameters (without the base), names and bytes."""
        return hash_state(nnx.filter_state(self.engine.state, in_groups(ADAPTED)))[:16]


def respond(request: Request) -> dict:
    """Answer one request, as `Responder.respond` does."""
    return Responder(request).respond(request)


def _loaded_settings(request: Request) -> dict:
    """Return the fields of a request that say what is loaded."""
    return {name: value for name, value in vars(request).items() if name not in _PER_REQUEST}


def _generators(request: Request, config: Config) -> GeneratorConfig:
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
        "truncated": answer.truncated,
        "emotion": {
            "chain": parsed.avatar_emotion,
            "style": max(emotion, key=lambda name: emotion[name]),
            "probabilities": emotion,
        },
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
