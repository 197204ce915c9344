"""The routes of the Open Inference Protocol: /v2, and all below it. `open_inference` reads requests and writes responses.

    routes = [..., *tensor_routes()]

A request of several images takes as many places in the queue. If one image cannot be used, the whole request is refused, and
the refusal says which image: a tensor has no place for a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headstart.serving.open_inference import (
    HEADER_LENGTH,
    BadInferRequest,
    InferRequest,
    TensorModel,
    infer_request,
    infer_response,
    server_metadata,
)
from headstart.serving.refusals import JsonResponse, RequestRefused
from headstart.serving.served_answers import ImageRefusal, ServedAnswer
from headstart.serving.visits import Service, Visit, service_of, visit

LIVE, READY = "/v2/health/live", "/v2/health/ready"
CONTENT_TYPES = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""The last one is what `curl --data` sends by default."""
SHOWN = 5
"""Images that a refusal gives reasons for; the others are counted."""


def tensor_routes() -> list[Route]:
    """Return the routes."""
    routes = [
        Route("/v2", _server, methods=["GET"]),
        Route(LIVE, _live, methods=["GET"]),
        Route(READY, _ready, methods=["GET"]),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(model, _metadata, methods=["GET"]),
            Route(f"{model}/ready", _model_ready, methods=["GET"]),
            Route(f"{model}/infer", _infer, methods=["POST"]),
        ]
    return routes


def tensor_model(service: Service) -> TensorModel:
    """Return what the protocol says about the classifier."""
    served = service.served
    sides = {name: rows for name, (rows, _, _) in served.decoders.plan.shapes.items()}
    return TensorModel(served.name, served.id, served.classes, sides)


async def _server(request: Request) -> Response:
    return JsonResponse(server_metadata())


async def _live(request: Request) -> Response:
    return JsonResponse({"live": True})


async def _ready(request: Request) -> Response:
    ready = service_of(request).readiness.is_ready
    return JsonResponse({"ready": ready}, 200 if ready else 503)


async def _metadata(request: Request) -> Response:
    return JsonResponse(_asked_model(request).metadata())


async def _model_ready(request: Request) -> Response:
    return JsonResponse({"name": _asked_model(request).name, "ready": True})


async def _infer(request: Request) -> Response:
    model, service = _asked_model(request), service_of(request)
    _check_type(request)
    async with visit(request, service) as visiting:
        asked = await _read(visiting, model, service.served.admission.most_images)
        answers = _all_answered(await _answers(visiting, asked))
    content, length = infer_response(
        asked,
        np.stack([answer.logits for answer in answers]),
        np.stack([answer.probabilities for answer in answers]),
        [answer.label for answer in answers],
        model,
    )
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream")


async def _read(visiting: Visit, model: TensorModel, most: int) -> InferRequest:
    """Parse the body in a thread, since that may take a while."""
    length = visiting.request.headers.get(HEADER_LENGTH)
    try:
        return await asyncio.to_thread(infer_request, visiting.body, length, model, most=most)
    except BadInferRequest as error:
        raise RequestRefused(400, "tensors", " ".join(filter(None, [error.message, error.hint]))) from None


async def _answers(visiting: Visit, asked: InferRequest) -> list[ServedAnswer | ImageRefusal]:
    if asked.images is not None:
        return await visiting.classify(asked.images)
    tensors = (asked.pixels or {}).items()
    return await visiting.classify_pixels([{name: array[i] for name, array in tensors} for i in range(len(asked))])


def _all_answered(answers: Sequence[ServedAnswer | ImageRefusal]) -> list[ServedAnswer]:
    """Return the answers if every image has one. Raises `RequestRefused`."""
    refused = [(i, answer) for i, answer in enumerate(answers) if isinstance(answer, ImageRefusal)]
    if not refused:
        return [answer for answer in answers if isinstance(answer, ServedAnswer)]
    shown = " ".join(f"Image {i + 1} of {len(answers)}: {each.message}" for i, each in refused[:SHOWN])
    unsaid = len(refused) - SHOWN
    more = f" {unsaid} more image{'s' * (unsaid > 1)} cannot be used." if unsaid > 0 else ""
    first = refused[0][1]
    raise RequestRefused(first.status, first.reason, first.message if len(answers) == 1 else shown + more)


def _check_type(request: Request) -> None:
    stated = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if stated not in CONTENT_TYPES:
        raise RequestRefused(415, "content_type", f"The content type {stated[:80]!r} is not read. Send JSON.")


def _asked_model(request: Request) -> TensorModel:
    """Return the model if the path names it. Raises `RequestRefused`."""
    model, given = tensor_model(service_of(request)), request.path_params
    if not model.is_here(given["name"], given.get("version")):
        raise RequestRefused(
            404, "model", f"There is no such model; this server serves {model.name!r}, version {model.version!r}."
        )
    return model
