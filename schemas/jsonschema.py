"""JSON Schema (2020-12) of the codec's attrs classes, for /openapi.json: the classes that check are those that tell."""

import types
import typing
from typing import Any, Union

import attrs

from schemas.codec import Growing, Json, at_most, between, checked
from schemas.ids import NAME_CHARS_MAX, NAME_PATTERN, check_name

Schema = dict[str, Any]
NAME = {"type": "string", "pattern": f"^{NAME_PATTERN}$", "maxLength": NAME_CHARS_MAX}
_SCALARS: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Json: {"description": "any JSON value"},
    type(None): {"type": "null"},
}


def components(kinds: typing.Iterable[type]) -> dict[str, Schema]:
    """The schemas of these classes and of all that they are made of, by name."""
    found: dict[str, Schema] = {}
    for kind in kinds:
        _add(kind, found)
    return dict(sorted(found.items()))


def reference(kind: type) -> Schema:
    """A pointer to the class's schema in an OpenAPI document."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _add(kind: Any, found: dict[str, Schema]) -> None:
    if kind.__name__ in found:
        return
    schema: Schema = {"type": "object", "description": " ".join((kind.__doc__ or "").split()), "properties": {}}
    found[kind.__name__] = schema
    hints = typing.get_type_hints(kind)
    for field in attrs.fields(kind):
        schema["properties"][field.name] = _bounded(_schema(hints[field.name], found), field.validator)
    required = [field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING]
    if required:
        schema["required"] = required
    if not issubclass(kind, Growing):
        schema["additionalProperties"] = False


def _schema(kind: Any, found: dict[str, Schema]) -> Schema:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, found) for each in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], found)}
    _add(kind, found)
    return reference(kind)


def _bounded(schema: Schema, validator: Any) -> Schema:
    """The schema with the bounds of the codec's validators."""
    validators = getattr(validator, "_validators", (validator,))  # attrs wraps a list of them
    for each in validators:
        for target in schema.get("anyOf", (schema,)):
            target.update(_bound(each, target.get("type")))
    return schema


def _bound(validator: Any, kind: str | None) -> Schema:
    if isinstance(validator, between) and kind in ("integer", "number"):
        return {"minimum": validator.low, "maximum": validator.high}
    if isinstance(validator, at_most) and kind in _LENGTHS:
        return {_LENGTHS[kind]: validator.length}
    if isinstance(validator, checked) and validator.check_text is check_name and kind == "string":
        return NAME
    return {}


_LENGTHS = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
