"""Who may call the server: anyone who has the token, if there is one, but no page of another site.

A server on 127.0.0.1 can be reached by every page that a browser on this machine shows, but no page can lie about its own
origin. So `check_site` refuses a `Host` that is not a name of this server (DNS rebinding), an `Origin` other than that host,
and what the browser itself marks as coming from another site. No cross-site request is ever allowed: there are no CORS
headers.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers

from headstart.serving.refusals import CLOSE, RequestRefused
from headstart.serving.server_options import ServerOptions

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
EVERYWHERE = ("0.0.0.0", "::", "")


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
        given = (name.strip().lower() for name in options.allow_host.split(","))
        bound = f"[{host}]" if ":" in host else host
        return cls({*LOOPBACK_NAMES, bound, *filter(None, given)}, options.host in EVERYWHERE, token)

    def check_site(self, headers: Headers) -> None:
        """Raise `RequestRefused` for a request that a page of another site made, or that names another host."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0].lower()):
            raise _refused("host", "The header Host does not name this server. To allow a name: --allow-host NAME.")
        origins = headers.getlist("origin")
        if any(_host_of(origin) != hosts[0].lower() for origin in origins):
            raise _refused("origin", "The request comes from a page of another site, which is not allowed.")
        if headers.get("sec-fetch-site", "").lower() in ("cross-site", "same-site"):
            raise _refused("origin", "The browser says that the request comes from another site, which is not allowed.")

    def check_token(self, headers: Headers) -> None:
        """Raise `RequestRefused` if a token is needed and the request does not have it."""
        if self.token is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
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


def _host_of(origin: str) -> str:
    scheme, _, host = origin.lower().partition("://")
    return host if scheme in ("http", "https") else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
