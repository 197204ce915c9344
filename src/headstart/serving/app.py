"""The routes of the server, a few lines each; and `Gate`, which every request passes first.

    app = create_app(service, callers)            an ASGI application

`Gate` checks who is calling, refuses predictions while the server is not ready, adds security headers to every answer, and
counts requests. A `RequestRefused` that a route raises becomes `{"error": sentence, "reason": code}` with its status; any
other exception is a bug: status 500, with its traceback on stderr.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from headstart.exporters.web_page import THERE_POLICY
from headstart.io.progress import log
from headstart.serving.bodies import Upload, as_top_k, read_upload
from headstart.serving.callers import Callers, named_headers
from headstart.serving.leftovers import Leftovers, Message, Receive, UnreadBody
from headstart.serving.openapi import openapi_document
from headstart.serving.page_routes import explains, page_routes
from headstart.serving.refusals import CLOSE, LEFT, JsonResponse, RequestRefused
from headstart.serving.served_answers import Overloaded, ServedAnswer
from headstart.serving.server_metrics import PAGE_TYPE, route_pattern
from headstart.serving.tensor_routes import LIVE, READY, tensor_model, tensor_routes
from headstart.serving.visits import Service, Visit, service_of, visit

Send = Callable[[Message], Awaitable[None]]

TOP_K = 5
"""Classes in an answer unless the request says otherwise, as in Hugging Face's interface."""
FOR_ALL = ("/healthz", "/readyz", LIVE, READY)
"""Paths that need no token, besides the page and those under `ASSETS`: they reveal nothing about the classifier."""
ASSETS = "/assets/"
ALWAYS = ("/healthz", "/readyz", LIVE, READY, "/metrics")
"""Paths that are answered whether or not the server is ready."""

CLASSIFY = frozenset({"/", "/predict", "/v1/classify"})
"""Paths whose POST classifies one image: `Gate` refuses it itself when the queue is full, which costs a fifth of what the
routes need for it. Under overload, that is most of the work."""

NO_LONGER_READ = (408, LEFT)
"""Statuses of requests whose client is slow or gone: the rest of their body is not awaited."""

