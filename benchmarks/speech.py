"""How fast does StyleTTS 2 speak at its published sizes, beside the original in torch?

python benchmarks/speech.py [--peer torch --torch-repo CHECKOUT] [--model libritts|ljspeech] [--dtype float32|bfloat16]
                            [--smoke] [--record]

CHECKOUT is a clone of github.com/yl4579/StyleTTS2, whose code is run (`styletts2_peer.py` says what it needs); without
one, torch modules of ours stand in (`styletts2_torch.py`, compared with the original's recorded values in tests).
Weights are random and the same on both sides; durations are biased to 3 frames (75 ms) a phoneme, as speech has. Text
becomes symbols before the clock starts, for both. Values are seconds of speech a second; `rtf` is its inverse.

Rows: sentence (one call); sentence_peer_folded (the original after remove_weight_norm: it computes 100 kernels anew in
every call, which we do at conversion; this row is without that gain); paragraph (sentence by sentence, the style
carried over: `first_audio_s` is when the first sentence is there); batch_8 (eight sentences in one call of ours, the
original takes them one by one). The last two run in three turns, the others in five. All our rows say how near their
arithmetic (`empatheia_jax/flops_generators.py`) comes to one large matrix product in the same run; notes of the first
say that of the decoder alone, and where our time and our arithmetic go. `peak_gb` is the process's memory (the device's
on an accelerator) that each program needs for itself, measured in a process of its own.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parents[1]


def _arguments():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share one device
    parser = measure.parser(__doc__)
    parser.add_argument("--torch-repo", type=Path, help="checkout of the original")
    parser.add_argument("--model", choices=("libritts", "ljspeech"), default="libritts")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our decoder")
    parser.add_argument("--memory", choices=("ours", "peer"), help=argparse.SUPPRESS)  # how it calls itself
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    return args


if __name__ == "__main__":
    ARGS = _arguments()

sys.path.insert(0, str(ROOT))
import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from regenerated import drawn  # noqa: E402

from empatheia_jax import flops_generators  # noqa: E402
from empatheia_jax.generators.phonemes import encode, phonemize  # noqa: E402
from empatheia_jax.generators.styletts2.config import StyleTTS2Config  # noqa: E402
from empatheia_jax.generators.styletts2.manner import Manner  # noqa: E402
from empatheia_jax.generators.styletts2.model import StyleTTS2  # noqa: E402
from empatheia_jax.generators.styletts2.script import Script  # noqa: E402
from empatheia_jax.generators.styletts2.stages import SAMPLES_A_FRAME  # noqa: E402
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech  # noqa: E402
from empatheia_jax.states import filled  # noqa: E402
from empatheia_jax.weights import save_weights  # noqa: E402

SENTENCES = (
    "I am so sorry to hear that, it must have been a very hard week for you.",
    "You did everything you could, and that matters.",
    "Would you like to tell me what happened after the call?",
    "Sometimes it helps to take a short walk before you answer her.",
    "I will be here whenever you want to talk about it again.",
    "What do you think she meant when she said that to you?",
    "That sounds wonderful, you must be so proud of him today.",
    "Let us find one small thing that would make tomorrow easier.",
)
STEPS = 5


def draw_weights(folder: Path, kind: str, peer) -> None:
    """The peer's weights through the converter's table; without a peer, drawn to the same scale."""
    config = getattr(StyleTTS2Config, kind)()
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: StyleTTS2(config)))
    if peer is not None:
        save_weights(folder, config, filled(shapes, converted(peer.state_dict(), config, shapes)))
        return
    state = drawn(shapes)
    bias = state["predictor"]["duration_proj"]["linear_layer"]["bias"]
    bias.set_value(np.full(bias.shape, np.log(3 / (config.max_dur - 3)), np.float32))  # 3 frames a phoneme
    save_weights(folder, config, state)


def converted(arrays: dict[str, np.ndarray], config, shapes) -> dict:
    """As `python -m converters styletts2` would read them from a file."""
    from converters import styletts2
    from converters.readers import in_memory
    from converters.rules import fit
    from empatheia_jax.weights import slots

    tensors = in_memory(arrays)
    problems = styletts2.check(config, tensors)
    fits = fit(styletts2.rules(config), slots(shapes), tensors, styletts2.HARMLESS, problems)
    return {one.name: one.read(tensors) for one in fits}


def folded(peer) -> None:
    """Weight norm of the peer computed once and for all, as `remove_weight_norm` of torch does."""
    import torch

    for net in peer.nets.values():
        for module in net.modules():
            if hasattr(module, "weight_g"):
                torch.nn.utils.remove_weight_norm(module)


def _peer(args, device: str):
    from styletts2_peer import Original, StandIn

    if args.torch_repo:
        return Original(args.torch_repo, args.model, device=device)
    return StandIn(args.model, device=device)


def main(args) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        return _rows(args, Path(scratch))


def _rows(args, scratch: Path) -> list[dict]:
    peer = None
    if args.peer:
        peer = _peer(args, "cpu" if jax.devices()[0].platform == "cpu" else "cuda")
    draw_weights(scratch / "weights", args.model, peer)
    ours = StyleTTS2Speech(scratch / "weights", args.dtype)
    count = 2 if args.smoke else len(SENTENCES)
    ids = [encode(phonemize(sentence)) for sentence in SENTENCES[:count]]
    if args.smoke:
        ids = [one[:12] for one in ids]
    reference, their_reference = None, None
    if ours.config.multispeaker:
        reference = 0.1 * np.random.default_rng(0).normal(size=ours.style_dim).astype(np.float32)
        if peer is not None:
            import torch

            their_reference = torch.from_numpy(reference)[None].to(peer.device)
    repetitions = 1 if args.smoke else measure.REPETITIONS
    few = min(3, repetitions)  # of what takes minutes on a CPU
    side = 512 if args.smoke else (2048 if jax.devices()[0].platform == "cpu" else 8192)
    peak = measure.matmul_peak(ours.config.compute_dtype, side)
    common = {"model": args.model, "dtype": args.dtype, "steps": STEPS}
    if peer is not None:
        common["peer"] = "original" if args.torch_repo else "stand-in"

    def program(sentences, batched: bool, spoken: dict):
        """(ours, theirs): both note how much they said."""
        script, manner = Script(tuple(sentences), {}, ()), Manner(steps=STEPS)

        def run():
            start, seconds, flops = time.perf_counter(), 0.0, 0.0
            if batched:
                each = [Script((one,), {}, ()) for one in sentences]
                parts = ours.say(each, None if reference is None else [reference] * len(each), manner)
            else:
                parts = ours.stream(script, reference, manner)
            for number, (one, part) in enumerate(zip(sentences, parts, strict=True)):
                seconds += len(part.audio) / ours.sample_rate
                flops += flops_generators.speech(ours.config, len(one), len(part.audio) / SAMPLES_A_FRAME, STEPS)
                if number == 0:
                    spoken.setdefault("first", []).append(time.perf_counter() - start)
            spoken.setdefault("ours", []).append(seconds)
            spoken.setdefault("flops", []).append(flops)

        def theirs():
            start, seconds = time.perf_counter(), 0.0
            for number, one in enumerate(sentences):
                seconds += len(peer.speak(one, their_reference, STEPS)) / ours.sample_rate
                if number == 0:
                    spoken.setdefault("peer_first", []).append(time.perf_counter() - start)
            spoken.setdefault("peer", []).append(seconds)

        return {"ours": run} | ({"peer": theirs} if peer is not None else {})

    def measured(name: str, sentences, batched=False, **facts) -> dict:
        print(f"{name} ...", file=sys.stderr, flush=True)
        spoken: dict[str, list[float]] = {}
        seconds = measure.in_turn(program(sentences, batched, spoken), repetitions if len(sentences) == 1 else few)
        said = {who: float(np.median(spoken[who])) for who in ("ours", "peer") if who in spoken}
        result = measure.row(name, said["ours"], "s of speech/s", seconds, **common, **facts)
        median = float(np.median(seconds["ours"]))
        result |= {"speech_s": round(said["ours"], 2), "rtf": round(median / said["ours"], 4)}
        flops = float(np.median(spoken["flops"]))
        result |= {"share_of_matmul": round(flops / median / peak, 3)} | measure.utilisation(flops, 0.0, median)
        if "peer" in said:
            theirs = float(np.median(seconds["peer"]))
            # Draws differ, so do durations, a little: each is measured by what it said.
            result["peer_value"] = float(f"{said['peer'] / theirs:.4g}")
            result["ratio_to_peer"] = round(result["ratio_to_peer"] * said["ours"] / said["peer"], 3)
            result["peer_rtf"] = round(theirs / said["peer"], 4)
            result["void"] = abs(said["ours"] / said["peer"] - 1) > 0.1
        if not batched and len(sentences) > 1:
            result["first_audio_s"] = round(float(np.median(spoken["first"][1:])), 3)
            if "peer_first" in spoken:
                result["peer_first_audio_s"] = round(float(np.median(spoken["peer_first"][1:])), 3)
        return result

    rows = [measured("sentence", ids[:1], **where_time_goes(ours, ids[0], reference, peak, args.smoke))]
    rows.append(measured("paragraph", ids[: max(2, count // 2 - 1)]))
    rows.append(measured("batch_8", ids, batched=True))
    if peer is not None:
        folded(peer)
        rows.insert(1, measured("sentence_peer_folded", ids[:1]))
    words = ["--model", args.model, "--dtype", args.dtype, "--weights", str(scratch / "weights")]
    words += ["--smoke"] if args.smoke else []
    words += ["--torch-repo", str(args.torch_repo)] if args.torch_repo else []
    rows[0] |= measure.peaks(words, both=peer is not None)
    return rows


def where_time_goes(ours: StyleTTS2Speech, ids, reference, peak: float, smoke: bool) -> dict:
    """Our time and our arithmetic by stage, and the last stage's against one large matrix product of `peak` FLOP/s."""
    stages, width = ours.stages, ours.config.hidden_dim

    def timed(function) -> tuple[float, object]:
        function()
        times = []
        for _ in range(1 if smoke else 3):
            start = time.perf_counter()
            result = function()
            times.append(time.perf_counter() - start)
        return float(np.median(times)), result

    read_s, contents = timed(lambda: stages.read([ids]))
    near = None if reference is None else [reference]
    draw_s, styles = timed(lambda: stages.draw([contents[0][:, width:]], near, [0], STEPS, 1.0))
    durations_s, durations = timed(lambda: stages.durations(contents, styles))
    whole = [np.maximum(np.round(durations[0]), 1).astype(np.int32)]
    speak_s, waves = timed(lambda: stages.speak(contents, styles, whole, [0]))
    seconds = {"text": read_s, "diffusion": draw_s, "durations": durations_s, "decoder": speak_s}
    parts = flops_generators.speech_parts(ours.config, len(ids), len(waves[0]) / SAMPLES_A_FRAME, STEPS)
    flops = {
        "text": parts["text_encoder"] + parts["plbert"],
        "diffusion": parts["diffusion"],
        "durations": parts["durations"],
        "decoder": parts["curves"] + parts["decoder"] + parts["vocoder"],
    }
    return {
        "phonemes": len(ids),
        "share_of_time": {name: round(one / sum(seconds.values()), 3) for name, one in seconds.items()},
        "gflop": {name: round(one / 1e9, 2) for name, one in flops.items()},
        "decoder_share_of_matmul": round(flops["decoder"] / speak_s / peak, 3),
    }


def speak_once(args) -> None:
    """A sentence by one program (`--memory`)."""
    ids = encode(phonemize(SENTENCES[0]))[: 12 if args.smoke else None]
    reference = np.zeros(256, np.float32) if args.model == "libritts" else None
    if args.memory == "ours":
        ours = StyleTTS2Speech(args.weights, args.dtype)
        ours.synthesize(Script((ids,), {}, ()), reference)
    else:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        peer = _peer(args, device)
        near = None if reference is None else torch.from_numpy(reference)[None].to(device)
        peer.speak(ids, near, STEPS)


if __name__ == "__main__":
    if ARGS.memory:
        speak_once(ARGS)
        measure.print_peak(ARGS.memory)
    else:
        measure.report(main(ARGS), ARGS)
