"""The page of `headstart demo`: rendered images, flaws planted and found, three approaches, next steps.

`DemoPageData` holds the content; `demo_page` makes one HTML document of it that makes no requests, in the style of the
other pages. It links to the pages of the comparison and of the run beside it. About 150 thumbnails; takes 0.5 s of one core.
Not for your own dataset: use `check` and `report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headstart.evaluation.intervals import Estimate
from headstart.images.file_part import ImageFile
from headstart.samples.flaws import Flaw, FlawRecall

MOST_OF_A_KIND = 12
TITLES = {
    "corrupt": "Corrupt files",
    "near_duplicate": "Near-duplicates",
    "leak": "A test image in the training set",
    "exif_rotation": "Rotated by an EXIF tag",
    "wrong_label": "Wrong labels",
}


@dataclass(frozen=True, eq=False)
class DemoTrial:
    """One trial of the comparison: its accuracy and log-loss on the test images (None: not finished), and its cost."""

    name: str
    about: str
    accuracy: Estimate | None
    log_loss: Estimate | None
    seconds: float


@dataclass(frozen=True, eq=False)
class DemoPageData:
    """Content of the page. Paths are those of flaws.csv; `files` maps each to its file."""

    images: int
    sheet: Mapping[str, Sequence[str]]
    """Some paths of each class."""
    recalled: Sequence[FlawRecall]
    suggested: Mapping[str, str]
    """The class that `check` suggests for a path whose label it suspects."""
    ways: Sequence[DemoTrial]
    taken: str
    advice: str
    caution: str
    commands: Sequence[tuple[str, str]]
    links: Sequence[tuple[str, str]]
    """Pages beside this one: (relative address, text)."""
    seconds: float
    files: Mapping[str, ImageFile]


@dataclass(frozen=True)
class FlawExhibit:
    """A flaw as the page shows it: thumbnails with alternative texts, whether it was found, and a caption."""

    images: tuple[tuple[str, str], ...]
    found: bool
    text: str


def demo_page(shown: DemoPageData) -> str:
    """Return the page as HTML."""
    from markupsafe import Markup

    from headstart.reports import plots
    from headstart.reports.run_page import page_css, page_part, render
    from headstart.reports.thumbnails import thumbnails

    wanted = [path for paths in shown.sheet.values() for path in paths]
    exhibits = {row.flaw: _exhibited(row) for row in shown.recalled}
    readable = [flaw for kind, flaws in exhibits.items() for flaw in flaws if kind != "corrupt"]
    wanted += [path for flaw in readable for path in (flaw.of, flaw.path) if path]
    small = thumbnails({path: shown.files[path] for path in dict.fromkeys(wanted) if path in shown.files})
    done = [way for way in shown.ways if way.accuracy is not None]
    figure = plots.classes_figure([w.name for w in done], [w.accuracy for w in done if w.accuracy], label="accuracy")
    return render(
        "demo.html.j2",
        css=page_css() + page_part("demo.css"),
        script=page_part("page.js"),
        shown=shown,
        titles=TITLES,
        exhibits={kind: [_exhibit(f, shown, small) for f in flaws] for kind, flaws in exhibits.items()},
        small=small,
        figure=Markup(plots.to_svg(figure, label="Test accuracy of each way, with 95 % intervals")) if done else "",
    )


def _exhibited(row: FlawRecall) -> list[Flaw]:
    """Return the missed flaws first: they are the interesting ones."""
    return [*row.missed, *row.found][:MOST_OF_A_KIND]


def _exhibit(flaw: Flaw, shown: DemoPageData, small: Mapping[str, str]) -> FlawExhibit:
    own = flaw.path.split("/")[1]
    found = any(flaw in row.found for row in shown.recalled)
    both = ((flaw.of, f"{own}, original"), (flaw.path, f"{own}, {TITLES[flaw.flaw].lower()}: {flaw.detail}"))
    images = [(small[path], text) for path, text in both if path in small]
    if flaw.flaw == "wrong_label":
        guess = shown.suggested.get(flaw.path, "")
        text = f"labelled {own}, shows {flaw.detail}" + (f"; suggested: {guess}" if guess else "; not suspected")
    elif flaw.flaw == "corrupt":
        text = {"truncated": "cut off", "empty": "no bytes", "text": "a text file"}[flaw.detail]
    elif flaw.flaw == "exif_rotation":
        text = "used upright"
    else:
        text = flaw.detail
    return FlawExhibit(tuple(images), found, text)
