"""What a million images cost: the table in docs/scale.md, from the prices (with their dates) and speeds in this file.

    python benchmarks/cost.py                        print the table
    python benchmarks/cost.py --write                put it into docs/scale.md
    python benchmarks/cost.py --price 0.09 --rate 400 --gets 1        one row with your own figures

    dollars per million = price per hour / (images per second x 0.0036)
                        + 0.40 x GETs per image + 5.00 x (LISTs and PUTs) per image

The second line uses S3's standard prices in us-east-1: $0.0004 per 1,000 GET requests and $0.005 per 1,000 PUT or LIST
requests. Transfer within a region is free; storage, and transfer out of the region, are not included.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
GET = 0.40
"""Dollars per million GET requests; June 2026."""
PUT = 5.00
"""Dollars per million PUT or LIST requests; June 2026."""
SHARD = 10_000
NAMES_PER_LIST = 1_000


@dataclass(frozen=True)
class Case:
    """A machine, its speed, and its requests per image."""

    what: str
    price: float
    """Dollars per hour."""
    rate: float
    """Images per second."""
    gets: float = 0.0
    puts: float = 0.0
    """PUT and LIST requests per image, together."""

    @property
    def compute(self) -> float:
        """Dollars per million images for machines."""
        return self.price / (self.rate * 0.0036)

    @property
    def requests(self) -> float:
        """Dollars per million images for requests."""
        return GET * self.gets + PUT * self.puts

    @property
    def total(self) -> float:
        """Dollars per million images."""
        return self.compute + self.requests

    def row(self) -> str:
        """Return a row of the table."""
        share = self.requests / self.total
        hours = 1e6 / self.rate / 3600
        figures = (f"{hours:,.1f}", dollars(self.compute), dollars(self.requests), f"{share:.0%}", dollars(self.total))
        return f"| {' | '.join([self.what, *figures, f'${100 * self.total:,.0f}'])} |"


def dollars(amount: float) -> str:
    """Return an amount with cents, or with tenths of cents below ten cents.

    >>> dollars(0.4588), dollars(0.0539)
    ('$0.46', '$0.054')
    """
    return f"${amount:,.2f}" if amount >= 0.1 else f"${amount:.3f}"


ALONE = {"gets": 1 + 1 / SHARD, "puts": 1 / NAMES_PER_LIST + 2 / SHARD}
"""Requests per image if each image is an object: a GET for it, its share of the LIST requests, and its share of reading and
writing the names and the part of its shard."""
PACKED = {"gets": 2 / SHARD, "puts": 2 / SHARD}
"""Requests per image if 10,000 images are packed into one object, which is read in one go."""
CASES = (
    Case("2 cores ($0.0893 an hour), 465 images/s, local disk", 0.0893, 465),
    Case("the same, one object of a bucket for each image", 0.0893, 465, **ALONE),
    Case("the same, packed 10,000 to an object", 0.0893, 465, **PACKED),
    Case("2 ARM cores ($0.0816 an hour), if they were as fast, packed", 0.0816, 465, **PACKED),
    Case("a GPU ($0.8048 an hour), if it did 3,000 images/s, packed", 0.8048, 3_000, **PACKED),
)
"""On-demand prices of c7i.large, m7g.large and g6.xlarge, June 2026. 465 images/s was measured with MobileNetV2 at 160 px
(LOG.md); the other speeds are assumptions, and say so."""
HEADER = (
    "| machine and storage | hours per million images | cost of the machine | cost of requests | requests' part of the total "
    "| total per million | total per 100 million |\n"
    "|---|---|---|---|---|---|---|"
)


def table(cases: tuple[Case, ...] = CASES) -> str:
    """Return the table in Markdown."""
    return "\n".join([HEADER, *(case.row() for case in cases)])


def with_table(page: str) -> str:
    """Return the page with the current table between its marks."""
    found = re.compile(r"(<!-- made by benchmarks/cost.py -->\n).*?(\n<!-- end -->)", re.DOTALL)
    return found.sub(lambda match: match[1] + table() + match[2], page)


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="Put the table into docs/scale.md.")
    parser.add_argument("--price", type=float, help="Dollars per hour of your machine; multiply by your share if spot.")
    parser.add_argument(
        "--rate", type=float, default=465, help="Images per second, as benchmarks/scale.py measures them."
    )
    parser.add_argument(
        "--gets", type=float, default=0, help="GETs per image: 1 for an object each, 0 for a local disk."
    )
    given = parser.parse_args()
    if given.write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    elif given.price is not None:
        print(table((Case("yours", given.price, given.rate, given.gets, 0.0012 * bool(given.gets)),)))
    else:
        print(table())


if __name__ == "__main__":
    main()
