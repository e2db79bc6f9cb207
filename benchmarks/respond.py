"""How long does a person wait for an answer? From words, voice and face to the first token, sound, picture, the .mp4.

python benchmarks/respond.py [--shape tiny|1b|7b] [--generators classical|neural] [--peer torch] [--smoke] [--record]

`empatheia respond` with everything loaded, one request at a time; values are seconds since the request, the median of
warm calls, beside the 90th percentile and the first call's (`first_call_s`: compilation, and reading the generators'
weights). The speaker's utterance has words, a recording and a clip of 3 s. `classical`: the demo's encoders, voice and
face; `neural`: HuBERT and CLIP (small beside the tiny LLM, else published sizes), StyleTTS 2 and DreamTalk at published
sizes. All weights are random, which costs what trained ones cost; a random LLM says nothing, so a fixed answer of as
many tokens as it wrote is read in place of its own, and its content is the voice's own ("void": true where it stopped
early, and so did less). Rows:
  media        voice and face are encoded
  first_token  by an engine that writes one token: all others leave the device together, with the last
  words        the whole text is written.
  first_audio  the speech can be heard, all of it: the face wants every phoneme's duration
  first_frame  the first picture is drawn
  answer       OUT.mp4 and OUT.json are written; `rtf` is seconds of work a second of speech
With a peer, `writing` is the words without the media, beside transformers' `generate` from a prompt of as many random
tokens; nobody else makes the other steps, their peer is "n/a".
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import measure

if __name__ == "__main__":
    _parser = measure.parser(__doc__)
    _parser.add_argument("--generators", choices=("classical", "neural"), default="classical")
    ARGS = _parser.parse_args()
    measure.on_one_core(ARGS.core)

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS, write_words  # noqa: E402

from empatheia_jax import sharding  # noqa: E402
from empatheia_jax.checkpoint import Position  # noqa: E402
from empatheia_jax.config import Config, EncoderConfig, GeneratorConfig, MeshConfig  # noqa: E402
from empatheia_jax.config_io import load_config  # noqa: E402
from empatheia_jax.data import tokenizer as tokenizers  # noqa: E402
from empatheia_jax.data.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.encoded import encode_prompt  # noqa: E402
from empatheia_jax.data.media_writing import write_audio, write_video  # noqa: E402
from empatheia_jax.data.prompts import encode_target  # noqa: E402
from empatheia_jax.data.schema import Profile  # noqa: E402
from empatheia_jax.generators.classical.face import ClassicalFace  # noqa: E402
from empatheia_jax.inference.avatars import choose_avatar  # noqa: E402
from empatheia_jax.inference.conversation import Conversation  # noqa: E402
from empatheia_jax.inference.engine import Engine  # noqa: E402
from empatheia_jax.inference.respond import Request, Responder, encode_media, read_request  # noqa: E402
from empatheia_jax.plan import config_widths  # noqa: E402
from empatheia_jax.training.run import abstract_model, initialise, save_config  # noqa: E402
from empatheia_jax.training.run_data import training_texts  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "configs"
CALLS, SECONDS = 10, 3.0
SAID = "I lost my job today and I do not know how to tell my family."
ANSWERED = "I am so sorry, that must be very hard. They will stand by you, and so will I."
PROFILE = Profile("young", "female", "mid")


class Rehearsed(Engine):
    """An engine of random weights that does all of an engine's work and then says a fixed answer."""

    def __init__(self, config: Config, tokenizer, graphdef, state, answer: list[int], voice):
        self.folder, self.batch, self.max_new_tokens = Path("rehearsed"), 1, len(answer)
        self.config, self.tokenizer, self.widths = config, tokenizer, config_widths(config)
        self.graphdef, self.state, self.position = graphdef, state, Position(0, 4, 0)
        self.given, self.voice, self.written = answer, voice, []
        self._compile()

    def read(self, slots, rows, prompts, texts):
        """Reads the fixed answer in place of what was written."""
        self.written += [len(text) for text in texts]
        return super().read(slots, rows, prompts, [self.given] * len(texts))

    def speech_content(self, states, phonemes):
        """The synchronizer's work, the voice's own content."""
        super().speech_content(states, phonemes)
        return self.voice().content(phonemes)


def config_of(shape: str, generators: str, folder: Path) -> Config:
    """The demo's config, or the published one with an LLM of `shape`, with these generators."""
    config = load_config(str(CONFIGS / ("tiny.py" if shape == "tiny" else "vicuna_7b.py")))
    encoders, chosen = EncoderConfig(), GeneratorConfig()
    if generators == "neural":
        hubert, clip = ("small", "small") if shape == "tiny" else ("large", "vit_l_14_336")
        encoders = EncoderConfig(
            kind="hubert_clip", hubert=hubert, hubert_weights="random", clip=clip, clip_weights="random"
        )
        chosen = GeneratorConfig(
            speech="styletts2",
            speech_weights=str(folder / "voice"),
            face="dreamtalk",
            face_weights=str(folder / "face"),
            face_content="compact",
        )
    return dataclasses.replace(config, llm=LLMS[shape], base="scratch", encoders=encoders, generators=chosen)


