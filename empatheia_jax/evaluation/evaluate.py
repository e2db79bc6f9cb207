"""`empatheia evaluate`: the paper's text metrics and measures of the latents on held-out dialogues (section 6, E.3)."""

import contextlib
import dataclasses
import datetime
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from empatheia_jax.checkpoints.answer_lengths import answer_limit
from empatheia_jax.checkpoints.inputs import run_inputs
from empatheia_jax.checkpoints.run_paths import require_paths
from empatheia_jax.checkpoints.workdir import open_store, saved_config
from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.data import emotions
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.pipeline import store_widths
from empatheia_jax.data.corpus.avamerg import Split, read_examples
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.data.schema import Example, Profile
from empatheia_jax.evaluation import conditions, text
from empatheia_jax.evaluation.aims import aims
from empatheia_jax.evaluation.conditions import SWAPPED_MEDIA, WITH_MEDIA, WITHOUT_MEDIA
from empatheia_jax.evaluation.disentangler import measure_disentangler
from empatheia_jax.evaluation.judged_answers import judge_answers, load_answer_judges
from empatheia_jax.evaluation.latents import explained_variance, make_predictor, training_means
from empatheia_jax.evaluation.report import write_report
from empatheia_jax.generators.build import build_generators
from empatheia_jax.inference.engine import Answer, Engine
from empatheia_jax.inference.load import load_run
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.machine import package_version
from empatheia_jax.runtime.one_writer import lock_beside, one_writer
from empatheia_jax.runtime.outputs import check_outputs

BATCH = 24
JUDGED = 24


def evaluate(
    run: Path,
    split: Split,
    output: Path,
    *,
    quantization: str | None = None,
    data: Path | None = None,
    recover_responses: bool = False,
    max_new_tokens: int | None = None,
    mesh: MeshConfig | None = None,
    judged: int = JUDGED,
) -> Path:
    """Evaluate a run on a split: write report.json and report.html.

    Dialogues without labels are answered too; what needs a gold value is measured on those that have it.

    Args:
      run: workdir of a trained run.
      split: "validation" or "test".
      output: folder of the report, made if it does not exist.
      quantization: of the base, "none", "int8" or "nf4"; None: as in training.
      data: another corpus than the run's, or a file of dialogues; only its words are used, as its media have no
        features. None: the run's.
      recover_responses: take missing responses from the histories of later turns.
      max_new_tokens: most tokens of an answer; None: the run's own limit.
      mesh: how all devices share the run; None: it is on the first device.
      judged: most answers that are spoken and judged, where judges of speech are fetched.

    Returns:
      Path of report.html.

    Raises:
      ConfigError: `run` is no trained run.
      RecordError: the run's data cannot be read.
      StoreError: its feature store is missing or was made with other settings.
      OutputError: the report would overwrite something that is read.
      BusyError: another process is writing a report there.
      JudgeError: a fetched judge of speech is damaged.
    """
    outputs = [("--output", output / name) for name in ("report.json", "report.html")]
    config = saved_config(run)
    check_outputs(outputs, [("--data", data), *run_inputs(run, config)])
    with one_writer(lock_beside(output / "report.html"), f"--output {output}"):
        return _evaluate(
            run,
            config,
            split,
            output,
            quantization=quantization,
            data=data,
            recover_responses=recover_responses,
            max_new_tokens=max_new_tokens,
            mesh=mesh,
            judged=judged,
        )


