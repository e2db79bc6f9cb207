"""`empatheia extract`: runs the frozen networks once over every utterance and stores their outputs (DESIGN decision 4).

The work is divided into shards, each a pure function of the data and the settings, so any number of workers and
processes may do them in any order. The finished utterances of an unfinished shard are in its journal, so a run that was
killed repeats none of them. A worker decodes the media of an utterance once, for the encoders and for the golds.
Encoders and generators that use the accelerator run in the main process, on what the workers have decoded and
preprocessed, a chunk of utterances at a time; chunks are the same in every run, so a network gets the same batches and
gives the same outputs.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import itertools
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.features.records import Journal
from empatheia_jax.data.features.store import MAX_SIDE, STYLE_FRAMES, store_settings
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_json_lines, write_shard
from empatheia_jax.data.media.containers import Recording
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.interfaces import OnDeviceFaceGenerator, OnDeviceSpeechGenerator
from empatheia_jax.preparation.jobs import ExtractError, Job, collect_jobs, source_hash
from empatheia_jax.preparation.on_device import PREPARED_CLIP, PREPARED_SPEECH, SAMPLES, add_golds, encode_records
from empatheia_jax.runtime import signals
from empatheia_jax.runtime.atomic import remove_abandoned
from empatheia_jax.runtime.progress import Progress
from empatheia_jax.runtime.workers import worker_pool

CHUNK = 32  # utterances whose recordings go through a network on the accelerator together
SHARD_UTTERANCES = 32
LARGE_SHARD_UTTERANCES = 256  # from LARGE_DATA utterances on, for fewer files
LARGE_DATA = 20_000


# One utterance --------------------------------------------------------------------------------------------------------


class Extractor:
    """Turns a Job into the arrays of its record; each worker has one."""

    def __init__(self, config: Config):
        self.encoders = build_encoders(config.encoders)
        self.speech, self.face = build_generators(config.generators)
        self.limits: dict[str, Any] = {
            "max_seconds": config.data.max_seconds,
            "max_megabytes": config.data.max_megabytes,
        }

    def __call__(self, job: Job) -> tuple[dict[str, np.ndarray], list[dict]]:
        """Extract one utterance.

        For an encoder that is `on_device`, "audio" or "video" is the output of its `preprocess`, which `encode_records`
        encodes later. For a generator that is `on_device`, `SAMPLES`, `PREPARED_SPEECH` or `PREPARED_CLIP` are in the
        place of its golds, which `add_golds` computes later.

        Returns:
          The record's arrays by name, and what was rejected: [{key, modality, file, error}].
        """
        arrays: dict[str, np.ndarray] = {}
        rejected: list[dict] = []

        @contextlib.contextmanager
        def attempt(modality: str, file: Recording):
            try:
                yield
            except (ValueError, OSError) as error:  # unusable media; other errors are bugs and are raised
                rejected.append({"key": job.key, "modality": modality, "file": str(file), "error": str(error)})

        if job.audio is not None:
            with attempt("audio", job.audio):
                arrays["audio"] = self._audio_features(job.audio)
        if job.video is not None:
            with attempt("video", job.video):
                count = self.encoders["video"].feature_shape[0] if job.text is None else STYLE_FRAMES
                frames = read_video(job.video, count=count, max_side=MAX_SIDE, **self.limits)
                arrays["video"] = self._encode("video", frames)
                if job.text is not None and isinstance(self.face, OnDeviceFaceGenerator):
                    clip = read_video(job.video, max_frames=self.face.style_frames, max_side=MAX_SIDE, **self.limits)
                    arrays[PREPARED_CLIP] = self.face.prepare(clip)
                elif job.text is not None:
                    arrays["style_video"] = self.face.style(frames)
        if job.audio is not None and job.text is not None and "audio" in arrays:
            with attempt("gold", job.audio):
                arrays |= self._extract_golds(job.audio, job.text)
        return arrays, rejected

    def _audio_features(self, path: Recording) -> np.ndarray:
        return self._encode("audio", read_audio(path, self.encoders["audio"].sample_rate, **self.limits))

    def _encode(self, modality: str, media: np.ndarray) -> np.ndarray:
        """Return the features, or only the preprocessed input of an encoder that is `on_device`."""
        encoder = self.encoders[modality]
        prepared = encoder.preprocess(media)
        return prepared if encoder.on_device else encoder.encode([prepared])[0]

    def _extract_golds(self, path: Recording, text: str) -> dict[str, np.ndarray]:
        """Compute the gold targets of a recording whose text is known, by the generators (DESIGN decisions 7, 8)."""
        rate = self.speech.sample_rate
        audio = read_audio(path, rate, **self.limits)
        phonemes = self.speech.phonemes(text)
        if isinstance(self.speech, OnDeviceSpeechGenerator):
            return {"phonemes": phonemes, SAMPLES: audio, PREPARED_SPEECH: self.speech.prepare(audio, rate)}
        phoneme_frames = self.speech.align(audio, rate, phonemes)
        golds = {
            "phonemes": phonemes,
            "phoneme_frames": phoneme_frames,
            "content_speech": self.speech.content(phonemes),
            "style_speech": self.speech.style(audio, rate, phonemes),
        }
        if self.face.on_device:
            return golds | {SAMPLES: audio}
        return golds | {"content_video": self.face.content(audio, rate, phonemes, phoneme_frames)}


# One shard, in a worker -----------------------------------------------------------------------------------------------

_extractor: Extractor  # the one of this worker process, made by `_start_worker`


def _start_worker(config: Config) -> None:
    global _extractor
    if multiprocessing.parent_process() is not None:
        with contextlib.suppress(ImportError):
            import cv2

            cv2.setNumThreads(1)  # all cores are busy with workers already
    _extractor = Extractor(config)


def _extract_records(jobs: list[Job], on_error: str, notes: dict) -> Iterator[tuple[str, dict]]:
    """Yield (key, arrays) of every job that gives any array; each job is added to `notes` {rejected, counts}."""
    counts: Counter = notes["counts"]
    video = _extractor.encoders["video"]
    for job in jobs:
        missed_before = video.faces_missed
        arrays, rejected = _extractor(job)
        counts["faces_missed"] += video.faces_missed - missed_before
        _raise_if_rejected(rejected, on_error)
        notes["rejected"].extend(rejected)
        counts.update({"utterances": 1, "records": bool(arrays), "gold": "phonemes" in arrays})
        counts.update({name: name in arrays for name in ("audio", "video")})
        if arrays:
            yield job.key, arrays


def _raise_if_rejected(rejected: list[dict], on_error: str) -> None:
    if rejected and on_error == "stop":
        raise ExtractError(f"{rejected[0]['key']}: {rejected[0]['error']} (go on without it: --on-error skip)")


def _empty_notes() -> dict:
    return {"rejected": [], "counts": Counter()}


def _write_shard(directory: Path, index: int, jobs: list[Job], on_error: str) -> dict:
    """Extract and write one shard, adding each finished utterance to its journal; return {rejected, counts}."""
    writer = FeatureWriter.open_existing(directory)
    journal = writer.open_journal(index)
    try:
        for job in jobs[len(journal.entries) :]:
            notes = _empty_notes()
            journal.add(*_journal_entry(list(_extract_records([job], on_error, notes)), notes, writer.float_dtype))
        return _finish_shard(writer, index, journal)
    finally:
        journal.close()


def _journal_entry(records: list[tuple[str, dict]], notes: dict, float_dtype: str) -> tuple[dict, list[bytes]]:
    """Return what a journal keeps of some utterances: keys, numbers of parts, gold sizes and notes; and the parts."""
    utterances = [pack_utterance(key, arrays, float_dtype) for key, arrays in records]
    value = {"utterances": [[key, len(parts), size] for key, parts, size in utterances], "notes": notes}
    return value, [part for _, parts, _ in utterances for part in parts]


def _finish_shard(writer: FeatureWriter, index: int, journal: Journal) -> dict:
    """Write the shard of a journal that has all its utterances, remove the journal, and return the shard's notes."""
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


