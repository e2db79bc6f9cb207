"""Measure encoding in utterances and pictures a second, beside transformers' HubertModel and CLIPVisionModel.

python benchmarks/extract.py --peer torch [--shape small|base|large] [--dtype float32|bfloat16] [--smoke] [--record]

The networks alone, with the same weights (random, exported by the converters' tables) and the same inputs: for HuBERT
utterances of 5.67 s, AvaMERG's mean; for CLIP pictures of its size (8 an utterance). `large` are the published ones,
HuBERT-large and ViT-L/14 at 336 pixels; `base` are HuBERT-base and ViT-B/32. Default dtype: float32 on a CPU, else
bfloat16. Rows: batch_1, and best_batch, each side at the batch size that is fastest for it, up to 64. Each row has our
FLOP/s relative to one large matrix product in the same run. A ratio is void ("void": true) when the outputs differ by
more than `TOLERANCE` of their norm. classical_*: the demo's encoders on one core, media to features; no peer.
"""

import dataclasses
import time

import measure

if __name__ == "__main__":
    _parser = measure.build_parser(__doc__, shapes=("small", "base", "large"))
    _parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of both sides")
    ARGS = _parser.parse_args()
    measure.stay_on_one_core(ARGS.core)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from empatheia_jax.config import EncoderConfig  # noqa: E402
from empatheia_jax.encoders import build_encoders  # noqa: E402
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig  # noqa: E402
from empatheia_jax.encoders.hubert import Hubert, HubertConfig  # noqa: E402
from empatheia_jax.planning import flops  # noqa: E402