def _evaluate(
    run: Path,
    config: Config,
    split: Split,
    output: Path,
    *,
    quantization: str | None,
    data: Path | None,
    recover_responses: bool,
    max_new_tokens: int | None,
    mesh: MeshConfig | None,
    judged: int,
) -> Path:
    started = time.monotonic()
    limit = answer_limit(run, config, max_new_tokens)
    if data is None:
        require_paths(config, run, "data.path", "data.features")
    asked = load_answer_judges(judged)
    loaded = load_run(run, quantization=quantization, mesh=mesh)
    config = loaded.config
    engine = Engine(loaded.model, loaded.tokenizer, config, batch=BATCH, max_new_tokens=limit)
    store = open_store(run, config) if config.modalities and data is None else None
    path = data or Path(config.data.path)
    examples = _examples(engine, split, path, recover_responses)
    labelled = [example for example in examples if example.chain is not None]
    neutral = conditions.neutral_conversations(path, split)
    report: dict = {
        "run": str(run),
        "split": split,
        "date": datetime.date.today().isoformat(),
        "command": f"empatheia evaluate --run {run} --split {split} --output {output}"
        + (f" --quantization {quantization}" if quantization else "")
        + (f" --data {data}" if data else "")
        + (" --recover-responses" if recover_responses else "")
        + (f" --max-new-tokens {max_new_tokens}" if max_new_tokens else "")
        + (f" --judged {judged}" if judged != JUDGED else "")
        + "".join(f" --mesh.{axis} {size}" for axis, size in (vars(mesh) if mesh else {}).items()),
        "device": jax.devices()[0].device_kind,
        "versions": {name: package_version(name) for name in ("empatheia_jax", "jax", "flax", "numpy")},
        "settings": {
            "step": loaded.position.step,
            "examples": len(examples),
            "labelled": len(labelled),
            "batch": BATCH,
            "quantization": config.llm.quantization,
            "max_new_tokens": limit,
        },
    }
    seconds: dict[str, float] = {}
    with _timed(seconds, "text"):
        answers = _measure_text(report, engine, examples, store=store, neutral=neutral)
    if store is not None and labelled:
        with _timed(seconds, "disentangler"):
            with_gold = [a for e, a in zip(examples, answers, strict=True) if e.chain is not None]
            report["disentangler"] = measure_disentangler(engine, store, labelled, with_gold)
        with _timed(seconds, "latents"):
            report["latents"] = _measure_latents(engine, store, split, labelled)
        with _timed(seconds, "style"):
            _measure_style(report, engine, store, [e for e in labelled if e.conversation_id in neutral])
    with _timed(seconds, "speech") if asked.can_judge else contextlib.nullcontext():
        generators = config.generators
        judge_answers(report, asked, engine=engine, answers=answers, speech=lambda: build_generators(generators)[0])
    stats = engine.stats
    report["settings"]["decoding"] = {
        "tokens": stats.tokens,
        "tokens_per_second": round(stats.tokens_per_second, 1),
        "occupancy": round(stats.occupancy, 3),
    }
    for name, entry in report["text"].items():
        if entry["truncated"]:
            print(f"  note: {name}: {entry['truncated']} of {len(examples)} answers were cut at {limit} tokens")
    report["aims"] = aims(report)
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    report["seconds"]["total"] = round(time.monotonic() - started, 1)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "report.json", report)
    return write_report(output, report, metrics=run / "metrics.jsonl", video=None, response=None, time_budget=None)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
    print(f"  measured {name} in {seconds[name]:.0f} s", flush=True)


def _examples(engine: Engine, split: Split, path: Path | None = None, recover_responses: bool = False) -> list[Example]:
    data = engine.config.data
    examples, _ = read_examples(
        path or data.path,
        split,
        on_error=data.on_error,
        validation_share=data.validation_share,
        max_turns=data.max_turns,
        recover_responses=recover_responses,
    )
    return examples


def _profiles(engine: Engine, examples: list[Example]) -> list[Profile | None]:
    return [None if engine.config.prompt.profile_in_prompt == "never" else e.listener_profile for e in examples]


# Words ----------------------------------------------------------------------------------------------------------------


