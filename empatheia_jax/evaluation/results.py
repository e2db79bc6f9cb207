"""The report's sections of results: emotion, words, latents, disentangler, style, voice, example answers.

Each public function takes its part of the report dict (see `report.write_report`) or None and returns a section of the
page; a figure without data keeps its place and says so.
"""

from collections.abc import Sequence

from empatheia_jax.evaluation import page, plots
from empatheia_jax.evaluation.answer import chain_rows
from empatheia_jax.evaluation.conditions import MEDIA_CONDITIONS, STYLE_MEASURES, WITH_MEDIA, StyleMeasure
from empatheia_jax.evaluation.text import TOKENIZER

INTERVAL_NOTE = "Brackets and pale bars hold 90 % of redraws of the dialogues."
Section = tuple[str, str, str]


# Emotion and words (Table 2) ==========================================================================================


def emotion_section(emotion: dict | None) -> Section:
    """Return the section of emotion accuracy by condition and half, the gain, and the confusion matrix."""
    emotion = emotion or {}
    intro = (
        "Which emotion the model reads from a dialogue, taken from the chain of empathy that it wrote. In the neutral "
        "half of the dialogues the words tell nothing; only voice and face do."
    )
    return page.section("emotion", "Emotion", intro, _accuracy_figure(emotion), _confusion_figure(emotion))


ACCURACIES = (
    ("All dialogues, 7 emotions", "acc7", 1 / 7),
    ("Neutral words, 7 emotions", "neutral7", 1 / 7),
    ("Emotional words, 7 emotions", "emotional7", 1 / 7),
    ("All dialogues, 32 emotions", "acc32", 1 / 32),
    ("Follows the swapped media, 7 emotions", "follows_media7", 1 / 7),
    ("Follows the swapped media, neutral words, 7 emotions", "neutral_follows_media7", 1 / 7),
)


def _accuracy_figure(emotion: dict) -> str:
    caption = f"<b>Emotion accuracy</b> (Eq. 23). {INTERVAL_NOTE} Dashed: a guess."
    conditions = emotion.get("conditions") or {}
    order = {name: index for index, name in enumerate(MEDIA_CONDITIONS)}  # the same colours in all reports
    names = sorted(conditions, key=lambda name: order.get(name, len(order)))
    groups = []
    for heading, key, guess in ACCURACIES:
        entries = [
            (name, min(series, 4), conditions[name][key])
            for series, name in enumerate(names, 1)
            if page.interval(conditions[name].get(key))
        ]
        if entries:
            groups.append((heading, guess, entries))
    if not groups:
        return page.no_data(caption, "the emotion accuracy was not measured.")
    notes = []
    if gain := page.interval(emotion.get("gain7")):
        value, low, high = (f"{100 * part:+.1f}".replace("-", "−") for part in gain)
        notes.append(f"Gain from speech and video: {value} points [{low}, {high}].")
    sizes = {str(conditions[name]["n"]) for name in names if conditions[name].get("n") is not None}
    notes += [f"Responses: {page.escape(' or '.join(sorted(sizes)))}."] if sizes else []
    chains = {name: conditions[name].get("complete_chains") for name in names}
    written = [f"{page.escape(name)} {page.percent(value)}" for name, value in chains.items() if page.interval(value)]
    notes += [f"Complete chains of empathy: {', '.join(written)}."] if written else []
    cut = [
        f"{page.escape(name)} {conditions[name]['truncated']}" for name in names if conditions[name].get("truncated")
    ]
    notes += [f"Answers cut at the limit of tokens, counted as incomplete: {', '.join(cut)}."] if cut else []
    return page.figure(page.dots(groups), f"{caption} {' '.join(notes)}")


