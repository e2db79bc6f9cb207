"""Speech quality by DNSMOS P.835 (Reddy et al., ICASSP 2022): what listeners would say of signal, background and whole.

The network hears 9.01 s at a time. Its three outputs are mapped to the scale of the listening test, 1 to 5, by the
published polynomials (of the non-personalised model).
"""

import dataclasses

import numpy as np

from empatheia_jax.data.media.sound import resample
from empatheia_jax.evaluation.judges.parts import SAMPLE_RATE, JudgeError, judge_file, judge_package
from empatheia_jax.runtime.machine import usable_cores

PART, PACKAGES = "dnsmos", ("onnxruntime",)
WINDOW_SECONDS = 9.01
HOP = SAMPLE_RATE  # 1 s
WINDOW = int(WINDOW_SECONDS * SAMPLE_RATE)

_POLYNOMIALS = np.array(
    [
        [-0.08397278, 1.22083953, 0.0052439],  # signal
        [-0.13166888, 1.60915514, -0.39604546],  # background
        [-0.06766283, 1.11546468, 0.04602535],  # overall
    ]
)
"""Coefficients of x^2, x and 1."""


@dataclasses.dataclass(frozen=True)
class Quality:
    """Predicted mean opinion scores, 1 (bad) to 5 (excellent)."""

    signal: float
    background: float
    overall: float


class SpeechQuality:
    """DNSMOS with its network loaded."""

    def __init__(self):
        """Load the fetched network.

        Raises:
          PartError: dnsmos is not fetched.
          JudgeError: the package or the file is missing, or the file is damaged.
        """
        path, package = judge_file(PART, "sig_bak_ovr.onnx"), judge_package("onnxruntime")
        options = package.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = usable_cores(), 1
        try:
            self._session = package.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (self._input,) = (value.name for value in self._session.get_inputs())
        except Exception as error:  # ONNX Runtime raises its own kinds for a damaged file
            message = " ".join(str(error).split())
            raise JudgeError(f"{path}: cannot be loaded ({message}): fetch {PART} again") from error

    def rate(self, audio: np.ndarray, sample_rate: int) -> Quality:
        """Return the mean over all windows of a recording.

        Args:
          audio: float32 [samples], mono, -1..1.
          sample_rate: Hz.

        Raises:
          JudgeError: the recording has no sample.
        """
        parts = windows(resample("the recording", np.asarray(audio, np.float32), sample_rate, SAMPLE_RATE))
        outputs = np.concatenate([self._session.run(None, {self._input: part[None]})[0] for part in parts])
        quadratic, linear, constant = _POLYNOMIALS.T
        signal, background, overall = (quadratic * outputs**2 + linear * outputs + constant).mean(axis=0)
        return Quality(float(signal), float(background), float(overall))


def windows(audio: np.ndarray) -> np.ndarray:
    """Cut a recording into the windows that the network hears, one a second; a short one is repeated.

    As published, a short recording is doubled until it fills a window, so that one of 4 s becomes 16 s, in 7 windows.

    Args:
      audio: float32 [samples] at `SAMPLE_RATE`.

    Returns:
      float32 [windows, `WINDOW`].

    Raises:
      JudgeError: the recording has no sample.
    """
    if not len(audio):
        raise JudgeError("speech quality of a recording without a sample: record it again")
    doublings = int(np.ceil(np.log2(max(1.0, WINDOW / len(audio)))))
    audio = np.tile(np.clip(audio, -1.0, 1.0), 2**doublings)
    last = max(0, int(len(audio) // SAMPLE_RATE - WINDOW_SECONDS))
    # The published loop computes a window's end in floating point and leaves out those that come out a sample short.
    starts = [s * HOP for s in range(last + 1) if int((s + WINDOW_SECONDS) * SAMPLE_RATE) - s * HOP == WINDOW]
    return np.stack([audio[start : start + WINDOW] for start in starts]).astype(np.float32)
