"""The server's description in OpenAPI 3.1: GET /openapi.json, for people, client generators and testers.

    openapi_document(TensorModel(...), token=True, explain=False, max_body=20_000_000)

Written by hand, so that it has every status that a route can answer. It costs nothing. A new route is an entry in `_paths`;
tests/test_serve_clients.py sends requests made from this document, and finds a status or an answer that is not in it.
"""

from __future__ import annotations

from typing import Any

import headstart
from headstart.images.limits import REASONS
from headstart.serving.open_inference import OUTPUTS, TensorModel

JSON = "application/json"
IMAGE_TYPES = (
    "application/octet-stream",
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
)
"""Types of a body that is the file itself; any image/* is accepted, and the content itself decides what it is."""

DOT = "UDYgMSAxIDI1NSByZ2I="
"""An image of one pixel, as an example."""

Document = dict[str, Any]

SENTENCES = {
    400: "The body is empty, or is not the JSON, base64 or form that its type says.",
    401: "The token is missing or wrong: send `Authorization: Bearer TOKEN`.",
    403: "The header Host or Origin names another site.",
    404: "There is no such model.",
    408: "The request took too long to arrive.",
    413: "The body is larger than the server accepts.",
    415: "The type of the body is not accepted, or the body is compressed.",
    422: "An image cannot be used; `reason` says why, as in checks.csv.",
    503: "The queue is full, the answer would be too late, or the server is starting or stopping. Try again later.",
}
"""What a status means: the same on every route."""

CLASSIFY = "Returns the class, the prediction set, all probabilities and timings."

_BODY = (400, 401, 403, 408, 413, 415, 422, 503)
_READ = (401, 403, 503)


def openapi_document(model: TensorModel, *, token: bool, explain: bool, max_body: int) -> Document:
    """Return the document. `token` says whether a token is needed, `max_body` is in bytes."""
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "headstart serve",
            "version": headstart.__version__,
            "description": f"Classifies images. A request may have {max_body:,} bytes. Errors are "
            '`{"error": sentence, "reason": code}`.',
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(model) | (_explain() if explain else {}),
        "components": {"schemas": _schemas(model), "responses": {str(code): _refusal(code) for code in SENTENCES}},
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _paths(model: TensorModel) -> Document:
    return {
        "/": {"post": _labels("classifyAtRoot"), "get": _page()},
        "/predict": {"post": _labels("predict")},
        "/models/{name}": {"parameters": [_model_name(model)], "post": _labels("predictByName", 404)},
        "/v1/classify": {"post": _operation("classify", CLASSIFY, _image_body(), "Classified")},
        **_open_inference(model),
        "/healthz": {"get": _open_to_all(_get("healthz", "The process is alive.", _ref("Alive")))},
        "/readyz": {"get": _state("readyz", "Ready: images with known answers were answered correctly.", "Ready")},
        "/metrics": {"get": _get("metrics", "For Prometheus.", {"type": "string"}, "text/plain", codes=(401, 403))},
        "/openapi.json": {"get": _get("openapi", "This document.", {"type": "object"})},
    }


def _page() -> Document:
    return _get("page", "The page; it needs no token.", {}, "text/html", codes=(403, 503)) | {"security": []}


def _open_inference(model: TensorModel) -> Document:
    """Return the routes of the Open Inference Protocol."""
    one, version = "/v2/models/{name}", "/versions/{version}"
    name, both = [_model_name(model)], [_model_name(model), _model_version(model)]
    routes: Document = {
        "/v2": {"get": _get("v2Server", "Metadata of the server.", _ref("ServerMetadata"))},
        "/v2/health/live": {"get": _open_to_all(_get("v2Live", "The process is alive.", _ref("Live")))},
        "/v2/health/ready": {"get": _state("v2Ready", "The same as /readyz.", "Ready")},
    }
    for path, parameters, suffix in ((one, name, ""), (one + version, both, "Version")):
        known, ready = _ref("ModelMetadata"), _ref("ModelReady")
        routes |= {
            path: {
                "parameters": parameters,
                "get": _get(f"v2Model{suffix}", "Inputs and outputs.", known, codes=(*_READ, 404)),
            },
            f"{path}/ready": {
                "parameters": parameters,
                "get": _get(f"v2ModelReady{suffix}", "The same as /readyz.", ready, codes=(*_READ, 404)),
            },
            f"{path}/infer": {"parameters": parameters, "post": _infer(f"v2Infer{suffix}")},
        }
    return routes


