"""`ServerOptions`: where the server listens, who may call it, and its limits. Call `check` before anything is opened.

Costs nothing. The token file is read by `read_token`, once, at the start.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import ServeError
from headstart.io.given_options import as_path

LEAST_TOKEN = 16


@dataclass(frozen=True)
class ServerOptions:
    """How to serve.

    >>> ServerOptions(port=0).on_loopback
    True
    """

    host: str = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs --token-file."""
    port: int = 8000
    """Port to listen on; 0 picks a free one."""
    token_file: Path | None = None
    """File with a token; requests must then have the header `Authorization: Bearer TOKEN`."""
    allow_host: str = ""
    """Other host names that clients use, separated by commas; behind a proxy, the proxy's name."""
    max_body: float = 20.0
    """Size of the largest request, in megabytes."""
    queue: int = 64
    """Images that may be in the server at once; further requests get 503 immediately."""
    deadline: float = 2.0
    """Seconds within which a request is answered once it has arrived, or refused with 503."""
    receive: float = 10.0
    """Seconds that a request may take to arrive."""
    drain: float = 20.0
    """Seconds to finish accepted requests when stopped."""
    decoders: int = 0
    """Processes that decode images; 0 for one per core that may be used."""
    explain: str = "auto"
    """Heat maps and similar training images, on the page too: on, off, or auto (off with --allow-host or another --host)."""

    def __post_init__(self) -> None:
        if self.token_file is not None:
            object.__setattr__(self, "token_file", as_path(self.token_file, "token_file"))

    def check(self) -> None:
        """Raise `ServeError` for a value that cannot be used."""
        for name, kind, least, most in _BOUNDS:
            value, number = getattr(self, name), "a whole number" if kind is int else "a number"
            if isinstance(value, bool) or not isinstance(value, int | kind) or not least <= value <= most:
                raise ServeError(f"{name} {value!r} cannot be used: expected {number} from {least:g} to {most:g}.")
        for name in self.allowed_hosts:
            if not _HOST.fullmatch(name):
                raise ServeError(
                    f"allow_host {name!r} cannot be used: expected a host name without a scheme, a port or a *.",
                    hint="Separate several names by commas: classifier.example.org,classifier",
                )
        if self.explain not in ("auto", "on", "off"):
            raise ServeError(f"explain {self.explain!r} is not known: expected auto, on or off.")
        if not self.on_loopback and self.token_file is None:
            raise ServeError(
                f"host {self.host}: other machines could send requests and read the answers without a token.",
                hint="Add --token-file FILE with a token in it, or leave out --host.",
            )

    @property
    def allowed_hosts(self) -> list[str]:
        """The names in `allow_host`, in lower case."""
        return [name for name in (each.strip().lower() for each in self.allow_host.split(",")) if name]

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def explains(self) -> bool:
        """Whether requests for explanations are answered. By default not behind a proxy, which lets other machines in."""
        return self.explain == "on" or (self.explain == "auto" and self.on_loopback and not self.allow_host)

    @property
    def max_body_bytes(self) -> int:
        """`max_body` in bytes."""
        return int(self.max_body * 1e6)


_HOST = re.compile(r"[\w.-]+|\[[0-9a-f:.]+\]")
_BOUNDS: tuple[tuple[str, type[int] | type[float], float, float], ...] = (
    ("port", int, 0, 65_535),
    ("max_body", float, 0.001, 512),
    ("queue", int, 1, 10_000),
    ("deadline", float, 0.05, 600),
    ("receive", float, 0.1, 600),
    ("drain", float, 0, 3_600),
    ("decoders", int, 0, 256),
)


def read_token(options: ServerOptions) -> bytes | None:
    """Return the token in the file, without whitespace around it; None if there is no token file. Raises `ServeError`."""
    file = options.token_file
    if file is None:
        return None
    try:
        token = file.read_bytes().strip()
    except OSError as error:
        raise ServeError(
            f"token_file {file}: cannot be read: {error.strerror}.", hint="Name a file that holds the token."
        ) from error
    if len(token) < LEAST_TOKEN or not token.isascii() or len(token.split()) != 1:
        raise ServeError(
            f"token_file {file}: expected at least {LEAST_TOKEN} ASCII characters without spaces.",
            hint=f"To make one: python -c 'import secrets; print(secrets.token_urlsafe())' > {file}",
        )
    return token
