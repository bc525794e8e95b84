"""Registries of parts. A part is one decorated function or class; its keyword-only parameters are its settings.

So a new loss or data set with settings of its own is one edit: the settings of the user (`crf_sigma_rgb=10`,
`data_train=640`), their coercion, their place in the key and the error messages follow from the signature.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from seminar.spec import InputError, Scalar, Settings, is_later, unknown
from seminar.text import brief

T = TypeVar("T", bound=Callable[..., Any])


class Entry(Generic[T]):
    """A registered part: the callable, its positional inputs, its settings, its paths (True: required)."""

    def __init__(self, name: str, make: T) -> None:
        self.name, self.make = name, make
        function = make.__init__ if inspect.isclass(make) else make
        hints = typing.get_type_hints(function, include_extras=True)
        self.inputs: tuple[str, ...] = ()
        self.settings: dict[str, tuple[TypeAdapter[Any], Scalar]] = {}
        self.paths: dict[str, bool] = {}
        self.later: set[str] = set()
        for parameter in inspect.signature(make).parameters.values():
            if parameter.kind is not parameter.KEYWORD_ONLY:
                self.inputs += (parameter.name,)
            elif hints[parameter.name] in (Path, Path | None):
                self.paths[parameter.name] = parameter.default is parameter.empty
            elif parameter.default is parameter.empty:
                raise TypeError(f"{name}: setting {parameter.name!r} needs a default")
            else:
                adapter = TypeAdapter(hints[parameter.name], config=ConfigDict(allow_inf_nan=False))
                self.settings[parameter.name] = (adapter, parameter.default)
                if is_later(getattr(hints[parameter.name], "__metadata__", ())):
                    self.later.add(parameter.name)

    def coerce(self, prefix: str, given: Mapping[str, object]) -> Settings:
        """Return all settings, sorted by name, in their declared types; a `Later` setting is left out at its default.

        `given` maps setting names to values; the others take their default. Raises `InputError` that names the
        setting (`prefix` + its name), the value and what was expected.
        """
        result: list[tuple[str, Scalar]] = []
        for name, (adapter, default) in sorted(self.settings.items()):
            value = given.get(name, default)
            try:
                setting = (name, adapter.validate_python(value))
                if name not in self.later or setting[1] != default:
                    result.append(setting)
            except ValidationError as error:
                reasons = "; or: ".join(dict.fromkeys(str(found["msg"]) for found in error.errors()))
                raise InputError(f"{prefix}{name}={brief(value)}: {reasons}") from None
        return tuple(result)


class Registry(Generic[T]):
    """Named parts of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, make: T) -> Entry[T]:
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        if not name.isidentifier() or "_" in name:
            raise ValueError(f"{self.kind} {name!r}: names are letters and digits only (words join them with '_')")
        self._entries[name] = Entry(name, make)
        return self._entries[name]

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make the function or class below known under `name`."""

        def decorate(make: T) -> T:
            self.add(name, make)
            return make

        return decorate

    def __getitem__(self, name: str) -> Entry[T]:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self._entries)
