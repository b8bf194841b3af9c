"""What `/openapi.json` says of the service."""

from typing import Any

from fastapi import Response

from backdrop.serving.observer import MODEL
from backdrop.serving.photographs import FORM, TYPES
from backdrop.serving.problems import Problem

UNCONFIDENCE, REGIONS = "backdrop-unconfidence", "backdrop-doubtful-regions"
DICE, DICE_RANGE = "backdrop-dice", "backdrop-dice-range"
BINARY = {"type": "string", "format": "binary"}
OTHER = "application/octet-stream"
ABOUT = """Cuts products out of photographs with a registered model.

Send a photograph as the body, or as the only file of a form. A JPEG, PNG, WebP or HEIC file is recognized by its
content. Addresses of photographs are never fetched."""
BODY = {
    "required": True,
    "description": "A photograph: JPEG, PNG, WebP or HEIC.",
    "content": {
        **{kind: {"schema": BINARY} for kind in (*TYPES.values(), OTHER)},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {"photo": BINARY},
                "required": ["photo"],
                "additionalProperties": False,
            },
            "encoding": {"photo": {"contentType": ", ".join(TYPES.values())}},
        },
    },
}
HEADERS = {
    MODEL: {"description": "The version that made it.", "schema": {"type": "string"}, "example": "models:/cars/3"},
    DICE: {
        "description": "The Dice that the mask probably has, 0 to 1; missing if the version can't tell.",
        "schema": {"type": "number"},
        "example": 0.9931,
    },
    DICE_RANGE: {
        "description": "Lowest and highest Dice that it may have, right for nine in ten objects never seen.",
        "schema": {"type": "string"},
        "example": "0.9874 0.9962",
    },
    UNCONFIDENCE: {
        "description": "Doubtful pixels per pixel that is certainly background.",
        "schema": {"type": "number"},
        "example": 0.0004,
    },
    REGIONS: {
        "description": "Boxes of regions to look at, `left,top,width,height` in the photograph's pixels; maybe empty.",
        "schema": {"type": "string"},
        "example": "512,300,80,41 90,1100,33,35",
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is no photograph that can be used."},
    401: {"model": Problem, "description": "The server wants a token."},
    408: {"model": Problem, "description": "The request wasn't complete in time."},
    413: {"model": Problem, "description": "It has too many bytes or pixels."},
    415: {"model": Problem, "description": "It is another kind of file."},
    422: {"model": Problem, "description": "An option of the query can't be used."},
    429: {"model": Problem, "description": "The server is busy: see Retry-After."},
    503: {"model": Problem, "description": "No model is loaded yet, the server stops, or it took too long."},
}


def documented(*kinds: str) -> dict[str, Any]:
    """What OpenAPI says of a path that answers pictures of these types."""
    picture = {
        "description": "The picture.",
        "content": {kind: {"schema": BINARY} for kind in kinds},
        "headers": HEADERS,
    }
    return {
        "responses": {200: picture, **PROBLEMS},
        "openapi_extra": {"requestBody": BODY},
        "response_class": Response,
    }
