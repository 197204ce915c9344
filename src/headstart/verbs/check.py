"""`headstart check DATA`: find problems in a dataset, labels included, before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headstart.data.copies import Copies
from headstart.data.corrections import read_corrections, write_suspects
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource, as_source
from headstart.data.dataset import Dataset
from headstart.data.duplicates import exact_groups, group_pairs, joined
from headstart.data.findings import CHECKS_HEADER, Finding, checks_rows
from headstart.data.groups import unsplittable
from headstart.data.not_copies import read_not_copies
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.errors import DataError, WriteError
from headstart.io.files import write_csv
from headstart.io.folders import check_keeps
from headstart.io.given_options import as_path, expect
from headstart.io.result_repr import Result
from headstart.io.stores.store import check_online
from headstart.io.text_table import columns, few, plain
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source
from headstart.pipeline.copies_sheet import check_sheet_places, sheet_places, write_sheet
from headstart.pipeline.label_errors import CANNOT_TELL, LabelError, backbones_for_labels, label_errors, see
from headstart.pipeline.scan import note_groups, scan
from headstart.runs.outside_runs import check_out_file

SHOWN = 10
"""Maximum number of suspected labels in `table`."""


@dataclass(frozen=True, repr=False)
class CheckResult(Result):
    """What `check` found: `findings`, `groups` of copies (lists of paths), and `label_errors`, None if not requested.

    `copies_page` is the path of the page that shows the copies, '' if none was written. `not_judged` says why no label
    could be judged, '' if they were.
    """

    images: int
    usable: int
    classes: dict[str, int]
    findings: list[Finding]
    groups: list[list[str]]
    label_errors: list[LabelError] | None = None
    copies_page: str = ""
    not_judged: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the document of `check --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal: one finding per line, with the first paths below it."""
        counts = few([f"{plain(name)} {n:,}" for name, n in self.classes.items()])
        lines = [f"{self.images:,} files, {self.usable:,} usable, {len(self.classes)} classes: {counts or 'none'}"]
        for f in self.findings:
            lines.append(f"{f.severity:<8} {f.check:<23} {plain(f.message)}")
            lines += [f"{'':33}{plain(p)}" for p in f.paths[:3]]
            if len(f.paths) > 3:
                lines.append(f"{'':33}and {len(f.paths) - 3:,} more")
        if self.copies_page:
            lines.append(f"Copies side by side: {self.copies_page}")
        return "\n".join([*lines, *self._label_lines()])

    def _label_lines(self) -> list[str]:
        if self.label_errors is None:
            return []
        if self.not_judged:
            return [self.not_judged]
        if not self.label_errors:
            return ["No label looks wrong."]
        rows = [
            (f"{e.label_quality:.4f}", plain(e.label), "->", plain(e.suggested), plain(e.path))
            for e in self.label_errors[:SHOWN]
        ]
        n, labelled = len(self.label_errors), sum(self.classes.values())
        more = [f"and {n - SHOWN:,} more"] if n > SHOWN else []
        first = f"{n:,} of {labelled:,} labels look{'s' * (n == 1)} wrong; the most suspicious first:"
        return [first, *columns(rows, "<<<<<"), *more]