def _confusion_figure(emotion: dict) -> str:
    has_media = WITH_MEDIA in (emotion.get("conditions") or {WITH_MEDIA: None})
    caption = (
        f"<b>Confusion {WITH_MEDIA if has_media else 'without speech and video'}.</b> Rows: gold; columns: "
        "predicted; numbers: responses with a readable emotion. Stronger colour: a larger share of the row. "
        "Outlined: right."
    )
    counts, labels = emotion.get("confusion"), emotion.get("labels")
    if not counts or not labels:
        return page.no_data(caption, "no confusion matrix was counted.")
    head = "".join(f'<th scope="col">{page.escape(label)}</th>' for label in labels)
    lines = []
    for row, (label, row_counts) in enumerate(zip(labels, counts, strict=True)):
        total = sum(row_counts) or 1
        cells = "".join(_share_cell(count, total, row == column) for column, count in enumerate(row_counts))
        lines.append(f'<tr><th scope="row">{page.escape(label)}</th>{cells}</tr>')
    top = f'<thead><tr><th scope="col">gold \\ predicted</th>{head}</tr></thead>'
    body = page.scroll(f'<table class="confusion">{top}<tbody>{"".join(lines)}</tbody></table>', "Confusion matrix")
    return page.figure(body, caption)


def _share_cell(count: int, total: int, is_right: bool) -> str:
    css_class = "heat right" if is_right else "heat"
    return f'<td class="{css_class}" style="--share:{count / total:.3f}">{count or ""}</td>'


def words_section(text: dict | None) -> Section:
    """Return the section of Distinct-1 and Distinct-2 by condition."""
    caption = (
        "<b>Distinct words and word pairs</b> (Eqs. 24, 25), in per cent. Corpus: of all responses together "
        f"({page.escape(TOKENIZER)}); it falls as their number n grows, so compare equal n. Sentence: the mean over "
        "responses (lower case, white space). Brackets hold 90 %, by leaving out one dialogue at a time."
    )
    head = ("Condition", "n", "Dist-1", "Dist-2", "Sentence Dist-1", "Sentence Dist-2")
    keys = ("dist1", "dist2", "sentence_dist1", "sentence_dist2")
    rows = [
        (
            page.escape(name),
            page.escape(values.get("n")),
            *(page.number(values.get(f"{key}_interval", values.get(key))) for key in keys),
        )
        for name, values in (text or {}).items()
    ]
    body = page.figure(page.table(head, rows), caption) if rows else page.no_data(caption, "no response was counted.")
    return page.section("words", "Words", "How varied the responses are.", body)


# Latents and style ====================================================================================================

LATENTS = (
    ("content_speech", "Content, speech"),
    ("content_video", "Content, video"),
    ("style_speech", "Style, speech"),
    ("style_video", "Style, video"),
    ("nearest_phoneme", "Nearest phoneme of the content right"),
)


def latents_section(latents: dict | None) -> Section:
    """Return the section of the latents' explained variance, training beside held-out dialogues."""
    caption = (
        "<b>Variance explained</b> against the training mean: 100 % is the gold latent itself, 0 % (or less) no better "
        "than the mean. Last group: share of positions whose nearest phoneme is the right one."
    )
    groups = []
    for key, name in LATENTS:
        entries = [
            (split, series, values[key])
            for series, (split, values) in enumerate(list((latents or {}).items())[:4], 1)
            if page.interval(values.get(key))
        ]
        if entries:
            groups.append((name, None, entries))
    body = (
        page.figure(page.dots(groups), caption) if groups else page.no_data(caption, "the latents were not measured.")
    )
    intro = "How close predicted content and style are to what the generators extract from the recording."
    return page.section("latents", "Latents", intro, body)


