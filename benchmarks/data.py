"""How fast data comes: from stores to packed batches, stage by stage; how full rows are.

    python benchmarks/data.py [--smoke] [--record] [--corpus FOLDER] [--only rows,packing] [--threads N]

rows: shapes of `configs/vicuna_7b.py`, a feature store of the published widths (random numbers; utterances of 5.7 s,
AvaMERG's mean), one process, one reading thread (`--threads`). `needed` is what a 7B step takes from one accelerator
(20,000 tokens/s), `times_needed` how often the pipeline gives it; 10 is aimed at, 3 in stage 4. `padded_tokens_share`
is what one Example a row (padded to the longest of a batch of 16) would have of real tokens.
packing: real tokens among all of a row, beside the most that any packing could have (a lower bound on rows, L2) and
beside padding. Words are the sample grammar's, or those of --corpus.
"""

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import measure  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from shapes import write_words  # noqa: E402

from empatheia_jax.config import Config  # noqa: E402
from empatheia_jax.config_io import load_config  # noqa: E402
from empatheia_jax.data import tokenizer  # noqa: E402
from empatheia_jax.data.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.encoded import encode  # noqa: E402
from empatheia_jax.data.feature_records import FLOATS  # noqa: E402
from empatheia_jax.data.feature_writer import FeatureWriter, packed, write_shard  # noqa: E402
from empatheia_jax.data.features import FeatureStore  # noqa: E402
from empatheia_jax.data.packing import RowLimits, Size, least_rows, plan_epoch  # noqa: E402
from empatheia_jax.data.pipeline import training_batches, widths_of  # noqa: E402
from empatheia_jax.data.rows import Rows, with_data  # noqa: E402
from empatheia_jax.data.schema import Example  # noqa: E402
from empatheia_jax.training.run_data import training_texts  # noqa: E402
from empatheia_jax.training.stages import stage  # noqa: E402

PUBLISHED = Path(__file__).parents[1] / "configs" / "vicuna_7b.py"
NEEDED = 20_000.0  # tokens/s of the 7B step on one accelerator
SECONDS, PHONEMES, FRAMES = 5.67, 85, 142  # of an utterance of AvaMERG, on average
SETTINGS = {
    "floats": "float16",
    "encoders": {"audio": {"shape": [32, 1024]}, "video": {"shape": [8, 1024]}},
    "speech": {"content_dim": 1280, "style_dim": 256},
    "face": {"content_dim": 512, "style_dim": 256},  # compact: 2 x 256 a frame
}


def corpus(folder: str | None, most: int) -> list[Example]:
    """Training Examples with words only."""
    if folder is None:
        folder = tempfile.mkdtemp()
        write_words(Path(folder))
    return read_examples(Path(folder), "train", validation_share=0.0)[0][:most]


def published_store(folder: Path, examples: list[Example]) -> FeatureStore:
    """Features and golds of every utterance, random, in the published shapes."""
    rng = np.random.default_rng(0)
    writer = FeatureWriter(folder, SETTINGS, "benchmark", 1)
    floats = FLOATS["float16"]

    def utterances():
        done: set[str] = set()
        for example in examples:
            for said in (*example.history, example.response):
                key = example.utterance_key(said)
                if key in done:
                    continue
                done.add(key)
                arrays = {n: rng.random(SETTINGS["encoders"][n]["shape"], np.float32) for n in ("audio", "video")}
                if said.role == "listener":
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
                yield packed(key, arrays, "float16")

    write_shard(folder, 0, utterances(), {"rejected": [], "counts": {}})
    writer.finish({})
    return FeatureStore(folder)


class States(dict):
    """r^t of every Example in memory: the cache's reading is measured with the features'."""

    def __init__(self, examples: list[Example], width: int, floats: np.dtype):
        one = np.zeros((24, width), floats)
        super().__init__({example.id: {"response_states": one} for example in examples})


