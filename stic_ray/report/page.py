"""report.html, from plain data: one file that needs nothing else, for phones and screens, light or dark.

Its only scripts are the chart library's and what draws with it; a policy in its head names them by their hashes.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stic_ray.config import Config
from stic_ray.report import costs, curves, distribution_page, flow, lineage, lmms, measures
from stic_ray.report.collect import PairGroup, RunFacts, ShownPair
from stic_ray.report.distribution_page import DistributionPage
from stic_ray.report.html import document, facts, multiline
from stic_ray.report.markdown import Change, Difference, escape, find_change, headline, shorten
from stic_ray.report.vig_page import GAIN_IN_WORDS, TOKEN_STYLE, Block, distributions, samples, selections

_WORD = re.compile(r"\s+")
_CLAIM = re.compile(r"\*\*(.+?)\*\*")


def render(facts_of_run: RunFacts) -> str:
    """The whole page."""
    config = facts_of_run.folder.config
    charts, plots = _training(facts_of_run)
    sections = [
        ("figures", "Before and after", measures.benchmarks(facts_of_run.summary, facts_of_run.comparisons, config)),
        ("lmms", "Further benchmarks", lmms.section(facts_of_run.lmms)),
        ("inputs", "Where every input went", flow.flow(facts_of_run)),
        ("pairs", "Preference pairs", "".join(map(_pair_group, facts_of_run.pairs))),
        ("tokens", "Tokens and the image", _tokens(facts_of_run.gains)),
        ("training", "Training", plots),
        ("distribution", "Image distribution", _distribution(facts_of_run.distribution)),
        ("cost", "Throughput and cost", costs.costs(facts_of_run)),
        ("lineage", "Lineage", _LINEAGE + lineage.lineage(facts_of_run)),
        ("again", "Run it again", command(facts_of_run.command)),
    ]
    filled = [(name, title, content) for name, title, content in sections if content]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in filled)
    body = [
        f"<header><p class=soft>{_setting(config)}</p><h1>{escape(config.name)}</h1>",
        _headline(facts_of_run),
        f"</header><nav>{links}</nav>",
        *(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in filled),
    ]
    return page(config.name, "".join(body), charts)


def page(title: str, body: str, charts: Mapping[str, Any], style: str = "") -> str:
    """A page of reports, with its charts' data and what it adds to their style."""
    styles = (TOKEN_STYLE, lineage.STYLE, measures.STYLE, flow.STYLE, distribution_page.STYLE, curves.style())
    parts = (*styles, _STYLE, style)
    return document(title, body, style="".join(parts), scripts=curves.scripts(), data={"charts": charts})


def command(text: str) -> str:
    """A command that can be copied; one click marks all of it."""
    if not text:
        return ""
    copy = '<button type="button" data-copy="command" hidden>copy</button>'
    told = "<p class=soft>What is in the store already is reused.</p>"
    return f'<div class="again"><pre id="command">{multiline(text)}</pre>{copy}</div>{told}'


def _setting(config: Config) -> str:
    source = config.unlabeled or config.annotated or config.imported or config.instructions
    data = getattr(source, "uri", "")
    return " · ".join(escape(part) for part in (config.model.path, data, f"seed {config.seed}") if part)


def _headline(facts_of_run: RunFacts) -> str:
    told = headline(facts_of_run.summary, facts_of_run.comparisons, facts_of_run.stages)
    change = find_change(facts_of_run.summary, facts_of_run.comparisons)
    sentence = _CLAIM.sub(r"<strong>\1</strong>", told)  # names in it are escaped, for markdown and HTML alike
    return f'<p class="claim">{sentence}</p>{_cards(change) if change else ""}'


def _cards(change: Change) -> str:
    own = change.model.replace("stage", "stage ")
    cards = {
        "base": f"{change.before:.1f}",
        own: f"{change.after:.1f}",
        f"{own} minus base": _difference(change.difference),
    }
    if change.control is not None:
        cards["control"] = f"{change.control:.1f}"
        cards[f"{own} minus control"] = _difference(change.against_control)
    return f"<p class=soft>{escape(change.figure)}</p>{facts(cards)}"


def _difference(found: Difference | None) -> str:
    if found is None:
        return "not measured"
    return f"{found[0]:+.1f} <small>[{found[1]:+.1f}, {found[2]:+.1f}]</small>"


def _pair_group(group: PairGroup) -> str:
    """The pairs that one negative made: a few of them, side by side."""
    name = escape(group.negative) or "no negative is named"
    where = "" if group.role == "pairs" else f" in {escape(group.role)}"
    title = f"<h3>{name} <small>{group.num:,} pairs{where}</small></h3>"
    return title + "".join(map(_pair, group.shown))


def _pair(shown: ShownPair) -> str:
    pair = shown.pair
    image = (
        f'<img src="{shown.image}" alt="">'
        if shown.image
        else f'<div class="none">{escape(shorten(shown.missing))}</div>'
    )
    chosen, rejected = compare_words(shorten(pair.chosen), shorten(pair.rejected))
    made = [f"seed {pair.rejected_seed}"]
    if pair.rejected_prompt and pair.rejected_prompt != pair.prompt:
        made.insert(0, f"asked <q>{escape(shorten(pair.rejected_prompt))}</q>")
    if pair.corruption:
        made.insert(0, f"saw the image under <code>{escape(shorten(pair.corruption))}</code>")
    return (
        f'<article class="pair">{image}<div><p class="prompt" dir="auto">{multiline(shorten(pair.prompt))}</p>'
        f'<div class="sides"><div class="chosen"><h4>chosen</h4><p dir="auto">{chosen}</p></div>'
        f'<div class="rejected"><h4>rejected</h4><p dir="auto">{rejected}</p></div></div>'
        f"<p class=soft>The rejected answer's model {'; '.join(made)}</p>{lineage.pair_node(pair)}</div></article>"
    )


