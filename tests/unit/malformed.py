"""Policy files that are wrong, each in a way that it names: made by hand, and by a seeded generator."""

from collections.abc import Callable
from random import Random

GOOD = """\
name: regenerate-shards
leash: on                        # decides and reports; `off` arms it
target: {provider: local, clusters: {tag: {tier: mysql}}}
schedule: {cron: "0 3 * * mon-fri", timezone: Asia/Tokyo, jitter: 20m}
calendar: {freeze: [{from: 2026-12-24, to: 2027-01-03, reason: year end}], holidays: JP}
due: {max_age: 24h, stale_image: true, probability: 1.0}
replace: {what: master, replicas: 1, snapshot: {from: replica, reuse_within: 20h, keep: 7}}
warm: {gate: 0.9, within: 30m}
kill: {mode: crash}
failover: {by: reaper, outage_budget: 2s, lost_writes: 0}
guards: {max_lag: 5s, min_copies: 3, semi_sync: required, max_transaction_age: 30s,
         max_in_flight: 2, max_in_flight_percent: 5, per: [shard_group, zone], cool_down: 12h}
retire: {quarantine: 2h}
"""

_SCALARS = (
    "2h}",
    "5s,",
    "24h,",
    "crash}",
    "mon-fri",
    "Asia/Tokyo",
    "JP}",
    "0.9,",
    "2026-12-24",
    "[shard_group,",
    "reaper,",
    "3, semi",
    "regenerate-shards",
)
_KEYS = ("leash:", "target:", "schedule:", "jitter:", "max_age:", "what:", "gate:", "mode:", "by:", "max_lag:", "per:")


def _wrong_value(dice: Random) -> str:
    old = dice.choice(_SCALARS)
    tail = old.lstrip("[").lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/.")
    new = dice.choice(("~", "[[1]]", "{a: {b: c}}", "-17.25e3", "'  '", '"\\0"', "\u2603", "x" * 5000, "!", "&", "*a"))
    return GOOD.replace(old, new + tail, 1)


def _wrong_key(dice: Random) -> str:
    old = dice.choice(_KEYS)
    return GOOD.replace(old, f"{dice.choice(('x', 'Max', '_', '0', '<<', 'n' * 900))}{old}", 1)


def _key_twice(dice: Random) -> str:
    line = dice.choice([text for text in GOOD.splitlines() if text.startswith(("name", "kill", "warm", "retire"))])
    return GOOD + line + "\n"


def _tab(dice: Random) -> str:
    lines = GOOD.splitlines()
    where = dice.choice([i for i, line in enumerate(lines) if i and not line.startswith(" ")])  # there it is allowed
    return "\n".join([*lines[:where], f"\t{lines[where]}", *lines[where + 1 :]])


def _deep(dice: Random) -> str:
    depth = dice.choice((13, 50, 1000, 40_000))
    opening, closing = dice.choice((("[", "]"), ("{a: ", "}"), ("- ", "")))
    return f"{GOOD}extra: {'' if opening == '- ' else opening * depth}{closing * dice.choice((0, depth))}\n" + (
        "".join(f"{'  ' * i}-\n" for i in range(min(depth, 300))) if opening == "- " else ""
    )