SECONDS, RATE = 5.67, 16_000
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, of the outputs' norm
CLIPS = {"small": "small", "base": "vit_b_32", "large": "vit_l_14_336"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One network and its inputs."""

    name: str
    network: type
    config: HubertConfig | ClipVisionConfig
    unit: str
    shape: tuple[int, ...]  # of one input
    flops: float  # of one

    def inputs(self, count: int) -> np.ndarray:
        """Return random inputs float32 [count, *shape]."""
        return np.random.default_rng(0).normal(size=(count, *self.shape)).astype(np.float32)


def make_subjects(shape: str, dtype: str, smoke: bool) -> list[Subject]:
    """Return HuBERT and CLIP of a size."""
    samples = int((0.5 if smoke else SECONDS) * RATE)
    hubert, clip = (
        dataclasses.replace(preset, compute_dtype=dtype, param_dtype=dtype)
        for preset in (getattr(HubertConfig, shape)(), getattr(ClipVisionConfig, CLIPS[shape])())
    )
    picture = (clip.image_size, clip.image_size, 3)
    return [
        Subject("hubert", Hubert, hubert, "utterances/s", (samples,), flops.hubert(hubert, samples)),
        Subject("clip", ClipVision, clip, "pictures/s", picture, flops.clip(clip, 1)),
    ]


class Encoder:
    """The network, compiled once a batch size."""

    def __init__(self, subject: Subject):
        self.subject = subject
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: subject.network(subject.config, rngs=nnx.Rngs(0))))
        self.state = jax.jit(lambda: nnx.split(subject.network(subject.config, rngs=nnx.Rngs(0)))[1])()
        self.module = nnx.merge(graphdef, self.state)
        self._forward = jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs)[0])

    def program(self, batch_size: int, runs: int, outputs: list):
        """Return a function that encodes `runs` batches and puts the last output [B, T, D] into `outputs`."""
        inputs = self.subject.inputs(batch_size)
        lengths = (np.full(batch_size, inputs.shape[1], np.int32),) if self.subject.name == "hubert" else ()
        inputs, lengths = jax.device_put(inputs), jax.device_put(lengths)

        def run():
            for _ in range(runs):
                hidden = self._forward(self.state, inputs, *lengths)
            outputs[:] = [np.asarray(hidden)]

        return run


class Peer:
    """transformers' model, attention by torch's sdpa."""

    def __init__(self, encoder: Encoder):
        import peer

        from converters import clip, speech_encoders

        self.peer, self.torch, self.subject = peer, peer.torch, encoder.subject
        family = speech_encoders.HUBERT if self.subject.name == "hubert" else clip.FAMILY
        self.model = peer.transformers_encoder(encoder.module, family)

    def program(self, batch_size: int, runs: int, outputs: list):
        """Return a function that encodes `runs` batches and puts the last output [B, T, D] into `outputs`."""
        inputs = self.subject.inputs(batch_size)
        inputs = np.ascontiguousarray(np.moveaxis(inputs, -1, 1)) if self.subject.name == "clip" else inputs
        dtype = self.peer.DTYPES[self.subject.config.compute_dtype]
        inputs = self.torch.from_numpy(inputs).to(self.peer.DEVICE, dtype)

        def run():
            with self.torch.inference_mode():
                for _ in range(runs):
                    hidden = self.model(inputs).last_hidden_state
            outputs[:] = [hidden.float().cpu().numpy()]

        return run


def best_batch_size(side: Encoder | Peer, sizes: tuple[int, ...]) -> int:
    """Return the batch size with the least time an input; stop at one that is a tenth slower than the best."""
    seconds: dict[int, float] = {}
    for size in sizes:
        program = side.program(size, 1, [])
        program()
        start = time.perf_counter()
        program()
        seconds[size] = (time.perf_counter() - start) / size
        if seconds[size] > 1.1 * min(seconds.values()):
            break
    return min(seconds, key=lambda size: seconds[size])


def measure_subject(subject: Subject, peak: float, args) -> list[dict]:
    """Return the rows of one network; `peak` is the FLOP/s of a large matrix product."""
    encoder = Encoder(subject)
    sides = {"ours": encoder} | ({"peer": Peer(encoder)} if args.peer else {})
    sizes = BATCH_SIZES[:2] if args.smoke else BATCH_SIZES
    rows = []
    for name in ("batch_1", "best_batch"):
        batch_sizes = {who: 1 if name == "batch_1" else best_batch_size(side, sizes) for who, side in sides.items()}
        count = max(batch_sizes.values())  # inputs a run, for both
        outputs: dict[str, list[np.ndarray]] = {who: [] for who in sides}
        programs = {
            who: side.program(batch_sizes[who], count // batch_sizes[who], outputs[who]) for who, side in sides.items()
        }
        seconds = measure.time_in_turn(programs, 1 if args.smoke else measure.REPETITIONS)
        facts = {"shape": args.shape, "dtype": subject.config.compute_dtype, "batch": batch_sizes["ours"]}
        if args.peer:
            common = min(batch_sizes.values())
            actual, expected = (outputs[who][0][:common] for who in ("ours", "peer"))
            error = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
            facts |= {"peer_batch": batch_sizes["peer"], "apart": float(f"{error:.2g}")}
            facts["void"] = not error < TOLERANCE[subject.config.compute_dtype]
        row = measure.rate_row(f"{subject.name}_{name}", count, subject.unit, seconds, **facts)
        run_seconds = count / row["value"]
        row["share_of_matmul"] = round(count * subject.flops / run_seconds / peak, 3)
        rows.append(row | measure.utilisation(count * subject.flops, 0.0, run_seconds) | measure.device_peak())
    return rows


def measure_classical(smoke: bool) -> list[dict]:
    """Return the rows of the demo's encoders, from media in memory."""
    rng, rows = np.random.default_rng(0), []
    for modality, encoder in build_encoders(EncoderConfig()).items():
        if modality == "audio":
            media = (0.1 * rng.standard_normal(int(SECONDS * encoder.sample_rate))).astype(np.float32)
        else:
            media = rng.integers(0, 255, (8, 256, 256, 3), np.uint8)

        def run(encoder=encoder, media=media):
            encoder.encode([encoder.preprocess(media)])

        seconds = measure.time_in_turn({"ours": run}, 1 if smoke else measure.REPETITIONS)
        rows.append(measure.rate_row(encoder.name, 1, "utterances/s", seconds))
    return rows


def main(args) -> list[dict]:
    on_cpu = jax.default_backend() == "cpu"
    dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    peak = measure.matmul_peak(dtype, 512 if args.smoke else 1024 if on_cpu else 8192)
    rows = []
    for subject in make_subjects(args.shape, dtype, args.smoke):
        rows += measure_subject(subject, peak, args)
    return rows + measure_classical(args.smoke)


if __name__ == "__main__":
    measure.report(main(ARGS), ARGS)