def check(
    data: Path | DataSource,
    *,
    out: Path | None = None,
    labels: bool = False,
    write_corrections: Path | None = None,
    curation: Curation = Curation(),
    backbone: str = "auto",
    weights: Path | WeightsSource = WeightsSource(),
) -> CheckResult:
    """Check every image: damaged files, copies, leaks, odd formats, unbalanced classes.

    The data is not changed. Example:

        headstart check photos --out checks.csv

    Args:
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: CSV to write, one row per finding and path; copies are shown on a page and in a table beside it
            (checks-copies.html and checks-copies.csv for checks.csv).
        labels: Also look for wrong labels, using the features of a backbone.
        write_corrections: CSV to write with the suspected labels, to edit and pass to --corrections. Implies --labels.
        curation: Corrections and refused copies to apply; the data itself stays unchanged.
        backbone: Backbone for finding wrong labels, a timm name; auto selects the best one with local weights; without any,
            one is downloaded.
        weights: Where to look for weights: a file, a folder, or only this machine.

    Raises:
        DataError: no image is usable, or a table of `curation` does not fit the data; for labels: one class, or an
            empty one.
        BackboneError: for labels: the backbone is unknown, or its weights are not available.
        StoreError: a bucket is missing, or refuses.
        WriteError: `out`, `write_corrections` or the cache cannot be written, or an input or an edited table would be
            replaced.
    """
    expect(curation, Curation, "curation", "Curation(corrections='corrections.csv')")
    source, out = as_source(data), None if out is None else as_path(out, "out")
    check_online(source.place, offline=as_weights_source(weights).offline)
    _check_places(source.place, out, write_corrections, curation)
    corrections, opened = read_corrections(curation.corrections), open_dataset(source)
    if out is not None:
        check_keeps(out, opened.places)
    refused = read_not_copies(curation.not_copies).checked(opened)
    opened = corrections.applied_to(opened)
    looking = labels or write_corrections is not None
    if looking:
        require_trainable(opened)
    backbones = backbones_for_labels(backbone, as_weights_source(weights)) if looking else ()
    note_groups(opened)
    scanned = scan(source, opened=opened, not_copies=refused, noting=False)  # the findings say it
    dataset, copies = scanned.dataset, scanned.copies
    found = _with_groups(scanned.findings(dataset, copies), unsplittable(opened, source.groups_named_by))
    sheet = ""
    if out is not None:
        write_csv(out, CHECKS_HEADER, checks_rows(found))
        sheet = write_sheet(out, scanned, source)
    together = joined(dataset.groups, group_pairs(copies.groups_N))
    suspected = label_errors(replace(dataset, groups=together), see(scanned, backbones)) if backbones else None
    not_judged = CANNOT_TELL if backbones and suspected is None else ""
    if write_corrections is not None:
        suspects = [(e.path, e.label, e.suggested, e.label_quality) for e in suspected or []]
        write_suspects(Path(write_corrections), suspects)
    return CheckResult(
        images=len(scanned.everything),
        usable=len(dataset),
        classes={name: int((dataset.labels == k).sum()) for k, name in enumerate(dataset.classes)},
        findings=found,
        groups=_groups(dataset, copies, scanned.images.sha256s),
        label_errors=[] if not_judged else suspected,
        copies_page=sheet,
        not_judged=not_judged,
    )


def _groups(dataset: Dataset, copies: Copies, sha256s: Sequence[str]) -> list[list[str]]:
    """Return the paths of images that are copies of each other, group by group."""
    groups_N = joined(exact_groups(sha256s), group_pairs(copies.groups_N))
    by_group: dict[int, list[str]] = {}
    for path, group in zip(dataset.paths, groups_N.tolist(), strict=True):
        by_group.setdefault(group, []).append(path)
    return [paths for paths in by_group.values() if len(paths) > 1]


def _with_groups(found: list[Finding], problems: list[str]) -> list[Finding]:
    """Insert the problems with groups after the errors."""
    errors = sum(finding.severity == "error" for finding in found)
    return [*found[:errors], *(Finding("single_group", "warning", (), text) for text in problems), *found[errors:]]


def _check_places(data: Path, out: Path | None, suspects: Path | None, curation: Curation) -> None:
    """Raise `WriteError` if a file cannot be written, or would replace the data or an edited table."""
    given = curation.corrections
    if suspects is not None and given is not None and Path(suspects).resolve() == given.resolve():
        raise WriteError(
            f"{suspects}: is also the table of corrections to apply, and would be replaced.",
            hint="Choose another name for --write-corrections, such as corrections-2.csv.",
        )
    if out is not None:
        check_out_file(out, data)
        check_keeps(out, curation.tables)
        check_sheet_places(out, data, curation.tables)
    if suspects is not None and out is not None:
        written = [place.resolve() for place in (out, *sheet_places(out))]
        if Path(suspects).resolve() in written:
            raise WriteError(
                f"{suspects}: is also written by --out.", hint="Choose another name for --write-corrections."
            )
    if suspects is not None:
        check_out_file(Path(suspects), data, option="--write-corrections")
        _check_unedited(Path(suspects))


def _check_unedited(suspects: Path) -> None:
    """Raise `WriteError` if the file is anything but an unedited table of suspected labels from `check`."""
    if not suspects.exists():
        return
    try:
        edited = bool(read_corrections(suspects))
    except DataError as error:
        raise WriteError(
            f"{suspects}: exists and was not written by this command, so it is left alone.",
            hint=f"Choose another --write-corrections.\n{error.message}",
        ) from error
    if edited:
        raise WriteError(
            f"{suspects}: has been edited, and would be replaced.",
            hint=f"Apply them with --corrections {suspects}, or choose another --write-corrections.",
        )
