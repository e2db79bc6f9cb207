"""The subcommands of `empatheia`: each parses its flags, does the work and returns the exit code.

Those that prepare data are in `preparation/commands.py`.
"""

from pathlib import Path

from empatheia_jax.config.load import load_config
from empatheia_jax.data.emotions import AVATAR_EMOTIONS
from empatheia_jax.inference.flags import add_answering, mesh_of_flags
from empatheia_jax.preparation.commands import build_data, check_data, command_parser, extract, fetch, sample


def _take_devices() -> None:
    """Check that JAX has the devices that it shall use, and keep compiled programs."""
    from empatheia_jax.runtime.compile_cache import use_cache
    from empatheia_jax.runtime.platforms import check_devices

    check_devices()
    use_cache()


def respond(argv: list[str]) -> int:
    """Answer a dialogue with an avatar's video."""
    parser = command_parser("respond", respond.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="workdir of a trained run")
    parser.add_argument("--dialogue", type=Path, help="one dialogue object of the released layout")
    parser.add_argument("--text", help="the words of the person")
    parser.add_argument("--speech", type=Path, help="recording of the person's voice: wav, flac, mp3, mp4 ...")
    parser.add_argument(
        "--video",
        type=Path,
        help="recording of the person's face: mp4 ...; its sound is used where --speech is not given",
    )
    parser.add_argument(
        "--profile", metavar="AGE,GENDER,TIMBRE", help="profile of the avatar that answers, e.g. young,female,mid"
    )
    parser.add_argument("--portrait", type=Path, help="picture from which the avatar takes its colours")
    parser.add_argument("--consent", action="store_true", help="confirms that the person in --portrait agreed")
    parser.add_argument("--speech-generator", choices=("classical", "styletts2", "kokoro", "torch"))
    parser.add_argument(
        "--speech-weights", type=Path, help="converted StyleTTS 2 or Kokoro; default: the folder in the run's config"
    )
    parser.add_argument("--face-generator", choices=("classical", "dreamtalk", "torch"))
    parser.add_argument(
        "--face-weights", type=Path, help="converted DreamTalk; default: the folder in the run's config"
    )
    parser.add_argument("--content-source", choices=("synchronizer", "generator"))
    torch_group = parser.add_argument_group("for --speech-generator torch and --face-generator torch")
    for name, description in (
        ("styletts2-repo", "your clone of github.com/yl4579/StyleTTS2"),
        ("styletts2-checkpoint", "the published .pth, with its config.yml in the same folder"),
        ("dreamtalk-repo", "your clone of github.com/ali-vilab/dreamtalk"),
        ("dreamtalk-checkpoint", "denoising_network.pth"),
        ("dreamtalk-renderer", "renderer.pt"),
        ("dreamtalk-wav2vec", "folder of its wav2vec 2.0; default: the converted one in --face-weights"),
    ):
        torch_group.add_argument(f"--{name}", type=Path, help=description)
    torch_group.add_argument(
        "--any-commit", action="store_true", help="accept a clone that is not at the tested commit"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the video in pixels")
    parser.add_argument(
        "--trace", nargs="?", const="", metavar="DIR", help="answer twice and profile the second, warm answer"
    )
    add_answering(parser)
    parser.add_argument("--output", type=Path, required=True, help="OUT.mp4; OUT.json is written to the same folder")
    args = parser.parse_args(argv)
    from empatheia_jax.inference.request import Request, parse_profile
    from empatheia_jax.inference.respond import respond as run
    from empatheia_jax.runtime.compile_report import compilations

    request = Request(
        run=args.run,
        output=args.output,
        dialogue=args.dialogue,
        text=args.text,
        speech=args.speech,
        video=args.video,
        profile=parse_profile(args.profile) if args.profile else None,
        portrait=args.portrait,
        consent=args.consent,
        speech_generator=args.speech_generator,
        speech_weights=args.speech_weights,
        face_generator=args.face_generator,
        face_weights=args.face_weights,
        content_source=args.content_source,
        torch={
            name: value for name, value in vars(args).items() if name.startswith(("styletts2_", "dreamtalk_", "any_"))
        },
        face_size=args.size,
        quantization=args.quantization,
        max_new_tokens=args.max_new_tokens,
        mesh=mesh_of_flags(args),
        trace=None if args.trace is None else Path(args.trace or args.output.with_suffix(".profile")),
    )
    _take_devices()
    result = run(request)
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"emotion   {result['emotion']['chain']} (chain), {result['emotion']['style']} (style)")
    print(f"response  {result['response']}")
    print(f"compiled  {compilations()}")
    print(f"{args.output}  {args.output.with_suffix('.json')}  ({result['timings']['total']:.1f} s)")
    return 0


