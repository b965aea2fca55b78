"""vig.html, from plain data, without a script; and the pieces of it that a run's report shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stic_ray.report import svg
from stic_ray.report.gains import FUNCTION_LIKE
from stic_ray.report.html import document, folded, multiline, table_of
from stic_ray.report.markdown import MODELS, escape
from stic_ray.report.svg import Bar, Mark, Range, Series

HTML, JSON = "vig.html", "vig.json"  # in a run's folder
LEVELS = 9  # shades on each side of 0
_MAX_MARKS = 12
_NUM_BARS = 12  # words or groups in a chart; the tables have all
_MAX_TURNS = 12
_MAX_CHARACTERS = 2000
_NOT_NAMED = "(not named)"
GAIN_IN_WORDS = (
    "How much the image tells of each answer token: the gain is its log-probability with the image minus that without "
    "it, in nats (VIG, arXiv 2602.17186). Above 0 the image makes the token likelier, below 0 it speaks against it."
)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token of an answer: its text ("" for an end) with what follows before the next one, and what is known of it."""

    text: str
    gain: float
    logp: float
    blind_logp: float
    is_trained: bool
    is_end: bool


@dataclass(frozen=True, kw_only=True)
class ShownTurn:
    """A turn of a conversation; an answer's tokens."""

    role: str
    text: str
    tokens: Sequence[Token] = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A conversation: why it is here, `state` in a selection, its image as a data URI or why it is `missing`."""

    why: str
    group: str
    mean_gain: float
    state: str
    image: str
    missing: str
    turns: Sequence[ShownTurn]


@dataclass(frozen=True, kw_only=True)
class Block:
    """The gains of the answers of one part of a run: figures as in vig.json; `group_name` is what groups are, `note`
    what a reader must know of all figures."""

    name: str
    group_name: str
    note: str
    figures: Mapping[str, Any]
    samples: Sequence[Shown]


@dataclass(frozen=True, kw_only=True)
class VigPage:
    """All that vig.html says; `models` are figures as in vig.json, None where nobody asked."""

    run: str
    blocks: Sequence[Block]
    models: Mapping[str, Any] | None


def render_page(page: VigPage) -> str:
    """The whole page."""
    body = [
        f"<h1>Visual information gain: {escape(page.run)}</h1>",
        f"<p>{GAIN_IN_WORDS} Rest a pointer on a chart or a token, or tap the token, for its figures; all of them are "
        "in <code>vig.json</code>.</p>",
        *(_block(block) for block in page.blocks),
        _models(page.models),
    ]
    return document(f"{page.run}: visual information gain", "".join(body), style=TOKEN_STYLE)


def _shades() -> str:
    return "".join(
        f".{side}{level}{{background:rgba(var(--{name}),{level / LEVELS * 0.6:.2f})}}"
        for side, name in (("p", "high"), ("n", "low"))
        for level in range(1, LEVELS + 1)
    )


TOKEN_STYLE = f"""
.user{{color:var(--soft)}}.turn{{white-space:pre-wrap;margin:.3em 0}}.t{{border-radius:3px;padding:1px 0}}
.u{{border-bottom:2px solid var(--text)}}.t:focus{{outline:2px solid var(--text)}}
.t:focus::after{{content:attr(title);position:fixed;left:0;right:0;bottom:0;padding:12px;background:var(--text);
color:var(--back);white-space:normal;text-align:center}}
{_shades()}
"""


def _block(block: Block) -> str:
    figures = block.figures
    title = f"<h2>Answers of {escape(block.name)}</h2>"
    if not figures["tokens"]:
        return f"{title}<p>None of the {figures['conversations'] + figures['text_only']} has an image and a token.</p>"
    return "".join(
        [
            title,
            f"<p class=soft>{escape(block.note)}</p>" if block.note else "",
            _numbers(figures),
            distributions(figures),
            selections(figures["selections"]),
            _groups(block.group_name, figures["by_group"], chart=True),
            _groups("first word of the first answer", figures["by_first_word"], chart=False),
            _words(figures),
            samples(block),
        ]
    )


def _numbers(figures: Mapping[str, Any]) -> str:
    cells = {
        "conversations with an image": f"{figures['conversations']}",
        "answers": f"{figures['answers']}",
        "answer tokens": f"{figures['tokens']}",
        "without an image, not scored": f"{figures['text_only']}",
        "mean gain of a token": f"{figures['token_gain']['mean']:+z.3f}",
        "tokens above 0": f"{figures['token_gain']['above_zero']:.1%}",
        "perplexity with the image": f"{figures['perplexity']:.3g}",
        "perplexity without": f"{figures['blind_perplexity']:.3g}",
    }
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in cells.items())}</dl>"


def distributions(figures: Mapping[str, Any]) -> str:
    """Histograms of conversations' and of tokens' gains, with the thresholds of what selects by them."""
    found = [(role, row) for role, chosen in figures["selections"].items() for row in chosen["thresholds"]]
    marks = [Mark(value=row["threshold"], label=f"threshold of {role} {row['stratum']}") for role, row in found]
    told = "" if not marks else " Dashed lines: thresholds of selection."
    if len(marks) > _MAX_MARKS:
        told = f" Dashed lines: the first {_MAX_MARKS} of {len(marks)} thresholds of selection."
    both = ""
    for name, text, shown in (
        ("gain", f"Gains of conversations, the mean over their answers' tokens.{told}", marks[:_MAX_MARKS]),
        ("token_gain", "Gains of tokens.", []),
    ):
        drawn = svg.histogram(text, **figures[name]["histogram"], marks=shown)
        scale = " Heights are square roots of counts; the outer bars hold the outer percent on each side."
        both += f"<figure>{drawn}<figcaption>{escape(text)}{scale}</figcaption></figure>"
    return f"<h3>Distribution</h3>{both}"


def selections(found: Mapping[str, Any]) -> str:
    """What each selection keeps, and its thresholds."""
    parts = []
    for role, chosen in found.items():
        kept = f"{chosen['conversations']} conversations with an image, {chosen['tokens']} of their tokens are trained"
        parts.append(f"<p><b>{escape(role)}</b> ({escape(chosen['type'])}) keeps {kept}.</p>")
        rows = [
            [_named(row["stratum"], "(all)"), f"{row['threshold']:.3f}", f"{row['conversations']}", f"{row['tokens']}"]
            for row in chosen["thresholds"]
        ]
        table = table_of(["stratum", "threshold", "kept", "trained tokens"], rows)
        parts.append(folded(f"{len(rows)} thresholds", table) if len(rows) > 1 else table)
    return f"<h3>Selection</h3>{''.join(parts)}" if parts else ""


def _groups(name: str, groups: Sequence[Mapping[str, Any]], *, chart: bool) -> str:
    rows, shown = [], []
    for group in groups:
        label = f"{group['groups']} others" if group["name"] is None else group["name"] or _NOT_NAMED
        figures = [f"{group['mean']:+z.3f}", f"{group['median']:+z.3f}", f"{group['above_zero']:.1%}"]
        rows.append([escape(label), str(group["conversations"]), *figures])
        quantiles = {key: group[key] for key in ("p10", "p25", "median", "p75", "p90")}
        shown.append(Range(name=label, num=group["conversations"], **quantiles))
    table = table_of([name, "conversations", "mean gain", "median", "above 0"], rows)
    title = f"<h3>By {escape(name)}</h3>"
    if [group["name"] for group in groups] == [""]:
        return f"{title}<p class=soft>The data names none (instructions.category says which of its fields does).</p>"
    if not chart:
        return f"{title}{table}"
    caption = "Middle half (thick), nine tenths to one tenth (thin) and median of conversations' gains."
    drawn = svg.ranges(f"Gains by {name}", shown[: 2 * _NUM_BARS])
    return f"{title}<figure>{drawn}<figcaption>{caption}</figcaption></figure>{table}"


def _words(figures: Mapping[str, Any]) -> str:
    classes = [
        [
            escape(row["name"]),
            *(f"{row[name]}" for name in ("count", "tokens")),
            *(f"{row[name]:+z.3f}" for name in ("mean", "mean_of_tokens")),
            *(f"{row[name]:.1%}" for name in ("above_zero", "share_of_gain")),
        ]
        for row in figures["by_class"]
    ]
    header = ["class", "occurrences", "tokens", "mean gain", "of a token", "above 0", "share of all gain"]
    num_words = figures["different_words"]
    here = f"here they are 50 of {num_words} different words"
    if num_words <= 2 * 50:
        here = f"this data has no more than {num_words} different words, so that they hold content words too"
    note = (
        "Classes need no tagger and no language: words with a digit, tokens without letter or digit, ends, and all "
        f"other words by how often they occur. The 50 commonest ({' and '.join(FUNCTION_LIKE)}) are mostly function "
        f"words in running text; {here}"
    )
    if figures["forgotten_words"]:
        note += (
            f"; rare words' counts are too small, {figures['forgotten_words']} occurrences were let go to save memory"
        )
    both = [_extremes(figures[key], title) for key, title in (("most_visual", "Most"), ("least_visual", "Least"))]
    rule = f"Words that occur {figures['min_count']} times or more. A word's gain is the sum of its tokens'."
    return (
        f"<h3>By class of word</h3>{table_of(header, classes)}<p class=soft>{note}.</p>"
        f"<h3>Most and least visual words</h3><p class=soft>{rule}</p>{''.join(both)}"
    )


def _extremes(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    if not rows:
        return f"<p class=soft>{title} visual: no word occurs so often.</p>"
    caption = f"{title} visual words, mean gain"
    shown = [Bar(name=row["word"], value=row["mean"], note=f"{row['count']} times") for row in rows[:_NUM_BARS]]
    cells = [
        [escape(row["word"]), f"{row['count']}", f"{row['mean']:+z.3f}", f"{row['above_zero']:.1%}"] for row in rows
    ]
    table = folded(f"{title} visual: {len(rows)} words", table_of(["word", "count", "mean gain", "above 0"], cells))
    return f"<figure>{svg.bars(caption, shown)}<figcaption>{caption}</figcaption></figure>{table}"


def samples(block: Block) -> str:
    """Conversations with every token of their answers coloured by its gain."""
    scale = block.figures["color_nats"]
    shades = "".join(
        f'<span class="t {_shade(step * scale / LEVELS, scale)}">&nbsp;{step * scale / LEVELS:+z.1f}&nbsp;</span>'
        for step in range(-LEVELS, LEVELS + 1, 3)
    )
    trained = ""
    if block.figures["selections"]:
        trained = f" Underlined: the tokens that {escape(next(iter(block.figures['selections'])))} trains."
    cards = "".join(_card(sample, scale) for sample in block.samples)
    return f"<h3>Answers, token by token</h3><p>{shades}</p><p class=soft>Nats.{trained}</p>{cards}"


def _shade(gain: float, scale: float) -> str:
    level = min(LEVELS, round(abs(gain) / scale * LEVELS))
    return f"{'p' if gain > 0 else 'n'}{level}" if level else ""


def _card(sample: Shown, scale: float) -> str:
    image = (
        f'<img src="{sample.image}" alt="">' if sample.image else f'<div class="none">{escape(sample.missing)}</div>'
    )
    facts = [sample.why, sample.group, f"mean gain {sample.mean_gain:+z.3f}", sample.state]
    head = f"<p class=soft>{' | '.join(escape(fact) for fact in facts if fact)}</p>"
    left_out = len(sample.turns) - _MAX_TURNS
    turns = "".join(_turn(turn, scale) for turn in sample.turns[:_MAX_TURNS])
    rest = f"<p class=soft>... and {left_out} more turns</p>" if left_out > 0 else ""
    return f"<article>{image}<div>{head}{turns}{rest}</div></article>"


def _turn(turn: ShownTurn, scale: float) -> str:
    if turn.role == "user":
        return f'<p class="turn user" dir="auto">{multiline(turn.text[:_MAX_CHARACTERS])}</p>'
    return f'<p class="turn" dir="auto">{"".join(_tokens(turn.tokens, scale))}</p>'


def _tokens(tokens: Sequence[Token], scale: float) -> Iterator[str]:
    length = 0
    for number, token in enumerate(tokens):
        length += len(token.text)
        if length > _MAX_CHARACTERS:
            yield f"<span class=soft> ... and {len(tokens) - number} more tokens</span>"
            return
        kinds = " ".join(filter(None, ["t", _shade(token.gain, scale), "u" if token.is_trained else ""]))
        empty = "&nbsp;&#9632;" if token.is_end else "&#183;"  # part of a character, or a space that shows as none
        title = f"gain {token.gain:+z.2f}: log p {token.logp:z.2f} with the image, {token.blind_logp:z.2f} without"
        yield f'<span class="{kinds}" tabindex="-1" title="{title}">{multiline(token.text) or empty}</span>'


def _models(models: Mapping[str, Any] | None) -> str:
    if models is None:
        return "<h2>Before and after training</h2><p class=soft>Not measured: add <code>--models</code>.</p>"
    if "skipped" in models:
        return f"<h2>Before and after training</h2><p>Skipped: {escape(models['skipped'])}.</p>"
    parts = [_attention(models["attention"]), _misleading(models["misleading"]), _noise(models["noise"])]
    told = "All on data of the run itself, which the models were trained with or could be: it shows a change, no test."
    return f"<h2>Before and after training</h2><p class=soft>{told}</p>{''.join(parts)}"


def _attention(found: Mapping[str, Any]) -> str:
    title = "<h3>Attention to the image by layer</h3>"
    if "skipped" in found:
        return f"{title}<p>Skipped: {escape(found['skipped'])}.</p>"
    by_model = {_model(name): own["layers"] for name, own in found["models"].items()}
    layers = [str(number + 1) for number in range(max(map(len, by_model.values())))]
    series = [Series(name=name, values=values, color=n) for n, (name, values) in enumerate(by_model.items())]
    drawn = svg.lines("Attention to the image by layer", layers, series, "layer")
    rows = [[name, *(f"{value:.1%}" for value in values)] for name, values in by_model.items()]
    caption = (
        f"Share of a layer's attention that falls on image tokens where a token of an answer is predicted: mean over "
        f"heads and the {found['tokens']} tokens of {found['conversations']} conversations{_skipped(found)}."
    )
    table = folded("by layer", table_of(["layer", *layers], rows))
    return f"{title}<figure>{drawn}<figcaption>{caption}</figcaption></figure>{table}"


def _misleading(found: Mapping[str, Any]) -> str:
    title = "<h3>Misleading text in the question</h3>"
    if "skipped" in found:
        return f"{title}<p>Skipped: {escape(found['skipped'])}.</p>"
    num = found["questions"]
    rows = [
        [_model(name), *(f"{right[key] / num:.1%} ({right[key]})" for key in ("plain", "misled"))]
        for name, right in found["models"].items()
    ]
    caption = (
        f"{num} questions with one-word answers{_skipped(found)}: how often the right answer is likelier than a wrong "
        "one, which answers another question that begins alike; with the question as it is, and with it written as "
        f"<q>{escape(found['template'])}</q>."
    )
    return f"{title}{table_of(['accuracy', 'plain', 'misled'], rows)}<p class=soft>{caption}</p>"


def _noise(found: Mapping[str, Any]) -> str:
    title = "<h3>Answers under noise in the image</h3>"
    if "skipped" in found:
        return f"{title}<p>Skipped: {escape(found['skipped'])}.</p>"
    steps = [str(step) for step in found["steps"]]
    series = [
        Series(name=f"{_model(name)}, {role}", values=curves[role], color=number, dashed=role == "rejected")
        for number, (name, curves) in enumerate(found["models"].items())
        for role in ("chosen", "rejected")
    ]
    drawn = svg.lines("Log-probability of answers against the noise step", steps, series, "noise step")
    kinds = ", ".join(f"{kind} {num}" for kind, num in found["kinds"].items())
    caption = (
        f"Mean log-probability of a token (nats) of {found['pairs']} pairs' chosen answers and of their rejected ones, "
        f"on images diffused so many of 1000 steps{_skipped(found)}. BPO (arXiv 2403.08730) saw the first fall and the "
        f"language prior's answers rise. What made the rejected ones here: {escape(kinds)}."
    )
    rows = [[escape(one.name), *(f"{value:.3f}" for value in one.values)] for one in series]
    table = folded("by step", table_of(["noise step", *steps], rows))
    return f"{title}<figure>{drawn}<figcaption>{caption}</figcaption></figure>{table}"


def _skipped(found: Mapping[str, Any]) -> str:
    return f" ({found['left_out']} more could not be used)" if found["left_out"] else ""


def _model(name: str) -> str:
    return MODELS.get(name, name)


def _named(text: str, otherwise: str) -> str:
    return escape(text) or otherwise
