"""How fast data comes: from stores to packed batches, stage by stage; how full rows are.

    python benchmarks/data.py [--smoke] [--record] [--corpus FOLDER] [--only rows,packing] [--threads N]

rows: shapes of `configs/vicuna_7b.py`, a feature store of the published widths (random numbers; utterances of 5.7 s,
AvaMERG's mean), one process, one reading thread (`--threads`). `needed` is what a 7B step consumes on one accelerator
(20,000 tokens/s), `times_needed` the pipeline's rate over it; the aim is 10, and 3 in stage 4. `padded_tokens_share` is
the share of real tokens with one Example a row, padded to the longest of a batch of 16.
packing: share of real tokens in the rows, beside the most that any packing could have (by a lower bound on rows, L2)
and beside padding. The texts are the sample grammar's, or those of --corpus.
"""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import measure  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from shapes import write_text_corpus  # noqa: E402

from empatheia_jax.config import Config  # noqa: E402
from empatheia_jax.config.load import load_config  # noqa: E402
from empatheia_jax.data.batches.batch import Batch  # noqa: E402
from empatheia_jax.data.batches.builder import BatchBuilder  # noqa: E402
from empatheia_jax.data.batches.encoder import encode_example  # noqa: E402
from empatheia_jax.data.batches.packer import ExampleSize, RowLimits, plan_epoch, rows_lower_bound  # noqa: E402
from empatheia_jax.data.batches.pipeline import store_widths, training_batches  # noqa: E402
from empatheia_jax.data.corpus.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.features.records import FLOAT_DTYPES  # noqa: E402
from empatheia_jax.data.features.store import FeatureStore  # noqa: E402
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_shard  # noqa: E402
from empatheia_jax.data.prompts.tokenizer import train_bpe  # noqa: E402
from empatheia_jax.data.schema import Example  # noqa: E402
from empatheia_jax.training.data import training_texts  # noqa: E402
from empatheia_jax.training.stages import resolve_stages  # noqa: E402

PUBLISHED = Path(__file__).parents[1] / "configs" / "vicuna_7b.py"
NEEDED = 20_000.0  # tokens/s of the 7B step on one accelerator
SECONDS, PHONEMES, FRAMES = 5.67, 85, 142  # of an utterance of AvaMERG, on average
SETTINGS = {
    "floats": "float16",
    "encoders": {"audio": {"shape": [32, 1024]}, "video": {"shape": [8, 1024]}},
    "speech": {"content_dim": 1280, "style_dim": 256},
    "face": {"content_dim": 512, "style_dim": 256},  # compact: 2 x 256 a frame
}


def read_text_examples(folder: str | None, limit: int) -> list[Example]:
    """Return the first training Examples of a corpus, without media; None: of the sample grammar."""
    if folder is None:
        folder = tempfile.mkdtemp()
        write_text_corpus(Path(folder))
    return read_examples(Path(folder), "train", validation_share=0.0)[0][:limit]