def rows_of(config: Config, number: int, examples: list[Example], words, store: FeatureStore) -> Rows:
    """Rows of stage `number`, as `training.run.Run.rows` makes them."""
    current, settings = stage(number, config), config.stages[str(number)]
    config = with_data(config, **settings.shape())
    made = Rows(
        examples,
        current.prompt,
        config,
        words,
        store,
        widths_of(store),
        train=True,
        seed=number,
        words="emp" in current.weights,
        content=current.content,
        cached=current.cached,
    )
    if current.cached:
        made.states = States(examples, config.llm.width, FLOATS[config.llm.compute_dtype])
    return made


def tokens_of(rows: Rows, batch: dict[str, np.ndarray]) -> int:
    """Tokens that a step without a cache would compute for the batch's Examples."""
    return sum(len(rows.encoded[i].ids) for i in batch["example_id"].ravel() if i >= 0)


def measure_rows(config: Config, examples: list[Example], words, smoke: bool, threads: int) -> list[dict]:
    """Batches a second of stages 1 to 4."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        store = published_store(Path(folder) / "features", examples)
        for number in (1, 2, 3, 4):
            rows = rows_of(config, number, examples, words, store)
            steps = 2 if smoke else 60
            batches = training_batches(rows, 0, steps, threads=threads)
            first = next(batches)  # threads are started, files opened
            size = sum(array.nbytes for array in first.values())
            seconds, tokens, seen, cpu = time.perf_counter(), 0, 0, time.process_time()
            for batch in batches:
                tokens += tokens_of(rows, batch)
                seen += int((batch["example_id"] >= 0).sum())
            seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
            lengths = [len(encoded.ids) for encoded in rows.encoded]
            padded = [lengths[i : i + 16] for i in range(0, len(lengths), 16)]
            rate = tokens / seconds
            results.append(
                measure.row(
                    f"stage_{number}",
                    tokens,
                    "tokens/s",
                    {"ours": [seconds]},
                    needed=NEEDED,
                    times_needed=round(rate / NEEDED, 1),
                    examples_per_s=round(seen / seconds, 1),
                    examples_per_cpu_second=round(seen / max(cpu, 1e-9), 1),
                    batch_MB=round(size / 1e6, 1),
                    MB_per_s=round(size * (steps - 1) / seconds / 1e6, 1),
                    rows_filled=round(rows.stream.efficiency.share, 3),
                    padded_tokens_share=round(sum(lengths) / sum(len(p) * max(p) for p in padded), 3),
                    states="cached" if rows.cached else "computed",
                )
            )
    return results


def measure_packing(config: Config, examples: list[Example], words) -> list[dict]:
    """How full rows of T tokens are when nothing else limits them."""
    results = []
    for style in ("text", "all"):
        encoded = [len(encode(e, style, config, words, e.listener_profile).ids) for e in examples]
        for length in (1024, 2048, 4096):
            fitting = [n for n in encoded if n <= length]
            start = time.perf_counter()
            plan = plan_epoch([Size(n, 0, 0) for n in fitting], RowLimits(length, 1, 1, 10**6), 0, 0)
            seconds = time.perf_counter() - start
            bound = least_rows(fitting, length)
            full, most = (sum(fitting) / (count * length) for count in (len(plan), bound))
            batches = [fitting[i : i + 16] for i in range(0, len(fitting), 16)]
            padding = sum(fitting) / sum(len(b) * max(b) for b in batches)
            results.append(
                measure.row(
                    f"packing_{style}_{length}",
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
    parser = measure.parser(__doc__)
    parser.add_argument("--corpus", help="folder of the released layout, for its words; default: the sample grammar's")
    parser.add_argument("--threads", type=int, default=1, help="that read and collate, as in training")
    parser.add_argument("--only", default="rows,packing")
    args = parser.parse_args()
    wanted = args.only.split(",")
    examples = corpus(args.corpus, 40 if args.smoke else 10**6)
    config = load_config(str(PUBLISHED))
    words = tokenizer.train_bpe(list(training_texts(examples, config)), 4096)
    rows = []
    if "rows" in wanted:
        rows += measure_rows(config, examples[:800], words, args.smoke, args.threads)
    if "packing" in wanted:
        rows += measure_packing(config, examples, words)
    measure.report(rows, args)


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    main()
