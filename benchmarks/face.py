"""How fast does DreamTalk move and draw a face at its published sizes, beside the original in torch?

python benchmarks/face.py [--peer torch --torch-repo CHECKOUT] [--seconds 5] [--whole 2] [--smoke] [--record]

CHECKOUT is a clone of github.com/ali-vilab/dreamtalk, whose code is run (`dreamtalk_peer.py` says what it needs).
Weights are regenerated from the names of the published tensors, the same on both sides, and so are the inputs. Values
are frames a second.

Rows: motion (audio features and a style clip to expressions, DDIM in 10 steps, as the published script asks: guidance
at scale 1; the original makes the pass without style and encodes content and style in every step, we do neither);
motion_guided (ours at scale 2, so with both passes: the gain that is left when only the encoding is skipped; the
original's work is the same as before); render (a chunk of frames through the renderer; 22 of the original's 123 GFLOP a
frame have no effect and are skipped here: `ratio_equal_work` is without that); whole (from `--whole` seconds of sound
through wav2vec 2.0, which is transformers' on the other side with weights of its own, to frames in memory; `rtf` is
seconds of work a second of video). All our rows say how near their arithmetic (`empatheia_jax/flops_generators.py`,
wav2vec 2.0's as HuBERT's) comes to one large matrix product in the same run. Notes say `apart`, the largest difference
of the two pictures, and `peak_gb`, the memory (the device's on an accelerator) that the whole needs, measured in a
process of its own.
"""

import argparse
import dataclasses
import functools
import os
import sys
import tempfile
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parents[1]


def _arguments():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share one device
    parser = measure.parser(__doc__)
    parser.add_argument("--torch-repo", type=Path, help="checkout of the original")
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech to move to")
    parser.add_argument("--whole", type=float, default=2.0, help="seconds of speech from sound to frames")
    parser.add_argument("--memory", choices=("ours", "peer"), help=argparse.SUPPRESS)  # how it calls itself
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer and not args.torch_repo:
        parser.error("--peer torch needs --torch-repo: a clone of github.com/ali-vilab/dreamtalk")
    return args


if __name__ == "__main__":
    ARGS = _arguments()

sys.path.insert(0, str(ROOT))
import jax  # noqa: E402
import numpy as np  # noqa: E402
from regenerated import drawn, manifest, tensors  # noqa: E402

from converters import wav2vec2  # noqa: E402
from converters.dreamtalk import PARTS  # noqa: E402
from converters.readers import in_memory  # noqa: E402
from converters.rules import fit  # noqa: E402
from converters.source import network_of  # noqa: E402
from empatheia_jax import flops, flops_generators  # noqa: E402
from empatheia_jax.generators.dreamtalk.content_encoder import window_rows  # noqa: E402
from empatheia_jax.generators.dreamtalk.motion import motion_of, window_index  # noqa: E402
from empatheia_jax.generators.dreamtalk.networks import RENDER_CHUNK, Networks  # noqa: E402
from empatheia_jax.states import filled  # noqa: E402
from empatheia_jax.weights import save_weights, slots  # noqa: E402

GFLOP_A_FRAME, GFLOP_WITHOUT_EFFECT = 123.0, 22.0  # of the original's renderer
STEPS = 10  # of DDIM


def write(folder: Path) -> None:
    """The denoiser, the renderer and wav2vec 2.0 as `python -m converters dreamtalk` writes them."""
    for name in ("denoiser", "renderer"):
        table = PARTS[name]
        read = in_memory(tensors(table.MANIFEST))
        shapes = network_of(table.NETWORK, table.CONFIG)[1]
        fits = fit(table.rules(table.CONFIG), slots(shapes), read, table.HARMLESS, table.check(table.CONFIG, read))
        save_weights(folder / name, table.CONFIG, filled(shapes, {one.name: one.read(read) for one in fits}))
    hearing = hearing_config()
    save_weights(folder / "wav2vec", hearing, drawn(network_of(wav2vec2.NETWORK, hearing)[1]))


def hearing_config():
    """Sizes of wav2vec 2.0."""
    return wav2vec2.config_of(manifest("wav2vec2_xlsr53")["config"], None)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What both programs are given."""

    frames: int  # of motion
    seconds: float  # of `sound`
    rng: np.random.Generator = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    @classmethod
    def of(cls, args) -> "Inputs":
        return cls(10, 0.4) if args.smoke else cls(int(25 * args.seconds), args.whole)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        return self.rng.normal(size=(2 * self.frames, 1024)).astype(np.float32)

    @functools.cached_property
    def clip(self) -> np.ndarray:
        return 0.3 * self.rng.normal(size=(94, 64)).astype(np.float32)

    @functools.cached_property
    def portrait(self) -> np.ndarray:
        return self.rng.integers(0, 255, (256, 256, 3), np.uint8)

    @functools.cached_property
    def sound(self) -> np.ndarray:
        """At 16 kHz; two rows of 20 ms a frame, and the 5 ms that the last needs."""
        return 0.1 * self.rng.normal(size=int(16_000 * self.seconds) + 80).astype(np.float32)


def whole(networks: Networks, given: Inputs) -> int:
    """Sound, style clip and portrait to frames, by our networks: how many."""
    rows = networks.hear(given.sound)
    motion = networks.motion(networks.content(rows, len(rows) // 2), networks.style(given.clip))
    return sum(1 for _ in networks.render(given.portrait, motion_of(motion)))


def their_whole(peer, given: Inputs) -> int:
    """The same by the original's, in its batches of 16 frames."""
    rows = peer.hear(given.sound)
    motion = motion_of(peer.motion(rows[np.maximum(window_rows(len(rows), 11), 0)], given.clip))
    windows = motion[window_index(len(motion))]
    return sum(len(peer.render(given.portrait, windows[start : start + 16])) for start in range(0, len(windows), 16))


