"""Fields of a request. One that is not there, or null, is as its default; of the wrong kind it is
refused; what nobody asks for is ignored."""

from __future__ import annotations

import math
from typing import Any

from bitnet_host.serve.refused import Refused

__all__ = ["Fields"]


class Fields:
    """Reads ``values``; ``name`` is that of the object in the request, for what is refused."""

    def __init__(self, values: Any, name: str = "") -> None:
        self._name = name
        if not isinstance(values, dict):
            raise Refused(400, f"{name or 'the body of the request'} must be a JSON object")
        self._values: dict[str, Any] = values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def raw(self, *names: str) -> Any:
        """The first of the fields that is there, or None."""
        return next((value for name in names if (value := self._values.get(name)) is not None),
                    None)

    def wrong(self, name: str, what: str) -> Refused:
        whole = f"{self._name}.{name}" if self._name else name
        return Refused(400, f"{whole} must be {what}", param=whole)

    def number(self, name: str, default: float) -> float:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        try:
            number = float(value)
        except OverflowError:
            raise self.wrong(name, "a number that is not as large") from None
        if not math.isfinite(number):
            raise self.wrong(name, "a finite number")
        return number

    def between(self, name: str, default: float, low: float, high: float) -> float:
        value = self.number(name, default)
        if not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return value

    def whole(self, *names: str) -> int | None:
        """A whole number, also one that is written with a point."""
        for name in names:
            value = self.raw(name)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int):
                raise self.wrong(name, "a whole number")
            return value
        return None

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, *names: str, default: str = "") -> str:
        for name in names:
            value = self.raw(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise self.wrong(name, "text")
            return value
        return default

    def texts(self, name: str) -> tuple[str, ...]:
        """Text or a list of it; empty ones are left out."""
        value = self.raw(name)
        if value is None:
            return ()
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "text or a list of text")
        return tuple(item for item in value if item)

    def objects(self, name: str) -> list[dict[str, Any]]:
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(name, "a list of objects")
        return value

    def inner(self, name: str) -> Fields | None:
        """The object that a field holds."""
        value = self.raw(name)
        return None if value is None else Fields(value, name)
