"""`empatheia extract`: run the frozen networks once over every utterance and keep what they say (DESIGN decision 4).

Work is cut into shards, each a pure function of the data and the settings, so any number of workers and processes may
do them in any order. What is done of an unfinished shard is in its journal, so a killed run redoes nothing that was
finished. A worker decodes an utterance's media once, for the encoders and for the golds. Encoders and generators that
want the accelerator run in the main process, on what the workers have decoded and preprocessed, a chunk of utterances
at a time; chunks are the same in every run, so that a network is given the same batches and says the same.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import itertools
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.containers import Recording
from empatheia_jax.data.feature_records import Journal
from empatheia_jax.data.feature_writer import FeatureWriter, packed, write_json_lines, write_shard
from empatheia_jax.data.features import MAX_SIDE, STYLE_FRAMES, store_settings
from empatheia_jax.data.media import read_audio, read_video
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.preparation.jobs import ExtractError, Job, collect_jobs, source_hash
from empatheia_jax.preparation.on_device import CLIP, HEARD, PREPARED, encoded, performed
from empatheia_jax.preparation.progress import Progress

CHUNK = 32  # utterances whose recordings are given to networks on the accelerator together
SHARD_UTTERANCES = 32
LARGE_SHARD_UTTERANCES = 256  # from LARGE_DATA utterances on: fewer files
LARGE_DATA = 20_000


# One utterance --------------------------------------------------------------------------------------------------------


class Extractor:
    """Turns a Job into the arrays of its record. One lives in each worker."""

    def __init__(self, config: Config):
        self.encoders = build_encoders(config.encoders)
        self.speech, self.face = build_generators(config.generators)
        self.limits = {"max_seconds": config.data.max_seconds, "max_megabytes": config.data.max_megabytes}

    def __call__(self, job: Job) -> tuple[dict[str, np.ndarray], list[dict]]:
        """The record's arrays, and what was rejected: [{key, modality, file, error}].

        For an encoder `on_device`, "audio" or "video" is what its `preprocess` gave: `encoded` is yet to come. For a
        generator `on_device` there are `HEARD`, `PREPARED` or `CLIP` in the place of its golds: `performed` is.
        """
        arrays: dict[str, np.ndarray] = {}
        rejected: list[dict] = []

        @contextlib.contextmanager
        def attempt(modality: str, file: Recording):
            try:
                yield
            except (ValueError, OSError) as error:  # bad media and what cannot be made of it; bugs pass
                rejected.append({"key": job.key, "modality": modality, "file": str(file), "error": str(error)})

        if job.audio is not None:
            with attempt("audio", job.audio):
                arrays["audio"] = self._hear(job.audio)
        if job.video is not None:
            with attempt("video", job.video):
                wanted = self.encoders["video"].feature_shape[0] if job.text is None else STYLE_FRAMES
                frames = read_video(job.video, count=wanted, max_side=MAX_SIDE, **self.limits)
                arrays["video"] = self._prepared("video", frames)
                if job.text is not None and self.face.on_device:
                    clip = read_video(job.video, first=self.face.style_frames, max_side=MAX_SIDE, **self.limits)
                    arrays[CLIP] = self.face.prepare(clip)
                elif job.text is not None:
                    arrays["style_video"] = self.face.style(frames)
        if job.text is not None and "audio" in arrays:
            with attempt("gold", job.audio):
                arrays |= self._golds(job.audio, job.text)
        return arrays, rejected

    def _hear(self, path: Recording) -> np.ndarray:
        return self._prepared("audio", read_audio(path, self.encoders["audio"].sample_rate, **self.limits))

    def _prepared(self, modality: str, media: np.ndarray) -> np.ndarray:
        encoder = self.encoders[modality]
        prepared = encoder.preprocess(media)
        return prepared if encoder.on_device else encoder.encode([prepared])[0]

    def _golds(self, path: Recording, text: str) -> dict[str, np.ndarray]:
        """What the generators say about a recording whose words are known (DESIGN decisions 7, 8)."""
        rate = self.speech.sample_rate
        audio = read_audio(path, rate, **self.limits)
        phonemes = self.speech.phonemes(text)
        if self.speech.on_device:
            return {"phonemes": phonemes, HEARD: audio, PREPARED: self.speech.prepare(audio, rate)}
        phoneme_frames = self.speech.align(audio, rate, phonemes)
        golds = {
            "phonemes": phonemes,
            "phoneme_frames": phoneme_frames,
            "content_speech": self.speech.content(phonemes),
            "style_speech": self.speech.style(audio, rate, phonemes),
        }
        if self.face.on_device:
            return golds | {HEARD: audio}
        return golds | {"content_video": self.face.content(audio, rate, phonemes, phoneme_frames)}


# One shard, in a worker -----------------------------------------------------------------------------------------------

_extractor: Extractor | None = None  # this worker's; made once by `_start_worker`


def _start_worker(config: Config) -> None:
    global _extractor
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Without this a worker would wait for ever when the main process is killed with SIGKILL.
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
        with contextlib.suppress(ImportError):
            import cv2

            cv2.setNumThreads(1)  # the workers are the parallelism
    _extractor = Extractor(config)


def _records(jobs: list[Job], on_error: str, notes: dict) -> Iterator[tuple[str, dict]]:
    """(key, arrays) of every job that gives any; `notes` {rejected, counts} grows as they come."""
    counts: Counter = notes["counts"]
    video = _extractor.encoders["video"]
    for job in jobs:
        missed = video.faces_missed
        arrays, bad = _extractor(job)
        counts["faces_missed"] += video.faces_missed - missed
        _stop_at(bad, on_error)
        notes["rejected"].extend(bad)
        counts.update({"utterances": 1, "records": bool(arrays), "gold": "phonemes" in arrays})
        counts.update({name: name in arrays for name in ("audio", "video")})
        if arrays:
            yield job.key, arrays


def _stop_at(rejected: list[dict], on_error: str) -> None:
    if rejected and on_error == "stop":
        raise ExtractError(f"{rejected[0]['key']}: {rejected[0]['error']} (go on without it: --on-error skip)")


def _empty_notes() -> dict:
    return {"rejected": [], "counts": Counter()}


def _write_shard(directory: Path, index: int, jobs: list[Job], on_error: str) -> dict:
    """Extract and write one shard, each utterance journalled as it is done; returns its notes {rejected, counts}."""
    writer = FeatureWriter.at(directory)
    journal = writer.journal(index)
    try:
        for job in jobs[len(journal.entries) :]:
            notes = _empty_notes()
            journal.add(*_entry(list(_records([job], on_error, notes)), notes, writer.floats))
        return _finish_shard(writer, index, journal)
    finally:
        journal.close()


def _entry(records: list[tuple[str, dict]], notes: dict, floats: str) -> tuple[dict, list[bytes]]:
    """What a journal keeps of some utterances: their keys, gold sizes, numbers of records and notes; the records."""
    whole = [packed(key, arrays, floats) for key, arrays in records]
    value = {"utterances": [[key, len(parts), size] for key, parts, size in whole], "notes": notes}
    return value, [part for _, parts, _ in whole for part in parts]


def _finish_shard(writer: FeatureWriter, index: int, journal: Journal) -> dict:
    """A full journal -> its shard; returns the shard's notes."""
    notes = _empty_notes()
    for value, _ in journal.entries:
        notes["rejected"] += value["notes"]["rejected"]
        notes["counts"].update(value["notes"]["counts"])

    def utterances():
        for value, records in journal.entries:
            parts = iter(records)
            for key, count, size in value["utterances"]:
                yield key, list(itertools.islice(parts, count)), size

    write_shard(writer.directory, index, utterances(), notes)
    journal.close(remove=True)
    return notes


