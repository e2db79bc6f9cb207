"""How many voices and pictures a second are encoded, beside transformers' HubertModel and CLIPVisionModel?

python benchmarks/extract.py --peer torch [--shape small|base|large] [--dtype float32|bfloat16] [--smoke] [--record]

The networks by themselves, from the same weights (random, moved over by the converters' tables) and the same inputs:
utterances of 5.67 s, AvaMERG's mean, for HuBERT; pictures of its size for CLIP (8 an utterance). `large` are the
published ones, HuBERT-large and ViT-L/14 at 336 pixels; `base` HuBERT-base and ViT-B/32. Default dtype: float32 on a
CPU, else bfloat16. Rows: batch_1, and best_batch, each side at the batch that is fastest for it, up to 64. Notes give
our arithmetic against one large matrix product in the same run. A ratio is void ("void": true) when the outputs are
further apart than `APART` of their norm. classical_*: the demo's encoders on a core, media to features; no peer.
"""

import dataclasses
import time

import measure

if __name__ == "__main__":
    _parser = measure.parser(__doc__, shapes=("small", "base", "large"))
    _parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of both sides")
    ARGS = _parser.parse_args()
    measure.on_one_core(ARGS.core)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from empatheia_jax import flops  # noqa: E402
from empatheia_jax.config import EncoderConfig  # noqa: E402
from empatheia_jax.encoders import build_encoders  # noqa: E402
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig  # noqa: E402
from empatheia_jax.encoders.hubert import Hubert, HubertConfig  # noqa: E402

SECONDS, RATE = 5.67, 16_000
SIZES = (1, 2, 4, 8, 16, 32, 64)
APART = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, of the outputs' norm
CLIPS = {"small": "small", "base": "vit_b_32", "large": "vit_l_14_336"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One network and what it is given."""

    name: str
    create: type
    config: object
    unit: str
    shape: tuple[int, ...]  # of one input
    flops: float  # of one

    def inputs(self, count: int) -> np.ndarray:
        """float32 [count, ...]."""
        return np.random.default_rng(0).normal(size=(count, *self.shape)).astype(np.float32)


def subjects(shape: str, dtype: str, smoke: bool) -> list[Subject]:
    """HuBERT and CLIP of a size."""
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


class Ours:
    """The network, compiled once a batch size."""

    def __init__(self, subject: Subject):
        self.subject = subject
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: subject.create(subject.config, rngs=nnx.Rngs(0))))
        self.state = jax.jit(lambda: nnx.split(subject.create(subject.config, rngs=nnx.Rngs(0)))[1])()
        self.module = nnx.merge(graphdef, self.state)
        self._forward = jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs)[0])

    def program(self, size: int, runs: int, made: list):
        inputs = self.subject.inputs(size)
        lengths = (np.full(size, inputs.shape[1], np.int32),) if self.subject.name == "hubert" else ()
        inputs, lengths = jax.device_put(inputs), jax.device_put(lengths)

        def run():
            for _ in range(runs):
                out = self._forward(self.state, inputs, *lengths)
            made[:] = [np.asarray(out)]

        return run


class Peer:
    """transformers' model, attention by torch's sdpa."""

    def __init__(self, ours: Ours):
        import peer

        from converters import clip, hubert

        self.peer, self.torch, self.subject = peer, peer.torch, ours.subject
        self.model = peer.transformers_encoder(ours.module, hubert if self.subject.name == "hubert" else clip)

    def program(self, size: int, runs: int, made: list):
        inputs = self.subject.inputs(size)
        inputs = np.ascontiguousarray(np.moveaxis(inputs, -1, 1)) if self.subject.name == "clip" else inputs
        dtype = self.peer.DTYPES[self.subject.config.compute_dtype]
        inputs = self.torch.from_numpy(inputs).to(self.peer.DEVICE, dtype)

        def run():
            with self.torch.inference_mode():
                for _ in range(runs):
                    out = self.model(inputs).last_hidden_state
            made[:] = [out.float().cpu().numpy()]

        return run


def best_size(side, sizes: tuple[int, ...]) -> int:
    """The batch that takes least time an input; larger ones are not tried once one is a tenth slower."""
    taken: dict[int, float] = {}
    for size in sizes:
        program = side.program(size, 1, [])
        program()
        start = time.perf_counter()
        program()
        taken[size] = (time.perf_counter() - start) / size
        if taken[size] > 1.1 * min(taken.values()):
            break
    return min(taken, key=taken.get)


def measured(subject: Subject, peak: float, args) -> list[dict]:
    """The rows of one network."""
    ours = Ours(subject)
    sides = {"ours": ours} | ({"peer": Peer(ours)} if args.peer else {})
    sizes = SIZES[:2] if args.smoke else SIZES
    rows = []
    for name in ("batch_1", "best_batch"):
        batch = {who: 1 if name == "batch_1" else best_size(side, sizes) for who, side in sides.items()}
        count = max(batch.values())  # inputs a run, by both
        made: dict[str, list[np.ndarray]] = {who: [] for who in sides}
        programs = {who: side.program(batch[who], count // batch[who], made[who]) for who, side in sides.items()}
        seconds = measure.in_turn(programs, 1 if args.smoke else measure.REPETITIONS)
        facts = {"shape": args.shape, "dtype": subject.config.compute_dtype, "batch": batch["ours"]}
        if args.peer:
            rows_of = min(batch.values())
            one, other = (made[who][0][:rows_of] for who in ("ours", "peer"))
            apart = float(np.linalg.norm(one - other) / np.linalg.norm(other))
            facts |= {"peer_batch": batch["peer"], "apart": float(f"{apart:.2g}")}
            facts["void"] = not apart < APART[subject.config.compute_dtype]
        row = measure.row(f"{subject.name}_{name}", count, subject.unit, seconds, **facts)
        took = count / row["value"]
        row["share_of_matmul"] = round(count * subject.flops / took / peak, 3)
        rows.append(row | measure.utilisation(count * subject.flops, 0.0, took) | measure.device_peak())
    return rows


def classical(smoke: bool) -> list[dict]:
    """The demo's encoders, from media in memory."""
    rng, rows = np.random.default_rng(0), []
    for modality, encoder in build_encoders(EncoderConfig(kind="classical")).items():
        if modality == "audio":
            media = (0.1 * rng.standard_normal(int(SECONDS * encoder.sample_rate))).astype(np.float32)
        else:
            media = rng.integers(0, 255, (8, 256, 256, 3), np.uint8)

        def run(encoder=encoder, media=media):
            encoder.encode([encoder.preprocess(media)])

        seconds = measure.in_turn({"ours": run}, 1 if smoke else measure.REPETITIONS)
        rows.append(measure.row(encoder.name, 1, "utterances/s", seconds))
    return rows


def main(args) -> list[dict]:
    on_cpu = jax.default_backend() == "cpu"
    dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    peak = measure.matmul_peak(dtype, 512 if args.smoke else 1024 if on_cpu else 8192)
    rows = []
    for subject in subjects(args.shape, dtype, args.smoke):
        rows += measured(subject, peak, args)
    return rows + classical(args.smoke)


if __name__ == "__main__":
    measure.report(main(ARGS), ARGS)
