"""The gateway's GraphQL schema: a query in, its answer out, whatever carries them.

A query's text is limited in length, in tokens and in detections, and the schema itself is three levels deep: what a
query may cost is known before it runs. Pictures come as variables; what carries them limits their bytes, and here their
pixels are counted before they are decoded.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import inspect
import io
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    Visitor,
    build_schema,
    execute,
    parse,
    specified_rules,
    validate,
    visit,
)
from graphql.validation import NoSchemaIntrospectionCustomRule

from clients.detections import Detections
from clients.errors import ClientError, ImageError, one_line
from clients.images import ImageSource, Pixels, read_pixels
from clients.selection import Selection, class_numbers

SDL = '''
"""
A JPEG, PNG, WebP, BMP or TIFF picture, best given by a variable: base64 text, or a file of a multipart request
(https://github.com/jaydenseric/graphql-multipart-request-spec).
"""
scalar Image

"A part of the picture, in its own pixels: an object is inside where the centre of its box is."
input Region { x1: Float!, y1: Float!, x2: Float!, y2: Float! }

type Query {
  "The detector behind this gateway."
  model: Model!

  "What is in a picture; without classes, those of every class, without max, all of them."
  detect(image: Image!, classes: [String!], confidence: Float! = 0.25, region: Region, max: Int): Result
}

type Model {
  name: String!
  "The names of its classes."
  classes: [String!]!
  "The size of its input in pixels; pictures of any size are fitted into it."
  width: Int!
  height: Int!
}

"The picture's size, and what is left after classes, confidence, region and max."
type Result {
  width: Int!
  height: Int!
  count: Int!
  "Whether anything is left, or anything of one class."
  any(class: String): Boolean
  "The surest first."
  detections: [Detection!]!
}

type Detection {
  class: String!
  classId: Int!
  confidence: Float!
  "Left, top, right, bottom, in the picture's own pixels."
  xyxy: [Float!]!
}
'''

MAX_QUERY_CHARACTERS = 16_384
MAX_TOKENS = 500
MAX_DETECTS = 8
"""In one request."""
MAX_ERRORS = 5
MAX_MESSAGE_CHARACTERS = 500
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

_log = logging.getLogger(__name__)


class GatewayDetector(Protocol):
    """What the gateway needs of a detector; it is shared by threads."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their numbers."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input in pixels."""

    def detect(self, image: ImageSource, confidence: float) -> Detections:
        """Find objects in one image."""


class QueryError(Exception):
    """A query that is not run; ``errors`` are GraphQL's, ready for JSON."""

    def __init__(self, errors: Iterable[GraphQLError]) -> None:
        """Keep the first few."""
        super().__init__()
        self.errors = [_formatted(error) for error in list(errors)[:MAX_ERRORS]]


class Gateway:
    """Answers GraphQL queries with a detector; ``workers`` pictures are decoded and asked about side by side."""

    def __init__(self, detector: GatewayDetector, *, workers: int, max_pixels: int) -> None:
        """Build the schema; ``max_pixels`` is the size of the largest picture."""
        self._detector = detector
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="gateway")
        self._schema = build_schema(SDL)
        # Programs send the same few queries again and again; parsing one takes longer than any other step here.
        self._document = functools.lru_cache(maxsize=64)(self._read)

    async def answer(
        self, query: str, variables: Mapping[str, Any] | None = None, operation: str | None = None
    ) -> dict[str, Any]:
        """The answer as GraphQL has it, ready for JSON: ``data``, and ``errors`` where a field failed.

        Raises QueryError for a query that is not run.
        """
        document = self._document(query)
        # A Detection's fields are its dictionary's keys, a Result's its attributes and methods.
        result: Any = execute(
            self._schema,
            document,
            root_value=_Root(self._detector, self._threads, self._max_pixels),
            variable_values=dict(variables or {}),
            operation_name=operation,
            max_coercion_errors=MAX_ERRORS,
        )
        if inspect.isawaitable(result):
            result = await result
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            raise QueryError(result.errors)
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = [_formatted(error) for error in result.errors[: 10 * MAX_ERRORS]]
        return answer

    def close(self) -> None:
        """End the threads, when they have done what they were asked."""
        self._threads.shutdown()

    def _read(self, query: str) -> DocumentNode:
        try:
            document = parse(
                query, max_lexical_tokens=MAX_TOKENS, max_comments=MAX_TOKENS, max_source_length=MAX_QUERY_CHARACTERS
            )
        except GraphQLError as error:
            raise QueryError([error]) from error
        except RecursionError as error:
            raise QueryError([GraphQLError("Syntax Error: the query is nested too deeply.")]) from error
        if too_many := _too_many_detects(document):
            raise QueryError([too_many])
        rules = (*specified_rules, NoSchemaIntrospectionCustomRule)
        if errors := validate(self._schema, document, rules, max_errors=MAX_ERRORS):
            raise QueryError(errors)
        return document


