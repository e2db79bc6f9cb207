"""Judges of speech: word errors by hand, DNSMOS's windows on a network made here, the speaker's LSTM against torch."""

import os
import types

import numpy as np
import pytest
import scipy.signal

from empatheia_jax.data.media.reading import read_audio
from empatheia_jax.evaluation.judges import judging, parts, recogniser, speech_quality
from empatheia_jax.evaluation.judges.parts import JudgeError
from empatheia_jax.evaluation.judges.recogniser import Recogniser
from empatheia_jax.evaluation.judges.same_speaker import SameSpeaker, compare_voices, spectrum_parts, without_pauses
from empatheia_jax.evaluation.judges.speaker_weights import read_speaker_weights
from empatheia_jax.evaluation.judges.speech_quality import SpeechQuality
from empatheia_jax.evaluation.judges.word_errors import WordError, count_word_errors, overall_rate, spoken_words
from empatheia_jax.evaluation.text import bootstrap
from empatheia_jax.trained_parts.home import PartError

RATE = 16_000


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """The folder in which judges look for their parts: `fetched / "dnsmos"` and so on are to be written there."""
    monkeypatch.setattr(parts, "part_folder", lambda name: tmp_path / name)
    return tmp_path


# Word errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("I\u2019m sorry; do you want to talk?", "I am sorry, do you want to talk"),
        ("She has 3 dogs and 105 cats.", "she has three dogs and one hundred and five cats"),
        ("It cost $20 in 1999.", "It cost twenty dollars in nineteen ninety-nine"),
        ("My neighbour's grey dog, OK?", "My neighbor's gray dog, okay."),
        ("I can't, I won't, I cannot realise it.", "I can not. I will not. I can't realize it!"),
        ("Dr. Smith's well-being", "Doctor Smith's well being"),
        ("A cafe\u0301 at 7:30", "a cafe at seven thirty"),
    ],
)
def test_what_sounds_the_same_is_no_error(text, heard):
    assert spoken_words(text) == spoken_words(heard)
    assert count_word_errors(text, heard).errors == 0


@pytest.mark.parametrize(
    ("text", "heard", "substituted", "missing", "added", "words"),
    [
        ("the dog ran home", "the dog ran home", 0, 0, 0, 4),
        ("the dog ran home", "the fog ran home", 1, 0, 0, 4),
        ("the dog ran home", "the ran home", 0, 1, 0, 4),
        ("the dog ran home", "the old dog ran home now", 0, 0, 2, 4),
        ("the dog ran home", "", 0, 4, 0, 4),
        ("I'm home", "I was home", 1, 0, 0, 3),
        ("yes", "no no no", 1, 0, 2, 1),
    ],
)
def test_word_errors_counted_by_hand(text, heard, substituted, missing, added, words):
    count = count_word_errors(text, heard)
    assert (count.substituted, count.missing, count.added, count.words) == (substituted, missing, added, words)
    assert count.rate == pytest.approx((substituted + missing + added) / words)


def test_the_differences_say_which_words_and_a_text_without_words_is_refused():
    count = count_word_errors("Please call me tomorrow at my home", "please tell me tomorrow my home again")
    rows = [(d.kind, d.text, d.heard) for d in count.differences]
    assert rows == [("substituted", ("call",), ("tell",)), ("missing", ("at",), ()), ("added", (), ("again",))]
    with pytest.raises(WordError, match="no words"):
        count_word_errors("...!", "hello")
    long, short = count_word_errors("a b c d e f g h i", "a b c d e f g h i"), count_word_errors("k", "no")
    assert overall_rate([long, short]) == pytest.approx(1 / 10)  # not the mean of 0 and 1


# Parts and packages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "part"), [(Recogniser, "whisper-base"), (SpeechQuality, "dnsmos"), (SameSpeaker, "speaker")]
)
def test_a_judge_that_is_not_fetched_says_how_to_fetch_it(judge, part, tmp_path, monkeypatch):
    monkeypatch.setenv("EMPATHEIA_HOME", str(tmp_path))
    with pytest.raises(PartError, match=f"{part} is not fetched: run `empatheia fetch {part}`"):
        judge()
    assert judging.absent_judges()[part] == f"not fetched: empatheia fetch {part}"


