"""`empatheia speak`: a text to a wav in one voice, and how it was made."""

import time
from pathlib import Path

import numpy as np

from empatheia_jax.atomic import write_json
from empatheia_jax.data.media import read_audio
from empatheia_jax.data.media_writing import write_audio
from empatheia_jax.generators.styletts2.errors import StyleTTS2Error
from empatheia_jax.generators.styletts2.manner import Manner
from empatheia_jax.generators.styletts2.script import read_script
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech
from empatheia_jax.inference import provenance


def speak(
    checkpoint: Path,
    text: str,
    output: Path,
    reference: Path | None = None,
    consent: bool = False,
    manner: Manner | None = None,
    dtype: str = "float32",
) -> dict:
    """Speak `text` into OUTPUT.wav; OUTPUT.json says from what, and both that it is synthetic.

    Args:
      reference: a recording of the voice to speak with; needs `consent` of the person in it.
      dtype: of the decoder, "float32" or "bfloat16".
    Returns:
      what OUTPUT.json holds.
    Raises:
      ConsentError: a reference without consent. StyleTTS2Error: one that is unfit; an output that is no .wav.
      MediaError: a recording that cannot be read. PhonemeError: nothing to pronounce. CheckpointError: no weights.
    """
    manner, output = manner or Manner(), Path(output)
    if output.suffix != ".wav":
        raise StyleTTS2Error(f"{output}: the output is a .wav")
    agreed = provenance.consent(consent, reference) if reference is not None else None
    script, voice = read_script(text), StyleTTS2Speech(checkpoint, dtype)
    style = None
    if reference is not None:
        style = voice.style(read_audio(reference, voice.sample_rate), voice.sample_rate)
    start, first, parts = time.perf_counter(), 0.0, []
    for part in voice.stream(script, style, manner):
        first = first or time.perf_counter() - start
        parts.append(part.audio)
    audio = np.concatenate(parts)
    facts = provenance.provenance(speech=voice.name)
    facts |= {
        "weights": voice.stages.sha256[:16],
        "text": text,
        "sentences": len(parts),
        "notes": script.notes,
        "seconds": len(audio) / voice.sample_rate,
        "first_audio_s": first,
        "took_s": time.perf_counter() - start,
        "manner": vars(manner) | {},
        "reference": str(reference) if reference else None,
        "consent": agreed,
    }
    told = provenance.tags({name: value for name, value in facts.items() if isinstance(value, str)})
    write_audio(output, audio, voice.sample_rate, told)
    write_json(output.with_suffix(".json"), facts)
    return facts
