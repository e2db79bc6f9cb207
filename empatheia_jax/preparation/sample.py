"""`empatheia sample`: writes and renders the sample corpus, in exactly the layout that AvaMERG was released in.

```
DIR/train.json  audio_v5_0/*.wav  video_v5_0/*.mp4
    test/test.json (as released: histories only)  test/v_test_v5_0.json (labelled)  test/test_audio/  test/test_video/
    labels.json (which half a dialogue belongs to; seed; voice; fingerprint)  README.md
```
"""

import collections
import hashlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from empatheia_jax.data.emotions import AVATAR_EMOTIONS
from empatheia_jax.preparation import sample_rendering
from empatheia_jax.preparation.sample_plan import MAX_DISJOINT_DIALOGUES, Dialogue, SampleError, plan_corpus
from empatheia_jax.preparation.sample_rendering import (
    FACE_SIZE,
    VOICES,
    RenderJob,
    kokoro_voice,
    render,
    render_with_kokoro,
)
from empatheia_jax.runtime import signals
from empatheia_jax.runtime.atomic import remove_abandoned, write_json
from empatheia_jax.runtime.one_writer import lock_beside, one_writer
from empatheia_jax.runtime.workers import worker_pool

LABELS = "labels.json"
FOLDERS = {"train": ("audio_v5_0", "video_v5_0"), "test": ("test/test_audio", "test/test_video")}
_MADE_BY = "empatheia sample"
_VOICES_ON_CARD = {
    "classical": "espeak-ng's",
    "kokoro": "Kokoro-82M's (hexgrad, Apache-2.0; mixes of its published voices)",
}