def published_store(folder: Path, examples: list[Example]) -> FeatureStore:
    """Write a store of random features and golds of every utterance, in the published shapes."""
    rng = np.random.default_rng(0)
    writer = FeatureWriter(folder, SETTINGS, "benchmark", 1)
    floats = FLOAT_DTYPES["float16"]

    def utterances():
        written: set[str] = set()
        for example in examples:
            for utterance in example.utterances:
                key = example.utterance_key(utterance)
                if key in written:
                    continue
                written.add(key)
                arrays = {n: rng.random(SETTINGS["encoders"][n]["shape"], np.float32) for n in ("audio", "video")}
                if utterance.role == "listener":
                    count = int(rng.integers(PHONEMES // 2, PHONEMES * 3 // 2))
                    frames = count * FRAMES // PHONEMES
                    arrays |= {
                        "phonemes": rng.integers(1, 178, count),
                        "phoneme_frames": np.full(count, 3),
                        "content_speech": rng.random((count, 1280), np.float32).astype(floats),
                        "content_video": rng.random((frames, 512), np.float32).astype(floats),
                        "style_speech": rng.random(256, np.float32),
                        "style_video": rng.random(256, np.float32),
                    }
                yield pack_utterance(key, arrays, "float16")

    write_shard(folder, 0, utterances(), {"rejected": [], "counts": {}})
    writer.finish({})
    return FeatureStore(folder)


class ConstantStates(dict):
    """The same r^t for every Example, in memory; the cost of reading records is measured with the features."""

    def __init__(self, examples: list[Example], width: int, floats: np.dtype):
        states = np.zeros((24, width), floats)
        super().__init__({example.id: {"response_states": states} for example in examples})


def build_rows(config: Config, number: int, examples: list[Example], tokenizer, *, store: FeatureStore) -> BatchBuilder:
    """Return the rows of stage `number`, as a run builds them."""
    stage = resolve_stages(config)[number]
    config = dataclasses.replace(config, data=stage.data)
    rows = BatchBuilder(
        examples,
        stage.prompt_kind,
        config,
        tokenizer,
        store=store,
        widths=store_widths(store),
        train=True,
        seed=number,
        learn_text="emp" in stage.weights,
        content=stage.has_content,
        cached=stage.cached,
    )
    if stage.cached:
        rows.states = ConstantStates(examples, config.llm.width, FLOAT_DTYPES[config.llm.compute_dtype])
    return rows


def count_tokens(rows: BatchBuilder, batch: Batch[np.ndarray]) -> int:
    """Count the tokens that a step without a cache would compute for the batch's Examples."""
    return sum(len(rows.encoded[i].ids) for i in batch.example_id.ravel() if i >= 0)


def measure_rows(config: Config, examples: list[Example], tokenizer, *, smoke: bool, threads: int) -> list[dict]:
    """Measure the batches a second of stages 1 to 4."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        store = published_store(Path(folder) / "features", examples)
        for number in (1, 2, 3, 4):
            rows = build_rows(config, number, examples, tokenizer, store=store)
            steps = 2 if smoke else 60
            batches = training_batches(rows, 0, steps, threads=threads)
            first = next(batches)  # threads are started, files opened
            batch_bytes = sum(array.nbytes for array in jax.tree.leaves(first))
            seconds, tokens, example_count, cpu = time.perf_counter(), 0, 0, time.process_time()
            for batch in batches:
                tokens += count_tokens(rows, batch)
                example_count += int((batch.example_id >= 0).sum())
            seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
            lengths = [len(encoded.ids) for encoded in rows.encoded]
            padded = [lengths[i : i + 16] for i in range(0, len(lengths), 16)]
            rate = tokens / seconds
            results.append(
                measure.rate_row(
                    f"stage_{number}",
                    tokens,
                    "tokens/s",
                    {"ours": [seconds]},
                    needed=NEEDED,
                    times_needed=round(rate / NEEDED, 1),
                    examples_per_s=round(example_count / seconds, 1),
                    examples_per_cpu_second=round(example_count / max(cpu, 1e-9), 1),
                    batch_MB=round(batch_bytes / 1e6, 1),
                    MB_per_s=round(batch_bytes * (steps - 1) / seconds / 1e6, 1),
                    rows_filled=round(rows.stream.efficiency.fill_ratio, 3),
                    padded_tokens_share=round(sum(lengths) / sum(len(p) * max(p) for p in padded), 3),
                    states="cached" if rows.cached else "computed",
                )
            )
    return results


def measure_packing(config: Config, examples: list[Example], tokenizer) -> list[dict]:
    """Measure how full rows of T tokens are when nothing else limits them."""
    results = []
    for prompt_kind in ("text", "all"):
        encoded = [
            len(encode_example(e, prompt_kind, config, tokenizer, profile=e.listener_profile).ids) for e in examples
        ]
        for length in (1024, 2048, 4096):
            fitting = [n for n in encoded if n <= length]
            start = time.perf_counter()
            plan = plan_epoch([ExampleSize(n, 0, 0) for n in fitting], RowLimits(length, 1, 1, 10**6), 0, 0)
            seconds = time.perf_counter() - start
            bound = rows_lower_bound(fitting, length)
            full, most = (sum(fitting) / (count * length) for count in (len(plan), bound))
            batches = [fitting[i : i + 16] for i in range(0, len(fitting), 16)]
            padding = sum(fitting) / sum(len(b) * max(b) for b in batches)
            results.append(
                measure.rate_row(
                    f"packing_{prompt_kind}_{length}",
                    len(fitting),
                    "Examples planned/s",
                    {"ours": [seconds]},
                    efficiency=round(full, 4),
                    most_possible=round(most, 4),
                    padded_batches=round(padding, 4),
                    examples=len(fitting),
                    too_long=len(encoded) - len(fitting),
                    mean_tokens=round(np.mean(fitting), 1),
                )
            )
    return results


def main() -> None:
    parser = measure.build_parser(__doc__)
    parser.add_argument("--corpus", help="folder of the released layout, for its words; default: the sample grammar's")
    parser.add_argument("--threads", type=int, default=1, help="that read and collate, as in training")
    parser.add_argument("--only", default="rows,packing")
    args = parser.parse_args()
    wanted = args.only.split(",")
    examples = read_text_examples(args.corpus, 40 if args.smoke else 10**6)
    config = load_config(str(PUBLISHED))
    tokenizer = train_bpe(list(training_texts(examples, config)), 4096)
    rows = []
    if "rows" in wanted:
        rows += measure_rows(config, examples[:800], tokenizer, smoke=args.smoke, threads=args.threads)
    if "packing" in wanted:
        rows += measure_packing(config, examples, tokenizer)
    measure.report(rows, args)


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    main()