def compare_words(chosen: str, rejected: str) -> tuple[str, str]:
    """Both texts as HTML, the words in which they differ marked."""
    ours, theirs = (_WORD.split(text.strip()) for text in (chosen, rejected))
    blocks = difflib.SequenceMatcher(a=ours, b=theirs, autojunk=False).get_opcodes()
    left = [_words(ours[a:b], tag) for tag, a, b, _, _ in blocks if a < b]
    right = [_words(theirs[a:b], tag) for tag, _, _, a, b in blocks if a < b]
    return " ".join(left), " ".join(right)


def _words(words: Sequence[str], tag: str) -> str:
    text = escape(" ".join(words))
    return text if tag == "equal" else f"<mark>{text}</mark>"


def _distribution(page: DistributionPage | None) -> str:
    return distribution_page.render_section(page) if page else ""


def _tokens(blocks: Sequence[Block]) -> str:
    parts = []
    for block in blocks:
        parts.append(f"<h3>Answers of {escape(block.name)}</h3>")
        if not block.figures["tokens"]:
            parts.append("<p class=soft>None of them has an image and a token.</p>")
            continue
        note = f"<p class=soft>{escape(block.note)}</p>" if block.note else ""
        parts += [note, distributions(block.figures), selections(block.figures["selections"]), samples(block)]
    return f"<p class=soft>{escape(GAIN_IN_WORDS)}</p>{''.join(parts)}" if parts else ""


def _training(facts_of_run: RunFacts) -> tuple[dict[str, Any], str]:
    """The data of the charts of every training, and the section that holds them."""
    controls = dict(curves.by_training(facts_of_run.curves))

    def lines_of(training: str, metric: str) -> list[curves.Line]:
        names = [name for name in (training, controls[training]) if name is not None]
        return [
            curves.Line(
                name=name.replace("_", " "),
                color="c2" if name.startswith("stage2") else "c1",
                dashed=name != training,
                curve=facts_of_run.curves[name][metric],
            )
            for name in names
            if metric in facts_of_run.curves[name]
        ]

    found, parts = curves.sections(controls, lines_of)
    told = "<p class=soft>Rest a pointer on a chart, or tap it, for the values at a step.</p>"
    return found, f"{told}{_NO_SCRIPT}{parts}" if parts else ""


_NO_SCRIPT = "<noscript><p>These charts are drawn by a script, which this browser does not run.</p></noscript>"
_LINEAGE = "<p class=soft>What each artifact was made of, down to the listing; open one for its place and settings.</p>"
_STYLE = """
:root{--c3:#9333ea;--bad:#b42318;--good-back:#dafbe1;--bad-back:#ffe4e0}
@media(prefers-color-scheme:dark){:root{--c3:#c084fc;--bad:#ff9d92;--good-back:#12331d;--bad-back:#47201c}}
html{scroll-behavior:smooth;scroll-padding-top:8px}body{max-width:1120px;padding:20px 16px 80px}
header h1{font-size:clamp(1.7rem,5vw,2.4rem);line-height:1.15;margin:.1em 0 .4em;letter-spacing:-.02em}
.claim strong{font-weight:500}section>dl{grid-template-columns:repeat(auto-fill,minmax(160px,1fr))}
.claim{font-size:1.06rem;line-height:1.55;max-width:62em;margin:0 0 1em}
header dl{grid-template-columns:repeat(auto-fit,minmax(118px,1fr))}
dd{font-size:1.3rem;font-variant-numeric:tabular-nums}
dd small,h3 small{font-size:.8rem;font-weight:400;color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;margin:1.4em 0 0;font-size:.9rem}
nav a{color:var(--c1);text-decoration:none}
nav a:hover{text-decoration:underline}h2{font-size:1.35rem;margin:2.2em 0 .5em;letter-spacing:-.01em}
.pair>img{width:128px}.pair{align-items:flex-start}.prompt{font-weight:600;margin:0 0 .4em;white-space:pre-wrap}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,250px),1fr));gap:8px 22px}
h4{margin:0;font-size:.78rem;font-weight:600;letter-spacing:.02em}.chosen h4{color:var(--c2)}
.rejected h4{color:var(--bad)}
.sides p{margin:.1em 0 .4em}mark{color:inherit;border-radius:3px;padding:0 2px;box-decoration-break:clone;
-webkit-box-decoration-break:clone}.chosen mark{background:var(--good-back)}.rejected mark{background:var(--bad-back)}
@media(min-width:800px){#tokens figure{display:inline-block;vertical-align:top;width:calc(50% - 10px)}}
.again{position:relative}.again pre{padding-right:70px;user-select:all;margin:.4em 0}
button{position:absolute;top:8px;right:8px;font:inherit;font-size:.82rem;padding:2px 10px;border-radius:6px;
border:1px solid var(--rule);background:var(--back);color:var(--text);cursor:pointer}
"""
