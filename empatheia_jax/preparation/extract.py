"""`empatheia extract`: runs the frozen networks once over every utterance and stores their outputs.

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

from empatheia_jax.checkpoints.inputs import config_inputs
from empatheia_jax.config import Config
from empatheia_jax.data.features.records import Journal
from empatheia_jax.data.features.store import store_settings
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_json_lines, write_shard
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.preparation.extractor import Extractor
from empatheia_jax.preparation.jobs import ExtractError, Job, check_recordings, collect_jobs, source_hash
from empatheia_jax.preparation.on_device import add_golds, encode_records
from empatheia_jax.runtime import signals
from empatheia_jax.runtime.atomic import remove_abandoned
from empatheia_jax.runtime.one_writer import one_writer
from empatheia_jax.runtime.outputs import check_outputs
from empatheia_jax.runtime.progress import Progress
from empatheia_jax.runtime.workers import worker_pool

CHUNK = 32  # utterances whose recordings go through a network on the accelerator together
SHARD_UTTERANCES = 32
LARGE_SHARD_UTTERANCES = 256  # from LARGE_DATA utterances on, for fewer files
LARGE_DATA = 20_000


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
    """Yield (key, arrays) of every job that gives any array; each job is added to `notes` (`_empty_notes`)."""
    counts: Counter = notes["counts"]
    for job in jobs:
        before = _extractor.repairs()
        arrays, rejected, noted = _extractor(job)
        counts.update({name: count - before[name] for name, count in _extractor.repairs().items()})
        _raise_if_rejected(rejected, on_error)
        notes["rejected"].extend(rejected)
        notes["noted"].extend({"key": job.key, "note": note} for note in noted)
        counts.update({"utterances": 1, "records": bool(arrays), "gold": "phonemes" in arrays})
        counts.update({name: name in arrays for name in ("audio", "video")})
        if arrays:
            yield job.key, arrays


def _raise_if_rejected(rejected: list[dict], on_error: str) -> None:
    if rejected and on_error == "stop":
        raise ExtractError(f"{rejected[0]['key']}: {rejected[0]['error']} (go on without it: --on-error skip)")


def _empty_notes() -> dict:
    return {"rejected": [], "noted": [], "counts": Counter()}


def _write_shard(directory: Path, index: int, jobs: list[Job], on_error: str) -> dict:
    """Extract and write one shard, adding each finished utterance to its journal; return its notes."""
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
        notes["noted"] += value["notes"].get("noted", [])
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
      Counts: utterances, records, audio, video, gold (listener utterances with all golds), rejected, noted (remarks on
      recordings that were used, in `output/noted.jsonl`), faces_missed (clips used uncropped because no face was
      found), references_padded (recordings too short for the voice's style encoder), without_media. A process that is
      not the last to finish counts its own shards only.

    Raises:
      ExtractError: an unusable recording ("stop"), or nothing to extract.
      RecordError: a bad record of the data ("stop").
      StoreError: `output` holds a store made with other settings or from other data.
      OutputError: `output` is, or holds, something that is read.
      BusyError: another process is doing the same part.
    """
    if not 0 <= process < processes:
        raise ExtractError(f"process {process} of {processes}: processes count from 0")
    directory = Path(output)
    inputs = [(name, path) for name, path in config_inputs(config) if name != "data.features"]
    check_outputs([("the feature store", directory)], [*inputs, ("the data", data_path)])
    jobs, without_media = collect_jobs(config, Path(data_path), on_error)
    if on_error == "stop":
        check_recordings(jobs)
    size = SHARD_UTTERANCES if len(jobs) < LARGE_DATA else LARGE_SHARD_UTTERANCES
    shards = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    networks = build_encoders(config.encoders), *build_generators(config.generators)
    settings = store_settings(*networks, config.data.feature_dtype)
    writer = FeatureWriter(directory, settings, source_hash(jobs, Path(data_path)), len(shards))
    if writer.complete:
        return dict(writer.manifest["counts"])

    todo = {index: shards[index] for index in writer.unfinished_shards() if index % processes == process}
    with (
        one_writer(directory / f"process-{process}.lock", f"{directory}, --process {process}"),
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
    noted = [entry for note in notes for entry in note.get("noted", [])]
    names = ("utterances", "records", "audio", "video", "gold", "faces_missed", "references_padded")
    result = {name: counts[name] for name in names}
    result |= {"rejected": len(rejected), "noted": len(noted), "without_media": without_media}
    if not writer.unfinished_shards():
        write_json_lines(directory / "rejected.jsonl", rejected)
        write_json_lines(directory / "noted.jsonl", noted)
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
