"""Whose voice it is: the speaker encoder of Wan et al. (ICASSP 2018, generalised end-to-end loss), by resemblyzer.

Three LSTM layers over mel spectra; the last state, projected, is the embedding of 1.6 s, and their mean that of a
recording. Two recordings of one speaker have a higher cosine than those of two.
"""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.ndimage import binary_dilation

from empatheia_jax.data.media.sound import resample
from empatheia_jax.evaluation.judges.parts import SAMPLE_RATE, JudgeError, judge_file
from empatheia_jax.evaluation.judges.speaker_weights import read_speaker_weights

PART, PACKAGES = "speaker", ()
EMBEDDING = 256
LAYERS = 3

_WINDOW, _HOP, _MELS = 400, 160, 40  # 25 ms, 10 ms
_FRAMES, _STEP, _COVERAGE = 160, 77, 0.75  # frames of a part, between parts; least share of the last part that is sound
_LEVEL = 10 ** (-30 / 20)  # RMS to which a recording is brought
_PAUSE_WINDOW, _PAUSE_DB, _PAUSE_KEPT = 480, 35.0, 3  # 30 ms; so far under the loudest; windows kept around sound


class SameSpeaker:
    """The speaker encoder with its weights loaded."""

    def __init__(self):
        """Load the fetched weights.

        Raises:
          PartError: the part `speaker` is not fetched.
          JudgeError: its file is missing or damaged.
        """
        path = judge_file(PART, "pretrained.pt")
        self._weights = read_speaker_weights(path)
        if wrong := [
            name for name, shape in _shapes().items() if getattr(self._weights.get(name), "shape", 0) != shape
        ]:
            raise JudgeError(f"{path}: other weights than the speaker network's: no {wrong[0]} of its shape")

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the embedding of a recording.

        Args:
          audio: float32 [samples], mono, -1..1.
          sample_rate: Hz.

        Returns:
          float32 [`EMBEDDING`], of norm 1.

        Raises:
          JudgeError: the recording is silent.
        """
        audio = without_pauses(resample("the recording", np.asarray(audio, np.float32), sample_rate, SAMPLE_RATE))
        partial = self.embed_parts(spectrum_parts(audio * (_LEVEL / np.sqrt(np.mean(audio**2)))))
        return _unit(partial.mean(axis=0))

    def embed_parts(self, spectra: np.ndarray) -> np.ndarray:
        """Return the embeddings float32 [parts, `EMBEDDING`], of norm 1, of mel spectra float32 [parts, frames, 40]."""
        states, weights = spectra.astype(np.float32), self._weights
        for layer in range(LAYERS):
            states = _lstm(
                states,
                weights[f"lstm.weight_ih_l{layer}"],
                weights[f"lstm.weight_hh_l{layer}"],
                weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"],
            )
        return _unit(np.maximum(states[:, -1] @ weights["linear.weight"].T + weights["linear.bias"], 0.0))


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the network's tensors by name."""
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (EMBEDDING, EMBEDDING), "linear.bias": (EMBEDDING,)}
    for layer in range(LAYERS):
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * EMBEDDING, EMBEDDING if layer else _MELS)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * EMBEDDING, EMBEDDING)
        shapes[f"lstm.bias_ih_l{layer}"] = shapes[f"lstm.bias_hh_l{layer}"] = (4 * EMBEDDING,)
    return shapes


