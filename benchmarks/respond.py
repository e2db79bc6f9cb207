"""Measure the time to an answer: from text, speech and video to the first token, audio, frame, and the .mp4.

python benchmarks/respond.py [--shape tiny|1b|7b] [--generators classical|neural] [--peer torch] [--smoke] [--record]

`empatheia respond` with everything loaded, one request at a time. Values are seconds since the request, the median of
warm calls; beside it are the 90th percentile and the first call's (`first_call_s`: compilation, and loading the
generators' weights). The speaker's utterance has text, a recording and a clip of 3 s. `classical`: the demo's encoders,
voice and face; `neural`: HuBERT and CLIP (small beside the tiny LLM, else published sizes), StyleTTS 2 and DreamTalk at
published sizes. All weights are random, which costs what trained ones cost. A random LLM writes no sensible answer: a
fixed answer of as many tokens replaces the one it wrote, and its content is the voice's own ("void": true where
generation stopped early and did less work). Rows:
  media        speech and video are encoded
  first_token  by an engine that generates one token: the others leave the device together with the last
  words        the whole text is written
  first_audio  the speech is complete: the face needs every phoneme's duration
  first_frame  the first frame is rendered
  answer       OUT.mp4 and OUT.json are written; `rtf` is seconds of work a second of speech
With a peer, `writing` is the words without the media, beside transformers' `generate` from a prompt of as many random
tokens. The other steps have no peer: theirs is "n/a".
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure

if __name__ == "__main__":
    _parser = measure.build_parser(__doc__)
    _parser.add_argument("--generators", choices=("classical", "neural"), default="classical")
    ARGS = _parser.parse_args()
    measure.stay_on_one_core(ARGS.core)

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS, write_text_corpus  # noqa: E402

from empatheia_jax.checkpoints.runs import Position  # noqa: E402
from empatheia_jax.checkpoints.workdir import save_config  # noqa: E402
from empatheia_jax.config import Config, EncoderConfig, GeneratorConfig, MeshConfig  # noqa: E402
from empatheia_jax.config.load import load_config  # noqa: E402
from empatheia_jax.data.batches.encoder import encode_prompt  # noqa: E402
from empatheia_jax.data.corpus.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.media.writing import write_audio, write_video  # noqa: E402
from empatheia_jax.data.prompts.dialogue import encode_target  # noqa: E402
from empatheia_jax.data.prompts.tokenizer import Tokenizer, train_bpe  # noqa: E402
from empatheia_jax.data.schema import Profile  # noqa: E402
from empatheia_jax.generators.avatars import choose_avatar  # noqa: E402
from empatheia_jax.generators.classical.face import ClassicalFace  # noqa: E402
from empatheia_jax.inference.conversation import Conversation  # noqa: E402
from empatheia_jax.inference.engine import Engine  # noqa: E402
from empatheia_jax.inference.load import LoadedRun  # noqa: E402
from empatheia_jax.inference.request import Request, encode_media, read_request  # noqa: E402
from empatheia_jax.inference.respond import Responder  # noqa: E402
from empatheia_jax.model import sharding  # noqa: E402
from empatheia_jax.model.construct import abstract_model, initialise  # noqa: E402
from empatheia_jax.planning.local import config_widths  # noqa: E402
from empatheia_jax.training.data import training_texts  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "configs"
CALLS, SECONDS = 10, 3.0
SPEAKER_TEXT = "I lost my job today and I do not know how to tell my family."
ANSWER_TEXT = "I am so sorry, that must be very hard. They will stand by you, and so will I."
PROFILE = Profile("young", "female", "mid")


def make_config(shape: str, generators: str, folder: Path) -> Config:
    """Return the demo's config or the published one, with an LLM of `shape` and these generators."""
    config = load_config(str(CONFIGS / ("tiny.py" if shape == "tiny" else "vicuna_7b.py")))
    encoders, generator_config = EncoderConfig(), GeneratorConfig()
    if generators == "neural":
        hubert, clip = ("small", "small") if shape == "tiny" else ("large", "vit_l_14_336")
        encoders = EncoderConfig(
            audio="hubert", video="clip", hubert=hubert, hubert_weights="random", clip=clip, clip_weights="random"
        )
        generator_config = GeneratorConfig(
            speech="styletts2",
            speech_weights=str(folder / "voice"),
            face="dreamtalk",
            face_weights=str(folder / "face"),
            face_content="compact",
        )
    return dataclasses.replace(config, llm=LLMS[shape], base="scratch", encoders=encoders, generators=generator_config)


def write_generators(folder: Path) -> None:
    """Write random StyleTTS 2 and DreamTalk at published sizes, as `speech.py` and `face.py` do."""
    import face
    import speech

    speech.write_weights(folder / "voice", "libritts", None)
    face.write_weights(folder / "face")


def write_media(folder: Path) -> Request:
    """Write a recording and a clip of `SECONDS`; return a request with them."""
    rng, count = np.random.default_rng(0), int(25 * SECONDS)
    write_audio(folder / "speaker.wav", 0.1 * rng.normal(size=int(24_000 * SECONDS)).astype(np.float32), 24_000)
    face, portrait = ClassicalFace(), choose_avatar(PROFILE).portrait
    mouth = rng.random((count, face.content_dim))
    write_video(folder / "speaker.mp4", face.frames(mouth, np.zeros(face.style_dim), portrait))
    return Request(
        run=folder / "run",
        output=folder / "answer.mp4",
        text=SPEAKER_TEXT,
        speech=folder / "speaker.wav",
        video=folder / "speaker.mp4",
        profile=PROFILE,
    )