def _read_chunk(jobs: list[Job], on_error: str) -> tuple[list[tuple[str, dict]], dict]:
    """All of some utterances but what is done `on_device`: (records, notes)."""
    notes = _empty_notes()
    return list(_records(jobs, on_error, notes)), notes


# The whole data ------------------------------------------------------------------------------------------------------


def extract(
    config: Config,
    data_path: Path | str,
    output: Path | str,
    workers: int = 2,
    on_error: Literal["stop", "skip"] = "stop",
    progress: bool = True,
    *,
    process: int = 0,
    processes: int = 1,
) -> dict[str, int]:
    """Write (or finish) the feature store of some data.

    Several machines share the work when each is given its `process` of `processes` and the same `output`; the store is
    complete when the last one is done. Calls worker processes by "spawn": a script that calls this needs the usual
    `if __name__ == "__main__":`; `workers=1` works in this process.

    Args:
      config: encoders, generators and limits.
      data_path: what `data.avamerg.read_examples` reads.
      output: folder of the store. One that was interrupted is gone on with; a complete one is left as it is.
      on_error: "stop" raises at the first unusable recording or record; "skip" counts it, lists it in
        `output/rejected.jsonl` ({key, modality, file, error} a line) and goes on.
      progress: a line with rate and time to go on stderr.
    Returns:
      Counts: utterances, records, audio, video, gold (listener utterances with all golds), rejected, faces_missed
      (clips used whole because no face was found), without_media. Of a process that is not the last to finish: of its
      own shards.
    Raises:
      ExtractError: an unusable recording ("stop"), or nothing to extract.
      RecordError: a bad record of the data ("stop").
      StoreError: `output` holds a store made with other settings or from other data.
    """
    if not 0 <= process < processes:
        raise ExtractError(f"process {process} of {processes}: processes count from 0")
    directory = Path(output)
    jobs, without_media = collect_jobs(config, Path(data_path), on_error)
    size = SHARD_UTTERANCES if len(jobs) < LARGE_DATA else LARGE_SHARD_UTTERANCES
    shards = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    networks = build_encoders(config.encoders), *build_generators(config.generators)
    settings = store_settings(*networks, config.data.feature_dtype)
    writer = FeatureWriter(directory, settings, source_hash(jobs, Path(data_path)), len(shards))
    if writer.complete:
        return dict(writer.manifest["counts"])

    todo = [index for index in writer.unfinished() if index % processes == process]
    with Progress(sum(len(shards[index]) for index in todo), len(jobs), progress) as line:
        for utterances, rejected in _run(config, networks, writer, {i: shards[i] for i in todo}, workers, on_error):
            line.advance(utterances, rejected)

    mine = list(range(process, len(shards), processes))
    if not writer.unfinished():
        mine = list(range(len(shards)))
    notes = [writer.notes(index) for index in mine]
    counts = sum((Counter(note["counts"]) for note in notes), Counter())
    rejected = [entry for note in notes for entry in note["rejected"]]
    names = ("utterances", "records", "audio", "video", "gold", "faces_missed")
    result = {name: counts[name] for name in names} | {"rejected": len(rejected), "without_media": without_media}
    if not writer.unfinished():
        write_json_lines(directory / "rejected.jsonl", rejected)
        writer.finish(result)
    return result