def _extract_chunk(jobs: list[Job], on_error: str) -> tuple[list[tuple[str, dict]], dict]:
    """Extract some utterances, except what is done `on_device`; return records and notes."""
    notes = _empty_notes()
    return list(_extract_records(jobs, on_error, notes)), notes


# The whole data ------------------------------------------------------------------------------------------------------


def extract(
    config: Config,
    data_path: Path | str,
    output: Path | str,
    *,
    workers: int = 2,
    on_error: Literal["stop", "skip"] = "stop",
    progress: bool = True,
    process: int = 0,
    processes: int = 1,
) -> dict[str, int]:
    """Write (or finish) the feature store of some data.

    Several machines share the work when each gets its own `process` of `processes` and the same `output`; the store is
    complete when the last one is done. Worker processes are started by "spawn", so a script that calls this needs the
    usual `if __name__ == "__main__":`.

    Args:
      config: encoders, generators and limits.
      data_path: what `data.avamerg.read_examples` reads.
      output: folder of the store. An interrupted store is continued; a complete one is left as it is.
      workers: number of worker processes; 1 works in this process.
      on_error: "stop" raises at the first unusable recording or record; "skip" counts it, lists it in
        `output/rejected.jsonl` (one {key, modality, file, error} in each line) and goes on.
      progress: whether to print a line with rate and time to go on stderr.
      process: which of the machines this is, from 0.
      processes: number of machines that share the work.

    Returns:
      Counts: utterances, records, audio, video, gold (listener utterances with all golds), rejected, faces_missed
      (clips used uncropped because no face was found), without_media. A process that is not the last to finish counts
      its own shards only.

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

    todo = {index: shards[index] for index in writer.unfinished_shards() if index % processes == process}
    with (
        signals.removed_on_end(lambda: remove_abandoned(directory)),
        Progress(sum(map(len, todo.values())), len(jobs), shown=progress) as line,
    ):
        for utterances, rejected in _extract_shards(config, networks, writer, todo, workers=workers, on_error=on_error):
            line.advance(utterances, rejected)

    counted = list(range(process, len(shards), processes))
    if not writer.unfinished_shards():
        counted = list(range(len(shards)))
    notes = [writer.read_sidecar(index) for index in counted]
    counts = sum((Counter(note["counts"]) for note in notes), Counter())
    rejected = [entry for note in notes for entry in note["rejected"]]
    names = ("utterances", "records", "audio", "video", "gold", "faces_missed")
    result = {name: counts[name] for name in names} | {"rejected": len(rejected), "without_media": without_media}
    if not writer.unfinished_shards():
        write_json_lines(directory / "rejected.jsonl", rejected)
        writer.finish(result)
    return result


def _extract_shards(
    config: Config, networks: tuple, writer: FeatureWriter, shards: dict[int, list[Job]], *, workers: int, on_error: str
) -> Iterator[tuple[int, int]]:
    """Write shards, in this process or in workers and in any order; yield (utterances done, rejected) after each step.

    `networks` are the encoders by modality, the speech generator and the face generator.
    """
    encoders, speech, face = networks
    if not any(network.on_device for network in (speech, face, *encoders.values())):
        calls = {index: (_write_shard, writer.directory, index, jobs, on_error) for index, jobs in shards.items()}
        for index, notes in _run_calls(config, calls, workers):
            yield len(shards[index]), len(notes["rejected"])
        return
    journals: dict[int, Journal] = {}
    calls, lengths, chunks_left = {}, {}, Counter()
    try:
        for index, jobs in shards.items():
            chunks = [jobs[first : first + CHUNK] for first in range(0, len(jobs), CHUNK)]
            done = writer.count_journal_entries(index)
            if done:
                yield sum(map(len, chunks[:done])), 0
            todo = list(enumerate(chunks))[done:]
            calls |= {(index, number): (_extract_chunk, chunk, on_error) for number, chunk in todo}
            lengths |= {(index, number): len(chunk) for number, chunk in todo}
            chunks_left[index] = len(todo)
            if not todo:
                _finish_shard(writer, index, writer.open_journal(index))
        # In order, because a journal holds the first utterances of its shard.
        for (index, number), (records, notes) in _run_calls(config, calls, workers, ordered=True):
            if index not in journals:
                journals[index] = writer.open_journal(index)
            records = encode_records(records, encoders)
            if speech.on_device or face.on_device:
                rejected_before = len(notes["rejected"])
                records = add_golds(records, speech, face, notes)
                _raise_if_rejected(notes["rejected"][rejected_before:], on_error)
            journals[index].add(*_journal_entry(records, notes, writer.float_dtype))
            chunks_left[index] -= 1
            if not chunks_left[index]:
                _finish_shard(writer, index, journals.pop(index))
            yield lengths[index, number], len(notes["rejected"])
    finally:
        for journal in journals.values():
            journal.close()


def _run_calls(config: Config, calls: dict, workers: int, ordered: bool = False) -> Iterator[tuple[Any, Any]]:
    """Run calls in this process or in workers, and yield (name, result) of each as it finishes, or in order.

    Calls are started a few at a time, so that few results wait in memory.

    Args:
      config: what each worker builds its `Extractor` from.
      calls: function and arguments, by the name of the call.
      workers: number of worker processes; 1 runs the calls here.
      ordered: yield in the order of the calls instead of as they finish.
    """
    if min(workers, len(calls)) <= 1:
        if calls:
            _start_worker(config)
        for name, (function, *arguments) in calls.items():
            yield name, function(*arguments)
        return
    with (
        _single_threaded_workers(),
        worker_pool(min(workers, len(calls)), _start_worker, (config,)) as pool,
    ):
        todo, pending = iter(calls.items()), {}

        def submit(count: int) -> None:
            for name, call in itertools.islice(todo, count):
                pending[pool.submit(*call)] = name

        try:
            submit(2 * workers)
            while pending:
                awaited = [next(iter(pending))] if ordered else pending
                finished, _ = concurrent.futures.wait(awaited, return_when=concurrent.futures.FIRST_COMPLETED)
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
def _single_threaded_workers() -> Iterator[None]:
    """Let workers that are started inside the `with` use one BLAS thread each: all cores are busy with workers."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    previous = {name: os.environ.get(name) for name in names}
    os.environ.update({name: "1" for name in names if previous[name] is None})
    try:
        yield
    finally:
        for name in names:
            if previous[name] is None:
                os.environ.pop(name, None)