def speak(argv: list[str]) -> int:
    """Speak a text with Kokoro's voices or a converted StyleTTS 2: writes a wav, and a json on how it was made."""
    parser = command_parser("speak", speak.__doc__)
    parser.add_argument("--voice", metavar="NAME|AGE,GENDER,TIMBRE", help="of Kokoro: af_heart, or young,female,mid")
    parser.add_argument("--emotion", choices=AVATAR_EMOTIONS, help="with --voice: the manner of an avatar emotion")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="folder that `python -m converters styletts2` wrote; with --voice: `kokoro`, default what was fetched",
    )
    parser.add_argument("--text", required=True)
    parser.add_argument("--reference", type=Path, help="recording of the voice to speak with")
    parser.add_argument(
        "--consent", action="store_true", help="confirms that the person in --reference agreed to be imitated"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.3, help="0: timbre of the reference, 1: timbre sampled for the words"
    )
    parser.add_argument(
        "--beta", type=float, default=0.7, help="0: prosody of the reference, 1: prosody sampled for the words"
    )
    parser.add_argument("--steps", type=int, default=5, help="steps of style diffusion")
    parser.add_argument(
        "--embedding-scale", type=float, default=1.0, help="guidance by the words; above 1: more expressive"
    )
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype of the decoder"
    )
    parser.add_argument("--output", type=Path, required=True, help="OUT.wav; OUT.json is written to the same folder")
    args = parser.parse_args(argv)
    from empatheia_jax.generators.styletts2.config import SynthesisOptions
    from empatheia_jax.inference.speak import speak as run

    _take_devices()
    options = SynthesisOptions(
        alpha=args.alpha,
        beta=args.beta,
        steps=args.steps,
        embedding_scale=args.embedding_scale,
        speed=args.speed,
        seed=args.seed,
    )
    report = run(
        args.checkpoint,
        args.text,
        args.output,
        voice=args.voice,
        emotion=args.emotion,
        reference=args.reference,
        consent=args.consent,
        options=options,
        dtype=args.dtype,
    )
    for note in report["notes"]:
        print(f"note: {note}")
    print(
        f"{args.output}  {report['seconds']:.2f} s of speech, first sentence after {report['first_audio_s']:.2f} s, "
        f"all after {report['took_s']:.2f} s"
    )
    return 0


def animate(argv: list[str]) -> int:
    """Animate a portrait to a recording with a converted DreamTalk: writes an mp4, and a json on how it was made."""
    parser = command_parser("animate", animate.__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder that `python -m converters dreamtalk` wrote"
    )
    parser.add_argument("--audio", type=Path, required=True, help="recording to be lip-synced: wav, flac, mp3, mp4 ...")
    parser.add_argument("--portrait", type=Path, required=True, help="picture of a face")
    parser.add_argument(
        "--consent", action="store_true", help="confirms that the person in --portrait agreed to be animated"
    )
    parser.add_argument(
        "--style", type=Path, help="speaking style: a clip of 3DMM coefficients (.mat, .npz) or a video of a face"
    )
    parser.add_argument("--pose", type=Path, help="head motion: a clip of 3DMM coefficients")
    parser.add_argument(
        "--sampler", choices=("ddim", "ddpm"), default="ddim", help="ddim: the published script's; ddpm: the paper's"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps of ddim; a divisor of 1000")
    parser.add_argument("--scale", type=float, default=1.0, help="scale of guidance by the style")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="OUT.mp4; OUT.json is written to the same folder")
    args = parser.parse_args(argv)
    from empatheia_jax.inference.animate import animate as run

    _take_devices()
    report = run(
        args.checkpoint,
        args.audio,
        args.portrait,
        args.output,
        consent=args.consent,
        style=args.style,
        pose=args.pose,
        sampler=args.sampler,
        steps=args.steps,
        scale=args.scale,
        seed=args.seed,
    )
    for note in report["notes"]:
        print(f"note: {note}")
    print(
        f"{args.output}  {report['frames']} frames, {report['seconds']:.2f} s; first frame after "
        f"{report['first_frame_s']:.1f} s, all after {report['took_s']:.1f} s"
    )
    return 0


