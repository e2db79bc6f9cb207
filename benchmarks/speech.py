"""Measure StyleTTS 2's synthesis at its published sizes, beside the original in torch.

python benchmarks/speech.py [--peer torch --torch-repo CHECKOUT] [--model libritts|ljspeech] [--dtype float32|bfloat16]
                            [--smoke] [--record]

CHECKOUT is a clone of github.com/yl4579/StyleTTS2, whose code is imported (`styletts2_peer.py` lists what it needs);
without one, our own torch modules take its place (`styletts2_torch.py`, compared with the original's recorded values in
tests). Weights are random and the same on both sides; durations are biased to 3 frames (75 ms) a phoneme, as in speech.
Text is converted to symbols before the clock starts, for both. Values are seconds of speech a second; `rtf` is the
inverse.

Rows: sentence (one call); sentence_peer_folded (the original after remove_weight_norm: it computes 100 kernels anew in
every call, which we do at conversion; this row is without that gain); paragraph (sentence by sentence, the style
carried over; `first_audio_s` is the time to the first sentence); batch_8 (eight sentences in one call of ours, one by
one in the original). The last two run in three turns, the others in five. All our rows have our FLOP/s
(`planning/generator_flops.py`) relative to one large matrix product in the same run; the first row also has those
of the decoder alone, and the shares of time and FLOPs by part. `peak_gb` is the memory (the device's on an accelerator)
that each program needs, measured in a process of its own.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parents[1]


def _parse_arguments():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two programs share one device
    parser = measure.build_parser(__doc__)
    parser.add_argument("--torch-repo", type=Path, help="checkout of the original")
    parser.add_argument("--model", choices=("libritts", "ljspeech"), default="libritts")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our decoder")
    parser.add_argument(
        "--memory", choices=("ours", "peer"), help=argparse.SUPPRESS
    )  # for the process that measures memory
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = _parse_arguments()

sys.path.insert(0, str(ROOT))
import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from regenerated import draw_parameters  # noqa: E402

from empatheia_jax.checkpoints.named_arrays import with_arrays  # noqa: E402
from empatheia_jax.checkpoints.weights import save_weights  # noqa: E402
from empatheia_jax.generators.phonemes import encode, phonemize  # noqa: E402
from empatheia_jax.generators.styletts2.config import SAMPLES_PER_FRAME, StyleTTS2Config, SynthesisOptions  # noqa: E402
from empatheia_jax.generators.styletts2.model import StyleTTS2  # noqa: E402
from empatheia_jax.generators.styletts2.text import PhonemizedText  # noqa: E402
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech  # noqa: E402
from empatheia_jax.planning import generator_flops  # noqa: E402

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


def write_weights(folder: Path, kind: str, peer) -> None:
    """Write the peer's weights through the converter's table; without a peer, random weights of the same scale."""
    config = getattr(StyleTTS2Config, kind)()
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: StyleTTS2(config)))
    if peer is not None:
        save_weights(folder, config, with_arrays(shapes, convert_arrays(peer.state_dict(), config)))
        return
    state = draw_parameters(shapes)
    bias = dict(nnx.to_flat_state(state))["predictor", "duration_proj", "linear_layer", "bias"]
    bias.set_value(np.full(bias.shape, np.log(3 / (config.max_dur - 3)), np.float32))  # 3 frames a phoneme
    save_weights(folder, config, state)


def convert_arrays(arrays: dict[str, np.ndarray], config) -> dict:
    """Convert the peer's state dict as `python -m converters styletts2` converts a file."""
    from converters import styletts2
    from converters.tensors import wrap_arrays

    tensors = wrap_arrays(arrays)
    return {entry.name: entry.read(tensors) for entry in styletts2.FAMILY.fit(config, tensors)}


def fold_weight_norm(peer) -> None:
    """Replace the peer's weight norms by plain kernels."""
    import torch

    for net in peer.nets.values():
        for module in net.modules():
            if hasattr(module, "weight_g"):
                torch.nn.utils.remove_weight_norm(module)


def _load_peer(args, device: str):
    from styletts2_peer import Original, StandIn

    if args.torch_repo:
        return Original(args.torch_repo, args.model, device=device)
    return StandIn(args.model, device=device)


