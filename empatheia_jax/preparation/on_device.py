"""What `extract` does in the main process: networks on the accelerator, many recordings at once."""

from collections.abc import Mapping

from empatheia_jax.encoders import ModalityEncoder

# A listener's recording on its way to `performed`: samples, and what the generators' `prepare` made of sound and frames
HEARD, PREPARED, CLIP = "heard", "prepared", "clip"


def encoded(records: list[tuple[str, dict]], encoders: Mapping[str, ModalityEncoder]) -> list[tuple[str, dict]]:
    """Records whose "audio" and "video" are preprocessed -> with features, for encoders that are `on_device`."""
    records = [(key, dict(arrays)) for key, arrays in records]
    for modality, encoder in encoders.items():
        having = [arrays for _, arrays in records if modality in arrays]
        if encoder.on_device and having:
            features = encoder.encode([arrays[modality] for arrays in having])
            for arrays, feature in zip(having, features, strict=True):
                arrays[modality] = feature
    return records


def performed(records: list[tuple[str, dict]], speech, face, notes: dict) -> list[tuple[str, dict]]:
    """Records with `HEARD`, `PREPARED` or `CLIP` -> with golds, by the generators that are `on_device`.

    What cannot be had of one is rejected in `notes`, as in a worker.
    """
    records = [(key, dict(arrays)) for key, arrays in records]
    clips = [arrays for _, arrays in records if CLIP in arrays]
    if clips:
        for arrays, style in zip(clips, face.styles([arrays.pop(CLIP) for arrays in clips]), strict=True):
            arrays["style_video"] = style
    heard = [(key, arrays, arrays.pop(HEARD)) for key, arrays in records if HEARD in arrays]
    if speech.on_device and heard:
        golds = speech.golds(
            [arrays.pop(PREPARED) for _, arrays, _ in heard],
            [arrays["phonemes"] for _, arrays, _ in heard],
            [len(audio) / speech.sample_rate for _, _, audio in heard],
        )
        for (_, arrays, _), gold in zip(heard, golds, strict=True):
            arrays |= gold
    for key, arrays, audio in heard:
        try:
            arrays["content_video"] = face.content(
                audio, speech.sample_rate, arrays["phonemes"], arrays["phoneme_frames"]
            )
        except ValueError as error:
            for name in ("phonemes", "phoneme_frames", "content_speech", "style_speech"):
                del arrays[name]
            notes["counts"]["gold"] -= 1
            notes["rejected"].append({"key": key, "modality": "gold", "file": "", "error": str(error)})
    return records