def once(args) -> None:
    """The whole by one program (`--memory`)."""
    if args.memory == "ours":
        whole(Networks(args.weights), Inputs.of(args))
    else:
        their_whole(_peer(args), Inputs.of(args))


def _peer(args):
    from dreamtalk_peer import Original

    return Original(args.torch_repo, "cpu" if jax.devices()[0].platform == "cpu" else "cuda")


def main(args) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))
        return _rows(args, Path(scratch))


def _rows(args, weights: Path) -> list[dict]:
    peer = _peer(args) if args.peer else None
    given = Inputs.of(args)
    frames, rows, clip, portrait = given.frames, given.rows, given.clip, given.portrait
    windows = rows[np.maximum(window_rows(len(rows), 11), 0)]
    count = 1 if args.smoke else RENDER_CHUNK
    moved = motion_of(0.3 * given.rng.normal(size=(count, 64)))
    repetitions = 1 if args.smoke else measure.REPETITIONS
    side = 512 if args.smoke else (2048 if jax.devices()[0].platform == "cpu" else 8192)
    peak = measure.matmul_peak("float32", side)
    found = []

    def used(work: float, seconds: dict[str, list[float]]) -> dict:
        median = float(np.median(seconds["ours"]))
        return {"share_of_matmul": round(work / median / peak, 3)} | measure.utilisation(work, 0.0, median)

    def motion(networks):
        networks.motion(networks.content(rows, frames), networks.style(clip))

    for name, scale in (("motion", 1.0), ("motion_guided", 2.0)):
        networks = Networks(weights, steps=STEPS, scale=scale)
        programs = {"ours": lambda networks=networks: motion(networks)}
        if peer is not None:
            programs["peer"] = lambda: peer.motion(windows, clip)
        print(f"{name} ...", file=sys.stderr, flush=True)
        seconds = measure.in_turn(programs, repetitions)
        row = measure.row(name, frames, "frames/s", seconds, frames=frames, steps=STEPS, scale=scale)
        work = flops_generators.motion(networks.config, frames, STEPS, guided=scale != 1)
        found.append(row | used(work, seconds))

    networks, pictures = Networks(weights, steps=STEPS), {}
    programs = {"ours": lambda: pictures.update(ours=np.stack(list(networks.render(portrait, moved))))}
    if peer is not None:
        programs["peer"] = lambda: pictures.update(peer=peer.render(portrait, moved[window_index(count)]))
    print("render ...", file=sys.stderr, flush=True)
    seconds = measure.in_turn(programs, repetitions)
    row = measure.row("render", count, "frames/s", seconds, frames=count)
    row |= used(flops_generators.render(networks.renderer_config, count), seconds)
    if peer is not None:
        theirs = ((np.clip(pictures["peer"], -1, 1) + 1) / 2 * 255).astype(np.uint8)
        row["apart"] = int(np.abs(pictures["ours"].astype(int) - theirs).max())
        row["ratio_equal_work"] = round(row["ratio_to_peer"] * (1 - GFLOP_WITHOUT_EFFECT / GFLOP_A_FRAME), 3)
    found.append(row)

    made = {}
    programs = {"ours": lambda: made.update(ours=whole(networks, given))}
    if peer is not None:
        programs["peer"] = lambda: made.update(peer=their_whole(peer, given))
    print("whole ...", file=sys.stderr, flush=True)
    seconds = measure.in_turn(programs, min(3, repetitions))
    row = measure.row("whole", made["ours"], "frames/s", seconds, frames=made["ours"])
    row["rtf"] = round(25 / row["value"], 3)
    work = flops.hubert(hearing_config(), len(given.sound))
    work += flops_generators.motion(networks.config, made["ours"], STEPS)
    row |= used(work + flops_generators.render(networks.renderer_config, made["ours"]), seconds)
    if peer is not None:
        row |= {"peer_rtf": round(25 / row["peer_value"], 3), "void": made["ours"] != made["peer"]}
    words = ["--weights", str(weights), "--whole", str(args.whole)]
    words += ["--smoke"] if args.smoke else []
    words += ["--torch-repo", str(args.torch_repo)] if args.torch_repo else []
    return [*found, row | measure.peaks(words, both=peer is not None)]


if __name__ == "__main__":
    if ARGS.memory:
        once(ARGS)
        measure.print_peak(ARGS.memory)
    else:
        measure.report(main(ARGS), ARGS)
