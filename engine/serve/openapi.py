"""The OpenAPI 3.1 description of the HTTP API."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fusematte.engine.serve.errors import STATUS
from fusematte.engine.serve.limits import FORMATS, PICTURE_LIMIT, SIZES, TIME_LIMIT, VIDEO_FORMATS
from fusematte.engine.serve.uploads import MEBIBYTE

BACKGROUND = "green, #rrggbb, blur[:sigma], transparent or mask (the alpha, as grayscale)"
PROMPTS = '[{"keep": [x, y], "time": seconds}, {"drop": [x, y], "time": seconds}, ...]'
BINARY = {"type": "string", "format": "binary"}

Schema = dict[str, Any]


def description(video_limit: int, *, keyed: bool) -> Schema:
    """The OpenAPI document; video_limit: in bytes; keyed: whether clients need a key."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FuseMatte",
            "version": version("fusematte"),
            "description": "Separates people from their background, in pictures and videos.",
        },
        "security": [{"bearer": []}, {"header": []}] if keyed else [],
        "paths": {
            "/api/matte": {"post": _picture("matte")},
            "/api/remove": {"post": _picture("remove", "The same, under rembg's name.")},
            "/api/jobs": {"get": _list(), "post": _add(video_limit)},
            "/api/jobs/{id}": {
                "parameters": [ID],
                "get": _operation("job", "The state of a job", {"200": _json("Job", "The job")}),
                "delete": _operation(
                    "removeJob", "Cancel or remove a job", {"200": _json(None, "")}
                ),
            },
            "/api/jobs/{id}/result": {"parameters": [ID], "get": _result()},
            "/api/health": {"get": _health("health", "Health check")},
            "/api/openapi.json": {"get": _health("openapi", "This description")},
        },
        "components": {"securitySchemes": schemes, "schemas": {"Job": JOB, "Error": ERROR}},
    }


ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "enum": list(STATUS)},
                "message": {"type": "string"},
            },
        }
    },
}
JOB: Schema = {
    "type": "object",
    "required": ["id", "name", "state", "frames"],
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "background": {"type": "string"},
        "state": {"enum": ["queued", "running", "done", "failed"]},
        "error": {"anyOf": [{"$ref": "#/components/schemas/Error/properties/error"},
                            {"type": "null"}]},
        "frames": {"type": "integer", "description": "done so far"},
        "total": {"type": ["integer", "null"], "description": "null if unknown"},
        "rate": {"type": "number", "description": "frames per second"},
        "result": {"type": ["string", "null"], "description": "file name of the download"},
        "duration": {"type": ["number", "null"], "description": "of the video, in seconds"},
        "frame_rate": {"type": ["number", "null"]},
        "prompts": {"type": "array", "items": {"type": "object"}, "description": "who is kept"},
    },
}  # fmt: skip


def _picture(name: str, more: str = "") -> Schema:
    limit = f"at most {PICTURE_LIMIT // MEBIBYTE} MB, {TIME_LIMIT:g} seconds"
    options = {
        "om": {"type": "boolean", "description": "the same as background=mask"},
        "bgc": {"type": "string", "description": "background colour r,g,b,a; a is 0 or 255"},
        "background": {"type": "string", "default": "transparent", "description": BACKGROUND},
        "format": {"enum": list(FORMATS), "default": "png"},
        "invert": {"type": "boolean", "description": "keep the background, remove the people"},
        "grow": {"type": "integer", "description": "grow the matte by pixels; negative shrinks"},
        "feather": {"type": "number", "description": "soften the edges; sigma in pixels"},
        "min_alpha": {"type": "number", "description": "set alpha below this to 0; 0 to 1"},
        "size": {
            "type": "integer", "minimum": SIZES[0], "maximum": SIZES[-1],
            "description": "scale down to this longer side, in pixels",
        },
    }  # fmt: skip
    files = {"file": {**BINARY, "description": limit}}
    picture = {"200": {"description": "the picture", "content": _types(*FORMATS)}}
    operation = _operation(
        name, "Cut the people out of a picture, or replace its background", picture
    )
    operation["description"] = (
        f"{more} The body is a form, or the picture itself with its image/... content type. "
        "Options are form fields or query parameters. To use a picture as background, send "
        "`background` as a file. Further options of rembg (model, a, af, ab, ae, ppm) are accepted "
        "but not used; the header X-Ignored-Options lists them."
    ).strip()
    body = _form({**files, **options})
    body["content"]["image/*"] = {"schema": BINARY}
    operation["requestBody"] = body
    operation["parameters"] = [
        {"name": option, "in": "query", "schema": schema} for option, schema in options.items()
    ]
    return operation


def _list() -> Schema:
    listed = {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}
    answer = {"description": "oldest first", "content": {"application/json": {"schema": listed}}}
    return _operation("jobs", "All jobs", {"200": answer})


def _add(limit: int) -> Schema:
    operation = _operation("addJob", "Matte a video", {"201": _json("Job", "queued")})
    options = {
        "file": {**BINARY, "description": f"at most {limit // MEBIBYTE} MB"},
        "background": {"type": "string", "default": "green", "description": BACKGROUND},
        "format": {"enum": list(VIDEO_FORMATS), "description": "mp4, or mov if transparent"},
        "prompts": {"type": "string", "description": f"who is kept, as JSON: {PROMPTS}"},
    }
    operation["requestBody"] = _form(options)
    return operation


def _result() -> Schema:
    answer = {"description": "the video", "content": {"application/octet-stream": {}}}
    return _operation("result", "The matted video", {"200": answer})


def _health(name: str, summary: str) -> Schema:
    return {**_operation(name, summary, {"200": _json(None, "yes")}), "security": []}


def _operation(name: str, summary: str, answers: Schema) -> Schema:
    answers = {**answers, "default": _json("Error", "why not")}
    return {"operationId": name, "summary": summary, "responses": answers}


def _form(fields: Schema) -> Schema:
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _json(name: str | None, told: str) -> Schema:
    schema = {"$ref": f"#/components/schemas/{name}"} if name else {"type": "object"}
    return {"description": told, "content": {"application/json": {"schema": schema}}}


def _types(*formats: str) -> Schema:
    return {FORMATS[name][0]: {"schema": BINARY} for name in formats}