def write_sample(
    output: Path,
    *,
    seed: int = 0,
    dialogues: int = 150,
    voice: str = "classical",
    workers: int = 2,
    progress: bool = True,
) -> dict[str, object]:
    """Write the sample corpus and render its speech and faces.

    The same seed and number of dialogues give the same words, avatars and file names. Media that an earlier, perhaps
    interrupted, call with the same arguments and the same generators left in `output` are kept.

    Args:
      output: a new or empty folder, or one that this command wrote.
      seed: seed of words, avatars and order.
      dialogues: about how many; rounded down to a multiple of seven, five sevenths for training. Above
        `sample_plan.MAX_DISJOINT_DIALOGUES` the corpus is for load tests: smaller, silent videos, and words that
        repeat.
      voice: who performs all of it, of `sample_rendering.VOICES`.
      workers: number of processes that render; Kokoro speaks in this one.
      progress: whether to print a line with rate and time to go on stderr.

    Returns:
      Counts: dialogues, turns and utterances by split, "performed" (rendered) and "kept" utterances, "speech_seconds"
      rendered and "seconds" taken.

    Raises:
      SampleError: the folder holds something else or another voice's corpus, there is no such voice, or such a number
        of dialogues cannot be written.
      PartError: Kokoro is not fetched.
      BusyError: another process is writing there.
    """
    output, started = Path(output), time.monotonic()
    if workers < 1:
        raise SampleError(f"the sample corpus needs at least one worker, not {workers}")
    if voice not in VOICES:
        raise SampleError(f"no voice {voice!r} performs the sample corpus: choose from {', '.join(VOICES)}")
    corpus = plan_corpus(seed, dialogues)
    labels = _make_labels(corpus, seed, voice)
    with one_writer(lock_beside(output), output):
        _prepare_folder(output, labels)
        jobs = [job for split in corpus for job in _render_jobs(output, split, corpus, voice)]
        todo = [job for job in jobs if not job.exists]
        speech_seconds = _render_all(todo, workers, progress)
        write_json(output / "train.json", [dialogue.labelled() for dialogue in corpus["train"]])
        write_json(output / "test" / "v_test_v5_0.json", [dialogue.labelled() for dialogue in corpus["test"]])
        write_json(output / "test" / "test.json", [dialogue.released() for dialogue in corpus["test"]])
    return {
        **{split: _counts(corpus[split]) for split in corpus},
        "performed": len(todo),
        "kept": len(jobs) - len(todo),
        "speech_seconds": round(speech_seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def corpus_card(labels: dict) -> str:
    """Return the Markdown text: what the corpus is, what is in it, and what it is not.

    Args:
      labels: contents of labels.json.
    """
    rows = []
    for split, dialogues in labels["dialogues"].items():
        counts = collections.Counter((entry["half"], entry["emotion"]) for entry in dialogues.values())
        for half in ("emotional", "neutral"):
            cells = " | ".join(str(counts[half, emotion]) for emotion in AVATAR_EMOTIONS)
            rows.append(f"| {split} | {half} | {cells} |")
    table, voice = "\n".join(rows), _VOICES_ON_CARD[labels["voice"]]
    return f"""# empatheia_jax sample corpus (seed {labels["seed"]})

Small, synthetic, in the layout of the AvaMERG release. Everything was written and rendered by `empatheia sample`:
the words are put together from a small grammar, the voices are {voice}, the faces are drawn. **No real person is
heard or seen**, and nothing here says how well a model does on real people.

| split | half | {" | ".join(AVATAR_EMOTIONS)} |
| --- | --- | {" | ".join("---" for _ in AVATAR_EMOTIONS)} |
{table}

* `train.json`, `audio_v5_0/`, `video_v5_0/`: training dialogues; conversation ids are per split.
* `test/test.json`: histories only, as the challenge released it. `test/v_test_v5_0.json`: the same, labelled.
* `test/test_audio/`, `test/test_video/`: media of the test dialogues, the answers' included.
* Media names: `dia<conversation>utt<index>_<avatar>`; wav: 24 kHz mono 16 bit; mp4: {FACE_SIZE} x {FACE_SIZE}, 25 fps,
  h264 + aac.
* `labels.json`: for each dialogue its avatar emotion and its half. In the *emotional* half the words tell the emotion.
  In the *neutral* half nothing said before the last answer does, nor the situation, the scenario or the cause: only
  voice and face tell, and the label is the avatar emotion's plainest word.
* Speaker and listener both express the dialogue's emotion, each in the voice and with the face of its own profile.
* No sentence and no avatar of test occurs in train.
"""


def _counts(dialogues: list[Dialogue]) -> dict[str, object]:
    return {
        "dialogues": len(dialogues),
        "turns": sum(len(dialogue.script.queries) for dialogue in dialogues),
        "utterances": sum(len(dialogue.utterances) for dialogue in dialogues),
        "halves": dict(sorted(collections.Counter(dialogue.script.half for dialogue in dialogues).items())),
        "emotions": dict(sorted(collections.Counter(dialogue.script.emotion for dialogue in dialogues).items())),
    }


def _render_jobs(output: Path, split: str, corpus: dict[str, list[Dialogue]], voice: str) -> list[RenderJob]:
    audio, video = (output / folder for folder in FOLDERS[split])
    jobs, for_load_test = [], sum(map(len, corpus.values())) > MAX_DISJOINT_DIALOGUES
    for dialogue in corpus[split]:
        for index, avatar, text in dialogue.utterances:
            name = f"dia{dialogue.conversation_id}utt{index}_{avatar.id}"
            files = audio / f"{name}.wav", video / f"{name}.mp4"
            # the listener's face and voice mirror the speaker's emotion, as the paper supervises them
            jobs.append(RenderJob(*files, text, avatar.id, dialogue.script.emotion, for_load_test, voice))
    return jobs


def _render_all(todo: list[RenderJob], workers: int, progress: bool) -> float:
    """Render all jobs in `workers` new processes (in this one for a single worker, and for Kokoro).

    Returns:
      The seconds of speech.
    """
    if not todo:
        return 0.0
    folders = {path.parent for job in todo for path in (job.audio, job.video)}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
    if todo[0].voice == "kokoro":
        return _sum_lengths(render_with_kokoro(todo), len(todo), progress)
    if workers == 1:
        return _sum_lengths(map(render, todo), len(todo), progress)
    with (
        signals.removed_on_end(lambda: [remove_abandoned(folder) for folder in folders]),
        worker_pool(min(workers, len(todo))) as pool,
    ):
        try:
            return _sum_lengths(pool.map(render, todo, chunksize=4), len(todo), progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _sum_lengths(lengths: Iterable[float], total: int, progress: bool) -> float:
    """Add up lengths in seconds as they come, and print a line of progress now and then."""
    started, seconds = time.monotonic(), 0.0
    step = 1 if sys.stderr.isatty() else max(1, min(500, total // 5))
    for done, length in enumerate(lengths, 1):
        seconds += length
        if progress and (done % step == 0 or done == total):
            rate = done / (time.monotonic() - started)
            line = f"sample: {done}/{total} utterances, {rate:.1f}/s, {(total - done) / rate:.0f} s to go"
            end = "\r" if sys.stderr.isatty() and done < total else "\n"
            print(line.ljust(70), end=end, file=sys.stderr, flush=True)
    return seconds


def _make_labels(corpus: dict[str, list[Dialogue]], seed: int, voice: str) -> dict:
    """Make the contents of labels.json: what the released layout has no field for, and a fingerprint of the media.

    Raises:
      PartError: the voice is Kokoro's, which is not fetched.
    """
    dialogues = {
        split: {
            dialogue.conversation_id: {"half": dialogue.script.half, "emotion": dialogue.script.emotion}
            for dialogue in corpus[split]
        }
        for split in corpus
    }
    lines = [
        [dialogue.conversation_id, dialogue.script.emotion, index, avatar.id, text]
        for split in corpus
        for dialogue in corpus[split]
        for index, avatar, text in dialogue.utterances
    ]
    digest = hashlib.sha256(json.dumps([FACE_SIZE, lines]).encode())
    if voice == "kokoro":
        digest.update(json.dumps(kokoro_voice().identity).encode())
    for source in _rendering_sources(voice):
        digest.update(source.read_bytes())
    return {
        "made_by": _MADE_BY,
        "seed": seed,
        "voice": voice,
        "fingerprint": digest.hexdigest(),
        "dialogues": dialogues,
    }


def _rendering_sources(voice: str) -> list[Path]:
    """List the source files that decide how an utterance sounds and looks; media are made again when one changes."""
    package = Path(sample_rendering.__file__).resolve().parent.parent
    single = [
        package / "preparation" / "sample_rendering.py",
        package / "generators" / "avatars.py",
        package / "data" / "media" / "writing.py",
        package / "generators" / "phonemes.py",
        package / "generators" / "interfaces.py",
    ]
    sources = single + sorted((package / "generators" / "classical").glob("*.py"))
    if voice == "kokoro":
        styletts2 = package / "generators" / "styletts2"
        sources += [*sorted(styletts2.glob("*.py")), styletts2 / "kokoro_voices.npz"]
    return sources


def _prepare_folder(output: Path, labels: dict) -> None:
    """Make `output` ready for a corpus with these labels; a sample corpus with another fingerprint is removed.

    Raises:
      SampleError: `output` is a file, or holds something that is not a sample corpus, or another voice's.
    """
    if output.exists() and not output.is_dir():
        raise SampleError(f"{output} is a file: name a folder for the sample corpus")
    marker = output / LABELS
    if not marker.is_file():
        if output.exists() and any(output.iterdir()):
            raise SampleError(f"{output} is not empty and holds no sample corpus: name a new folder")
    else:
        earlier = _read_labels(marker)
        if (voice := earlier.get("voice", "classical")) != labels["voice"]:
            raise SampleError(
                f"{output} holds a sample corpus that the voice {voice!r} performs: name a new folder for "
                f"{labels['voice']!r}, or continue it with --voice {voice}"
            )
        if earlier.get("fingerprint") != labels["fingerprint"]:
            _remove_corpus(output)
    output.mkdir(parents=True, exist_ok=True)
    write_json(marker, labels)
    (output / "README.md").write_text(corpus_card(labels), encoding="utf-8")


def _read_labels(marker: Path) -> dict:
    """Read labels.json of a sample corpus.

    Raises:
      SampleError: it was not written by this command.
    """
    try:
        labels = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        labels = None
    if not isinstance(labels, dict) or labels.get("made_by") != _MADE_BY:
        raise SampleError(f"{marker} was not written by `{_MADE_BY}`: name a new folder")
    return labels


def _remove_corpus(output: Path) -> None:
    """Remove the records and media of a sample corpus, and no other file."""
    for name in ("train.json", "test/test.json", "test/v_test_v5_0.json"):
        (output / name).unlink(missing_ok=True)
    for folder in (folder for pair in FOLDERS.values() for folder in pair):
        for suffix in ("wav", "mp4"):
            for path in (output / folder).glob(f"dia*utt*_*.{suffix}"):
                path.unlink()
