"""The trained byte-level BPE and Llama tokenizers, against the libraries that define them."""

import io
import json
import subprocess
import sys

import pytest

from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS, TokenizerError, load, train_bpe

WORDS = "the cat sat on a mat and my friend was happy about that old exam because it went so well today".split()
TEXTS = [" ".join(WORDS[(step * 7 + k * k) % len(WORDS)] for k in range(9)).capitalize() + "." for step in range(300)]
EDGE_CASES = [
    "",
    " ",
    "  two  spaces ",
    "caf\u00e9 \u4f60\u597d \U0001f600",
    "line\nbreak\ttab",
    "<pad> </s><Aud>",
    "\u0627\x00",
]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 400)


class TestTrained:
    def test_every_text_comes_back(self, bpe):
        for text in [*TEXTS[:20], *EDGE_CASES]:
            assert bpe.decode(bpe.encode(text)) == text

    def test_new_tokens_stand_beside_the_base_vocabulary(self, bpe):
        assert bpe.vocab_size == 400 and len(bpe) == 434 and len(NEW_TOKENS) == len(set(NEW_TOKENS)) == 34
        assert [bpe.token_id(token) for token in NEW_TOKENS] == list(range(400, 434))
        assert bpe.signal_ids == list(range(402, 434))
        assert NEW_TOKENS[:3] == ("<Aud>", "<Vid>", "<AUD1>") and NEW_TOKENS[-1] == "<VID16>"
        assert len({bpe.pad_id, bpe.bos_id, bpe.eos_id}) == 3

    def test_special_and_new_tokens_have_no_text(self, bpe):
        ids = [bpe.bos_id, *bpe.encode("the cat"), bpe.eos_id, *bpe.signal_ids, bpe.pad_id]
        assert bpe.decode(ids) == "the cat"
        assert max(bpe.encode("</s><AUD1><s>")) < 400
        assert not {bpe.pad_id, bpe.bos_id, bpe.eos_id} & set(bpe.encode("</s><AUD1><s><pad>"))

    def test_it_compresses(self, bpe):
        assert sum(len(bpe.encode(text)) for text in TEXTS) < 0.4 * sum(map(len, TEXTS))

    def test_training_is_the_same_in_another_process(self, bpe):
        statements = (
            "from empatheia_jax.data.prompts.tokenizer import train_bpe",
            f"print(train_bpe({TEXTS!r}, 400).encode({TEXTS[0]!r}))",
        )
        code = "; ".join(statements)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert json.loads(other.stdout) == bpe.encode(TEXTS[0])

    def test_saved_and_loaded(self, bpe, tmp_path):
        file = bpe.save(tmp_path / "base")
        for loaded in (load(tmp_path / "base"), load(file)):
            assert (loaded.vocab_size, loaded.pad_id, loaded.bos_id, loaded.eos_id) == (400, 0, 1, 2)
            assert all(loaded.encode(text) == bpe.encode(text) for text in TEXTS + EDGE_CASES)
            assert not loaded.dummy_prefix

    def test_few_texts_leave_ids_unused(self, tmp_path):
        few = train_bpe(["the cat the cat"], 2048)
        assert few.vocab_size == 2048 and few.token_id("<Aud>") == 2048
        few.save(tmp_path)
        assert load(tmp_path).vocab_size == 2048
        assert few.decode([*few.encode("the cat"), 2000]) == "the cat"  # an unused id has no text

    def test_errors(self, bpe, tmp_path):
        with pytest.raises(TokenizerError, match="258 is too small"):
            train_bpe(TEXTS, 258)
        with pytest.raises(TokenizerError, match="no text"):
            train_bpe(["", ""], 400)
        with pytest.raises(TokenizerError, match="id 434 is outside"):
            bpe.decode([434])
        with pytest.raises(TokenizerError, match="no tokenizer"):
            load(tmp_path)
        with pytest.raises(TokenizerError, match="do not belong together"):
            load(bpe.save(tmp_path / "a"), vocab_size=260)
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(TokenizerError, match="tokenizer.json"):
            load(tmp_path)
        for content, message in (("[]", "expected an object, found list"), ("{", "not JSON")):
            bpe.save(tmp_path / "b")
            (tmp_path / "b" / "tokenizer_config.json").write_text(content)
            with pytest.raises(TokenizerError, match=f"tokenizer_config.json: {message}"):
                load(tmp_path / "b")


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
    """A tokenizer.model with Llama's settings."""
    import sentencepiece

    folder, model = tmp_path_factory.mktemp("llama"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="module")
def reference(sentencepiece_folder):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def converted_folder(sentencepiece_folder, tmp_path_factory):
    """The tokenizer.json that transformers converts it to."""
    transformers = pytest.importorskip("transformers")

    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (sentencepiece_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    folder = tmp_path_factory.mktemp("converted")
    transformers.AutoTokenizer.from_pretrained(sentencepiece_folder).save_pretrained(folder)
    (folder / "tokenizer.model").unlink(missing_ok=True)
    assert (folder / "tokenizer.json").exists()
    return folder


def prepend_form(folder, spec):
    """Write the older form of Llama's tokenizer.json: Prepend and Replace instead of Metaspace."""
    spec = json.loads(spec)
    spec["pre_tokenizer"] = None
    spec["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    }
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


class TestLlama:
    def check(self, llama, reference):
        assert llama.dummy_prefix and (llama.bos_id, llama.eos_id) == (reference.bos_id(), reference.eos_id())
        assert llama.vocab_size == reference.vocab_size() and llama.token_id("<Aud>") == llama.vocab_size
        for text in [*TEXTS[:30], "caf\u00e9 \u4f60\u597d", "line\nbreak", "two  spaces"]:
            assert llama.encode(" " + text) == reference.encode(text), text  # the dummy prefix written out
            assert llama.decode(llama.encode(" " + text)) == " " + text
            assert llama.decode(llama.encode(text)) == text  # continuing text: nothing is added or lost
        # The ids of the pieces, joined, are those of the joined text.
        assert llama.encode(" The cat") + llama.encode(" sat on a mat.") == reference.encode("The cat sat on a mat.")
        assert llama.eos_id not in llama.encode("</s>")

    def test_model_file(self, sentencepiece_folder, reference, tmp_path):
        llama = load(sentencepiece_folder)
        self.check(llama, reference)
        llama.save(tmp_path)
        self.check(load(tmp_path), reference)

    def test_tokenizer_json_of_transformers(self, converted_folder, reference):
        self.check(load(converted_folder), reference)

    def test_tokenizer_json_of_older_checkpoints(self, converted_folder, reference, tmp_path):
        spec = (converted_folder / "tokenizer.json").read_text()
        self.check(load(prepend_form(tmp_path, spec)), reference)

    def test_size_of_the_models_embedding_decides_where_new_tokens_start(self, sentencepiece_folder, tmp_path):
        (tmp_path / "tokenizer.model").write_bytes((sentencepiece_folder / "tokenizer.model").read_bytes())
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 384}))
        assert load(tmp_path).token_id("<Aud>") == 384

    def test_no_torch(self):
        code = "import sys, empatheia_jax.data.prompts.dialogue; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)
