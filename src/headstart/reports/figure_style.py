"""Common parts of all figures: colours, axes, labels, and output as PNG, SVG, and SVG for a page.

Figures are plain matplotlib `Figure` objects: no pyplot, no window, no current figure. Lengths are in points; a page
shows one point as 4/3 px, so a figure 360 wide takes 480 px. Margins around axes are estimated from the labels, since
matplotlib's own layouts draw everything twice. The first import of matplotlib takes 0.4 s of one core; a figure takes
about 0.02 s to make and 0.03 to 0.1 s to save as PNG and SVG.

The colours (Okabe and Ito 2008, "Color universal design") are distinguishable with colour blindness and have a contrast
of at least 3:1 against white and near-black; colour is never the only cue.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headstart.io.files import write_together
from headstart.io.text_table import cells, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1c2024", "#5f6b76", "#dfe3e7", "#fefefe"
"""Text and axes, secondary text, grid lines, background. A page substitutes its own, see `to_svg`."""
BLUE, RED, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SPLIT_COLOURS = {"train": BLUE, "val": GREEN, "test": RED, "": MUTED}
SIZE = 9.5
"""Text size in points: 12.7 px on a page."""
WIDE, BROAD = 360, 450
"""Widths in points: for one pair of axes, and for two side by side."""
PNG_DPI = 150
THEME = {
    INK: "currentColor",
    MUTED: f"var(--muted,{MUTED})",
    GRID: f"var(--rule,{GRID})",
    PAPER: f"var(--paper,{PAPER})",
}


# ------------------------------------------------------------------------------------------------------ figure and axes
def blank(width: float, height: float) -> Figure:
    """Return an empty figure of that size in points, with a white background."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), facecolor=PAPER)


def panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    *,
    x: str = "",
    y: str = "",
    grid: Literal["x", "y", "both", ""] = "y",
    ticks: tuple[int, int] = (5, 5),
    whole: str = "",
    gap: float = 46,
) -> Axes:
    """Add axes at (left, bottom, right, top) in points from the lower left corner.

    `grid` names the axes with grid lines, `ticks` the maximum number of ticks along x and y, `whole` the axes that show
    integers only. The label of y is `gap` points to the left.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    width, height = figure.get_size_inches() * 72
    left, bottom, right, top = box
    axes = figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=MUTED, linewidth=0.7)
    axes.tick_params(length=2.5, width=0.7, color=MUTED, labelcolor=INK, labelsize=SIZE, pad=3)
    for name, axis, most in zip("xy", (axes.xaxis, axes.yaxis), ticks, strict=True):
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=name in whole))
        axis.set_major_formatter(FuncFormatter(number))
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
    axes.set_xlabel(x, color=INK, fontsize=SIZE, labelpad=4, parse_math=False)
    axes.set_ylabel(y, color=INK, fontsize=SIZE, parse_math=False)
    axes.yaxis.set_label_coords((12 - gap) / (right - left), 0.5)
    return axes


def note(axes: Axes, x: float, y: float, text: str, *, color: str = MUTED, **how: Any) -> None:
    """Write a short text at a point in data coordinates, or in those of `transform`."""
    axes.text(x, y, text, **{"color": color, "fontsize": SIZE - 0.5, "parse_math": False, "va": "center", **how})


def key(figure: Figure, entries: Sequence[tuple[str, str, str]], left: float) -> None:
    """Write the legend in one line at the top: (sign, colour, text). The text is in ink: some colours are hard to
    read."""
    width, height = figure.get_size_inches() * 72
    how: dict[str, Any] = {"fontsize": SIZE, "va": "top", "parse_math": False}
    for sign, color, text in entries:
        figure.text(left / width, 1 - 4 / height, sign, color=color, **how)
        figure.text((left + 10) / width, 1 - 4 / height, text, color=INK, **how)
        left += text_width([text]) + 24


def spread(axes: Axes, least: float) -> None:
    """Make the y axis span at least this much, so that tiny differences do not look large."""
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def number(value: float, _: object = None) -> str:
    """Format a tick label with plain characters.

    >>> number(12000.0), number(0.25), number(-3e-05), number(0)
    ('12,000', '0.25', '−3e-05', '0')
    """
    whole = abs(value) >= 1000 and value == round(value)
    text = f"{value:,.0f}" if whole else f"{value:.6g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def percent(value: float, _: object = None) -> str:
    """Format a fraction as a tick label.

    >>> percent(0.5), percent(0.975)
    ('50 %', '97.5 %')
    """
    return f"{100 * value:.4g} %"


def as_percent(axes: Axes, which: str) -> None:
    """Show the ticks of 'x', 'y' or 'xy' as percentages."""
    from matplotlib.ticker import FuncFormatter

    for name in which:
        (axes.xaxis if name == "x" else axes.yaxis).set_major_formatter(FuncFormatter(percent))


# --------------------------------------------------------------------------------------------------------------- labels
def shown(name: str, most: int = 22) -> str:
    """Format a class or file name as a label: one line, no invisible characters, long names shortened in the middle.

    >>> shown("two\\nlines"), shown("a_very_long_name_of_a_class_0042", 16)
    ('two\\\\nlines', 'a_very_lon…_0042')
    """
    text = plain(name)
    if cells(text) <= most:
        return text
    start, end = "", ""
    for c in text:
        if cells(start + c) > most - 1 - most // 3:
            break
        start += c
    for c in reversed(text):
        if cells(c + end) > most // 3:
            break
        end = c + end
    return f"{start}…{end}"


def text_width(texts: Sequence[str], size: float = SIZE) -> float:
    """Estimate an upper bound for the widest text in points: DejaVu Sans, the widest of the usual fonts."""
    return max((cells(text) for text in texts), default=0) * 0.65 * size


def thinned(n: int, room: float, size: float = SIZE) -> list[int]:
    """Return the indices, out of n, of labels that fit along `room` points without touching: all, or every k-th.

    >>> thinned(4, 100), thinned(200, 100)[:3]
    ([0, 1, 2, 3], [0, 22, 44])
    """
    step = max(1, -(-int(n * size * 1.15) // max(int(room), 1)))
    return list(range(0, n, step))


# -------------------------------------------------------------------------------------------------------------- output
def save_figure(figure: Figure, folder: Path, name: str, *, label: str = "") -> str:
    """Write NAME.png (150 dpi) and NAME.svg (text as text, white background), both or neither.

    Returns the result of `to_svg` for that label, so a figure that is also on a page is drawn once. Raises
    `WriteError`.
    """
    svg = _svg(figure)
    write_together({folder / f"{name}.png": png_of(figure), folder / f"{name}.svg": svg.encode()})
    return _for_page(svg, label)


def to_svg(figure: Figure, *, label: str = "") -> str:
    """Return an ``<svg role="img">`` element to embed in a page; `label` is its text for screen readers.

    The background is transparent. Ink is the page's `currentColor`; secondary text, lines and background are its custom
    properties --muted, --rule and --paper, which default to values for a light page. Fonts are the page's own. Ids
    start with a hash of the figure, so those of different figures do not clash. The element has `style` attributes, so
    a content security policy must have ``style-src 'unsafe-inline'``, and with very many classes an image (``img-src
    data:``). Equal figures give equal text.
    """
    return _for_page(_svg(figure), label)


def png_of(figure: Figure) -> bytes:
    """Encode the figure as PNG at 150 dpi."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    with _lent(figure):
        figure.set_dpi(PNG_DPI)
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return file.getvalue()


