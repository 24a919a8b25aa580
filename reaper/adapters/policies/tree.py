"""YAML text as plain values that remember where they were written. Everything about it is bounded.

Read from the parser's events, so that nothing is built that was not looked at: no tag, no anchor, no alias, no second
document, no key twice. Scalars are those of YAML 1.2's core: `on`, `NO` and `12:30` are text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

LARGEST_BYTES = 256 * 1024
DEEPEST = 12
MOST_NODES = 20_000

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Path = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where PyYAML was built with it


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Flaw:
    """Something about the text itself that is wrong."""

    place: Place
    path: Path
    what: str


@dataclass
class Tree:
    """The values, where each was written, and the flaws that did not stop the reading."""

    value: Value = None
    whole: bool = False  # the value was read to its end; otherwise a flaw says why not
    places: dict[Path, Place] = field(default_factory=dict)  # of values
    keys: dict[Path, Place] = field(default_factory=dict)  # of the keys before them
    flaws: list[Flaw] = field(default_factory=list)


class _Stop(Exception):
    def __init__(self, place: Place, what: str, path: Path = ()) -> None:
        self.flaw = Flaw(place, path, what)


def parse(data: bytes) -> Tree:
    """Read one document. Never raises for what is in the text: what is wrong is among the flaws."""
    tree = Tree()
    try:
        text = _decode(data)
        walk = _Walk(tree, iter(yaml.parse(text, Loader=_LOADER)))
        walk.document()
    except _Stop as stop:
        tree.flaws.append(stop.flaw)
    except yaml.MarkedYAMLError as error:
        tree.flaws.append(_syntax(error, text))
    except yaml.YAMLError as error:
        tree.flaws.append(Flaw(Place(1, 1), (), f"is no YAML: {' '.join(str(error).split())[:200]}"))
    return tree


def _decode(data: bytes) -> str:
    if len(data) > LARGEST_BYTES:
        raise _Stop(Place(1, 1), f"has {len(data)} bytes, a policy file has at most {LARGEST_BYTES}: is it one?")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _Stop(Place(1, 1), "is UTF-16 or UTF-32: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_of(data[: error.start].decode("utf-8", "replace"))
        raise _Stop(place, f"has the byte 0x{data[error.start]:02x}, which is no UTF-8: is it text?") from None
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd is not None:
        raise _Stop(_place_of(text[: odd.start()]), f"has the character {odd[0]!r}, which no YAML has: is it text?")
    return text


def _place_of(before: str) -> Place:
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Flaw:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Flaw(Place(1, 1), (), f"is no YAML: {error.problem}")
    lines = text.splitlines()
    if mark.line >= len(lines):  # it ended too early
        place, line = Place(max(len(lines), 1), len(lines[-1]) + 1 if lines else 1), ""
    else:
        place, line = Place(mark.line + 1, mark.column + 1), lines[mark.line]
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in (error.problem or ""):
        return Flaw(place, (), "is indented with a tab: YAML wants spaces")
    why = ", ".join(part for part in (error.context, error.problem) if part)
    return Flaw(place, (), f"is no YAML: {why}")


class _Walk:
    """One pass over the events."""

    def __init__(self, tree: Tree, events: Iterator[yaml.Event]) -> None:
        self._tree, self._events, self._nodes = tree, events, 0

    def document(self) -> None:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise _Stop(Place(1, 1), "is empty: a policy has at least a name and a target")
        self._tree.value = self._value(next(self._events), ())
        self._tree.whole = True
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Stop(_at(after), "has a second document: one file is one policy")

    def _value(self, event: yaml.Event, path: Path) -> Value:
        place = _at(event)
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise _Stop(place, f"has more than {MOST_NODES} values: is it a policy?", path)
        if len(path) > DEEPEST:
            raise _Stop(place, f"is nested deeper than {DEEPEST} levels", path[:DEEPEST])
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Stop(place, "uses an anchor or alias (& or *): write the value out", path)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _Stop(place, f"uses the tag {str(tag)[:60]}: values have no tags here", path)
        self._tree.places[path] = place
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if not event.style else str(event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return self._mapping(path)

    def _list(self, path: Path) -> list[Value]:
        values: list[Value] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values))))
        return values

    def _mapping(self, path: Path) -> dict[str, Value]:
        values: dict[str, Value] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise _Stop(_at(event), "has a key that is no plain word", path)
            key, place = str(event.value), _at(event)
            here = (*path, key)
            earlier = self._tree.keys.get(here)
            if earlier is not None:
                self._value(next(self._events), (*path, f"{key} (again)"))
                self._tree.flaws.append(Flaw(place, here, f"is there twice: the first time in line {earlier.line}"))
                continue
            self._tree.keys[here] = place
            values[key] = self._value(next(self._events), here)
        return values


def _at(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)


def _scalar(text: str) -> Value:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
