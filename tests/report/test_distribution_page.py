"""The page of the image distribution: whole, safe and without a script."""

import json
import re
from html.parser import HTMLParser

import pytest

from stic_ray.distribution import Overlap
from stic_ray.report.distribution_page import DistributionPage, MappedSet, figures, read_figures, render_page

HOSTILE = "<script>alert(1)</script> \"'><img src=http://x.y onerror=z> &lt; ]]> --> \u202e </style>"


def _set(number: int, places: list[tuple[float, float]], overlap: Overlap | None, name: str = "") -> MappedSet:
    return MappedSet(
        name=name or f"set {number}",
        uri=f"s3://bucket/{number}",
        image_ids=[f"{number}-{place}" for place in range(len(places))],
        places=places,
        rejects_by_reason={"not an image": 2, HOSTILE: 1} if number == 1 else {},
        overlap=overlap,
    )


def _page(num: int, name: str = "") -> DistributionPage:
    found = Overlap(value=0.5, low=0.4, high=0.6, num_images=100)
    sets = [_set(n, [(n, -n), (n + 1.5, 3.0)], found if n else None, name and f"{name}{n}") for n in range(num)]
    return DistributionPage(run=name or "mine", model=name or "model", images="f", sample=1000, seed=0, sets=sets)


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("num", [2, 5, 20])
def test_page_shows_every_image_of_every_set_and_each_set_beside_the_first(num: int) -> None:
    page = render_page(_page(num))
    tags = _Tags(page).tags
    marks = [
        attributes for tag, attributes in tags if tag == "path" and str(attributes.get("id", "")).startswith("places")
    ]
    assert [mark["id"] for mark in marks] == [f"places{number}" for number in range(num)]
    assert len({mark["class"] for mark in marks}) == min(num, 16)
    dots = [re.findall(r"M([\d.]+) ([\d.]+)h0", str(mark["d"])) for mark in marks]
    assert [len(each) for each in dots] == [2] * num
    assert all(0 <= float(value) <= 360 for each in dots for dot in each for value in dot)
    used = [attributes["href"] for tag, attributes in tags if tag == "use"]
    assert used == ([part for number in range(1, num) for part in ("#places0", f"#places{number}")] if num > 2 else [])
    assert page.count("0.400 to 0.600") == num - 1
    assert "prefers-color-scheme:dark" in page and "width=device-width" in page


def test_page_shows_hostile_names_as_text_and_loads_nothing() -> None:
    page = render_page(_page(3, HOSTILE))
    tags = _Tags(page).tags
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on") or name == "src"]
    assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in tags)
    policies = [attributes["content"] for tag, attributes in tags if "http-equiv" in attributes]
    assert len(policies) == 1 and "script-src" not in str(policies[0]) and "default-src 'none'" in str(policies[0])
    assert "\u202e" not in page


def test_figures_are_plain_data_and_hold_every_place() -> None:
    tree = json.loads(json.dumps(figures(_page(3)), allow_nan=False))
    assert tree["compared_with"] == "set 0"
    assert tree["sets"][1]["overlap"] == {"value": 0.5, "low": 0.4, "high": 0.6, "num_images": 100}
    assert (tree["sets"][0]["overlap"], tree["sets"][1]["rejects"]) == (None, 3)
    assert [each["places"] for each in tree["sets"]] == [[[n, -n], [n + 1.5, 3.0]] for n in range(3)]
    assert render_page(read_figures(tree)) == render_page(_page(3))


def test_page_of_images_in_one_place_and_of_too_few_is_whole() -> None:
    few = [_set(0, [(2.0, 2.0)], None), _set(1, [(2.0, 2.0)], None)]
    page = render_page(DistributionPage(run="mine", model="model", images="", sample=10, seed=0, sets=few))
    assert "too few" in page and "nan" not in page.lower()
