"""Broken input made from good input, and running it with an eye on the clock."""

import copy
import json
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import tomli_w

from coinage.data.dataset_keys import FLAG_ONLY, KEYS

LIMIT = 5.0  # seconds of the processor per case
# In seeds; becomes the folder of the data after a seed has been mutated, so that a case is the
# same everywhere.
ROOT = "@root@"

# Running cases


class HangError(BaseException):
    """Passes every `except Exception` on its way out."""


@contextmanager
def limited() -> Iterator[None]:
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT, 1)  # again each second, should the first be lost
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def refused(error: Exception, part: str = "") -> bool:
    """Not taken, with a message."""
    assert str(error)
    assert part in str(error)
    return False


def accepted(
    name: str, cases: range, prepare: Callable[[Random], tuple[object, Callable[[], bool]]]
) -> int:
    """Return how many cases are accepted.

    Those that raise or hang are shown with their input, one for each kind of error.

    `prepare` makes a case from its generator: what to show of it, and what to run, which returns
    whether the input was accepted.
    """
    count, failed = 0, dict[object, str]()
    for case in cases:
        shown, run = prepare(Random(f"{name} {case}"))  # noqa: S311 - not for secrets
        start = time.process_time()
        try:
            with limited():
                count += run()
        except (Exception, HangError) as error:  # noqa: BLE001 - whatever it is, it should not have come here
            frames = traceback.extract_tb(error.__traceback__)
            why = "".join(traceback.format_exception(error)[-4:])
            failed.setdefault(
                (type(error), frames[-1].filename, frames[-1].lineno),
                f"{name} {case}: {why}input: {_short(shown)}",
            )
        seconds = time.process_time() - start
        if seconds > LIMIT:
            failed["time"] = f"{name} {case}: {seconds:.1f} s\ninput: {_short(shown)}"
            break
    assert not failed, "\n\n".join(failed.values())
    return count


def _short(shown: object) -> str:
    text = repr(shown)
    return text if len(text) < 4000 else f"{text[:2000]} ... {text[-2000:]}"


# Mutations

SNIPPETS = (
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\\ud800",
    b"\\u0000",
    b"\\",
    b'"',
    b"'",
    b'"""',
    b"[",
    b"]",
    b"[[",
    b"{",
    b"}",
    b"=",
    b",",
    b"#",
    b"\n",
    b"\r",
    b"\x1b",
    b"\xe2\x80\xa8",
    b"-",
    b"nan",
    b"inf",
    b"NaN",
    b"1e999",
    b"0x",
    b"9" * 30,
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"null",
    b"true",
)


