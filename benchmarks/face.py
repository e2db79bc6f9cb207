"""Measure DreamTalk's expression sampling and rendering at its published sizes, beside the original in torch.

python benchmarks/face.py [--peer torch --torch-repo CHECKOUT] [--seconds 5] [--whole 2] [--smoke] [--record]

CHECKOUT is a clone of github.com/ali-vilab/dreamtalk, whose code is imported (`dreamtalk_peer.py` lists what it needs).
Weights are regenerated from the names of the published tensors; weights and inputs are the same on both sides. Values
are frames a second.

Rows: motion (audio features and a style clip to expressions, DDIM in 10 steps and guidance at scale 1 as in the
published script; the original runs the pass without style and encodes content and style in every step, we do neither);
motion_guided (ours at scale 2, thus with both passes: only the encoding is saved; the original's work is the same as
before); render (a chunk of frames through the renderer; 22 of the original's 123 GFLOP a frame have no effect and are
skipped here: `ratio_equal_work` is corrected for that); whole (from `--whole` seconds of sound through wav2vec 2.0,
which the peer takes from transformers with random weights, to frames in memory; `rtf` is seconds of work a second of
video). All our rows have our FLOP/s (`planning/generator_flops.py`, wav2vec 2.0's as HuBERT's) relative to one large
matrix product in the same run. `apart` is the largest difference of the two renderings, `peak_gb` the memory (the
device's on an accelerator) that `whole` needs, measured in a process of its own.
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


def _parse_arguments():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share one device
    parser = measure.build_parser(__doc__)
    parser.add_argument("--torch-repo", type=Path, help="checkout of the original")
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech to animate")
    parser.add_argument("--whole", type=float, default=2.0, help="seconds of speech for the row whole")
    parser.add_argument(
        "--memory", choices=("ours", "peer"), help=argparse.SUPPRESS
    )  # for the process that measures memory
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer and not args.torch_repo:
        parser.error("--peer torch needs --torch-repo: a clone of github.com/ali-vilab/dreamtalk")
    return args


if __name__ == "__main__":
    ARGS = _parse_arguments()

sys.path.insert(0, str(ROOT))
import jax  # noqa: E402
import numpy as np  # noqa: E402
from regenerated import draw_parameters, make_tensors, read_manifest  # noqa: E402

from converters import speech_encoders  # noqa: E402
from converters.dreamtalk import PARTS  # noqa: E402
from converters.tensors import wrap_arrays  # noqa: E402
from empatheia_jax.checkpoints.named_arrays import with_arrays  # noqa: E402
from empatheia_jax.checkpoints.weights import save_weights  # noqa: E402
from empatheia_jax.generators.dreamtalk.encoders import audio_window_index  # noqa: E402
from empatheia_jax.generators.dreamtalk.motion import build_motion, window_index  # noqa: E402
from empatheia_jax.generators.dreamtalk.networks import RENDER_CHUNK, Networks  # noqa: E402
from empatheia_jax.planning import flops, generator_flops  # noqa: E402

GFLOP_A_FRAME, GFLOP_WITHOUT_EFFECT = 123.0, 22.0  # of the original's renderer
STEPS = 10  # of DDIM


def write_weights(folder: Path) -> None:
    """Write denoiser, renderer and wav2vec 2.0 as `python -m converters dreamtalk` does."""
    for name in ("denoiser", "renderer"):
        table = PARTS[name]
        checkpoint = wrap_arrays(make_tensors(table.manifest))
        shapes, fits = table.family.parameters(table.config), table.family.fit(table.config, checkpoint)
        save_weights(
            folder / name, table.config, with_arrays(shapes, {entry.name: entry.read(checkpoint) for entry in fits})
        )
    config = audio_encoder_config()
    save_weights(folder / "wav2vec", config, draw_parameters(speech_encoders.WAV2VEC2.parameters(config)))


def audio_encoder_config():
    """Return the config of the published wav2vec 2.0."""
    return speech_encoders.WAV2VEC2.parse_config(read_manifest("wav2vec2_xlsr53")["config"], None)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Random inputs, the same for both programs."""

    frames: int  # of the expression
    seconds: float  # of `waveform`
    rng: np.random.Generator = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    @classmethod
    def from_arguments(cls, args) -> "Inputs":
        """Return inputs of the lengths that the flags ask for."""
        return cls(10, 0.4) if args.smoke else cls(int(25 * args.seconds), args.whole)

    @functools.cached_property
    def audio_features(self) -> np.ndarray:
        """float32 [2F, 1024], one each 20 ms."""
        return self.rng.normal(size=(2 * self.frames, 1024)).astype(np.float32)

    @functools.cached_property
    def style_clip(self) -> np.ndarray:
        """Expression coefficients float [94, 64]."""
        return 0.3 * self.rng.normal(size=(94, 64)).astype(np.float32)

    @functools.cached_property
    def portrait(self) -> np.ndarray:
        """uint8 [256, 256, 3]."""
        return self.rng.integers(0, 255, (256, 256, 3), np.uint8)

    @functools.cached_property
    def waveform(self) -> np.ndarray:
        """[samples] at 16 kHz: two features of 20 ms a frame, and the 5 ms more that the last one needs."""
        return 0.1 * self.rng.normal(size=int(16_000 * self.seconds) + 80).astype(np.float32)