def _lstm(inputs: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the states [n, t, h] of an LSTM layer over inputs [n, t, d]; gates in the order i, f, g, o."""
    driven = inputs @ weight_ih.T + bias
    state = np.zeros((len(inputs), weight_hh.shape[1]), np.float32)
    cell, states = state, []
    for step in range(inputs.shape[1]):
        enter, forget, update, leave = np.split(driven[:, step] + state @ weight_hh.T, 4, axis=1)
        cell = _sigmoid(forget) * cell + _sigmoid(enter) * np.tanh(update)
        state = _sigmoid(leave) * np.tanh(cell)
        states.append(state)
    return np.stack(states, axis=1)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def without_pauses(audio: np.ndarray) -> np.ndarray:
    """Return a recording float32 [samples] at 16 kHz without its longer pauses, which tell of nobody.

    Raises:
      JudgeError: it is silent.
    """
    whole = audio[: len(audio) // _PAUSE_WINDOW * _PAUSE_WINDOW].reshape(-1, _PAUSE_WINDOW)
    power = np.mean(whole**2, axis=1) if len(whole) else np.zeros(0)
    if not len(power) or power.max() < 1e-10:
        raise JudgeError("no voice to recognise: the recording is silent")
    is_loud = power > power.max() * 10 ** (-_PAUSE_DB / 10)
    return whole[np.asarray(binary_dilation(is_loud, iterations=_PAUSE_KEPT), bool)].ravel()


def spectrum_parts(audio: np.ndarray) -> np.ndarray:
    """Return the mel power spectra float32 [parts, 160, 40] of overlapping parts of 1.6 s of a recording at 16 kHz."""
    import librosa  # takes a second, which an evaluation without this judge shall not wait for

    frames = -(-(len(audio) + 1) // _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    if len(starts) > 1 and (len(audio) / _HOP - starts[-1]) / _FRAMES < _COVERAGE:
        starts.pop()
    audio = np.pad(audio, (0, max(0, (starts[-1] + _FRAMES) * _HOP - len(audio))))
    spectrum = librosa.feature.melspectrogram(
        y=audio, sr=SAMPLE_RATE, n_fft=_WINDOW, hop_length=_HOP, n_mels=_MELS
    ).T.astype(np.float32)
    return np.stack([spectrum[start : start + _FRAMES] for start in starts])


@dataclasses.dataclass(frozen=True)
class VoiceComparison:
    """How alike the voices of several speakers are, from at least two recordings of each."""

    speakers: tuple[Hashable, ...]
    similarity: (
        np.ndarray
    )  # float32 [S, S]: mean cosine of a recording of the row's and another of the column's speaker
    named: float  # share of recordings whose nearest speaker, by the others' recordings, is the right one

    @property
    def own(self) -> np.ndarray:
        """Similarity of each speaker's recordings among themselves, float32 [S]."""
        return np.diagonal(self.similarity)

    @property
    def between(self) -> np.ndarray:
        """Similarity of each pair of different speakers, float32 [S (S - 1) / 2]."""
        return self.similarity[np.triu_indices(len(self.speakers), 1)]

    @property
    def confusable(self) -> list[tuple[Hashable, Hashable]]:
        """Pairs that are more alike than either is to itself from recording to recording."""
        rows, columns = np.triu_indices(len(self.speakers), 1)
        least = np.minimum(self.own[rows], self.own[columns])
        alike = self.similarity[rows, columns] > least
        return [(self.speakers[r], self.speakers[c]) for r, c in zip(rows[alike], columns[alike], strict=True)]

    def summary(self) -> dict:
        """Return the figures of a report, and the matrix, as JSON values."""
        between = self.between
        return {
            "speakers": [str(speaker) for speaker in self.speakers],
            "similarity": [[round(float(value), 4) for value in row] for row in self.similarity],
            "same_mean": float(self.own.mean()),
            "same_min": float(self.own.min()),
            "between_mean": float(between.mean()) if len(between) else None,
            "between_max": float(between.max()) if len(between) else None,
            "confusable": [[str(first), str(second)] for first, second in self.confusable],
            "named": self.named,
        }


def compare_voices(embeddings: np.ndarray, speakers: Sequence[Hashable]) -> VoiceComparison:
    """Compare recordings of several speakers.

    Args:
      embeddings: float [n, `EMBEDDING`], of norm 1.
      speakers: who speaks in each.

    Raises:
      JudgeError: a speaker with a single recording, which has nothing to be compared with.
    """
    names = tuple(dict.fromkeys(speakers))
    member = np.array([[speaker == name for name in names] for speaker in speakers], np.float64)  # [n, S]
    counts = member.sum(axis=0)
    if not len(names) or counts.min() < 2:
        raise JudgeError("a comparison of voices needs two recordings or more of every speaker")
    sums = member.T @ embeddings  # [S, 256]
    similarity = sums @ sums.T / np.outer(counts, counts)
    own = (np.sum(sums**2, axis=1) - member.T @ np.sum(embeddings**2, axis=1)) / (counts * (counts - 1))
    np.fill_diagonal(similarity, own)  # of different recordings
    # Each recording is compared with the mean of each speaker's recordings, itself left out.
    others = sums[None] - member[:, :, None] * embeddings[:, None]
    cosine = np.einsum("nd,nsd->ns", embeddings, _unit(others))
    right = cosine.argmax(axis=1) == member.argmax(axis=1)
    return VoiceComparison(names, similarity.astype(np.float32), float(right.mean()))
