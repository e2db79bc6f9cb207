"""Answer one request as `empatheia respond` does, by an LLM that always gives one answer: ... FOLDER."""

import sys
from pathlib import Path

from empatheia_jax.runtime import program

if __name__ == "__main__":
    program.begin("empatheia respond")

import dataclasses

import respond as benchmark

from empatheia_jax.checkpoints.workdir import save_config
from empatheia_jax.data.prompts.dialogue import encode_target
from empatheia_jax.testing.tiny import make_examples, make_tokenizer, small_config


def main(argv: list[str]) -> int:
    """Write FOLDER/answer/out.mp4 and out.json."""
    folder = Path(argv[0])
    if not (folder / "run").exists():
        save_config(folder / "run", small_config())
    request = dataclasses.replace(benchmark.write_media(folder), face_size=64, output=folder / "answer" / "out.mp4")
    words = make_tokenizer()
    target = encode_target(words, make_examples(1)[0].chain, "I see.", benchmark.PROFILE)
    responder, _ = benchmark.make_responder(request, words, target.ids[: target.response_span[1]])
    responder.respond(request)
    return 0


if __name__ == "__main__":
    program.finish(main, sys.argv[1:])