def main(args) -> list[dict]:
    """Return all rows."""
    with tempfile.TemporaryDirectory() as scratch:
        return _measure(args, Path(scratch))


def _measure(args, scratch: Path) -> list[dict]:
    peer = _load_peer(args, "cpu" if jax.devices()[0].platform == "cpu" else "cuda") if args.peer else None
    write_weights(scratch / "weights", args.model, peer)
    generator = StyleTTS2Speech(scratch / "weights", args.dtype)
    count = 2 if args.smoke else len(SENTENCES)
    ids = [encode(phonemize(sentence)) for sentence in SENTENCES[:count]]
    if args.smoke:
        ids = [sentence[:12] for sentence in ids]
    reference, peer_reference = None, None
    if generator.config.multispeaker:
        reference = 0.1 * np.random.default_rng(0).normal(size=generator.style_dim).astype(np.float32)
        if peer is not None:
            import torch

            peer_reference = torch.from_numpy(reference)[None].to(peer.device)
    repetitions = 1 if args.smoke else measure.REPETITIONS
    few = min(3, repetitions)  # for rows that take minutes on a CPU
    side = 512 if args.smoke else (2048 if jax.devices()[0].platform == "cpu" else 8192)
    peak = measure.matmul_peak(generator.config.compute_dtype, side)
    common = {"model": args.model, "dtype": args.dtype, "steps": STEPS}
    if peer is not None:
        common["peer"] = "original" if args.torch_repo else "stand-in"

    def make_programs(sentences, batched: bool, log: dict):
        """Return the programs to time; each appends to `log` the seconds of speech that it synthesized."""
        text, options = PhonemizedText(tuple(sentences), {}, ()), SynthesisOptions(steps=STEPS)

        def run():
            start, seconds, flops = time.perf_counter(), 0.0, 0.0
            if batched:
                texts = [PhonemizedText((sentence,), {}, ()) for sentence in sentences]
                parts = generator.synthesize_many(
                    texts, None if reference is None else [reference] * len(texts), options
                )
            else:
                parts = generator.stream(text, reference, options)
            for number, (sentence, part) in enumerate(zip(sentences, parts, strict=True)):
                seconds += len(part.audio) / generator.sample_rate
                flops += generator_flops.speech(
                    generator.config, len(sentence), len(part.audio) / SAMPLES_PER_FRAME, STEPS
                )
                if number == 0:
                    log.setdefault("first", []).append(time.perf_counter() - start)
            log.setdefault("ours", []).append(seconds)
            log.setdefault("flops", []).append(flops)

        def run_peer(peer):
            start, seconds = time.perf_counter(), 0.0
            for number, sentence in enumerate(sentences):
                seconds += len(peer.speak(sentence, peer_reference, STEPS)) / generator.sample_rate
                if number == 0:
                    log.setdefault("peer_first", []).append(time.perf_counter() - start)
            log.setdefault("peer", []).append(seconds)

        return {"ours": run} | ({"peer": lambda: run_peer(peer)} if peer is not None else {})

    def measure_row(name: str, sentences, batched=False, **facts) -> dict:
        print(f"{name} ...", file=sys.stderr, flush=True)
        log: dict[str, list[float]] = {}
        seconds = measure.time_in_turn(
            make_programs(sentences, batched, log), repetitions if len(sentences) == 1 else few
        )
        speech_s = {who: float(np.median(log[who])) for who in ("ours", "peer") if who in log}
        result = measure.rate_row(name, speech_s["ours"], "s of speech/s", seconds, **common, **facts)
        median = float(np.median(seconds["ours"]))
        result |= {"speech_s": round(speech_s["ours"], 2), "rtf": round(median / speech_s["ours"], 4)}
        flops = float(np.median(log["flops"]))
        result |= {"share_of_matmul": round(flops / median / peak, 3)} | measure.utilisation(flops, 0.0, median)
        if "peer" in speech_s:
            peer_median = float(np.median(seconds["peer"]))
            # Styles are sampled, so durations differ a little: each is measured by the seconds of its own speech.
            result["peer_value"] = float(f"{speech_s['peer'] / peer_median:.4g}")
            result["ratio_to_peer"] = round(result["ratio_to_peer"] * speech_s["ours"] / speech_s["peer"], 3)
            result["peer_rtf"] = round(peer_median / speech_s["peer"], 4)
            result["void"] = abs(speech_s["ours"] / speech_s["peer"] - 1) > 0.1
        if not batched and len(sentences) > 1:
            result["first_audio_s"] = round(float(np.median(log["first"][1:])), 3)
            if "peer_first" in log:
                result["peer_first_audio_s"] = round(float(np.median(log["peer_first"][1:])), 3)
        return result

    rows = [
        measure_row("sentence", ids[:1], **profile_parts(generator, ids[0], reference, peak=peak, smoke=args.smoke))
    ]
    rows.append(measure_row("paragraph", ids[: max(2, count // 2 - 1)]))
    rows.append(measure_row("batch_8", ids, batched=True))
    if peer is not None:
        fold_weight_norm(peer)
        rows.insert(1, measure_row("sentence_peer_folded", ids[:1]))
    arguments = ["--model", args.model, "--dtype", args.dtype, "--weights", str(scratch / "weights")]
    arguments += ["--smoke"] if args.smoke else []
    arguments += ["--torch-repo", str(args.torch_repo)] if args.torch_repo else []
    rows[0] |= measure.measure_peaks(arguments, both=peer is not None)
    return rows


def profile_parts(generator: StyleTTS2Speech, ids, reference, *, peak: float, smoke: bool) -> dict:
    """Return our time and FLOPs by part, and the decoder's FLOP/s relative to `peak`, those of a matrix product."""
    networks, width = generator.networks, generator.config.hidden_dim

    def measure_seconds(function) -> tuple[float, list[np.ndarray]]:
        function()
        times = []
        for _ in range(1 if smoke else 3):
            start = time.perf_counter()
            result = function()
            times.append(time.perf_counter() - start)
        return float(np.median(times)), result

    text_s, contents = measure_seconds(lambda: networks.encode_text([ids]))
    references = None if reference is None else [reference]
    diffusion_s, styles = measure_seconds(
        lambda: networks.sample_style([contents[0][:, width:]], references, [0], STEPS, scale=1.0)
    )
    durations_s, durations = measure_seconds(lambda: networks.durations(contents, styles))
    frames = [np.maximum(np.round(durations[0]), 1).astype(np.int32)]
    decoder_s, waves = measure_seconds(lambda: networks.speak(contents, styles, frames, [0]))
    seconds = {"text": text_s, "diffusion": diffusion_s, "durations": durations_s, "decoder": decoder_s}
    parts = generator_flops.speech_parts(generator.config, len(ids), len(waves[0]) / SAMPLES_PER_FRAME, STEPS)
    flops = {
        "text": parts["text_encoder"] + parts["plbert"],
        "diffusion": parts["diffusion"],
        "durations": parts["durations"],
        "decoder": parts["curves"] + parts["decoder"] + parts["vocoder"],
    }
    return {
        "phonemes": len(ids),
        "share_of_time": {name: round(part / sum(seconds.values()), 3) for name, part in seconds.items()},
        "gflop": {name: round(part / 1e9, 2) for name, part in flops.items()},
        "decoder_share_of_matmul": round(flops["decoder"] / decoder_s / peak, 3),
    }


def speak_once(args) -> None:
    """Synthesize one sentence by the program that `--memory` names."""
    ids = encode(phonemize(SENTENCES[0]))[: 12 if args.smoke else None]
    reference = np.zeros(256, np.float32) if args.model == "libritts" else None
    if args.memory == "ours":
        generator = StyleTTS2Speech(args.weights, args.dtype)
        generator.synthesize(PhonemizedText((ids,), {}, ()), reference)
    else:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        peer = _load_peer(args, device)
        peer_reference = None if reference is None else torch.from_numpy(reference)[None].to(device)
        peer.speak(ids, peer_reference, STEPS)


if __name__ == "__main__":
    if ARGS.memory:
        speak_once(ARGS)
        measure.print_peak(ARGS.memory)
    else:
        measure.report(main(ARGS), ARGS)
