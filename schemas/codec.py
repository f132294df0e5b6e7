"""The wire format: JSON to and from frozen attrs classes, strictly, with the field named in every refusal.

Used for the link, the bulk headers, REST bodies, the store and the configuration. Strict means: the size is checked
before parsing, unknown keys (but of a `Growing` class), wrong types, NaN, lone surrogates and deep nesting are refused,
nothing is coerced (an int where a float is due excepted). A union of several attrs classes is told apart by the key
`is`, the class name; one map per union makes that the only way to name a class. A field that equals its plain default
is not sent, so a newer version may add fields with defaults without disturbing an older peer.

Field types understood: str, int, float, bool, None, Literal, X | None, tuple[X, ...], dict[str, X], Json, attrs
classes and unions of them. Bounds are attrs validators from this module.
"""

import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union

import attrs

DEPTH_MAX = 32
TAG = "is"

T = TypeVar("T")
_Reader = Callable[[Any, str], Any]


if typing.TYPE_CHECKING:
    Json = Any
else:

    class Json:
        """Marks a field that holds any JSON value of bounded depth (its size is bounded by the message's)."""


class Growing:
    """Base of classes whose readers ignore unknown keys, for replies to programs that are older than we are."""


class CodecError(ValueError):
    """What was refused: `field` is the dotted path to it (empty for the whole), `problem` one clause for people."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


# --- bounds, for attrs.field(validator=...) -------------------------------------------------------------------------


class _BoundError(ValueError):
    """Raised by a validator; the codec adds the path that leads to the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem


