"""``Struct`` for the modules on the way to a run, where importing msgspec would cost as much as starting the interpreter.

It takes the same arguments and does as much of the same as is needed there: fields in order with defaults, ``frozen``,
``kw_only``, comparison, repr. To read one, msgspec is asked. Type checkers see msgspec's own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from msgspec import Struct
    from msgspec.structs import asdict, replace

    _S = TypeVar("_S", bound=Struct)
else:

    class Struct:
        """A value with named fields."""

        _fields = ()
        _defaults = {}
        _positional = True
        _frozen = False
        _reader = None

        def __init_subclass__(cls, *, frozen=False, kw_only=False):
            own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063  # inspect is what must not be imported
            cls._fields = (*cls._fields, *own)
            cls._defaults = {**cls._defaults, **{name: cls.__dict__[name] for name in own if name in cls.__dict__}}
            cls._positional, cls._frozen = not kw_only, frozen

        def __init__(self, *values, **named):
            if values:
                if not self._positional or len(values) > len(self._fields):
                    raise TypeError(f"{type(self).__name__} takes its fields by name")
                named.update(zip(self._fields, values, strict=False))
            own = self.__dict__
            for name in self._fields:
                if name in named:
                    own[name] = named.pop(name)
                elif name in self._defaults:
                    value = self._defaults[name]  # as msgspec does: an empty one is not shared
                    own[name] = value.copy() if value.__class__ in (dict, list, set) else value
                else:
                    raise TypeError(f"{type(self).__name__}: {name} is missing")
            if named:
                raise TypeError(f"{type(self).__name__} has no {', '.join(named)}")

        def __setattr__(self, name, value):
            if self._frozen:
                raise AttributeError(f"immutable type: {type(self).__name__!r}")
            self.__dict__[name] = value

        def __eq__(self, other):
            return self.__class__ is other.__class__ and self.__dict__ == other.__dict__

        def __hash__(self):
            return hash(tuple(self.__dict__.values()))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.__dict__.items())})"

    def replace(value, /, **changes):
        """A copy with other values for some fields."""
        return type(value)(**{**value.__dict__, **changes})

    def asdict(value, /):
        """The fields by name."""
        return dict(value.__dict__)


__all__ = ["Damaged", "Struct", "asdict", "from_json", "replace", "to_json"]


class Damaged(ValueError):
    """What was read is not what was written."""


def to_json(value: Struct) -> bytes:
    """The value as a JSON object."""
    fields = asdict(value)
    plain = _plain(fields)
    if plain is not None:
        return plain.encode()
    import msgspec

    return msgspec.json.encode(fields)


def _plain(value: object) -> str | None:  # noqa: PLR0911  # one for each type
    """JSON of what needs no escapes; None for the rest."""
    if isinstance(value, str):
        return f'"{value}"' if value.isascii() and value.isprintable() and not set('"\\') & set(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        parts = [(_plain(key), _plain(item)) for key, item in value.items()]
        return None if any(None in part for part in parts) else "{" + ",".join(f"{k}:{v}" for k, v in parts) + "}"
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return None if None in items else "[" + ",".join(map(str, items)) + "]"
    return None


def from_json(data: bytes, kind: type[_S]) -> _S:
    """The value of type ``kind`` that a JSON object tells. Raises Damaged."""
    import msgspec

    try:
        return kind(**msgspec.structs.asdict(msgspec.json.decode(data, type=_reader(kind))))
    except (ValueError, RecursionError) as e:  # msgspec's own errors are the former, and so is text that is not UTF-8
        raise Damaged(str(e)) from None


def _reader(kind: type[_S]) -> type[_S]:
    """The same fields as a struct of msgspec's, made once for a class."""
    if kind.__dict__.get("_reader") is None:
        from typing import Any, get_type_hints

        import msgspec

        hints = get_type_hints(kind, localns={"Any": Any})
        defaults = vars(kind)["_defaults"]
        fields = [
            (name, hints[name], *([defaults[name]] if name in defaults else [])) for name in vars(kind)["_fields"]
        ]
        type.__setattr__(kind, "_reader", msgspec.defstruct(kind.__name__, fields, kw_only=True))
    reader: type[_S] = vars(kind)["_reader"]
    return reader