def _bomb(dice: Random) -> str:
    width = dice.randrange(5, 12)
    rows = [f"a0: &a0 [{', '.join(['lol'] * width)}]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, dice.randrange(8, 30))]
    return GOOD + "\n".join(rows) + "\n"


def _cut(dice: Random) -> str:
    """Cut inside of a flow mapping, so that something stays open."""
    return GOOD[: dice.choice([i for i, letter in enumerate(GOOD) if letter == "{"]) + 1]


def _many(dice: Random) -> str:
    return GOOD + "".join(f"key-{dice.randrange(10**9)}: [{i}]\n" for i in range(dice.choice((300, 4000, 9000))))


def _tag(dice: Random) -> str:
    kind = dice.choice(("!!python/object/apply:os.system", "!!binary", "!!set", "!x", "!!timestamp"))
    return GOOD.replace("leash: on", f"leash: {kind} on", 1)


def _second_document(dice: Random) -> str:
    return GOOD + dice.choice(("---\n", "...\n---\nname: b\n", "--- {}\n"))


def _noise(dice: Random) -> bytes:
    return b"\xff" + dice.randbytes(dice.randrange(1, 4000))


def _null(dice: Random) -> bytes:
    text = GOOD.encode()
    where = dice.randrange(len(text))
    return text[:where] + bytes([dice.choice((0, 1, 7, 27))]) + text[where:]


# Each kind, and a word of the mistake that it has to be named as.
_KINDS: tuple[tuple[Callable[[Random], str | bytes], str], ...] = (
    (_wrong_value, ""),
    (_wrong_key, "is no key here"),
    (_key_twice, "is there twice: the first time in line"),
    (_tab, "is indented with a tab"),
    (_deep, "is nested deeper than 12 levels"),
    (_bomb, "uses an anchor or alias"),
    (_cut, "is no YAML"),
    (_many, ": is no key here"),
    (_tag, "uses the tag"),
    (_second_document, "has a second document"),
    (_noise, "which is no UTF-8"),
    (_null, "which no YAML has"),
)

BY_HAND: dict[str, bytes] = {
    "empty": b"",
    "only spaces and newlines": b"  \n\n  \n",
    "only a comment": b"# nothing here\n",
    "only a byte order mark": b"\xef\xbb\xbf",
    "an empty document": b"---\n",
    "null": b"null\n",
    "a word": b"hello\n",
    "a number": b"42\n",
    "a list": b"- a\n- b\n",
    "a list of policies": b"- name: a\n- name: b\n",
    "an empty mapping": b"{}\n",
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-32": GOOD.encode("utf-32"),
    "Latin-1": GOOD.replace("year end", "a\xf1o").encode("latin-1"),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8,
    "an archive": b"PK\x03\x04" + bytes(200),
    "too large": b"# " + b"x" * (256 * 1024) + b"\n",
    "JSON that is cut": b'{"name": "a", "target": {',
    "a key that is a list": b"[a, b]: c\n",
    "a key that is a mapping": b"{a: b}: c\n",
    "a question mark key": b"? - a\n: b\n",
    "an alias without an anchor": b"name: *a\n",
    "a merge key": b"name: a\n<<: {target: {clusters: x}}\n",
    "an anchor on a key": b"&k name: a\n",
    "a cycle": b"name: a\ntarget: &t {clusters: *t}\n",
    "quotes that stay open": b'name: "a\n',
    "a colon too many": b"name: a: b\n",
    "wrong indentation": b"name: a\n  target: {clusters: x}\n",
    "a directive": b"%YAML 3.0\n---\nname: a\n",
    "an unknown directive": b"%FOO bar\nname: a\n",
    "Windows line ends and a mistake": GOOD.replace("\n", "\r\n").replace("leash: on", "leash: off!").encode(),
    "a line of all kinds of brackets": b"}]{[:,-?&*!|>%@`\n",
    "a very long line": b"name: " + b"a" * 200_000,
    "a very long number": b"name: a\ntarget: {clusters: x}\nprobe: {clients: " + b"9" * 5000 + b"}\n",
    "infinity": b"name: a\ntarget: {clusters: x}\nwarm: {gate: .inf}\n",
    "not a number": b"name: a\ntarget: {clusters: x}\nwarm: {gate: .nan}\n",
    "a huge exponent": b"name: a\ntarget: {clusters: x}\nwarm: {gate: 1e999}\n",
    "a duration beyond all measure": b"name: a\ntarget: {clusters: x}\nguards: {max_lag: 999999999d}\n",
    "a year beyond all measure": b"name: a\ntarget: {clusters: x}\n"
    b"calendar: {freeze: [{from: 9999-12-31, to: 9999-12-31, reason: x}]}\n",
    "a password in a URL": b"name: a\ntarget: {clusters: x}\n"
    b"guards: {external: [{kind: http, name: h, url: 'http://u:p@h/'}]}\n",
    "a zone that is a path": b"name: a\ntarget: {clusters: x}\ncalendar: {timezone: ../../etc/passwd}\n",
    "a zone that is a directory": b"name: a\ntarget: {clusters: x}\ncalendar: {timezone: Europe}\n",
}


def generated(count: int, seed: int) -> list[tuple[str, bytes, str]]:
    """So many files, each kind as often as the others, with the word of each; the seed makes all of them again."""
    files = []
    for number in range(count):
        kind, word = _KINDS[number % len(_KINDS)]
        made = kind(Random(f"{seed}/{number}"))
        files.append((f"{kind.__name__.strip('_')} {number}", made.encode() if isinstance(made, str) else made, word))
    return files
