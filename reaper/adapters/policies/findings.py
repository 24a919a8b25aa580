"""What pydantic finds wrong, in our words and with its place in the file."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from reaper.adapters.policies import tree
from reaper.adapters.policies.document import Document
from reaper.adapters.policies.values import nearest, shown

Finding = tuple[tree.Path, bool, str]  # where, whether the key is meant, what

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


def finding_of(value: tree.Value, error: ErrorDetails) -> Finding:
    """One of pydantic's findings in the values of a file."""
    kind, given, ctx = error["type"], error["input"], error.get("ctx", {})
    path, on_key = _path(value, error["loc"]), False
    if kind == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        what, on_key = f"is no key here{nearest(str(path[-1]), known)}; allowed: {', '.join(known)}", True
    elif kind == "missing":
        path, what, on_key = (*path, error["loc"][-1]), "is missing", True
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        what = "kind has to be one of prometheus, cloudwatch, http, script"
    elif kind == "value_error":
        what = str(ctx.get("error", error["msg"]))
    elif kind == "literal_error":
        what = f"{shown(given)} is not {ctx['expected']}"
    elif kind in _WANTED:
        quote = ": quote it" if kind == "string_type" and isinstance(given, int | float) else ""
        what = f"has to be {_WANTED[kind]}, not {shown(given)}{quote}"
    elif kind == "string_pattern_mismatch":
        what = f"{shown(given)} does not have the form {ctx['pattern']}"
    else:
        message = error["msg"].replace("Input should", "it should").replace("String should", "the text should")
        what = f"{shown(given)}: {message[0].lower()}{message[1:]}"
    return path, on_key, what


def _path(value: tree.Value, loc: tuple[str | int, ...]) -> tree.Path:
    """The part of pydantic's location that is in the file: it also names union members and defaults."""
    path: list[str | int] = []
    for part in loc:
        match value, part:
            case dict(), str() if part in value:
                value = value[part]
            case list(), int() if part < len(value):
                value = value[part]
            case _:
                continue
        path.append(part)
    return tuple(path)


def _known_keys(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed where pydantic found another one."""
    models: list[type[BaseModel]] = [Document]
    for part in loc:
        if isinstance(part, int):
            continue
        fields = {f.alias or name: f for m in models for name, f in m.model_fields.items()}
        if part in fields:
            models = list(_models_in(fields[part].annotation))
        else:  # the tag that chose among the members of a union
            models = [m for m in models if part in get_args(m.model_fields["kind"].annotation)]
    return [f.alias or name for m in models for name, f in m.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (list, tuple, Union, UnionType) or hasattr(annotation, "__metadata__"):
        for part in get_args(annotation):
            yield from _models_in(part)