class _Root:
    """Resolves the fields of Query."""

    def __init__(self, detector: GatewayDetector, threads: ThreadPoolExecutor, max_pixels: int) -> None:
        self._detector = detector
        self._threads = threads
        self._max_pixels = max_pixels

    def model(self, info: Any) -> dict[str, Any]:
        height, width = self._detector.size
        return {"name": self._detector.model, "classes": self._detector.names, "width": width, "height": height}

    async def detect(self, info: Any, image: object, confidence: float, **chosen: Any) -> _Result:
        try:
            region = chosen.get("region")
            classes = chosen.get("classes")
            selection = Selection(
                classes=None if classes is None else tuple(classes),
                confidence=confidence,
                region_xyxy=(region["x1"], region["y1"], region["x2"], region["y2"]) if region else None,
                maximum=chosen.get("max"),
            )
            class_numbers(selection.classes or (), self._detector.names)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._detect, image, selection)
        except (ClientError, ValueError) as error:
            raise GraphQLError(one_line(error), extensions={"code": _code(error)}) from error
        except Exception as error:
            _log.exception("a request failed")
            raise GraphQLError(
                f"the gateway failed ({type(error).__name__}): read its log", extensions={"code": "INTERNAL"}
            ) from error

    def _detect(self, image: object, selection: Selection) -> _Result:
        encoded = _image_bytes(image)
        _check_pixels(encoded, self._max_pixels)
        pixels = read_pixels(encoded)
        return _Result(pixels, selection.apply(self._detector.detect(pixels, selection.confidence)))


class _Result:
    """Resolves the fields of Result; those that are not asked for cost nothing."""

    def __init__(self, pixels: Pixels, detections: Detections) -> None:
        self.width = pixels.width
        self.height = pixels.height
        self.count = len(detections)
        self._detections = detections

    def any(self, info: Any, **named: Any) -> bool:
        name = named.get("class")
        if name is None:
            return self.count > 0
        try:
            wanted = class_numbers([name], self._detections.names)
        except ValueError as error:
            raise GraphQLError(one_line(error), extensions={"code": _code(error)}) from error
        return bool(set(wanted).intersection(self._detections.class_id.tolist()))

    def detections(self, info: Any) -> list[dict[str, Any]]:
        return [{**found, "classId": found["class_id"]} for found in self._detections.to_list()]


class _Detects(Visitor):
    """Counts fields of the name ``detect``, wherever they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        self.count += node.name.value == "detect"


def _too_many_detects(document: DocumentNode) -> GraphQLError | None:
    counter = _Detects()
    visit(document, counter)
    if counter.count <= MAX_DETECTS:
        return None
    return GraphQLError(
        f"expected at most {MAX_DETECTS} fields 'detect' in one request, got {counter.count}: send several requests"
    )


def _image_bytes(value: object) -> bytes:
    """A picture as it was sent: bytes of an upload as they are, text as base64."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ImageError(f"expected an image as base64 text or an uploaded file, got {type(value).__name__}")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ImageError(
            f"expected an image as base64, without line breaks and without a data: prefix ({one_line(error)})"
        ) from error


def _check_pixels(image: bytes, max_pixels: int) -> None:
    """Raise ImageError for a picture of more pixels, by its header."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as header:
            width, height = header.size
    except Exception:
        # What is wrong with it is said where it is decoded, which has a limit of its own.
        return
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} pixels are more than this gateway's limit of {max_pixels / 1e6:g} megapixels: "
            "scale the image down, or start the gateway with a higher --max-megapixels"
        )


def _code(error: Exception) -> str:
    """A name for programs: IMAGE for an ImageError, ARGUMENT for a value that is refused."""
    if not isinstance(error, ClientError):
        return "ARGUMENT"
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in type(error).__name__)
    return words.removeprefix("_").upper().removesuffix("_ERROR")


def _formatted(error: GraphQLError) -> dict[str, Any]:
    formatted = dict(error.formatted)
    message = one_line(formatted["message"])
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[:MAX_MESSAGE_CHARACTERS]}..."
    return {**formatted, "message": message}
