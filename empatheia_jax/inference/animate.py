"""`empatheia animate`: makes a talking face from speech and a portrait, and records how."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from empatheia_jax.data.media.errors import naming
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.data.media.writing import write_video
from empatheia_jax.generators.classical.portrait import read_portrait
from empatheia_jax.generators.dreamtalk.config import DreamTalkError
from empatheia_jax.generators.dreamtalk.face import DreamTalkFace
from empatheia_jax.generators.dreamtalk.motion import read_expression, read_pose
from empatheia_jax.generators.dreamtalk.networks import AUDIO_SAMPLE_RATE
from empatheia_jax.generators.interfaces import Portrait
from empatheia_jax.inference import provenance
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.one_writer import lock_beside, one_writer
from empatheia_jax.runtime.outputs import check_outputs, with_json

COEFFICIENT_SUFFIXES = (".mat", ".npz")


def animate(
    checkpoint: Path,
    audio: Path,
    portrait: Path,
    output: Path,
    *,
    consent: bool = False,
    style: Path | None = None,
    pose: Path | None = None,
    sampler: Literal["ddim", "ddpm"] = "ddim",
    steps: int = 10,
    scale: float = 1.0,
    seed: int = 0,
) -> dict:
    """Animate the face of a portrait with recorded speech; write `output` and a .json with the provenance beside it.

    Args:
      checkpoint: folder of converted DreamTalk weights.
      audio: the speech.
      portrait: a picture of a face.
      output: the .mp4 to write.
      consent: the person in the portrait agreed; it is recorded.
      style: a clip of 3DMM coefficients (.mat, .npz) or a video of a face; None: the null style.
      pose: a clip of coefficients whose head movement is taken; None: the head is still.
      sampler: of the diffusion, "ddim" or "ddpm".
      steps: of ddim; a divisor of 1000.
      scale: of guidance by the style.
      seed: of the diffusion.

    Returns:
      What the .json holds.

    Raises:
      ConsentError: no consent.
      DreamTalkError: weights, coefficients or an output name that cannot be used.
      PortraitError: not a picture, or no face in it.
      MediaError: audio or video that cannot be read.
      OutputError: the output would overwrite something that is read.
      BusyError: another process is writing the same output.
    """
    output = Path(output)
    if output.suffix != ".mp4":
        raise DreamTalkError(f"{output}: the output is a .mp4")
    read = {"--checkpoint": checkpoint, "--audio": audio, "--portrait": portrait, "--style": style, "--pose": pose}
    check_outputs(with_json(output), read.items())
    recorded_consent = provenance.record_consent(consent, portrait)
    with one_writer(lock_beside(output), f"--output {output}"):
        face = DreamTalkFace(checkpoint, sampler=sampler, steps=steps, scale=scale, seed=seed)
        picture, notes = face.crop_portrait(read_portrait(portrait))
        head_pose = read_pose(Path(pose)) if pose else None
        style_code = _read_style(face, style, notes)
        sound = read_audio(audio, AUDIO_SAMPLE_RATE, notes=notes)
        started, first_frame_s = time.perf_counter(), []
        content = face.content_from_audio(sound, AUDIO_SAMPLE_RATE)

        def timed_frames() -> Iterator[np.ndarray]:
            frames = face.frames(content, style_code, Portrait(image=picture), head_pose)
            for frame in tqdm(frames, total=len(content), unit="frame", desc="animate", mininterval=2.0):
                first_frame_s.append(time.perf_counter() - started) if not first_frame_s else None
                yield frame

        facts = provenance.provenance(speech="given recording", face=face.name)
        facts |= {
            "weights": {part: face.networks.sha256(part)[:16] for part in ("denoiser", "renderer", "wav2vec")},
            "audio": str(audio),
            "portrait": str(portrait),
            "style": str(style) if style else None,
            "pose": str(pose) if pose else None,
            "diffusion": {"draw": sampler, "steps": steps, "scale": scale, "seed": seed},
            "consent": recorded_consent,
            "notes": notes,
            "frames": len(content),
        }
        tags = provenance.tags({name: value for name, value in facts.items() if isinstance(value, str)})
        write_video(output, timed_frames(), audio=sound, sample_rate=AUDIO_SAMPLE_RATE, metadata=tags)
        facts |= {
            "seconds": len(content) / face.fps,
            "first_frame_s": first_frame_s[0],
            "took_s": time.perf_counter() - started,
        }
        write_json(output.with_suffix(".json"), facts)
        return facts


def _read_style(face: DreamTalkFace, style: Path | None, notes: list[str]) -> np.ndarray:
    if style is None:
        return face.null_style()
    if Path(style).suffix in COEFFICIENT_SUFFIXES:
        return face.style_from_expression(read_expression(Path(style)))
    frames = read_video(style, max_frames=face.style_frames, notes=notes)
    with naming(style):
        return face.style(frames)
