"""The web page of the server, and what only the page requests: GET /, /assets/NAME, POST /v1/explain.

    routes = [..., *page_routes(service)]

The page itself needs no token, so if the server has one, the page does not name the classes. Explanations are made one after
another in a thread of their own, since each keeps a core busy for some tenths of a second (the first one for some seconds, to
import torch). A few may wait; others get 503. They are for runs, not for exports.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from headstart.errors import HeadstartError, UnreadableImage
from headstart.exporters.web_page import served_assets, served_page
from headstart.io.progress import log
from headstart.model.inference.classifier import Classifier
from headstart.serving.bodies import read_upload
from headstart.serving.refusals import JsonResponse, RequestRefused
from headstart.serving.served_answers import Overloaded
from headstart.serving.visits import Service, visit

if TYPE_CHECKING:
    from headstart.serving.explainer import Explainer

MOST_WAITING = 8
"""Explanations that may be waiting or in progress at once."""
SECONDS_EACH = 1.0


def page_routes(service: Service) -> list[Route]:
    """Return the routes."""
    page, explaining = served_page(_about(service)), Explaining(service)

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    return [
        Route("/", show, methods=["GET"]),
        Route("/assets/{name}", _asset, methods=["GET"]),
        Route("/v1/explain", explaining.answer, methods=["POST"]),
    ]


def explains(service: Service) -> bool:
    """Whether explanations are offered: the options allow them, and the classifier is a run, not an export."""
    return service.options.explains and service.served.opened.run is not None


def _about(service: Service) -> dict[str, Any]:
    """Return what the page says about the classifier: nothing if a token is needed."""
    if service.options.token_file is not None:
        return {"model": "", "classes": [], "backbones": [], "explain": explains(service)}
    served, classifier = service.served, service.served.opened.classifier
    if isinstance(classifier, Classifier):
        backbones = [str(member.extractor) for member in classifier.members]
    else:
        backbones = list(classifier.export.facts.get("backbones", []))
    return {"model": served.id, "classes": served.classes, "backbones": backbones, "explain": explains(service)}


async def _asset(request: Request) -> Response:
    found = served_assets().get(request.path_params["name"])
    if found is None:
        raise RequestRefused(404, "path", "There is nothing at this path.")
    data, media_type = found
    return Response(data, media_type=media_type)


class Explaining:
    """Makes explanations, one at a time; networks and training images are opened for the first one."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._waiting = 0
        self._explainer: Explainer | None = None

    async def answer(self, request: Request) -> Response:
        """Answer POST /v1/explain. The image is classified first, so that a child process decodes it before this one does."""
        if not explains(self._service):
            raise RequestRefused(
                404, "explain", "Explanations are turned off, or this is an export, which cannot give them."
            )
        async with visit(request, self._service) as visiting:
            image = bytes(read_upload(visiting.body, request.headers).image)
            answer = await visiting.classify_one(image)
            return JsonResponse(await visiting.while_connected(self._explained(image, answer.label)))

    async def _explained(self, image: bytes, label: str) -> dict[str, Any]:
        if self._waiting >= MOST_WAITING:
            raise Overloaded("too many explanations are waiting", retry_after=SECONDS_EACH * MOST_WAITING / 2)
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._explain, image, label)
        work.add_done_callback(self._done)
        try:
            return await asyncio.shield(work)
        except UnreadableImage as error:
            raise RequestRefused(422, error.reason, error.message) from error
        except HeadstartError as error:  # its message may name a file of this machine
            log.warning("An explanation failed: %s", error)
            raise RequestRefused(
                422, "explain", "This image cannot be explained: the server's log says why."
            ) from error

    def _done(self, work: asyncio.Future[dict[str, Any]]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # marks it as seen: it may no longer be awaited

    def _explain(self, image: bytes, label: str) -> dict[str, Any]:
        """Run in the thread."""
        from headstart.serving.explainer import Explainer

        if self._explainer is None:
            self._explainer = Explainer(self._service.served.opened.opened_run)
        return {"model": self._service.served.id, **self._explainer.explain(image, label).to_json()}
