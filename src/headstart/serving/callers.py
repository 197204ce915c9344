"""Who may call the server: anyone who has the token, if there is one, but no page of another site.

A server on 127.0.0.1 can be reached by every page that a browser on this machine shows, but no page can lie about its own
origin. So `check_site` refuses a `Host` that is not a name of this server (DNS rebinding), an `Origin` other than that host,
and what the browser itself marks as coming from another site. No cross-site request is ever allowed, except a link that opens
the page: it tells the other site nothing. There are no CORS headers.

    headers = named_headers(scope["headers"])        only those that are needed here: takes some microseconds
    callers.check_site(headers, opens_page=True); callers.check_token(headers)
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headstart.serving.refusals import CLOSE, RequestRefused
from headstart.serving.server_options import ServerOptions

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
EVERYWHERE = ("0.0.0.0", "::", "")
NEEDED = frozenset({b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"authorization"})

NamedHeaders = Mapping[str, Sequence[str]]
"""The values of each header in `NEEDED` that a request has."""


def named_headers(raw: Iterable[tuple[bytes, bytes]]) -> NamedHeaders:
    """Return the headers of an ASGI scope that decide who may call; their names are in lower case already."""
    found: dict[str, list[str]] = {}
    for name, value in raw:
        if name in NEEDED:
            found.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
    return found


@dataclass(frozen=True)
class Callers:
    """`hosts` are the names of this server, in lower case, without ports; `any_address`: any IP address is accepted too."""

    hosts: Collection[str]
    any_address: bool = False
    token: bytes | None = None

    @classmethod
    def of(cls, options: ServerOptions, token: bytes | None) -> Callers:
        """Return who may call a server with these options."""
        host = options.host.lower()
        bound = f"[{host}]" if ":" in host else host
        return cls({*LOOPBACK_NAMES, bound, *options.allowed_hosts}, options.host in EVERYWHERE, token)

    def check_site(self, headers: NamedHeaders, *, opens_page: bool = False) -> None:
        """Raise `RequestRefused` for a request that a page of another site made, or that names another host.

        `opens_page`: the request only gets the page. A browser may open it from a link on another site.
        """
        hosts = headers.get("host", ())
        if len(hosts) != 1 or not self._is_ours(host := hosts[0].lower()):
            raise _refused("host", "The header Host does not name this server. To allow a name: --allow-host NAME.")
        if any(_host_of(origin) != host for origin in headers.get("origin", ())):
            raise _refused("origin", "The request comes from a page of another site, which is not allowed.")
        if _first(headers, "sec-fetch-site") in ("cross-site", "same-site") and not (
            opens_page and _navigates(headers)
        ):
            raise _refused("origin", "The browser says that the request comes from another site, which is not allowed.")

    def check_token(self, headers: NamedHeaders) -> None:
        """Raise `RequestRefused` if a token is needed and the request does not have it."""
        if self.token is None:
            return
        kind, _, given = next(iter(headers.get("authorization", ())), "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self.token):
            return
        raise RequestRefused(
            401,
            "token",
            "The header Authorization: Bearer TOKEN is missing, or its token is wrong.",
            headers={"WWW-Authenticate": "Bearer", **CLOSE},
        )

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name = name if colon else host
        if colon and not port.isdigit():
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


def _refused(reason: str, message: str) -> RequestRefused:
    return RequestRefused(403, reason, message, headers=CLOSE)


def _first(headers: NamedHeaders, name: str) -> str:
    """Return the first value of a header, in lower case; "" if there is none."""
    values = headers.get(name)
    return values[0].lower() if values else ""


def _navigates(headers: NamedHeaders) -> bool:
    """Whether a browser opens what it requests in a tab of its own, not in a frame of another page."""
    return _first(headers, "sec-fetch-mode") == "navigate" and _first(headers, "sec-fetch-dest") == "document"


def _host_of(origin: str) -> str:
    scheme, _, host = origin.lower().partition("://")
    return host if scheme in ("http", "https") else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
