"""distribution.html, from plain data: a map of all sets of images, one of each set beside the first, their overlaps.

Like vig.html it needs nothing else, has no script, is for phones and screens, light or dark, and escapes whatever a
folder's or a run's name contributed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stic_ray.distribution import MIN_IMAGES, NEIGHBORS, Overlap
from stic_ray.report.markdown import escape

HTML, JSON = "distribution.html", "distribution.json"  # in a run's folder
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SIDE, _MARGIN = 360, 8
_COLORS = 8  # then again with square marks
_DECIMALS = 3

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1f2328;--soft:#656d76;--rule:#d0d7de;--card:#f6f8fa;
--m0:#8c959f;--m1:#0072b2;--m2:#d55e00;--m3:#009e73;--m4:#aa3377;--m5:#b58900;--m6:#3ab0e8;--m7:#8250df}
@media(prefers-color-scheme:dark){:root{--back:#0d1117;--text:#e6edf3;--soft:#9198a1;--rule:#30363d;--card:#161b22;
--m0:#7d8590;--m1:#58a6ff;--m2:#ff8a4c;--m3:#3fcf9b;--m4:#f48fc8;--m5:#e6c04a;--m6:#7fd4ff;--m7:#c297ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:860px;padding:12px 14px 64px;background:var(--back);color:var(--text);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.4em 0}h2{font-size:1.2rem;margin:1.6em 0 .4em}p{margin:.4em 0}
.soft,figcaption,.legend{color:var(--soft);font-size:.86rem}
figure{margin:.6em 0;min-width:0}.map{width:100%;max-width:720px;display:block;background:var(--card);border-radius:8px}
.mark{fill:none;stroke-width:var(--wide,3.4);stroke-opacity:.75}.round{stroke-linecap:round}
.square{stroke-linecap:square}.legend span{display:inline-flex;align-items:center;gap:6px;margin-right:14px}
.legend svg{width:12px;height:12px;--wide:9}
.panels{--wide:6;display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:3px 9px;text-align:right;border-bottom:1px solid var(--rule);overflow-wrap:normal;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:7em}th{font-weight:600;color:var(--soft)}
summary{cursor:pointer;color:var(--soft);font-size:.86rem;padding:4px 0}
"""


@dataclass(frozen=True, kw_only=True)
class MappedSet:
    """A set of images: where it was, its images' ids and places on the map, and those that have none, by reason.

    `overlap` is with the first set, None of that itself and where too few images were left.
    """

    name: str
    uri: str
    image_ids: Sequence[str]
    places: Sequence[tuple[float, float]]
    rejects_by_reason: Mapping[str, int]
    overlap: Overlap | None

    @property
    def num_rejects(self) -> int:
        """Images without a place."""
        return sum(self.rejects_by_reason.values())


@dataclass(frozen=True, kw_only=True)
class DistributionPage:
    """All that distribution.html says; the first set is the one that the others are compared with.

    Of each at most `sample` images were drawn.
    """

    run: str
    model: str
    sample: int
    seed: int
    sets: Sequence[MappedSet]


def figures(page: DistributionPage) -> dict[str, Any]:
    """distribution.json: the same as plain data, with every image's place."""
    return {
        "run": page.run,
        "model": page.model,
        "sample": page.sample,
        "seed": page.seed,
        "neighbors": NEIGHBORS,
        "compared_with": page.sets[0].name,
        "sets": [
            {
                "name": each.name,
                "uri": each.uri,
                "images": len(each.places),
                "rejects": each.num_rejects,
                "rejects_by_reason": dict(each.rejects_by_reason),
                "overlap": vars(each.overlap) if each.overlap else None,
                "image_ids": list(each.image_ids),
                "places": [[round(value, _DECIMALS) for value in place] for place in each.places],
            }
            for each in page.sets
        ],
    }