def render_speech(networks: Networks, inputs: Inputs) -> int:
    """Render frames from waveform, style clip and portrait by our networks; return their number."""
    features = networks.audio_features(inputs.waveform)
    expression = networks.sample_expression(
        networks.content(features, len(features) // 2), networks.style(inputs.style_clip)
    )
    return sum(1 for _ in networks.render(inputs.portrait, build_motion(expression)))


def render_speech_by_peer(peer, inputs: Inputs) -> int:
    """Do the same by the original's networks, in its batches of 16 frames."""
    features = peer.audio_features(inputs.waveform)
    audio_windows = features[np.maximum(audio_window_index(len(features), 11), 0)]
    motion = build_motion(peer.sample_expression(audio_windows, inputs.style_clip))
    windows = motion[window_index(len(motion))]
    return sum(len(peer.render(inputs.portrait, windows[start : start + 16])) for start in range(0, len(windows), 16))


def render_once(args) -> None:
    """Render speech once by the program that `--memory` names."""
    if args.memory == "ours":
        render_speech(Networks(args.weights), Inputs.from_arguments(args))
    else:
        render_speech_by_peer(_load_peer(args), Inputs.from_arguments(args))


def _load_peer(args):
    from dreamtalk_peer import Original

    return Original(args.torch_repo, "cpu" if jax.devices()[0].platform == "cpu" else "cuda")


def main(args) -> list[dict]:
    """Return all rows."""
    with tempfile.TemporaryDirectory() as scratch:
        write_weights(Path(scratch))
        return _measure(args, Path(scratch))


def _measure(args, weights: Path) -> list[dict]:
    peer = _load_peer(args) if args.peer else None
    inputs = Inputs.from_arguments(args)
    frames, features, clip, portrait = inputs.frames, inputs.audio_features, inputs.style_clip, inputs.portrait
    windows = features[np.maximum(audio_window_index(len(features), 11), 0)]
    count = 1 if args.smoke else RENDER_CHUNK
    motion = build_motion(0.3 * inputs.rng.normal(size=(count, 64)))
    repetitions = 1 if args.smoke else measure.REPETITIONS
    side = 512 if args.smoke else (2048 if jax.devices()[0].platform == "cpu" else 8192)
    peak = measure.matmul_peak("float32", side)
    rows = []

    def utilisation(work: float, seconds: dict[str, list[float]]) -> dict:
        median = float(np.median(seconds["ours"]))
        return {"share_of_matmul": round(work / median / peak, 3)} | measure.utilisation(work, 0.0, median)

    def sample_expression(networks):
        networks.sample_expression(networks.content(features, frames), networks.style(clip))

    for name, scale in (("motion", 1.0), ("motion_guided", 2.0)):
        networks = Networks(weights, steps=STEPS, scale=scale)
        programs = {"ours": lambda networks=networks: sample_expression(networks)} | (
            {"peer": lambda: peer.sample_expression(windows, clip)} if peer is not None else {}
        )
        print(f"{name} ...", file=sys.stderr, flush=True)
        seconds = measure.time_in_turn(programs, repetitions)
        row = measure.rate_row(name, frames, "frames/s", seconds, frames=frames, steps=STEPS, scale=scale)
        work = generator_flops.motion(networks.config, frames, STEPS, guided=scale != 1)
        rows.append(row | utilisation(work, seconds))

    networks, renderings = Networks(weights, steps=STEPS), {}
    programs = {"ours": lambda: renderings.update(ours=np.stack(list(networks.render(portrait, motion))))}
    if peer is not None:
        programs["peer"] = lambda: renderings.update(peer=peer.render(portrait, motion[window_index(count)]))
    print("render ...", file=sys.stderr, flush=True)
    seconds = measure.time_in_turn(programs, repetitions)
    row = measure.rate_row("render", count, "frames/s", seconds, frames=count)
    row |= utilisation(generator_flops.render(networks.renderer_config, count), seconds)
    if peer is not None:
        expected = ((np.clip(renderings["peer"], -1, 1) + 1) / 2 * 255).astype(np.uint8)
        row["apart"] = int(np.abs(renderings["ours"].astype(int) - expected).max())
        row["ratio_equal_work"] = round(row["ratio_to_peer"] * (1 - GFLOP_WITHOUT_EFFECT / GFLOP_A_FRAME), 3)
    rows.append(row)

    num_frames = {}
    programs = {"ours": lambda: num_frames.update(ours=render_speech(networks, inputs))}
    if peer is not None:
        programs["peer"] = lambda: num_frames.update(peer=render_speech_by_peer(peer, inputs))
    print("whole ...", file=sys.stderr, flush=True)
    seconds = measure.time_in_turn(programs, min(3, repetitions))
    row = measure.rate_row("whole", num_frames["ours"], "frames/s", seconds, frames=num_frames["ours"])
    row["rtf"] = round(25 / row["value"], 3)
    work = flops.hubert(audio_encoder_config(), len(inputs.waveform))
    work += generator_flops.motion(networks.config, num_frames["ours"], STEPS)
    row |= utilisation(work + generator_flops.render(networks.renderer_config, num_frames["ours"]), seconds)
    if peer is not None:
        row |= {"peer_rtf": round(25 / row["peer_value"], 3), "void": num_frames["ours"] != num_frames["peer"]}
    arguments = ["--weights", str(weights), "--whole", str(args.whole)]
    arguments += ["--smoke"] if args.smoke else []
    arguments += ["--torch-repo", str(args.torch_repo)] if args.torch_repo else []
    return [*rows, row | measure.measure_peaks(arguments, both=peer is not None)]


if __name__ == "__main__":
    if ARGS.memory:
        render_once(ARGS)
        measure.print_peak(ARGS.memory)
    else:
        measure.report(main(ARGS), ARGS)