def evaluate(argv: list[str]) -> int:
    """Evaluate a run on a split: writes report.json and report.html."""
    parser = command_parser("evaluate", evaluate.__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="another corpus, or a file of dialogues: its words alone are used")
    parser.add_argument(
        "--recover-responses", action="store_true", help="take missing responses from the histories of later turns"
    )
    parser.add_argument(
        "--judged",
        type=int,
        default=24,
        help="most answers that are spoken and judged where the judges are fetched (whisper-base, dnsmos); default: 24",
    )
    add_answering(parser)
    args = parser.parse_args(argv)
    from empatheia_jax.evaluation.evaluate import evaluate as run

    _take_devices()
    report = run(
        args.run,
        args.split,
        args.output,
        quantization=args.quantization,
        data=args.data,
        recover_responses=args.recover_responses,
        max_new_tokens=args.max_new_tokens,
        mesh=mesh_of_flags(args),
        judged=args.judged,
    )
    print(f"report    {report}")
    return 0


def hear(argv: list[str]) -> int:
    """Write down what a speech recogniser hears in recordings; with --text, what it heard wrongly."""
    parser = command_parser("hear", hear.__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings: wav, flac, mp3, mp4 ...")
    parser.add_argument(
        "--text", action="append", default=[], help="what was said: once for all files, or once for each, in order"
    )
    parser.add_argument("--json", type=Path, help="also write everything, with the time of each word, as JSON")
    args = parser.parse_args(argv)
    from empatheia_jax.evaluation.hear import hear as run

    run(args.files, texts=args.text, output=args.json)
    return 0


def plan(argv: list[str]) -> int:
    """Print what a config needs of a machine, without allocating anything; the last line says whether it fits."""
    parser = command_parser("plan", plan.__doc__)
    parser.add_argument("config")
    machine = parser.add_mutually_exclusive_group(required=True)
    machine.add_argument("--local", action="store_true", help="parameters and bytes of every part, on one device")
    machine.add_argument("--topology", metavar="KIND:SHAPE", help="v5e:4x4, v5p:4x4x4, h100:8 (GPUs are simulated)")
    parser.add_argument("--stage", type=int, default=4, help="stage whose training step is compiled")
    parser.add_argument(
        "--sweep", action="store_true", help="compare meshes and batch sizes; only the best few are compiled"
    )
    parser.add_argument("--output", type=Path, help="folder for plan.json and plan.txt")
    args, overrides = parser.parse_known_args(argv)
    config = load_config(args.config, overrides)
    if args.local:
        from empatheia_jax.planning.local import local_plan

        print(local_plan(config))
        return 0
    from empatheia_jax.planning.pods.report import plan_topology
    from empatheia_jax.runtime.outputs import check_outputs

    if args.output:
        files = [("--output", args.output / name) for name in ("plan.json", "plan.txt")]
        check_outputs(files, [("the config", args.config)])
    return plan_topology(config, args.topology, args.stage, sweep=args.sweep, output=args.output)


def demo(argv: list[str]) -> int:
    """Run the whole system from nothing, on CPU: sample, extract, train, evaluate, respond, report."""
    parser = command_parser("demo", demo.__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--config", default="configs/tiny.py")
    args = parser.parse_args(argv)
    from empatheia_jax.preparation.demo import demo as run

    return run(args.output, args.config)


COMMANDS = {
    "fetch": fetch,
    "sample": sample,
    "check-data": check_data,
    "build-data": build_data,
    "extract": extract,
    "respond": respond,
    "speak": speak,
    "animate": animate,
    "evaluate": evaluate,
    "hear": hear,
    "plan": plan,
    "demo": demo,
}