def disentangler_section(disentangler: dict | None) -> Section:
    """Return the section of the four classifiers' accuracy, by what is known of the profile."""
    caption = (
        "<b>Labels from the style disentangler</b> (Eq. 11), share right. Where another profile stands in the prompt, "
        "right means that the prediction follows the prompt. Where the profile is neither given nor heard, age, gender "
        "and timbre can only be guessed."
    )
    keys = ("emotion", "age", "gender", "timbre", "all")
    rows = [
        (page.escape(name), page.escape(values.get("n")), *(page.percent(values.get(key)) for key in keys))
        for name, values in (disentangler or {}).items()
    ]
    head = ("Listener's profile", "n", "Emotion", "Age", "Gender", "Timbre", "All three")
    body = page.figure(page.table(head, rows), caption) if rows else page.no_data(caption, "no label was predicted.")
    intro = "Whether emotion and profile can be read back from the latents that carry them."
    return page.section("disentangler", "Style disentangler", intro, body)


def style_section(style: dict | None) -> Section:
    """Return the section of style: the corpus against what is measured in the audio and frames of the answers."""
    style = style or {}
    cells = style.get("cells") or []
    profiles = list(dict.fromkeys(cell.get("profile") for cell in cells))
    figures = [_measure_figure(measure, cells, profiles, style.get("rho") or {}) for measure in STYLE_MEASURES]
    keys = "".join(_legend_key(index, name) for index, name in enumerate(profiles[:4]))
    legend = f'<p class="legend">{keys}</p>' if keys else ""
    table = page.details("The cells as a table", _cell_table(cells)) if cells else ""
    intro = (
        "Each point is one profile with one emotion. Horizontal: measured in the corpus; vertical: measured in the "
        "answers. On the dashed line both are equal."
    )
    grid = f'<div class="grid two">{"".join(figures)}</div>'
    return page.section("style", "Style, heard and seen", intro, legend, grid, table)


def _measure_figure(measure: StyleMeasure, cells: Sequence[dict], profiles: list, rho: dict) -> str:
    key, sense, _, title, unit = measure
    expected, measured = f"{key}_asked", f"{key}_{sense}"
    groups = {}
    for profile in profiles[:4]:
        points = [cell for cell in cells if cell.get("profile") == profile]
        points = [cell for cell in points if page.interval(cell.get(expected)) and page.interval(cell.get(measured))]
        if points:
            groups[str(profile)] = ([cell[expected] for cell in points], [cell[measured] for cell in points])
    caption = f"<b>{title}.</b>"
    if not groups:
        return page.no_data(caption, "nothing was measured.")
    result, correlation = rho.get(key), "correlation not measured"
    if result and page.interval(result[0]) and page.interval(result[1]):
        correlation = f"ρ = {result[0]:.2f}, p {_format_p(result[1])}"
    count = sum(len(xs) for xs, _ in groups.values())
    suffix = f" ({unit})" if unit else ""
    drawing = plots.scatter(
        groups, f"corpus{suffix}", f"answers{suffix}", f"{title}: {count} cells, corpus against answers; {correlation}."
    )
    return page.figure(drawing, f"{caption} {count} cells, {correlation}.")


def _format_p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _legend_key(index: int, name) -> str:
    shapes = (
        '<circle cx="5" cy="5" r="4.4"/>',
        '<rect x="1" y="1" width="8" height="8"/>',
        '<path d="M5 0 10 5 5 10 0 5z"/>',
        '<path d="M5 .6 9.8 9.4H.2z"/>',
    )
    mark = f'<svg viewBox="0 0 10 10" aria-hidden="true" fill="var(--s{index + 1})">{shapes[index]}</svg>'
    return f'<span class="key">{mark}{page.escape(name)}</span>'


def _cell_table(cells: Sequence[dict]) -> str:
    keys = [f"{key}_{part}" for key, sense, *_ in STYLE_MEASURES for part in ("asked", sense)]
    head = ("Profile", "Emotion", *(key.replace("_", " ") for key in keys))
    rows = [
        (
            page.escape(cell.get("profile")),
            page.escape(cell.get("emotion")),
            *(page.number(cell.get(key)) for key in keys),
        )
        for cell in cells
    ]
    return page.table(head, rows, words=2)