SECURITY_HEADERS = {
    "Content-Security-Policy": f"{THERE_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(service: Service, callers: Callers) -> Gate:
    """Return the application."""
    routes = [
        *page_routes(service),
        Route("/healthz", _alive, methods=["GET"]),
        Route("/readyz", _ready, methods=["GET"]),
        Route("/metrics", _metrics, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        *tensor_routes(),
    ]
    for path in ("/", "/predict", "/models/{name}"):
        routes.append(Route(path, _predict, methods=["POST"]))
    routes.append(Route("/v1/classify", _classify, methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route, RequestRefused: _refused})
    app.router.redirect_slashes = False
    app.state.service = service
    return Gate(app, service, callers)


# Routes


async def _alive(request: Request) -> Response:
    return JsonResponse({"alive": True})


async def _ready(request: Request) -> Response:
    readiness = service_of(request).readiness
    return JsonResponse({"ready": readiness.is_ready, "state": readiness.state}, 200 if readiness.is_ready else 503)


async def _metrics(request: Request) -> Response:
    return Response(service_of(request).served.metrics.page(), media_type=PAGE_TYPE)


async def _openapi(request: Request) -> Response:
    service = service_of(request)
    return JsonResponse(
        openapi_document(
            tensor_model(service),
            token=service.options.token_file is not None,
            explain=explains(service),
            max_body=service.options.max_body_bytes,
        )
    )


async def _predict(request: Request) -> Response:
    """Answer like Hugging Face's interface: [{label, score}], likeliest class first."""
    service = service_of(request)
    if request.path_params.get("name", service.served.name) not in (service.served.name, service.served.id):
        raise RequestRefused(404, "model", f"There is no such model; this server serves {service.served.name!r}.")
    async with visit(request, service) as visiting:
        upload = _upload(visiting)
        answer = await visiting.classify_one(upload.image)
    k = min(TOP_K if upload.top_k is None else upload.top_k, len(service.served.classes))
    return JsonResponse([{"label": label, "score": score} for label, score in _likeliest(service, answer)[:k]])


async def _classify(request: Request) -> Response:
    """Answer with everything there is: the class, the prediction set, all probabilities, and how long it took."""
    service = service_of(request)
    async with visit(request, service) as visiting:
        answer = await visiting.classify_one(_upload(visiting).image)
        total = time.monotonic() - visiting.arrived
    likeliest = _likeliest(service, answer)
    document = {
        "model": service.served.id,
        "label": answer.label,
        "probability": likeliest[0][1],
        "set": list(answer.set),
        "forced": answer.forced,
        "alpha": service.served.calibration.conformal_alpha,
        "probabilities": dict(likeliest),
        "seconds": {"decode": answer.decode_seconds, "network": answer.network_seconds, "total": total},
    }
    return JsonResponse(document)


def _upload(visiting: Visit) -> Upload:
    upload = read_upload(visiting.body, visiting.request.headers)
    asked = visiting.request.query_params.get("top_k")
    return upload if asked is None else Upload(upload.image, as_top_k(asked))


def _likeliest(service: Service, answer: ServedAnswer) -> list[tuple[str, float]]:
    """Return classes and probabilities, the likeliest first."""
    order = np.argsort(-answer.probabilities, kind="stable")
    return [(service.served.classes[k], float(answer.probabilities[k])) for k in order]


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestRefused):
        raise error
    return error.response()


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses: 404, 405."""
    if not isinstance(error, HTTPException):
        raise error
    reason, sentence = {
        404: ("path", "There is nothing at this path."),
        405: ("method", f"This path does not accept {request.method}."),
    }.get(error.status_code, ("request", error.detail))
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return RequestRefused(error.status_code, reason, sentence, headers=headers).response()


def _allowed(request: Request) -> str:
    """Return the methods of all routes with this path; Starlette itself names only those of the first one."""
    routes = [r for r in request.app.routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


# Before and after each route


class Gate:
    """Checks, before any route, who is calling and whether the server is ready; adds the headers of every answer."""

    def __init__(self, app: Starlette, service: Service, callers: Callers) -> None:
        self._app, self._service, self._callers = app, service, callers
        self._leftovers = Leftovers(service.options.max_body_bytes)
        self.requests = 0
        """Requests answered so far."""
        self.active = 0
        """Requests that have arrived and are not yet answered."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        self.active += 1
        code, began, body = LEFT, time.monotonic(), UnreadBody(receive)

        async def sent(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                if code >= 400 and code not in NO_LONGER_READ:
                    await self._leftovers.discard(scope, body)
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        try:
            self._check_caller(scope)
            self._check_queue(scope)
            await self._app(scope, body.receive, sent)
        except RequestRefused as refused:
            await refused.response()(scope, body.receive, sent)
        except Exception:
            log.exception("A request failed: please report this.")
            if code == LEFT:
                bug = RequestRefused(500, "bug", "The server failed on this request.", headers=CLOSE)
                await bug.response()(scope, body.receive, sent)
        finally:
            self.active -= 1
            self.requests += 1
            route = scope["path"] if scope["path"] in CLASSIFY else route_pattern(scope)
            self._service.served.metrics.answered(route, code, time.monotonic() - began)

    def _check_caller(self, scope: Message) -> None:
        """Raise `RequestRefused` for a request that no route should see."""
        headers, path = named_headers(scope["headers"]), scope["path"]
        opens_page = path == "/" and scope["method"] in ("GET", "HEAD")
        self._callers.check_site(headers, opens_page=opens_page)
        if not opens_page and path not in FOR_ALL and not path.startswith(ASSETS):
            self._callers.check_token(headers)
        readiness = self._service.readiness
        if not readiness.is_ready and path not in ALWAYS:
            self._service.served.metrics.shed(readiness.state)
            raise RequestRefused(503, readiness.state, readiness.sentence, headers={"Retry-After": "1", **CLOSE})

    def _check_queue(self, scope: Message) -> None:
        """Raise `RequestRefused` if the queue has no place for the image that is about to come."""
        if scope["path"] in CLASSIFY and scope["method"] == "POST":
            try:
                self._service.served.admission.check()
            except Overloaded as error:
                self._service.served.metrics.shed("overloaded")
                raise RequestRefused.of(error) from None


_RAW_HEADERS = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in SECURITY_HEADERS.items()]