def _explain() -> Document:
    what = "Answers with a heat map and the nearest training images."
    return {"/v1/explain": {"post": _operation("explain", what, _image_body(), "Explained")}}


# Operations


def _operation(name: str, what: str, body: Document, answer: str, codes: tuple[int, ...] = _BODY) -> Document:
    return {
        "operationId": name,
        "summary": what,
        "requestBody": body,
        "responses": {"200": _content(what, _ref(answer)), **_refusals(codes)},
    }


def _labels(name: str, *codes: int) -> Document:
    """Return an operation that answers as Hugging Face's inference servers do; `codes` are further statuses."""
    at_most = {
        "name": "top_k",
        "in": "query",
        "description": "Number of classes to return, likeliest first; 5 by default.",
        "schema": {"type": "integer", "minimum": 1},
    }
    described = _operation(name, "Answers with labels and scores.", _image_body(), "LabelScores", (*_BODY, *codes))
    return described | {"parameters": [at_most]}


def _infer(name: str) -> Document:
    raw = {"description": "JSON and then raw tensors; Inference-Header-Content-Length is the length of the JSON."}
    body = {"required": True, "content": {JSON: {"schema": _ref("InferRequest")}, "application/octet-stream": {}}}
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Length of the JSON in bytes, if raw tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    described = _operation(name, "Answers with tensors.", body, "InferResponse", (*_BODY, 404))
    described["responses"]["200"]["content"]["application/octet-stream"] = {"schema": raw}
    return described | {"parameters": [length]}


def _get(name: str, what: str, schema: Document, media_type: str = JSON, *, codes: tuple[int, ...] = _READ) -> Document:
    return {
        "operationId": name,
        "summary": what,
        "responses": {"200": _content(what, schema, media_type), **_refusals(codes)},
    }


def _state(name: str, what: str, schema: str) -> Document:
    """Return an operation whose status says whether the server is ready."""
    operation = _open_to_all(_get(name, what, _ref(schema)))
    return operation | {"responses": operation["responses"] | {"503": _content("Not now.", _ref(schema))}}


def _open_to_all(operation: Document) -> Document:
    """Return an operation that needs no token."""
    responses = {code: answer for code, answer in operation["responses"].items() if code not in ("401", "503")}
    return operation | {"security": [], "responses": responses}


def _image_body() -> Document:
    """Return the bodies that hold one image."""
    file: Document = {"type": "string", "contentMediaType": "application/octet-stream"}
    fields = {"file": file, "top_k": {"type": "integer", "minimum": 1}}
    form = {"type": "object", "properties": fields, "required": ["file"], "additionalProperties": False}
    content: Document = {media_type: {} for media_type in IMAGE_TYPES}
    content |= {"multipart/form-data": {"schema": form}, JSON: {"schema": _ref("HuggingFaceRequest")}}
    return {"required": True, "description": "One image: the file itself, a form, or JSON.", "content": content}


def _model_name(model: TensorModel) -> Document:
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": [model.name]}}


def _model_version(model: TensorModel) -> Document:
    return {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "enum": [model.version]}}


def _refusals(codes: tuple[int, ...]) -> Document:
    return {str(code): {"$ref": f"#/components/responses/{code}"} for code in codes}


def _refusal(code: int) -> Document:
    answer = _content(SENTENCES[code], _ref("Error"))
    if code == 503:
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
        answer["headers"] = {"Retry-After": seconds}
    return answer


def _content(what: str, schema: Document, media_type: str = JSON) -> Document:
    return {"description": what, "content": {media_type: {"schema": schema} if schema else {}}}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


# Schemas


