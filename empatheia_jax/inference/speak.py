"""`empatheia speak`: speaks a text in one voice, and records how."""

import time
from pathlib import Path

import numpy as np

from empatheia_jax.data.media.errors import naming
from empatheia_jax.data.media.reading import read_audio
from empatheia_jax.data.media.writing import write_audio
from empatheia_jax.generators.styletts2.config import StyleTTS2Error, SynthesisOptions
from empatheia_jax.generators.styletts2.kokoro import KokoroSpeech
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech
from empatheia_jax.generators.styletts2.voices import named_style, speech_style_for
from empatheia_jax.inference import provenance
from empatheia_jax.inference.request import parse_profile
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.one_writer import lock_beside, one_writer
from empatheia_jax.runtime.outputs import check_outputs, with_json


def speak(
    checkpoint: Path | None,
    text: str,
    output: Path,
    *,
    voice: str | None = None,
    emotion: str | None = None,
    reference: Path | None = None,
    consent: bool = False,
    options: SynthesisOptions | None = None,
    dtype: str = "float32",
) -> dict:
    """Speak a text; write `output` and a .json with the provenance beside it.

    Args:
      checkpoint: folder of converted weights, of Kokoro with `voice`, else of StyleTTS 2; None: the fetched Kokoro.
      text: to speak.
      output: the .wav to write.
      voice: of Kokoro, "af_heart" or the profile of an avatar, "young,female,mid".
      emotion: of the 7 avatar emotions, with a voice; None: plainly.
      reference: a recording of the voice to speak with; needs `consent` of the person in it. None: a drawn voice.
      consent: the person in the reference agreed; it is recorded.
      options: of style sampling, speed and seed; None: the defaults.
      dtype: of the decoder, "float32" or "bfloat16".

    Returns:
      What the .json holds.

    Raises:
      ConsentError: a reference without consent.
      StyleTTS2Error: an output that is no .wav, an unknown voice, or arguments of two networks.
      PartError: Kokoro's weights are neither given nor fetched.
      MediaError: a recording that cannot be read, or is no reference of a voice.
      PhonemeError: nothing to pronounce.
      CheckpointError: no weights.
      OutputError: the output would overwrite something that is read.
      BusyError: another process is writing the same output.
    """
    options, output = options or SynthesisOptions(), Path(output)
    if output.suffix != ".wav":
        raise StyleTTS2Error(f"{output}: the output is a .wav")
    if voice is None and emotion is not None:
        raise StyleTTS2Error("--emotion is a manner of Kokoro's: give --voice too")
    check_outputs(with_json(output), [("--checkpoint", checkpoint), ("--reference", reference)])
    recorded_consent = provenance.record_consent(consent, reference) if reference is not None else None
    with one_writer(lock_beside(output), f"--output {output}"):
        if voice is not None:
            generator, style = KokoroSpeech(checkpoint or "", dtype), style_of(voice, emotion)
        elif checkpoint is not None:
            generator, style = StyleTTS2Speech(checkpoint, dtype), None
        else:
            raise StyleTTS2Error("give --voice of Kokoro, or --checkpoint of a converted StyleTTS 2")
        script = generator.phonemized(text)
        notes = list(script.notes)
        if reference is not None:
            recording = read_audio(reference, generator.sample_rate, notes=notes)
            with naming(reference):
                style = generator.style(recording, generator.sample_rate)
        padded = "the reference has less than 0.8 s of sound and was padded with silence"
        notes += [padded] * generator.references_padded
        start, first_audio_s, parts = time.perf_counter(), 0.0, []
        for part in generator.stream(script, style, options):
            first_audio_s = first_audio_s or time.perf_counter() - start
            parts.append(part.audio)
        audio = np.concatenate(parts)
        facts = provenance.provenance(speech=generator.name)
        facts |= {
            "weights": generator.networks.sha256[:16],
            "text": text,
            "sentences": len(parts),
            "notes": notes,
            "seconds": len(audio) / generator.sample_rate,
            "first_audio_s": first_audio_s,
            "took_s": time.perf_counter() - start,
            "voice": voice,
            "emotion": emotion,
            "manner": vars(options) | {},
            "reference": str(reference) if reference else None,
            "consent": recorded_consent,
        }
        tags = provenance.tags({name: value for name, value in facts.items() if isinstance(value, str)})
        write_audio(output, audio, generator.sample_rate, tags)
        write_json(output.with_suffix(".json"), facts)
        return facts


def style_of(voice: str, emotion: str | None) -> np.ndarray:
    """Return Kokoro's S_speech float32 [260] of a voice's name, or of an avatar's profile "AGE,GENDER,TIMBRE".

    Raises:
      StyleTTS2Error: no such voice or emotion.
      RespondError: a profile that is none.
    """
    return speech_style_for(parse_profile(voice), emotion) if "," in voice else named_style(voice, emotion)