def test_a_missing_package_or_file_is_one_line(fetched, monkeypatch):
    (fetched / "dnsmos").mkdir()
    with pytest.raises(JudgeError, match=r"sig_bak_ovr\.onnx is missing: .*empatheia fetch dnsmos"):
        SpeechQuality()
    (fetched / "dnsmos" / "sig_bak_ovr.onnx").write_bytes(b"no network")
    with pytest.raises(JudgeError, match=r"sig_bak_ovr\.onnx: cannot be loaded .*fetch dnsmos again"):
        SpeechQuality()
    monkeypatch.setitem(parts.importlib.sys.modules, "onnxruntime", None)
    with pytest.raises(JudgeError, match=r"needs onnxruntime: pip install 'empatheia-jax\[trained\]'"):
        SpeechQuality()


def test_an_uninstalled_package_is_a_reason_in_a_report(fetched):
    assert parts.reason_absent("dnsmos", "numpy") is None
    assert parts.reason_absent("dnsmos", "numpy", "no-such-package") == f"needs no-such-package: {parts.EXTRA}"


# Recognition ----------------------------------------------------------------------------------------------------------


def listener_that_hears(*segments: tuple[str, float, float]) -> Recogniser:
    """Return a recogniser whose network answers with segments of (text, confidence, chance of no speech)."""
    rows = [
        types.SimpleNamespace(
            text=f" {text}",
            no_speech_prob=no_speech,
            words=[
                types.SimpleNamespace(word=f" {word}", start=i, end=i + 1, probability=confidence)
                for i, word in enumerate(text.split())
            ],
        )
        for text, confidence, no_speech in segments
    ]
    listener = Recogniser.__new__(Recogniser)
    listener._model = types.SimpleNamespace(transcribe=lambda audio, **options: (iter(rows), None))
    return listener


def test_words_that_a_network_invents_in_silence_are_dropped_and_counted(seed):
    listener = listener_that_hears(("Thank you.", 0.3, 0.8), ("I see.", 0.9, 0.8), ("Oh no.", 0.3, 0.1))
    noise = np.random.default_rng(seed).normal(0, 0.1, RATE).astype(np.float32)
    transcript = listener.transcribe(noise, RATE)
    assert transcript.text == "I see. Oh no." and transcript.dropped == ("Thank you.",)
    assert transcript.confidence == pytest.approx(0.6)
    for silence in (np.zeros(RATE, np.float32), np.zeros(0, np.float32), noise * 1e-4):
        assert listener.transcribe(silence, RATE).words == ()


# Speech quality -------------------------------------------------------------------------------------------------------


