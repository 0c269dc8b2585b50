"""Ten thousand random command lines, and every flag with every odd value, run to the end of three steps.

Nothing may end in a traceback, hang, or be accepted though it can mean nothing. `make test-fuzz`
runs them all.
"""

import random
import re
import resource
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coinage.settings.flags import Flag
from tests.cli.places import make_places, words
from tests.fuzz.running import Result, result_of, told_of
from tests.fuzz.values import flags, means_nothing, random_words, sensible, values_of

pytestmark = pytest.mark.fuzz
COMMANDS, AT_ONCE = 10_000, 50
MEMORY = 16 * 2**30  # bytes of addresses, of which a process that imports torch takes some 5
SHORT = "--max_train_steps=3 --sample_every_n_steps=0 --cache_latents"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_places(tmp_path_factory.mktemp("places"))


@pytest.fixture(autouse=True)
def on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory and a home of its own, and an end to memory."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def command(places: dict[str, Path], out: Path, *more: str) -> list[str]:
    """A short training, and further flags after it."""
    names = {word.partition("=")[0] for word in more}
    short = " ".join(flag for flag in SHORT.split() if flag.partition("=")[0] not in names)
    return [*words(places, out, short), *more, *(["--dry_run"] if is_long(more) else [])]


def is_long(given: Sequence[str]) -> bool:
    """Whether a command asks for a run of minutes, which is then only planned."""
    asked = zip(given, [*given[1:], ""], strict=False)
    numbers = [
        word.partition("=")[2] or after
        for word, after in asked
        if word.startswith(("--max_train_s", "--max_train_e"))
    ]
    return any(re.fullmatch(r"\d{3,9}|1e3", number) for number in numbers)


def tried(places: dict[str, Path], out: Path, *more: str) -> Result:
    """What a command comes to; what it wrote is deleted."""
    result = result_of(command(places, out, *more), out)
    shutil.rmtree(out, ignore_errors=True)
    return result


def filled(word: str, known: dict[str, Path]) -> str:
    """A word of a command with its places; other braces stay as they are."""
    for name, path in known.items():
        word = word.replace(f"{{{name}}}", str(path))
    return word


@pytest.mark.parametrize("flag", flags(), ids=lambda flag: flag.dest)
def test_any_value_of_a_flag_is_taken_or_refused(
    places: dict[str, Path], tmp_path: Path, flag: Flag
) -> None:
    results = []
    for value in values_of(flag) or ("",):
        given = (
            [flag.name]
            if flag.kind == "switch"
            else [flag.name, value]
            if flag.kind == "list"
            else [f"{flag.name}={value}"]
        )
        result = tried(places, tmp_path / "out", *given)
        if not result.trouble and result.code == 0 and means_nothing(flag, value):
            result = Result(result.words, 0, result.told, f"{flag.name} {value!r} is accepted")
        results.append(result)
    if told := told_of(results):
        pytest.fail(told, pytrace=False)


@pytest.mark.parametrize("seed", range(COMMANDS // AT_ONCE))
def test_any_command_line_ends_well_or_says_why_not(
    places: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - commands that can be made again
    groups, out = sensible(), tmp_path / "out"
    known = {"out": out, **places}
    results = []
    for _ in range(AT_ONCE):
        given = [filled(word, known) for word in random_words(rng, groups)]
        results.append(tried(places, out, *given))
    if told := told_of(results):
        pytest.fail(told, pytrace=False)