# Voice ================================================================================================================


def judged_section(judged: dict | None) -> Section:
    """Return the section of what judges of speech say of the spoken answers, beside the controls."""
    judged = judged or {}
    caption = (
        "<b>How the answers sound.</b> WER: share of words that a speech recogniser (Whisper-base) hears wrongly. "
        "DNSMOS: opinion of listeners as a network predicts it, 1 to 5. Brackets hold 95 % of redraws of the answers. "
        "Another answer's words: what was heard, compared with the wrong text."
    )
    notes = [f'<p class="none">{page.escape(reason)}</p>' for reason in (judged.get("not_fetched") or {}).values()]
    rows = [
        (page.escape(name), page.escape(_sizes(values)), page.percent(_bounds(values.get("wer"))))
        + tuple(page.number(_bounds(values.get(key))) for key in ("dnsmos", "signal", "background"))
        for name, values in (judged.get("voices") or {}).items()
    ]
    if judged.get("left_out"):
        notes.append(f"<p>{page.escape(judged['left_out'])} answers cannot be pronounced and are left out.</p>")
    if judged.get("fell_back"):
        notes.append(
            f"<p>In {page.escape(judged['fell_back'])} of {page.escape(judged.get('answers'))} answers of the run's "
            "voice the generator's own content was spoken: the synchronizer's disagreed with the words.</p>"
        )
    if rows:
        head = ("Voice", "n", "WER", "DNSMOS", "Signal", "Background")
        body = page.figure(page.table(head, rows) + "".join(notes), caption)
    else:
        reason = judged.get("reason") or "; ".join((judged.get("not_fetched") or {}).values())
        body = page.no_data(caption, reason or "no answer was spoken.")
    intro = "Whether the spoken answers are understood, by judges that were not trained here."
    return page.section("voice", "Voice", intro, body)


def _bounds(figure: dict | None) -> list[float] | None:
    return [figure["value"], figure["low"], figure["high"]] if figure else None


def _sizes(values: dict) -> int | None:
    return next((values[key]["n"] for key in ("wer", "dnsmos") if values.get(key)), None)


# Example answers ======================================================================================================


def samples_section(samples: Sequence[dict] | None) -> Section:
    """Return the section of example answers beside the gold ones."""
    caption = "<b>Example answers</b> beside the corpus's own."
    if not samples:
        return page.section("samples", "Example answers", "", page.no_data(caption, "no answer was given."))
    body = "".join(_sample(sample) for sample in samples)
    return page.section("samples", "Example answers", "", page.figure(body, caption))


def _sample(sample: dict) -> str:
    turns = "".join(
        f"<li><b>{page.escape(str(role).capitalize())}:</b> {page.text_html(text)}</li>"
        for role, text in sample.get("history") or []
    )
    predicted, verdict = page.text_html(sample.get("predicted")), "no gold emotion is known"
    if sample.get("emotion"):
        is_right = sample["emotion"] == sample.get("predicted")
        verdict = f"gold {page.text_html(sample['emotion'])}: "
        verdict += f'<span class="{"met" if is_right else "missed"}">{"right" if is_right else "wrong"}</span>'
    answers = (
        f"<div><b>The model</b>{page.text_html(sample.get('response'))}</div>"
        f"<div><b>The corpus</b>{page.text_html(sample.get('gold_response'))}</div>"
    )
    chain = page.details("Chain of empathy", page.pairs(chain_rows(sample.get("chain"))))
    written = (sample.get("chain") or {}).get("written")
    if written:  # no chain could be read from it
        chain = page.details("What the model wrote", f"<p>{page.text_html(written)}</p>")
    return (
        f'<article><h3>{page.text_html(sample.get("id"))}</h3><ol class="turns">{turns}</ol>'
        f'<div class="pair">{answers}</div>'
        f'<p class="muted">Emotion: predicted {predicted}, {verdict}</p>{chain}</article>'
    )