def _run(
    config: Config, networks: tuple, writer: FeatureWriter, shards: dict[int, list[Job]], workers: int, on_error: str
) -> Iterator[tuple[int, int]]:
    """Write shards, in this process or in workers; yields (utterances done, rejected) as they are, in any order.

    `networks`: encoders by modality, speech generator, face generator.
    """
    encoders, speech, face = networks
    if not any(one.on_device for one in (speech, face, *encoders.values())):
        calls = {index: (_write_shard, writer.directory, index, jobs, on_error) for index, jobs in shards.items()}
        for index, notes in _done(config, calls, workers):
            yield len(shards[index]), len(notes["rejected"])
        return
    journals: dict[int, Journal] = {}
    calls, lengths, left = {}, {}, Counter()
    try:
        for index, jobs in shards.items():
            chunks = [jobs[first : first + CHUNK] for first in range(0, len(jobs), CHUNK)]
            done = writer.journalled(index)
            if done:
                yield sum(map(len, chunks[:done])), 0
            todo = list(enumerate(chunks))[done:]
            calls |= {(index, number): (_read_chunk, chunk, on_error) for number, chunk in todo}
            lengths |= {(index, number): len(chunk) for number, chunk in todo}
            left[index] = len(todo)
            if not todo:
                _finish_shard(writer, index, writer.journal(index))
        # In order: a journal is a prefix of its shard.
        for (index, number), (records, notes) in _done(config, calls, workers, ordered=True):
            if index not in journals:
                journals[index] = writer.journal(index)
            records = encoded(records, encoders)
            if speech.on_device or face.on_device:
                before = len(notes["rejected"])
                records = performed(records, speech, face, notes)
                _stop_at(notes["rejected"][before:], on_error)
            journals[index].add(*_entry(records, notes, writer.floats))
            left[index] -= 1
            if not left[index]:
                _finish_shard(writer, index, journals.pop(index))
            yield lengths[index, number], len(notes["rejected"])
    finally:
        for journal in journals.values():
            journal.close()


def _done(config: Config, calls: dict, workers: int, ordered: bool = False) -> Iterator[tuple[Any, Any]]:
    """Results of `calls` (name -> function and arguments) as they come, or in order; only a few wait to be taken."""
    if min(workers, len(calls)) <= 1:
        if calls:
            _start_worker(config)
        for index, (function, *arguments) in calls.items():
            yield index, function(*arguments)
        return
    with (
        _one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(
            min(workers, len(calls)), multiprocessing.get_context("spawn"), _start_worker, (config,)
        ) as pool,
    ):
        todo, pending = iter(calls.items()), {}

        def submit(count: int) -> None:
            for index, call in itertools.islice(todo, count):
                pending[pool.submit(*call)] = index

        try:
            submit(2 * workers)
            while pending:
                waited = [next(iter(pending))] if ordered else pending
                finished, _ = concurrent.futures.wait(waited, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    yield pending.pop(future), future.result()
                    submit(1)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ExtractError(
                "a worker died (out of memory?): run this again, it goes on where it stopped; --workers 1 needs least"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers started inside use one BLAS thread each: they are the parallelism."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: "1" for name in names if before[name] is None})
    try:
        yield
    finally:
        for name in names:
            if before[name] is None:
                os.environ.pop(name, None)