def make_responder(request: Request, tokenizer: Tokenizer, answer: list[int]) -> tuple[Responder, list[int]]:
    """Return a responder whose model has random weights, and the lengths of what that model has written so far.

    Args:
      request: its run needs a config only.
      tokenizer: the run's.
      answer: ids that take the place of what is written, once all of it is: a random LLM writes no response, and a
        random synchronizer's content is not spoken. It is spoken with the voice's own content.
    """
    responder = Responder(request, max_new_tokens=len(answer))
    config, widths = responder.config, config_widths(responder.config)
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    graphdef, abstract = abstract_model(config, widths, mesh)
    model = nnx.merge(graphdef, initialise(config, widths, abstract))
    responder.run = LoadedRun(model, tokenizer, config, Position(0, 4, 0))
    engine, written_lengths = responder.engine, []
    read, speech_content = engine.read, engine.speech_content

    def read_answer(decode_state, sequences, prompts, texts):
        written_lengths.extend(map(len, texts))
        return read(decode_state, sequences, prompts, [answer] * len(texts))

    def own_content(states, phonemes):
        speech_content(states, phonemes)
        return responder.generators[0].content(phonemes)

    engine.read, engine.speech_content = read_answer, own_content
    return responder, written_lengths


def peer_program(engine: Engine, prompt_length: int):
    """Return a function that runs transformers' generate with the same LLM, prompt length and number of new tokens."""
    import peer

    llm = nnx.merge(engine.graphdef, engine.state).llm
    model: Any = peer.transformers_llama(llm).eval()
    ids = np.random.default_rng(0).integers(0, llm.config.vocab_size, (1, prompt_length))
    tokens = peer.torch.from_numpy(ids).to(peer.DEVICE)
    mask = peer.torch.ones_like(tokens)

    def run():
        with peer.torch.inference_mode():
            model.generate(
                tokens,
                attention_mask=mask,
                do_sample=False,
                min_new_tokens=engine.max_new_tokens,
                max_new_tokens=engine.max_new_tokens,
                pad_token_id=0,
            ).cpu()

    return run


def measure_seconds(run) -> float:
    """Run and return the seconds it took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(args) -> list[dict]:
    """Return all rows."""
    jax.config.update("jax_enable_compilation_cache", False)  # the first call must compile
    with tempfile.TemporaryDirectory() as folder:
        return _measure(args, Path(folder))


def _measure(args, folder: Path) -> list[dict]:
    config = make_config(args.shape, args.generators, folder)
    if args.generators == "neural":
        write_generators(folder)
    write_text_corpus(folder / "words")
    examples = read_examples(folder / "words", "train", validation_share=0.0)[0]
    tokenizer = train_bpe(list(training_texts(examples, config)), config.llm.vocab_size)
    chain = next(example.chain for example in examples if example.chain is not None)
    target = encode_target(tokenizer, chain, "Oh." if args.smoke else ANSWER_TEXT, PROFILE)
    answer = target.ids[: target.response_span[1]]
    save_config(folder / "run", config)
    request = write_media(folder)
    responder, written_lengths = make_responder(request, tokenizer, answer)
    one_token_engine = Engine(responder.run.model, tokenizer, responder.config, max_new_tokens=1)
    example = dataclasses.replace(read_request(request, config, []), listener_profile=PROFILE)
    prompt_ids = encode_prompt(example, responder.engine.prompt_kind, config, tokenizer, profile=PROFILE)[0]

    def first_token() -> float:
        start, seconds = time.perf_counter(), []
        features = encode_media(example, config, responder.encoders, [])
        one_token_engine.answer(
            [example], features.get, [PROFILE], lambda name: seconds.append(time.perf_counter() - start)
        )
        return seconds[0]

    def call() -> dict[str, float]:
        responder.conversation = Conversation(responder.engine)  # a new conversation: nothing is cached
        report = responder.respond(request)
        first, timings = report["first"], report["timings"]
        answer_facts.update(
            seconds_of_speech=report["seconds"], frames=report["frames"], content_source=report["content_source"]
        )
        return {
            "media": timings["encode"],
            "first_token": first_token(),
            "words": first["words"],
            "first_audio": first["audio"],
            "first_frame": first["frame"],
            "answer": timings["total"],
        }

    answer_facts: dict = {}
    peer = peer_program(responder.engine, len(prompt_ids)) if args.peer else None
    cold = call()
    if peer is not None:
        peer()
    warm, peer_seconds = [], []
    for number in range(2 if args.smoke else CALLS):
        print(f"call {number + 1} ...", file=sys.stderr, flush=True)
        warm.append(call())
        if peer is not None:
            peer_seconds.append(measure_seconds(peer))
    is_complete = all(count == len(answer) for count in written_lengths)
    facts = {
        "shape": args.shape,
        "generators": args.generators,
        "dtype": config.llm.compute_dtype,
        "prompt": len(prompt_ids),
        "new_tokens": len(answer),
        "void": not is_complete,
    }
    rows = []
    for name in cold:
        seconds = {"ours": [timings[name] for timings in warm]}
        if name == "words" and peer is not None:
            writing = [timings["words"] - timings["media"] for timings in warm]
            rows.append(measure.latency_row("writing", {"ours": writing, "peer": peer_seconds}, None, **facts))
        rows.append(measure.latency_row(name, seconds, cold[name], **facts, **({"peer": "n/a"} if args.peer else {})))
    rows[-1] |= answer_facts | {"rtf": round(rows[-1]["value"] / answer_facts["seconds_of_speech"], 3)}
    return rows


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    measure.report(main(ARGS), ARGS)