def _schemas(model: TensorModel) -> Document:
    text, names, share = (
        {"type": "string"},
        _list_of({"type": "string"}),
        {"type": "number", "minimum": 0, "maximum": 1},
    )
    seconds = _object({part: {"type": "number"} for part in ("decode", "network", "total")})
    classified = {
        "model": text,
        "label": text,
        "probability": share,
        "set": names,
        "forced": {"type": "boolean", "description": "No class reaches the threshold: the set has only the likeliest."},
        "alpha": share,
        "probabilities": {"type": "object", "additionalProperties": share},
        "seconds": seconds,
    }
    return {
        "Error": _object({"error": text, "reason": {"type": "string", "examples": list(REASONS)}}),
        "LabelScores": _list_of(_object({"label": text, "score": share})),
        "HuggingFaceRequest": _hugging_face_request(),
        "Classified": _object(classified),
        "Explained": _explained_schema(),
        "Alive": _object({"alive": {"type": "boolean"}}),
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object({"ready": {"type": "boolean"}}),
        "ModelReady": _object({"name": text, "ready": {"type": "boolean"}}),
        "ServerMetadata": _object({"name": text, "version": text, "extensions": names}),
        **_tensor_schemas(model),
    }


def _explained_schema() -> Document:
    text, maybe = {"type": "string"}, {"type": ["string", "null"], "description": "A data URI."}
    near = _object({"label": text, "cosine": {"type": "number"}, "image": maybe})
    seen = _list_of({"type": "number"}) | {"minItems": 4, "maxItems": 4}
    shown = {"model": text, "label": text, "heat": maybe, "image": text, "seen": seen}
    return _object({**shown, "nearest": _list_of(near), "note": text})


def _hugging_face_request() -> Document:
    top_k = {"type": ["integer", "null"], "minimum": 1}
    softmax = {"type": ["string", "null"], "enum": ["softmax", None]}
    parameters = {"type": ["object", "null"], "properties": {"top_k": top_k, "function_to_apply": softmax}}
    request = _object({"inputs": _file()}) | {"examples": [{"inputs": DOT, "parameters": {"top_k": 2}}]}
    request["properties"] |= {"parameters": parameters}
    return request


def _tensor_schemas(model: TensorModel) -> Document:
    text, parameters = {"type": "string"}, {"type": "object"}
    tensors = [_input_tensor("image", "BYTES", [], _file())]
    tensors += [_input_tensor(name, "UINT8", [side, side, 3], {}) for name, side in model.pixels.items()]
    wanted = _object({"name": {"enum": list(OUTPUTS)}}) | {"description": "Default: all outputs."}
    wanted["properties"] |= {"parameters": parameters}
    request = _object({"inputs": _list_of({"oneOf": tensors}) | {"minItems": 1}})
    dot = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [DOT]}
    request["examples"] = [{"inputs": [dot], "outputs": [{"name": "label"}]}]
    request["properties"] |= {"id": text, "parameters": parameters, "outputs": _list_of(wanted)}
    described = _list_of(_object({"name": text, "datatype": text, "shape": _list_of({"type": "integer"})}))
    metadata = {"name": text, "versions": _list_of(text), "platform": text, "inputs": described, "outputs": described}
    return {
        "InferRequest": request,
        "InferResponse": _object({"model_name": text, "model_version": text, "outputs": described}),
        "ModelMetadata": _object(metadata),
    }


def _input_tensor(name: str, datatype: str, shape: list[int], item: Document) -> Document:
    """Return the schema of an input of N tensors of `shape`; its `data` is missing where raw bytes follow the JSON."""
    count: Document = {"type": "integer", "minimum": 1}
    sizes: Document = {"type": "array", "prefixItems": [count, *({"const": size} for size in shape)]}
    sizes |= {"minItems": 1 + len(shape), "maxItems": 1 + len(shape)}
    tensor = _object({"name": {"const": name}, "datatype": {"const": datatype}, "shape": sizes})
    tensor["properties"] |= {"data": _list_of(item), "parameters": {"type": "object"}}
    return tensor


def _file() -> Document:
    return {"type": "string", "contentEncoding": "base64", "description": "A file in base64."}


def _object(properties: Document) -> Document:
    """Return a schema of an object that has all these properties, and may have others."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _list_of(items: Document) -> Document:
    return {"type": "array", "items": items}
