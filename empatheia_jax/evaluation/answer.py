"""The part of the report that shows one answer: the video, its frames over its sound, the chain of empathy."""

import base64
from pathlib import Path

import numpy as np

from empatheia_jax.data.media import reading
from empatheia_jax.evaluation import page, plots

FRAMES = 8
SAMPLE_RATE = 24000
MAX_SECONDS = 600.0
MAX_EMBEDDED_MEGABYTES = 64.0
PLAYER = "<b>The video.</b> Speech and face are synthetic."
SHEET = "<b>Contact sheet.</b> Frames at the marked times; beneath them the waveform of the voice."
CHAIN = (
    ("Scenario", ("event_scenario", "scenario")),
    ("Emotion", ("speaker_emotion", "emotion")),
    ("Cause", ("emotion_cause", "cause")),
    ("Goal", ("goal_to_response", "goal")),
)
"""Each step of the chain: its name on the page, and the keys under which data may hold it."""


def data_uri(kind: str, content: bytes) -> str:
    """Return bytes as a data URI; kind is a media type such as "image/jpeg"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(picture: np.ndarray, quality: int = 88) -> bytes:
    """Encode a picture uint8 [h, w, 3], RGB, as JPEG.

    Raises:
      ValueError: it cannot be encoded.
    """
    import cv2

    is_encoded, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not is_encoded:
        raise ValueError(f"a picture of shape {picture.shape} could not be written as JPEG")
    return content.tobytes()


def chain_rows(chain: dict | None) -> list[tuple[str, str]]:
    """Return the four steps as (name, HTML); a step that the model did not write says so."""
    rows = []
    for name, keys in CHAIN:
        value = next((chain[key] for key in keys if chain.get(key)), None) if chain else None
        rows.append((name, page.text_html(value) if value else '<span class="none">not written</span>'))
    return rows


def answer_section(video: Path | None, response: dict | None) -> tuple[str, str, str]:
    """Return the section about one answer.

    Args:
      video: the mp4; None where there is none.
      response: what `respond` recorded with it; None where there is none.
    """
    frames, reason = None, "no video was given."
    if video is not None:
        try:
            frames = reading.read_video(video, count=FRAMES, max_seconds=MAX_SECONDS, max_side=200)
        except reading.MediaError as error:
            reason = f"the video cannot be read ({_without_folder(error, video)})."
    if frames is None or video is None:
        player = page.no_data(PLAYER, reason)
        sheet = page.no_data(SHEET, reason)
    else:
        player = _player(video, frames[0], response)
        sheet = _contact_sheet(video, frames)
    return page.section("answer", "The answer", "", f'<div class="two grid">{player}{_chain(response)}</div>', sheet)


def _contact_sheet(video: Path, frames: np.ndarray) -> str:
    """Return frames uint8 [F, h, w, 3], from the middles of F equal parts of a video, as a strip over its waveform."""
    seconds = reading.video_seconds(video)
    marks = [(index + 0.5) * seconds / len(frames) for index in range(len(frames))]
    times = ", ".join(f"{mark:.1f}" for mark in marks)
    alt = f"{len(frames)} frames of the answer, at {times} seconds."
    strip = data_uri("image/jpeg", jpeg(np.concatenate(list(frames), axis=1)))
    image = f'<img src="{strip}" alt="{page.escape(alt)}">'
    try:
        audio = reading.read_audio(video, SAMPLE_RATE, max_seconds=MAX_SECONDS)
        description = f"Waveform of the answer, {len(audio) / SAMPLE_RATE:.1f} seconds."
        wave = plots.waveform(audio, SAMPLE_RATE, seconds, marks, alt=description)
    except reading.MediaError as error:
        wave = f'<p class="none">No sound: {page.escape(_without_folder(error, video))}</p>'
    return page.figure(page.scroll(f'<div class="sheet">{image}{wave}</div>', "Contact sheet"), SHEET)


def _player(video: Path, first_frame: np.ndarray, response: dict | None) -> str:
    content = video.read_bytes()
    if len(content) > MAX_EMBEDDED_MEGABYTES * 1e6:
        return page.no_data(PLAYER, f"{video.name} has {len(content) / 1e6:.0f} MB, too much to hold in a page.")
    label = "The avatar answers."
    if response and response.get("response"):
        label = f"The avatar says: {response['response']}"
    source, poster = data_uri("video/mp4", content), data_uri("image/jpeg", jpeg(first_frame))
    attributes = f'aria-label="{page.escape(label)}" poster="{poster}" src="{source}"'
    return page.figure(f'<video controls playsinline preload="metadata" {attributes}></video>', PLAYER)


def _chain(response: dict | None) -> str:
    caption = "<b>The chain of empathy</b> that the model wrote before it answered (section 4.2)."
    if not response:
        return page.no_data(caption, "no response was given.")
    chain = response.get("chain_of_empathy") or response.get("chain")
    quote = f"<blockquote>{page.text_html(response.get('response'))}</blockquote>"
    others = {key: value for key, value in response.items() if key not in ("chain_of_empathy", "chain", "response")}
    entries = [(key.replace("_", " ").capitalize(), value_html(value)) for key, value in others.items()]
    more = page.details("Everything recorded with it", page.pairs(entries)) if entries else ""
    return page.figure(quote + page.pairs(chain_rows(chain)) + more, caption)


def value_html(value) -> str:
    """Return a JSON value as HTML text, an object as its "name: value" pairs."""
    if isinstance(value, dict):
        return "; ".join(f"{page.escape(key)}: {value_html(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(value_html(inner) for inner in value) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return page.text_html(value)


def _without_folder(error: reading.MediaError, path: Path) -> str:
    """Return a media error's message with the file's name in place of its path: pages are passed on to others."""
    return str(error).replace(str(path), path.name)