def render_page(page: DistributionPage) -> str:
    """The whole page."""
    first, others, frame = page.sets[0], page.sets[1:], _Frame.around(page.sets)
    rules = "".join(f".m{number}{{stroke:var(--m{number})}}" for number in range(_COLORS))
    title = f"{escape(page.run)}: image distribution"
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}{rules}</style></head><body>"
    )
    body = [
        f"<h1>Image distribution: {escape(page.run)}</h1>",
        f"<p>How like the images of each set are to those of {escape(first.name)}, as the vision tower of "
        f"<code>{escape(page.model)}</code> sees them: an image is the mean of its patch features. STIC (arXiv "
        "2405.19716) found that self-training mostly gains more where the two overlap more. All figures are in "
        f"<code>{JSON}</code>.</p>",
        _map(frame, page.sets),
        _panels(frame, page.sets) if len(others) > 1 else "",
        _overlaps(page),
        _rejects(page.sets),
    ]
    return f"{head}{''.join(body)}</body></html>\n"


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Places on the map to pixels: all of them fill its width, or its height where they are higher than wide."""

    left: float
    min_x: float
    min_y: float
    scale: float
    height: float

    @classmethod
    def around(cls, sets: Sequence[MappedSet]) -> "_Frame":
        xs, ys = zip(*(place for each in sets for place in each.places), strict=True)
        width, height = max(xs) - min(xs), max(ys) - min(ys)
        scale = (_SIDE - 2 * _MARGIN) / (max(width, height) or 1.0)
        return cls(
            left=(_SIDE - scale * width) / 2,
            min_x=min(xs),
            min_y=min(ys),
            scale=scale,
            height=2 * _MARGIN + scale * height,
        )

    def dot(self, place: tuple[float, float]) -> str:
        x, y = self.left + self.scale * (place[0] - self.min_x), _MARGIN + self.scale * (place[1] - self.min_y)
        return f"M{x:.1f} {y:.1f}h0"

    def chart(self, name: str, content: str) -> str:
        size = f'viewBox="0 0 {_SIDE} {self.height:.0f}"'
        return f'<svg class="map" {size} role="img" aria-label="{escape(name)}">{content}</svg>'


def _map(frame: _Frame, sets: Sequence[MappedSet]) -> str:
    drawn = "".join(
        f'<path id="m{number}" class="{_kind(number)}" d="{"".join(map(frame.dot, each.places))}">'
        f"<title>{escape(each.name)}: {len(each.places)} images</title></path>"
        for number, each in enumerate(sets)
    )
    caption = (
        "t-SNE of all images together. What lies near each other is alike; distances between groups, and their sizes, "
        "mean little."
    )
    chart = frame.chart("Map of all images", drawn)
    return f"<figure>{chart}{_legend(sets)}<figcaption>{caption}</figcaption></figure>"


def _panels(frame: _Frame, sets: Sequence[MappedSet]) -> str:
    """The map once for each other set, with the first alone beside it: in the whole map they hide each other."""
    panels = []
    for number, each in enumerate(sets[1:], start=1):
        chart = frame.chart(f"{each.name} and {sets[0].name}", f'<use href="#m0"/><use href="#m{number}"/>')
        told = f": overlap {each.overlap.value:.2f}" if each.overlap else ""
        panels.append(f"<figure>{chart}<figcaption>{escape(each.name)}{told}</figcaption></figure>")
    return f'<h2>Each set beside {escape(sets[0].name)}</h2><div class="panels">{"".join(panels)}</div>'


def _legend(sets: Sequence[MappedSet]) -> str:
    keys = [
        f'<span><svg viewBox="0 0 12 12"><path class="{_kind(number)}" d="M6 6h0"/></svg>{escape(each.name)}</span>'
        for number, each in enumerate(sets)
    ]
    return f'<p class="legend">{"".join(keys)}</p>'


def _kind(number: int) -> str:
    """The color and the form of a set's marks."""
    return f"mark m{number % _COLORS} {'square' if number // _COLORS % 2 else 'round'}"


def _overlaps(page: DistributionPage) -> str:
    header = ["set", "images", "rejected", "overlap", "95% interval", "compared"]
    rows = []
    for number, each in enumerate(page.sets):
        cells = ["", "", ""] if not number else ["too few", "", ""]
        if each.overlap is not None:
            found = each.overlap
            cells = [f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", f"{found.num_images} of each"]
        rows.append([escape(each.name), str(len(each.places)), str(each.num_rejects), *cells])
    note = (
        f"Overlap with {escape(page.sets[0].name)}: 1 where the two sets cannot be told apart, 0 where they lie apart. "
        f"Of the {NEIGHBORS} images nearest to each image of both, in as many of each set, it is the share that is of "
        "the other set, divided by what it is for two draws from one set. It is computed from the whole vectors, not "
        f"from the map; at least {MIN_IMAGES} images of each set are needed. A little above 1 is chance, or images "
        f"that are in both sets. At most {page.sample} images of a set were drawn."
    )
    return f"<h2>Overlap</h2>{_table(header, rows)}<p class=soft>{note}</p>"


def _rejects(sets: Sequence[MappedSet]) -> str:
    rows = [
        [escape(each.name), escape(reason), str(count)]
        for each in sets
        for reason, count in each.rejects_by_reason.items()
    ]
    if not rows:
        return ""
    total = sum(each.num_rejects for each in sets)
    return f"<details><summary>{total} images rejected</summary>{_table(['set', 'reason', 'images'], rows)}</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are escaped already."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
