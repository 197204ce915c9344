"""`headstart serve RUN`: answer HTTP requests with a classifier's predictions, until stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.io.extras import EXTRAS, require
from headstart.io.given_options import as_path
from headstart.io.result_repr import Result
from headstart.serving.server_options import ServerOptions


@dataclass(frozen=True, repr=False)
class ServeResult(Result):
    """Result of `serve`, once it has been stopped: the address, and how many requests were answered in how many seconds."""

    address: str
    requests: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the document of `serve --json`."""
        return asdict(self)

    def table(self) -> str:
        """Format as plain text for a terminal."""
        return f"Stopped. {self.requests:,} request{'s' * (self.requests != 1)} in {self.seconds:,.1f} s."


def serve(run: Path, *, options: ServerOptions = ServerOptions()) -> ServeResult:
    """Serve predictions over HTTP on this machine, with a page to try them, until stopped. Example:

        headstart serve run

    Args:
        run: Run folder written by `headstart train`, or an export of one.
        options: Where to listen, who may call, and the limits.

    Raises:
        RunError, ExportError: the run folder or the export is missing or damaged, or does not answer as it should.
        ServeError: the port is taken, an option is invalid, or other machines could call without a token.
        MissingExtra: the extra `serve` is not installed.
    """
    require("Serving", *EXTRAS["serve"])
    place = as_path(run, "run")
    from headstart.serving.server import serve_until_stopped

    stopped = serve_until_stopped(place, options)
    return ServeResult(stopped.address, stopped.requests, stopped.seconds)