@attrs.frozen
class between:  # noqa: N801 - reads as a phrase: validator=between(0, 1)
    """Numbers from low to high, both included; None passes."""

    low: float
    high: float

    def __call__(self, _: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        """Refuse what is outside."""
        if value is not None and not self.low <= value <= self.high:
            raise _BoundError(attribute.name, f"must be between {self.low:g} and {self.high:g}, not {value:g}")


@attrs.frozen
class at_most:  # noqa: N801 - as above
    """Strings, tuples and dicts of at most so many characters or items; None passes."""

    length: int

    def __call__(self, _: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        """Refuse what is longer."""
        if value is not None and len(value) > self.length:
            unit = "characters" if isinstance(value, str) else "items"
            raise _BoundError(attribute.name, f"must have at most {self.length} {unit}, not {len(value)}")


@attrs.frozen
class checked:  # noqa: N801 - as above
    """Strings, or each of a tuple's items or a dict's keys, that `check_text` does not refuse with ValueError."""

    check_text: Callable[[str], object]

    def __call__(self, _: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        """Refuse what it refuses."""
        for text in (value,) if isinstance(value, str) else value or ():
            try:
                self.check_text(text)
            except ValueError as error:
                raise _BoundError(attribute.name, str(error)) from None


def refuse(field: str, problem: str) -> typing.NoReturn:
    """For a class's own __attrs_post_init__: refuse a combination of fields."""
    raise _BoundError(field, problem)


# --- decoding -------------------------------------------------------------------------------------------------------


def decode(text: str | bytes, kind: Any, bytes_max: int) -> Any:
    """Parse JSON text into `kind` (an attrs class or a union of them); raises CodecError."""
    if len(text) > bytes_max:
        raise CodecError("", f"is larger than {bytes_max} bytes")
    return from_data(parse(text), kind)


def parse(text: str | bytes) -> Any:
    """JSON text to plain data, refusing what JSON does not have; raises CodecError."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text if isinstance(text, str) else b"\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()  # finds lone surrogates
    except RecursionError:
        raise CodecError("", f"is nested deeper than {DEPTH_MAX}") from None
    except ValueError as error:  # JSONDecodeError and both Unicode errors are among these
        raise CodecError("", f"is not valid JSON ({type(error).__name__})") from None
    return data


def from_data(data: Any, kind: Any, field: str = "") -> Any:
    """Plain data (from JSON or TOML) into `kind`; raises CodecError."""
    return _reader(kind)(data, field)


def _refuse_constant(name: str) -> typing.NoReturn:
    raise ValueError(name)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@functools.cache
def _reader(kind: Any) -> _Reader:
    """The function that reads `kind`; made once for each type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is tuple:
        return _tuple(_reader(arguments[0]))
    if origin is dict:
        return _dict(_reader(arguments[1]))
    if attrs.has(kind):
        return _attrs_reader(kind)
    raise TypeError(f"the codec has no rule for {kind!r}")


def _scalar(kind: type, name: str) -> _Reader:
    def read(data: Any, path: str) -> Any:
        if type(data) is not kind:
            raise CodecError(path, f"must be {name}")
        return data

    return read


def _read_float(data: Any, path: str) -> float:
    if type(data) is int and abs(data) < 1 << 53:
        return float(data)
    if type(data) is not float or not math.isfinite(data):
        raise CodecError(path, "must be a finite number")
    return data


def _read_int(data: Any, path: str) -> int:
    if type(data) is not int or not -(1 << 63) <= data < 1 << 63:
        raise CodecError(path, "must be an integer")
    return data


def _read_json(data: Any, path: str, depth: int = 0) -> Any:
    if depth > DEPTH_MAX:
        raise CodecError(path, f"is nested deeper than {DEPTH_MAX}")
    if isinstance(data, dict):
        for value in data.values():
            _read_json(value, path, depth + 1)
    elif isinstance(data, list):
        for value in data:
            _read_json(value, path, depth + 1)
    elif isinstance(data, float) and not math.isfinite(data):
        raise CodecError(path, "has a number that is not finite")
    return data


_SCALARS: dict[Any, _Reader] = {
    str: _scalar(str, "a string"),
    bool: _scalar(bool, "true or false"),
    type(None): _scalar(type(None), "null"),
    int: _read_int,
    float: _read_float,
    Json: _read_json,
}


def _literal(allowed: tuple[Any, ...]) -> _Reader:
    def read(data: Any, path: str) -> Any:
        if not isinstance(data, (str, int)) or data not in allowed:
            raise CodecError(path, f"must be one of {', '.join(map(str, allowed))}")
        return data

    return read


def _union(members: tuple[Any, ...]) -> _Reader:
    classes = {member.__name__: member for member in members if attrs.has(member)}
    others = [member for member in members if member is not type(None) and not attrs.has(member)]
    optional = type(None) in members
    if len(classes) > 1 and not others:
        inner = _tagged(classes)
    elif len(classes) + len(others) == 1:
        inner = _reader([*classes.values(), *others][0])
    else:
        raise TypeError(f"the codec has no rule for the union {members!r}")

    def read(data: Any, path: str) -> Any:
        return None if optional and data is None else inner(data, path)

    return read


def _tagged(classes: Mapping[str, Any]) -> _Reader:
    def read(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise CodecError(path, "must be an object")
        tag = data.get(TAG)
        kind = classes.get(tag) if isinstance(tag, str) else None
        if kind is None:
            raise CodecError(_join(path, TAG), f"must be one of {', '.join(classes)}")
        return _reader(kind)({key: value for key, value in data.items() if key != TAG}, path)

    return read


def _tuple(item: _Reader) -> _Reader:
    def read(data: Any, path: str) -> Any:
        if not isinstance(data, list):
            raise CodecError(path, "must be a list")
        return tuple(item(value, f"{path}[{index}]") for index, value in enumerate(data))

    return read


def _dict(item: _Reader) -> _Reader:
    def read(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise CodecError(path, "must be an object")
        return {str(key): item(value, _join(path, str(key))) for key, value in data.items()}

    return read


def _attrs_reader(kind: Any) -> _Reader:
    grows = issubclass(kind, Growing)

    # Readers are looked up at the first use, so that classes may refer to each other.
    @functools.cache
    def fields() -> dict[str, tuple[_Reader, bool]]:
        hints = typing.get_type_hints(kind)
        return {
            field.name: (_reader(hints[field.name]), field.default is attrs.NOTHING)
            for field in attrs.fields(kind)
            if field.init
        }

    def read(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise CodecError(path, "must be an object")
        known = fields()
        for key in data:
            if key not in known and not grows:
                raise CodecError(_join(path, str(key)[:64]), "is not a known field")
        for name, (_, required) in known.items():
            if required and name not in data:
                raise CodecError(_join(path, name), "is missing")
        values = {name: known[name][0](value, _join(path, name)) for name, value in data.items() if name in known}
        try:
            return kind(**values)
        except _BoundError as error:
            raise CodecError(_join(path, error.field), error.problem) from None

    return read


# --- encoding -------------------------------------------------------------------------------------------------------


def encode(message: Any) -> str:
    """An attrs instance as one line of JSON, tagged with its class name."""
    return dumps({TAG: type(message).__name__, **to_data(message)})


def dumps(data: Any) -> str:
    """Plain data as one line of JSON."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_data(value: Any) -> Any:
    """An attrs instance as plain data; fields that equal their plain default are left out."""
    if attrs.has(type(value)):
        return _object(value)
    if isinstance(value, tuple):
        return [to_data(item) for item in value]
    if isinstance(value, dict):
        return {key: to_data(item) for key, item in value.items()}
    return value


def _object(instance: Any) -> dict[str, Any]:
    data: dict[str, Any] = {}
    kind: Any = type(instance)
    for name, default, tagged in _writers(kind):
        value = getattr(instance, name)
        if value is default or (type(value) is type(default) and value == default):
            continue
        encoded = to_data(value)
        if tagged and value is not None:
            encoded = {TAG: type(value).__name__, **encoded}
        data[name] = encoded
    return data


@functools.cache
def _writers(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """For each field its name, its plain default, and whether it is a union that needs the tag."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, field.default, _is_tagged(hints[field.name])) for field in attrs.fields(kind) if field.init
    )


def _is_tagged(kind: Any) -> bool:
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return False
    return sum(1 for member in typing.get_args(kind) if attrs.has(member)) > 1
