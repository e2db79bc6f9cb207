"""How fast does DreamTalk move and draw a face at its published sizes, beside the original in torch?

python benchmarks/face.py [--peer torch --torch-repo CHECKOUT] [--seconds 5] [--smoke] [--record]

CHECKOUT is a clone of github.com/ali-vilab/dreamtalk, whose code is run (`dreamtalk_peer.py` says what it needs).
Weights are regenerated from the names of the published tensors, the same on both sides, and so are the inputs. Values
are frames a second.

Rows: motion (audio features and a style clip to expressions, DDIM in 10 steps, as the published script asks: guidance
at scale 1; the original makes the pass without style and encodes content and style in every step, we do neither);
motion_guided (ours at scale 2, so with both passes: the gain that is left when only the encoding is skipped; the
original's work is the same as before); render (a chunk of frames through the renderer; 22 of the original's 123 GFLOP a
frame have no effect and are skipped here: `ratio_equal_work` is without that). Notes say how near to one large matrix
product the rendering comes, and `apart`, the largest difference of the two pictures.
"""

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
    args = parser.parse_args()
    if args.peer and not args.torch_repo:
        parser.error("--peer torch needs --torch-repo: a clone of github.com/ali-vilab/dreamtalk")
    return args


if __name__ == "__main__":
    ARGS = _arguments()

sys.path.insert(0, str(ROOT))
import jax  # noqa: E402
import numpy as np  # noqa: E402
from regenerated import tensors  # noqa: E402

from converters.dreamtalk import PARTS  # noqa: E402
from converters.readers import in_memory  # noqa: E402
from converters.rules import fit  # noqa: E402
from converters.source import network_of  # noqa: E402
from empatheia_jax.generators.dreamtalk.content_encoder import window_rows  # noqa: E402
from empatheia_jax.generators.dreamtalk.motion import motion_of, window_index  # noqa: E402
from empatheia_jax.generators.dreamtalk.networks import RENDER_CHUNK, Networks  # noqa: E402
from empatheia_jax.states import filled  # noqa: E402
from empatheia_jax.weights import save_weights, slots  # noqa: E402

GFLOP_A_FRAME, GFLOP_WITHOUT_EFFECT = 123.0, 22.0  # of the original's renderer


def write(folder: Path) -> None:
    """The denoiser and the renderer as `python -m converters dreamtalk` writes them."""
    for name in ("denoiser", "renderer"):
        table = PARTS[name]
        read = in_memory(tensors(table.MANIFEST))
        shapes = network_of(table.NETWORK, table.CONFIG)[1]
        fits = fit(table.rules(table.CONFIG), slots(shapes), read, table.HARMLESS, table.check(table.CONFIG, read))
        save_weights(folder / name, table.CONFIG, filled(shapes, {one.name: one.read(read) for one in fits}))


def main(args) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))
        return _rows(args, Path(scratch))


def _rows(args, weights: Path) -> list[dict]:
    peer = None
    if args.peer:
        from dreamtalk_peer import Original

        peer = Original(args.torch_repo, "cpu" if jax.devices()[0].platform == "cpu" else "cuda")
    rng = np.random.default_rng(0)
    frames = 10 if args.smoke else int(25 * args.seconds)
    rows = rng.normal(size=(2 * frames, 1024)).astype(np.float32)
    clip = 0.3 * rng.normal(size=(94, 64)).astype(np.float32)
    portrait = rng.integers(0, 255, (256, 256, 3), np.uint8)
    windows = rows[np.maximum(window_rows(len(rows), 11), 0)]
    count = 1 if args.smoke else RENDER_CHUNK
    moved = motion_of(0.3 * rng.normal(size=(count, 64)))
    repetitions = 1 if args.smoke else measure.REPETITIONS
    found = []

    def motion(networks):
        networks.motion(networks.content(rows, frames), networks.style(clip))

    for name, scale in (("motion", 1.0), ("motion_guided", 2.0)):
        networks = Networks(weights, scale=scale)
        programs = {"ours": lambda networks=networks: motion(networks)}
        if peer is not None:
            programs["peer"] = lambda: peer.motion(windows, clip)
        print(f"{name} ...", file=sys.stderr, flush=True)
        seconds = measure.in_turn(programs, repetitions)
        found.append(measure.row(name, frames, "frames/s", seconds, frames=frames, steps=10, scale=scale))

    networks, pictures = Networks(weights), {}
    programs = {"ours": lambda: pictures.update(ours=np.stack(list(networks.render(portrait, moved))))}
    if peer is not None:
        programs["peer"] = lambda: pictures.update(peer=peer.render(portrait, moved[window_index(count)]))
    print("render ...", file=sys.stderr, flush=True)
    seconds = measure.in_turn(programs, repetitions)
    median = float(np.median(seconds["ours"]))
    useful = (GFLOP_A_FRAME - GFLOP_WITHOUT_EFFECT) * 1e9
    chunk = -(-count // RENDER_CHUNK) * RENDER_CHUNK
    side = 512 if args.smoke else (2048 if jax.devices()[0].platform == "cpu" else 8192)
    share = chunk * useful / median / measure.matmul_peak("float32", side)
    facts = {"frames": count, "share_of_matmul": round(share, 3)}
    row = measure.row("render", count, "frames/s", seconds, **facts)
    if peer is not None:
        theirs = ((np.clip(pictures["peer"], -1, 1) + 1) / 2 * 255).astype(np.uint8)
        row["apart"] = int(np.abs(pictures["ours"].astype(int) - theirs).max())
        row["ratio_equal_work"] = round(row["ratio_to_peer"] * (1 - GFLOP_WITHOUT_EFFECT / GFLOP_A_FRAME), 3)
    return [*found, row]


if __name__ == "__main__":
    measure.report(main(ARGS), ARGS)