def _svg(figure: Figure) -> str:
    """Return a standalone SVG file that is identical between processes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _lent(figure), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "headstart"}):
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    return file.getvalue()


@contextmanager
def _lent(figure: Figure) -> Iterator[None]:
    """Restore the figure's canvas and resolution afterwards.

    Suppresses warnings about characters that the font lacks: PNG shows a box, SVG leaves the font to the viewer.
    """
    canvas, dpi = figure.canvas, figure.dpi
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
            yield
    finally:
        figure.set_canvas(canvas)
        figure.set_dpi(dpi)


_TAG = re.compile(r"<[^<>]*>")
_REFERENCE = re.compile(r'(?:url\(#|xlink:href="#)([^)"]+)')


def _for_page(svg: str, label: str) -> str:
    """Return the element of an SVG file, without what a page does not need. Changes only tags, never text."""
    body = svg[svg.index("<svg") :]
    prefix = f"f{hashlib.sha256((label + body).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}-"
    names = {old: f"{prefix}{i}" for i, old in enumerate(dict.fromkeys(_REFERENCE.findall(body)))}
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    width, height = (float(x) for x in found.groups()) if found else (WIDE, WIDE)
    inner = body[body.index(">") + 1 :]
    inner = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", inner, count=1, flags=re.DOTALL)
    inner = re.sub(r'<path d="[^"]*" style="fill: #fefefe"/>', "", inner, count=1)  # the white background
    inner = _TAG.sub(lambda tag: _tag_for_page(tag[0], names), inner)
    inner = re.sub(r">\s+<", "><", inner)
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}"'
    style = "max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    named = f'role="img" aria-label="{html.escape(plain(label))}"' if label else 'aria-hidden="true"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {named} {size} style="{style}">{inner.strip()}'


def _tag_for_page(tag: str, names: dict[str, str]) -> str:
    """Rewrite one tag with the page's colours and fonts, and ids of this figure."""
    tag = " ".join(tag.split())
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", tag)
    tag = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", tag)
    tag = re.sub(r'xlink:href="#([^"]+)"', lambda m: f'href="#{names[m[1]]}"', tag).replace("xlink:href=", "href=")
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (?:\w+ )*?(?:(\d+|bold) )?([\d.]+px) [^;\"]*", _font, tag)
    tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
    tag = re.sub(r'(?<= d=")[^"]*|(?<= [xy]=")[^"]*', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), tag)
    if tag.startswith("<image"):
        if "image-rendering" not in tag:  # matplotlib < 3.11
            tag = tag.replace("<image", '<image style="image-rendering:pixelated"')
        tag = tag.replace("base64, ", "base64,")
        tag = re.sub(r"(?<=base64,)[^\"]*", lambda m: m[0].replace(" ", ""), tag)
    return re.sub(r"#[0-9a-f]{6}", lambda m: THEME.get(m[0], m[0]), tag)


def _font(match: re.Match[str]) -> str:
    """Expand the font shorthand of older matplotlib versions into weight and size."""
    return (f"font-weight: {match[1]}; " if match[1] else "") + f"font-size: {match[2]}"