def mutated_bytes(data: bytes, rng: Random, *, head: int | None = None) -> bytes:
    """Some bytes or lines changed, mostly among the first `head`."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        at = rng.randrange((min(head, len(out)) if head and rng.random() < 0.7 else len(out)) + 1)
        end = at + rng.choice((1, 1, 2, 4, 16, 100))
        kind = rng.randrange(8)
        if kind == 0:
            out[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in out[at : at + 1])
        elif kind == 1:
            out[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        elif kind == 2:
            del out[at:end]
        elif kind == 3:
            out[at:at] = rng.choice((rng.randbytes(end - at), rng.choice(SNIPPETS)))
        elif kind == 4:
            out[at:at] = out[at:end]
        elif kind < 7:
            out = mutated_lines(out, rng)
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def mutated_lines(data: bytearray, rng: Random) -> bytearray:
    """A line doubled, removed or moved."""
    lines = data.splitlines(keepends=True) or [data]
    line = rng.choice(lines) if rng.random() < 0.5 else lines.pop(rng.randrange(len(lines)))
    if rng.random() < 0.7:
        lines.insert(rng.randrange(len(lines) + 1), line)
    return bytearray().join(lines)


ODD = "@odd@"  # becomes one of what `literals` gives: text that no value is written as
VALUES: tuple[Any, ...] = (
    0,
    1,
    -1,
    2,
    7,
    8,
    16,
    48,
    63,
    64,
    65,
    100,
    128,
    1000,
    16384,
    2**31 - 1,
    2**31 - 1,
    1 - 2**31,
    1 - 2**31,
    2**31,
    2**63,
    -(2**64),
    10**400,
    10**400,
    0.0,
    -0.0,
    0.25,
    0.5,
    0.9,
    1.0,
    1.5,
    -0.1,
    1e-320,
    1e308,
    -1e19,
    float("nan"),
    float("inf"),
    float("-inf"),
    True,
    False,
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udc80",
    "é",
    "zibu",
    "|",
    "||",
    ",",
    ";",
    ".",
    "..",
    ".txt",
    "{a|b}",
    "{{zibu}",
    "true",
    "1",
    "area",
    "cubic",
    "x" * 300,
    "y/" * 3000,
    ODD,
    ODD,
    ODD,
    ODD,
    [],
    [[]],
    [1],
    [8, 8],
    [64, 64],
    [8, 1e400],
    [64, 64.0],
    [-1, 2],
    [0.5, 2.0],
    [1, 2, 3],
    ["a"],
    [ODD],
    [True, 8],
    [{}],
    {},
    {"a": 1},
    {"a": {"b": [ODD]}},
    {"a": ODD},
)
NAMES = (
    *KEYS,
    *FLAG_ONLY,
    "general",
    "datasets",
    "subsets",
    "",
    "a.b",
    "x" * 200,
    "é",
    "\0",
    "\ud800",
    "Resolution",
    "__metadata__",
)
BOTH = (
    "[" * 3000,
    "9" * 5000,
    "-" + "9" * 400,
    "1e999",
    "-1e-999",
    '"\\ud800"',
    '"\\u0000"',
    "1__0",
    "01",
    "+1",
    "",
)
DATES = (
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00-07:00",
    "1979-13-27",
    "9999-12-31T23:59:60Z",
)
HEXADECIMAL = "0x" + "f" * 5000  # has more digits than Python writes
TOML = (
    *BOTH,
    *DATES,
    *[HEXADECIMAL] * 5,
    f"[{HEXADECIMAL}]",
    f"{{a = {HEXADECIMAL}}}",
    "nan",
    "-inf",
    "0b1",
    "'''a'''",
    '"""a\n"""',
)
JSON = (*BOTH, "null", "null", "[null]", "NaN", "-Infinity", '{"a": 1, "a": null}', "'a'")


def literals(suffix: str, rng: Random) -> list[str]:
    deep, opening, others = (
        rng.randrange(1, 1100),
        *(("{a = ", TOML) if suffix == ".toml" else ('{"a":', JSON)),
    )
    return ["[" * deep + "]" * deep, opening * deep + "1" + "}" * deep, *others]


def alike(value: object, rng: Random) -> Any:
    """A value of the same type, often a near one: most of the others are refused at once."""
    if isinstance(value, bool):
        return not value
    if rng.random() < 0.5:
        if rng.random() < 0.2:
            return ODD
        if isinstance(value, int | float):
            return value + rng.choice((-8, -1, 1, 2, 64)) * (0.1 if isinstance(value, float) else 1)
        if isinstance(value, str):
            at = rng.randrange(len(value) + 1)
            return (
                value[:at]
                + rng.choice(("", "a", " ", "/", ",", "|", "{", "}", "\n", "é", "\x01"))
                + value[at + rng.randrange(2) :]
            )
    same = (int, float) if isinstance(value, float) else type(value)
    near = [
        other
        for other in VALUES
        if isinstance(other, same) and not isinstance(other, bool) and other != ODD
    ]
    return rng.choice(near or VALUES)  # there is only one None


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutated_tree(tree: Any, rng: Random) -> Any:
    """Some values replaced, removed, copied; some keys renamed, moved to another level."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        found = list(places(tree))
        if not found:
            break
        leaves = [
            (holder, key) for holder, key in found if not isinstance(holder[key], dict | list)
        ]
        holder, key = rng.choice(leaves if leaves and rng.random() < 0.7 else found)
        kind = rng.randrange(14)
        if kind < 7:
            holder[key] = alike(holder[key], rng)
        elif kind < 10:
            holder[key] = rng.choice(VALUES)
        elif kind == 10:
            other, name = rng.choice(found)
            holder[key] = copy.deepcopy(other[name])
        elif kind == 11:
            del holder[key]
        else:
            move(tree, holder, key, rng)
        tree = copy.deepcopy(tree)  # what stands in VALUES must not change
    return tree


def move(tree: Any, holder: Any, key: Any, rng: Random) -> None:
    """Take a value to another name, or to another place."""
    value = holder.pop(key)
    into = (
        holder
        if rng.random() < 0.5
        else rng.choice([tree, *(h[k] for h, k in places(tree) if isinstance(h[k], dict | list))])
    )
    if isinstance(into, dict):
        into[
            key
            if isinstance(key, str) and into is not holder and rng.random() < 0.7
            else rng.choice(NAMES)
        ] = value
    else:
        into += [value, copy.deepcopy(value)]


def written(tree: Any, suffix: str, rng: Random) -> bytes:
    text = (
        tomli_w.dumps(tree) if suffix == ".toml" else json.dumps(tree, indent=rng.choice((None, 1)))
    )
    text = re.sub(f'"{ODD}"', lambda _: rng.choice(literals(suffix, rng)), text)
    return text.encode("utf-8", "surrogatepass")


def mutated(tree: Any, suffix: str, rng: Random) -> bytes:
    """The text of a tree, broken in one way or in both."""
    kind = rng.randrange(8)
    data = written(mutated_tree(tree, rng) if kind < 5 else tree, suffix, rng)
    return mutated_bytes(data, rng) if kind > 3 else data