def write_generators(folder: Path) -> None:
    """StyleTTS 2 and DreamTalk at published sizes, as `speech.py` and `face.py` draw them."""
    import face
    import speech

    speech.draw_weights(folder / "voice", "libritts", None)
    face.write(folder / "face")


def write_media(folder: Path) -> Request:
    """A recording and a clip of `SECONDS`, and the request that gives them."""
    rng, count = np.random.default_rng(0), int(25 * SECONDS)
    write_audio(folder / "said.wav", 0.1 * rng.normal(size=int(24_000 * SECONDS)).astype(np.float32), 24_000)
    face, portrait = ClassicalFace(), choose_avatar(PROFILE).portrait
    mouth = rng.random((count, face.content_dim))
    write_video(folder / "said.mp4", face.frames(mouth, np.zeros(face.style_dim), portrait))
    return Request(
        run=folder / "run",
        output=folder / "answer.mp4",
        text=SAID,
        speech=folder / "said.wav",
        video=folder / "said.mp4",
        profile=PROFILE,
    )


def theirs(engine: Engine, prompt: int):
    """transformers' generate of the same LLM: a prompt of as many tokens, as many new ones."""
    import peer

    llm = nnx.merge(engine.graphdef, engine.state).llm
    model = peer.transformers_llama(llm).eval()
    ids = np.random.default_rng(0).integers(0, llm.config.vocab_size, (1, prompt))
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


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(args) -> list[dict]:
    jax.config.update("jax_enable_compilation_cache", False)  # the first call is to compile
    with tempfile.TemporaryDirectory() as folder:
        return _rows(args, Path(folder))


def _rows(args, folder: Path) -> list[dict]:
    config = config_of(args.shape, args.generators, folder)
    if args.generators == "neural":
        write_generators(folder)
    write_words(folder / "words")
    spoken = read_examples(folder / "words", "train", validation_share=0.0)[0]
    words = tokenizers.train_bpe(list(training_texts(spoken, config)), config.llm.vocab_size)
    chain = next(example.chain for example in spoken if example.chain is not None)
    target = encode_target(words, chain, "Oh." if args.smoke else ANSWERED, PROFILE)
    answer = target.ids[: target.span[1]]
    save_config(folder / "run", config)
    request = write_media(folder)
    responder = Responder(request)
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    graphdef, abstract = abstract_model(config, config_widths(config), mesh)
    state = initialise(config, config_widths(config), abstract)

    def engine(ids: list[int]) -> Rehearsed:
        return Rehearsed(responder.config, words, graphdef, state, ids, lambda: responder.generators[0])

    responder.engine, short = engine(answer), engine(answer[:1])
    example = dataclasses.replace(read_request(request, config), listener_profile=PROFILE)
    prompt = len(encode_prompt(example, responder.engine.style, config, words, PROFILE)[0])

    def first_token() -> float:
        start, at = time.perf_counter(), []
        features = encode_media(example, config, responder.encoders, [])
        short.answer([example], features.get, [PROFILE], lambda name: at.append(time.perf_counter() - start))
        return at[0]

    def call() -> dict[str, float]:
        responder.conversation = Conversation(responder.engine)  # a stranger's first words: nothing was read before
        told = responder.respond(request)
        first, taken = told["first"], told["timings"]
        said.update(seconds_of_speech=told["seconds"], frames=told["frames"], content_source=told["content_source"])
        return {
            "media": taken["encode"],
            "first_token": first_token(),
            "words": first["words"],
            "first_audio": first["audio"],
            "first_frame": first["frame"],
            "answer": taken["total"],
        }

    said: dict = {}
    peer = theirs(responder.engine, prompt) if args.peer else None
    cold = call()
    if peer is not None:
        peer()
    warm, beside = [], []
    for number in range(2 if args.smoke else CALLS):
        print(f"call {number + 1} ...", file=sys.stderr, flush=True)
        warm.append(call())
        if peer is not None:
            beside.append(timed(peer))
    whole = all(count == len(answer) for count in responder.engine.written)
    facts = {
        "shape": args.shape,
        "generators": args.generators,
        "dtype": config.llm.compute_dtype,
        "prompt": prompt,
        "new_tokens": len(answer),
        "void": not whole,
    }
    rows = []
    for name in cold:
        seconds = {"ours": [one[name] for one in warm]}
        if name == "words" and peer is not None:
            media = [one["media"] for one in warm]
            alone = [one - before for one, before in zip(seconds["ours"], media, strict=True)]
            rows.append(measure.latency("writing", {"ours": alone, "peer": beside}, None, **facts))
        rows.append(measure.latency(name, seconds, cold[name], **facts, **({"peer": "n/a"} if args.peer else {})))
    rows[-1] |= said | {"rtf": round(rows[-1]["value"] / said["seconds_of_speech"], 3)}
    return rows


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    measure.report(main(ARGS), ARGS)
