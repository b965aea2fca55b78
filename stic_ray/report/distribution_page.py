"""The image distribution, from plain data: a map of all sets of images, each set beside the first, their overlaps.

It is a page of its own, distribution.html, and a part of a run's report, which reads distribution.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stic_ray.distribution import MIN_IMAGES, NEIGHBORS, Overlap
from stic_ray.report.html import document, folded, table_of
from stic_ray.report.markdown import escape

HTML, JSON = "distribution.html", "distribution.json"  # in a run's folder
_SIDE, _MARGIN = 360, 8
_COLORS = 8  # then again with square marks
_DECIMALS = 3

_COLOR_RULES = "".join(f".p{number}{{stroke:var(--p{number})}}" for number in range(_COLORS))
STYLE = (
    """
:root{--p0:#6e7781;--p1:#0072b2;--p2:#d55e00;--p3:#009e73;--p4:#aa3377;--p5:#b58900;--p6:#3ab0e8;--p7:#8250df}
@media(prefers-color-scheme:dark){:root{--p0:#7d8590;--p1:#58a6ff;--p2:#ff8a4c;--p3:#3fcf9b;--p4:#f48fc8;--p5:#e6c04a;
--p6:#7fd4ff;--p7:#c297ff}}
.map{width:100%;max-width:720px;display:block;background:var(--card);border-radius:8px}
.place{fill:none;stroke-width:var(--wide,3.4);stroke-opacity:.75}.round{stroke-linecap:round}
.square{stroke-linecap:square}.places svg{width:12px;height:12px;--wide:9}
.maps{--wide:6;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr));gap:12px}
.maps figure{min-width:0}
"""
    + _COLOR_RULES
)


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

    Of each at most `sample` images were drawn. `images` is the fingerprint of the run's images, "" without a run.
    """

    run: str
    model: str
    images: str
    sample: int
    seed: int
    sets: Sequence[MappedSet]


def figures(page: DistributionPage) -> dict[str, Any]:
    """distribution.json: the same as plain data, with every image's place."""
    return {
        "run": page.run,
        "model": page.model,
        "images": page.images,
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


def read_figures(tree: Mapping[str, Any]) -> DistributionPage:
    """What `figures` made."""
    sets = [  # at least one, and places of two numbers
        MappedSet(
            name=each["name"],
            uri=each["uri"],
            image_ids=each["image_ids"],
            places=[(float(x), float(y)) for x, y in each["places"]],
            rejects_by_reason=each["rejects_by_reason"],
            overlap=Overlap(**each["overlap"]) if each["overlap"] else None,
        )
        for each in tree["sets"]
    ]
    if not any(each.places for each in sets):
        raise ValueError("no set has a place")
    return DistributionPage(**{name: tree[name] for name in ("run", "model", "images", "sample", "seed")}, sets=sets)


def render_page(page: DistributionPage) -> str:
    """The whole page."""
    title = f"Image distribution: {page.run}"
    return document(title, f"<h1>{escape(title)}</h1>{render_section(page)}", style=STYLE)


def render_section(page: DistributionPage) -> str:
    """What the page says, without its title."""
    frame = _Frame.around(page.sets)
    told = (
        f"<p>How like the images of each set are to those of {escape(page.sets[0].name)}, as the vision tower of "
        f"<code>{escape(page.model)}</code> sees them: an image is the mean of its patch features. STIC (arXiv "
        "2405.19716) found that self-training mostly gains more where the two overlap more. All figures are in "
        f"<code>{JSON}</code>.</p>"
    )
    panels = _panels(frame, page.sets) if len(page.sets) > 2 else ""
    return f"{told}{_map(frame, page.sets)}{panels}{_overlaps(page)}{_rejects(page.sets)}"


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
        f'<path id="places{number}" class="{_kind(number)}" d="{"".join(map(frame.dot, each.places))}">'
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
        chart = frame.chart(f"{each.name} and {sets[0].name}", f'<use href="#places0"/><use href="#places{number}"/>')
        told = f": overlap {each.overlap.value:.2f}" if each.overlap else ""
        panels.append(f"<figure>{chart}<figcaption>{escape(each.name)}{told}</figcaption></figure>")
    return f'<h3>Each set beside {escape(sets[0].name)}</h3><div class="maps">{"".join(panels)}</div>'


def _legend(sets: Sequence[MappedSet]) -> str:
    keys = [
        f'<span><svg viewBox="0 0 12 12"><path class="{_kind(number)}" d="M6 6h0"/></svg>{escape(each.name)}</span>'
        for number, each in enumerate(sets)
    ]
    return f'<p class="legend places">{"".join(keys)}</p>'


def _kind(number: int) -> str:
    """The color and the form of a set's marks."""
    return f"place p{number % _COLORS} {'square' if number // _COLORS % 2 else 'round'}"


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
    return f"<h3>Overlap</h3>{table_of(header, rows)}<p class=soft>{note}</p>"


def _rejects(sets: Sequence[MappedSet]) -> str:
    rows = [
        [escape(each.name), escape(reason), str(count)]
        for each in sets
        for reason, count in each.rejects_by_reason.items()
    ]
    total = sum(each.num_rejects for each in sets)
    return folded(f"{total} images rejected", table_of(["set", "reason", "images"], rows))