def write_statistics_network(path):
    """Write a network of DNSMOS's form whose outputs are a window's mean, greatest sample and last sample."""
    import onnx
    from onnx import TensorProto, helper

    def constant(name, values):
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    nodes = [
        helper.make_node("ReduceMean", ["input_1", "axis"], ["mean"], keepdims=1),
        helper.make_node("ReduceMax", ["input_1", "axis"], ["greatest"], keepdims=1),
        helper.make_node("Slice", ["input_1", "start", "stop", "axis"], ["last"]),
        helper.make_node("Concat", ["mean", "greatest", "last"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "statistics",
        [helper.make_tensor_value_info("input_1", TensorProto.FLOAT, ["N", 144_160])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [constant("axis", [1]), constant("start", [-1]), constant("stop", [144_160])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir()
    onnx.save(model, str(path))


@pytest.mark.parametrize(
    ("seconds", "repeats", "count"),
    [(9.01, 1, 1), (9.5, 1, 1), (10.0, 1, 1), (12.0, 1, 3), (15.5, 1, 6), (5.0, 2, 1), (4.0, 4, 7), (0.3, 32, 1)],
)
def test_quality_is_the_mean_over_windows_of_a_second_apart(fetched, seed, seconds, repeats, count):
    write_statistics_network(fetched / "dnsmos" / "sig_bak_ovr.onnx")
    audio = np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE)).astype(np.float32)
    quality = SpeechQuality().rate(audio, RATE)
    long = np.concatenate([audio] * repeats)
    rows = [long[RATE * index : RATE * index + 144_160] for index in range(count)]
    signal = np.mean([np.polyval([-0.08397278, 1.22083953, 0.0052439], row.mean()) for row in rows])
    background = np.mean([np.polyval([-0.13166888, 1.60915514, -0.39604546], row.max()) for row in rows])
    overall = np.mean([np.polyval([-0.06766283, 1.11546468, 0.04602535], row[-1]) for row in rows])
    assert (quality.signal, quality.background, quality.overall) == pytest.approx(
        (signal, background, overall), abs=1e-5
    )


def test_quality_of_no_sample_is_refused():
    with pytest.raises(JudgeError, match="without a sample"):
        speech_quality.windows(np.zeros(0, np.float32))


# Speakers -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch_encoder(fetched, seed):
    """A speaker network of random weights in torch, whose file lies where the judge looks for it."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    state = {f"lstm.{name}": value.detach() for name, value in lstm.named_parameters()}
    # The published file has views of one storage: what is written here has them too, and a transposed one.
    joined = torch.cat([value.flatten() for value in state.values()])
    offsets = np.cumsum([0, *(value.numel() for value in state.values())])
    state = {
        name: joined[start : start + value.numel()].view(value.shape)
        for (name, value), start in zip(state.items(), offsets[:-1], strict=True)
    }
    transposed = linear.weight.detach().T.contiguous().T
    state |= {"linear.weight": transposed, "linear.bias": linear.bias.detach()}
    (fetched / "speaker").mkdir()
    path = fetched / "speaker" / "pretrained.pt"
    torch.save({"step": 5, "model_state": state}, path, _use_new_zipfile_serialization=False)

    def embed(spectra):
        with torch.no_grad():
            last = lstm(torch.tensor(spectra))[1][0][-1]
            return torch.nn.functional.normalize(torch.relu(linear(last)), dim=1).numpy()

    return embed


def test_the_speaker_network_is_torchs(torch_encoder, seed):
    spectra = np.random.default_rng(seed).gamma(0.5, 0.2, (2, 20, 40)).astype(np.float32)
    expected, judge = torch_encoder(spectra), SameSpeaker()
    np.testing.assert_allclose(judge.embed_parts(spectra), expected, atol=2e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    audio = np.random.default_rng(seed).normal(0, 0.1, 2 * RATE).astype(np.float32)
    audio *= 10 ** (-30 / 20) / np.sqrt(np.mean(audio**2))
    whole = torch_encoder(spectrum_parts(audio)).mean(axis=0)
    embedding = judge.embed(4 * audio, RATE)  # its loudness tells nothing
    np.testing.assert_allclose(embedding, whole / np.linalg.norm(whole), atol=1e-3)


def test_a_file_that_asks_for_code_or_is_damaged_is_refused(torch_encoder, fetched, tmp_path):
    import torch

    path, spoilt = fetched / "speaker" / "pretrained.pt", tmp_path / "spoilt.pt"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"model_state": Hostile()}, spoilt, _use_new_zipfile_serialization=False)
    with pytest.raises(JudgeError, match=r"spoilt\.pt: refused: it asks for .*mkdir"):
        read_speaker_weights(spoilt)
    assert not (tmp_path / "made").exists()
    content = path.read_bytes()
    for part in (content[: len(content) // 2], content[:200], b"", b"RIFF" + content):
        spoilt.write_bytes(part)
        with pytest.raises(JudgeError, match=r"spoilt\.pt"):
            read_speaker_weights(spoilt)
    torch.save({"model_state": {"linear.weight": torch.zeros(3, 3)}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(JudgeError, match="other weights"):
        SameSpeaker()


def test_pauses_are_cut_and_silence_is_refused(seed):
    noise = np.random.default_rng(seed).normal(0, 0.1, RATE).astype(np.float32)
    with_pause = np.concatenate([noise, np.zeros(3 * RATE, np.float32), noise])
    assert 2.0 <= len(without_pauses(with_pause)) / RATE <= 2.3
    with pytest.raises(JudgeError, match="silent"):
        without_pauses(np.zeros(RATE, np.float32))


def test_voices_are_compared_as_by_loops(seed):
    rng, names = np.random.default_rng(seed), ["a", "b", "c"]
    speakers = [names[i % 3] for i in range(12)]
    centres = dict(zip(names, rng.normal(size=(3, 16)), strict=True))
    vectors = np.array([centres[name] + 0.7 * rng.normal(size=16) for name in speakers])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    comparison = compare_voices(vectors, speakers)
    for row, first in enumerate(names):
        for column, second in enumerate(names):
            cosines = [
                vectors[i] @ vectors[j]
                for i in range(12)
                for j in range(12)
                if i != j and speakers[i] == first and speakers[j] == second
            ]
            assert comparison.similarity[row, column] == pytest.approx(np.mean(cosines), abs=1e-6)
    right = 0
    for i in range(12):
        means = {n: np.sum([vectors[j] for j in range(12) if j != i and speakers[j] == n], axis=0) for n in names}
        nearest = max(names, key=lambda n, i=i, means=means: vectors[i] @ means[n] / np.linalg.norm(means[n]))
        right += nearest == speakers[i]
    assert comparison.named == pytest.approx(right / 12)
    # Speakers that are named at random are no speakers.
    shuffled = compare_voices(np.eye(12), speakers)
    assert shuffled.named < 1 and compare_voices(np.repeat(np.eye(3), 4, axis=0), np.repeat(names, 4)).named == 1
    assert compare_voices(np.repeat(np.eye(2), 2, axis=0), [1, 2, 1, 2]).confusable == [(1, 2)]
    with pytest.raises(JudgeError, match="two recordings"):
        compare_voices(vectors[:2], ["a", "b"])


# Together -------------------------------------------------------------------------------------------------------------


def test_many_recordings_are_judged_with_intervals():
    texts = ["the dog ran home", "I see", "she sings all day", "no", "we like the old river"]
    heard = iter(["the dog ran home", "I flee", "she sings all day", "no", "we like a cold river"])
    transcripts = types.SimpleNamespace(
        transcribe=lambda audio, rate: recogniser.Transcript((recogniser.HeardWord(next(heard), 0, 1, 0.5),), ())
    )
    scores = iter((3.0, 2.0, 4.0, 1.0, 5.0))
    quality = types.SimpleNamespace(rate=lambda audio, rate: speech_quality.Quality(1.0, 2.0, next(scores)))
    items = [judging.Spoken(text, np.zeros(10, np.float32), RATE) for text in texts]
    result = judging.judge_speeches(items, judging.Judges(transcripts, quality))
    wer, dnsmos = result.wer(), result.dnsmos()
    assert wer["value"] == pytest.approx(3 / 16) and wer["n"] == 5 and wer["low"] < 3 / 16 < wer["high"]
    assert dnsmos["value"] == 3.0 and dnsmos["low"] < 3 < dnsmos["high"]
    table = np.array([[0, 4], [1, 2], [0, 4], [0, 1], [2, 5]], float)
    narrow = bootstrap(table, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()))
    assert wer["low"] <= narrow[1] and narrow[2] <= wer["high"]
    wrong = judging.against_other_texts(result)
    assert wrong["value"] > 0.9 and wrong["n"] == 5
    summary = result.summary()
    assert summary["items"][1] | {"dnsmos": None} == {
        "text": "I see",
        "heard": "I flee",
        "words": 2,
        "errors": 1,
        "confidence": 0.5,
        "dnsmos": None,
    }
    vectors = iter(np.eye(3)[[0, 1, 0, 1, 2, 2]])
    voices = judging.Judges(speakers=types.SimpleNamespace(embed=lambda audio, rate: next(vectors)))
    spoken = [judging.Spoken("yes", np.ones(9, np.float32), RATE, speaker) for speaker in ("ann", "bob") * 2]
    spoken += [judging.Spoken("yes", np.ones(9, np.float32), RATE, "eve")] * 2
    likeness = judging.judge_speeches(spoken, voices).summary()["voices"]
    assert likeness["speakers"] == ["ann", "bob", "eve"] and likeness["similarity"] == np.eye(3).tolist()
    assert (likeness["same_min"], likeness["between_max"], likeness["named"]) == (1.0, 0.0, 1.0)
    nobody = judging.judge_speeches(items, judging.Judges())
    assert nobody.wer() is None and nobody.dnsmos() is None and judging.against_other_texts(nobody) is None


# With the real parts --------------------------------------------------------------------------------------------------

WORDS = (
    "This work is supported by Alibaba Group through Alibaba Research Intern Program. We would like to thank Xinya Ji, "
    "Borong Liang, Yan Pan and Suzhen Wang for their generous help with the comparisons."
)
OTHER_WORDS = "Yesterday my neighbours found a small dog near the old bridge, and nobody knows whose it can be."


def load(judge):
    """Return a judge of the fetched parts; the test is skipped where they are not fetched."""
    try:
        return judge()
    except PartError as error:
        pytest.skip(str(error))


@pytest.fixture
def recording(real_data):
    """A real recording of `WORDS`: float32 [samples] at 16 kHz."""
    return read_audio(real_data("dreamtalk_samples") / "published_output" / "english_16k.wav", RATE)


@pytest.mark.trained
def test_the_recogniser_hears_the_words_and_no_others(recording, real_data):
    listener = load(Recogniser)
    transcript = listener.transcribe(recording, RATE)
    errors = count_word_errors(WORDS, transcript.text)
    names = 5  # whose spelling no ear can tell: Xinya, Borong Liang, Suzhen Wang's first
    assert errors.errors <= names + 1 and transcript.confidence > 0.7
    assert count_word_errors(OTHER_WORDS, transcript.text).rate > 0.9
    assert listener.transcribe(recording, RATE) == transcript  # deterministic
    ends = [word.end for word in transcript.words]
    assert ends == sorted(ends) and ends[-1] <= len(recording) / RATE + 0.5
    at_44100 = scipy.signal.resample_poly(recording, 441, 160).astype(np.float32)
    assert count_word_errors(transcript.text, listener.transcribe(at_44100, 44_100).text).rate < 0.1
    me = read_audio(real_data("field_cases") / "me.wav", RATE)
    assert (
        count_word_errors("Someone broke into our shop and I'm fed up.", listener.transcribe(me, RATE).text).errors <= 1
    )


@pytest.mark.trained
@pytest.mark.parametrize("level", [0.0, 0.001, 0.01, 0.05, 0.2])
def test_the_recogniser_hears_nothing_in_noise(level, seed):
    noise = np.random.default_rng(seed).normal(0, level, 4 * RATE).clip(-1, 1).astype(np.float32)
    assert load(Recogniser).transcribe(noise, RATE).words == ()


@pytest.mark.trained
def test_quality_falls_with_noise(recording, seed):
    judge = load(SpeechQuality)
    white = np.random.default_rng(seed).normal(0, 1, len(recording)).astype(np.float32)
    noisy = recording + white * np.sqrt(np.mean(recording**2) / 10)
    scores = [judge.rate(sound.clip(-1, 1), RATE).overall for sound in (recording, noisy, 0.05 * white)]
    assert scores[0] > 3.0 and scores[0] > scores[1] + 0.5 and scores[2] < 1.3


def sung(samples: int) -> np.ndarray:
    """Return a synthetic voice of syllables, from a formula: what speechmos 0.0.1.1 says of it is known."""
    times = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * times)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.clip(np.sin(2 * np.pi * 3 * times), 0, 1)
    noise = np.random.default_rng(0).normal(0, 0.002, samples)
    return np.clip(0.08 * voice + noise, -1, 1).astype(np.float32)


@pytest.mark.trained
@pytest.mark.parametrize(
    ("samples", "signal", "background", "overall"),
    [
        (64_000, 2.69675, 2.79294, 1.88053),
        (144_159, 2.7574, 2.89188, 1.96853),  # some of its windows are a sample short in the published loop
        (176_000, 2.69412, 2.84272, 1.87809),
    ],
)
def test_quality_is_that_of_speechmos(samples, signal, background, overall):
    quality = load(SpeechQuality).rate(sung(samples), RATE)
    assert (quality.signal, quality.background, quality.overall) == pytest.approx(
        (signal, background, overall), abs=1e-3
    )


@pytest.mark.trained
def test_speakers_are_told_apart(recording, real_data):
    judge = load(SameSpeaker)
    folder = real_data("dreamtalk_samples") / "audio"
    sounds = {"english": recording} | {
        name: read_audio(folder / f"{name}.wav", RATE) for name in ("french3", "spanish1")
    }
    halves = [(name, half) for name, sound in sounds.items() for half in np.array_split(sound, 2)]
    comparison = compare_voices(np.stack([judge.embed(half, RATE) for _, half in halves]), [name for name, _ in halves])
    assert comparison.named == 1.0 and not comparison.confusable
    assert comparison.own.min() > comparison.between.max() + 0.05
