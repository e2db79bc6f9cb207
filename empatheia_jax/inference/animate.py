"""`empatheia animate`: speech and a portrait to a talking face, and how it was made."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from empatheia_jax.atomic import write_json
from empatheia_jax.data.media import read_audio, read_video
from empatheia_jax.data.media_writing import write_video
from empatheia_jax.generators.classical.portrait import read_portrait
from empatheia_jax.generators.dreamtalk.coefficients import read_pose, read_style
from empatheia_jax.generators.dreamtalk.errors import DreamTalkError
from empatheia_jax.generators.dreamtalk.face import DreamTalkFace
from empatheia_jax.generators.dreamtalk.networks import HEARING_RATE
from empatheia_jax.generators.interfaces import Portrait
from empatheia_jax.inference import provenance

CLIPS = (".mat", ".npz")


def animate(
    checkpoint: Path,
    audio: Path,
    portrait: Path,
    output: Path,
    consent: bool = False,
    style: Path | None = None,
    pose: Path | None = None,
    draw: str = "ddim",
    steps: int = 10,
    scale: float = 1.0,
    seed: int = 0,
) -> dict:
    """Let the face in `portrait` say what `audio` says, into OUTPUT.mp4; OUTPUT.json says from what.

    Args:
      consent: the person in the portrait agreed; it is recorded.
      style: a clip of 3DMM coefficients (.mat, .npz) or a video of a face; without one, no style is asked for.
      pose: a clip of coefficients whose head moves so; without one the head is still.
      draw, steps, scale, seed: of the diffusion (`Networks`).
    Returns:
      what OUTPUT.json holds.
    Raises:
      ConsentError, DreamTalkError, PortraitError, MediaError: one clear error, nothing written.
    """
    output = Path(output)
    if output.suffix != ".mp4":
        raise DreamTalkError(f"{output}: the output is a .mp4")
    agreed = provenance.consent(consent, portrait)
    face = DreamTalkFace(checkpoint, draw=draw, steps=steps, scale=scale, seed=seed)
    picture, notes = face.cut(read_portrait(portrait))
    moves = read_pose(Path(pose)) if pose else None
    code = _style(face, style)
    sound = read_audio(audio, HEARING_RATE)
    started, first = time.perf_counter(), []
    content = face.content_of(sound, HEARING_RATE)

    def shown() -> Iterator[np.ndarray]:
        frames = face.frames(content, code, Portrait(image=picture), moves)
        for frame in tqdm(frames, total=len(content), unit="frame", desc="animate", mininterval=2.0):
            first.append(time.perf_counter() - started) if not first else None
            yield frame

    facts = provenance.provenance(speech="given recording", face=face.name)
    facts |= {
        "weights": {part: face.networks.sha256(part)[:16] for part in ("denoiser", "renderer", "wav2vec")},
        "audio": str(audio),
        "portrait": str(portrait),
        "style": str(style) if style else None,
        "pose": str(pose) if pose else None,
        "diffusion": {"draw": draw, "steps": steps, "scale": scale, "seed": seed},
        "consent": agreed,
        "notes": notes,
        "frames": len(content),
    }
    told = provenance.tags({name: value for name, value in facts.items() if isinstance(value, str)})
    write_video(output, shown(), audio=sound, sample_rate=HEARING_RATE, metadata=told)
    facts |= {"seconds": len(content) / face.fps, "first_frame_s": first[0], "took_s": time.perf_counter() - started}
    write_json(output.with_suffix(".json"), facts)
    return facts


def _style(face: DreamTalkFace, style: Path | None) -> np.ndarray:
    if style is None:
        return face.no_style()
    if Path(style).suffix in CLIPS:
        return face.style_of(read_style(Path(style)))
    return face.style(read_video(style, first=face.style_frames))