def _measure_text(
    report: dict, engine: Engine, examples: list[Example], *, store: FeatureStore | None, neutral: set[str]
) -> list[Answer]:
    """Measure emotion accuracy and Distinct under each condition; return the answers with media (or the only ones)."""
    profiles = _profiles(engine, examples)
    runs: dict[str, list[Answer]] = {}
    shown_emotions: dict[str, str] = {}
    if store is not None:
        others, shown_emotions = conditions.swapped_media(examples, store.get)
        runs[WITH_MEDIA] = engine.answer(examples, store.get, profiles)
        runs[SWAPPED_MEDIA] = engine.answer(examples, others, profiles)
    runs[WITHOUT_MEDIA] = engine.answer(examples, conditions.no_media, profiles)
    report["text"] = {name: _diversity(examples, runs[name]) for name in runs if name != SWAPPED_MEDIA}
    best = runs.get(WITH_MEDIA, runs[WITHOUT_MEDIA])
    report["samples"] = [
        _sample(e, a) for e, a in list(zip(examples, best, strict=True))[:: max(1, len(examples) // 8)][:8]
    ]
    if any(example.chain is not None for example in examples):
        report["emotion"] = _measure_emotion(examples, runs, shown_emotions, neutral)
    return best


def _measure_emotion(
    examples: list[Example], runs: dict[str, list[Answer]], shown_emotions: dict[str, str], neutral: set[str]
) -> dict:
    """Return the accuracies of the emotion under each condition, of the Examples that have a chain of empathy.

    Args:
      examples: that were answered.
      runs: the answers by condition.
      shown_emotions: the emotion that the swapped media of a conversation show.
      neutral: ids of conversations with neutral words.
    """
    has_gold = [example.chain is not None for example in examples]
    examples = list(itertools.compress(examples, has_gold))
    runs = {name: list(itertools.compress(answers, has_gold)) for name, answers in runs.items()}
    measured: dict = {"labels": list(emotions.AVATAR_EMOTIONS), "conditions": {}}
    for name, answers in runs.items():
        entry = _accuracies(examples, answers, neutral)
        if name == SWAPPED_MEDIA:
            hits = [
                (a.parsed.avatar_emotion == shown_emotions.get(e.conversation_id))
                for e, a in zip(examples, answers, strict=True)
            ]
            entry["follows_media7"] = _interval(examples, hits)
            is_neutral = [e.conversation_id in neutral for e in examples]
            if any(is_neutral):
                entry["neutral_follows_media7"] = _interval(examples, hits, is_neutral)
        measured["conditions"][name] = entry
    if WITH_MEDIA in runs:
        gain = [
            float(a.parsed.avatar_emotion == conditions.gold_avatar_emotion(e))
            - float(b.parsed.avatar_emotion == conditions.gold_avatar_emotion(e))
            for e, a, b in zip(examples, runs[WITH_MEDIA], runs[WITHOUT_MEDIA], strict=True)
        ]
        measured["gain7"] = _interval(examples, gain)
    measured["confusion"] = _confusion(examples, runs.get(WITH_MEDIA, runs[WITHOUT_MEDIA]))
    return measured


def _interval(examples: list[Example], values: list, selected: list[bool] | None = None) -> list[float]:
    """Return the mean over (selected) Examples with its 90 % bootstrap interval over dialogues: [value, low, high]."""
    dialogues: dict[str, list[float]] = {}
    for index, (example, value) in enumerate(zip(examples, values, strict=True)):
        if selected is None or selected[index]:
            dialogues.setdefault(example.conversation_id, []).append(float(value))
    table = np.array([[sum(turns), len(turns)] for turns in dialogues.values()])
    return list(text.bootstrap(table, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum())))


def _accuracies(examples: list[Example], answers: list[Answer], neutral: set[str]) -> dict:
    correct7 = [
        a.parsed.avatar_emotion == conditions.gold_avatar_emotion(e) for e, a in zip(examples, answers, strict=True)
    ]
    correct32 = [a.parsed.speaker_emotion == conditions.gold_emotion(e) for e, a in zip(examples, answers, strict=True)]
    entry = {
        "n": len(examples),
        "acc7": _interval(examples, correct7),
        "acc32": _interval(examples, correct32),
        "complete_chains": float(np.mean([not a.parsed.missing and not a.truncated for a in answers])),
        "truncated": sum(a.truncated for a in answers),
    }
    is_neutral = [e.conversation_id in neutral for e in examples]
    if any(is_neutral):
        entry["neutral7"] = _interval(examples, correct7, is_neutral)
        entry["emotional7"] = _interval(examples, correct7, [not half for half in is_neutral])
    return entry


def _diversity(examples: list[Example], answers: list[Answer]) -> dict:
    responses = [a.parsed.response for a in answers if a.parsed.response]
    entry: dict = {"n": len(responses), "truncated": sum(a.truncated for a in answers)}
    if not responses:
        return entry
    by_dialogue: dict[str, list[str]] = {}
    for example, answer in zip(examples, answers, strict=True):
        if answer.parsed.response:
            by_dialogue.setdefault(example.conversation_id, []).append(answer.parsed.response)
    for n in (1, 2):
        entry[f"dist{n}"] = text.dist_corpus(responses, n)
        entry[f"dist{n}_interval"] = list(text.dist_interval(list(by_dialogue.values()), n))
        entry[f"sentence_dist{n}"] = text.dist_sentence(responses, n)
    return entry


def _confusion(examples: list[Example], answers: list[Answer]) -> list[list[int]]:
    table = np.zeros((7, 7), int)
    for example, answer in zip(examples, answers, strict=True):
        if answer.parsed.avatar_emotion is not None:
            row = emotions.AVATAR_EMOTIONS.index(conditions.gold_avatar_emotion(example))
            table[row, emotions.AVATAR_EMOTIONS.index(answer.parsed.avatar_emotion)] += 1
    return table.tolist()


def _sample(example: Example, answer: Answer) -> dict:
    return {
        "id": example.id,
        "history": [[utterance.role, utterance.text] for utterance in example.history],
        "emotion": example.chain.speaker_emotion if example.chain else None,
        "predicted": answer.parsed.speaker_emotion or answer.parsed.emotion_text,
        "chain": dataclasses.asdict(answer.parsed.chain) if answer.parsed.chain else {"written": answer.text},
        "response": answer.parsed.response,
        "gold_response": example.response.text if example.response else None,
    }


# Style ----------------------------------------------------------------------------------------------------------------


def _measure_latents(engine: Engine, store: FeatureStore, split: Split, examples: list[Example]) -> dict:
    config, predict = engine.config, make_predictor(engine.graphdef, engine.mesh)
    speech, _ = build_generators(config.generators)
    nearest = getattr(speech, "decode_content", None)
    splits = {name: _examples(engine, name) for name in ("train", "validation")} | {split: examples}

    def rows(examples):
        return BatchBuilder(
            [e for e in examples if e.response is not None],
            "all",
            config,
            engine.tokenizer,
            store=store,
            widths=store_widths(store),
            train=False,
            seed=config.seed,
        )

    means = training_means(rows(splits["train"]))
    return {
        name: explained_variance(predict, engine.state, rows(chosen), means, nearest_phoneme=nearest)
        for name, chosen in splits.items()
        if chosen
    }


def _measure_style(report: dict, engine: Engine, store: FeatureStore, neutral: list[Example]) -> None:
    if not neutral:
        return  # the corpus does not say which of its dialogues have neutral words
    from empatheia_jax.evaluation.style_sweep import sweep_styles

    speech, face = build_generators(engine.config.generators, face_size=128)
    report["style"] = sweep_styles(engine, speech, face, neutral, features=store.get)
