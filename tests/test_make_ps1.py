"""`make.ps1` does on Windows what `make` does: it is parsed here, as there is no PowerShell to run it."""

import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coinage.checks import device

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "make.ps1"
NOT_ON_WINDOWS = {
    "test-pretended": "compiles a device of Linux with g++",
    "test-oldest": "sets up an environment of its own",
}
OF_ITS_OWN = {"clean"}  # rm -rf there, Remove-Item here
# PowerShell's own variables, and those of the environment
AUTOMATIC = {
    "PSScriptRoot", "LASTEXITCODE", "_", "ErrorActionPreference", "true", "false", "env:OS",
    "env:NO_MKDOCS_2_WARNING",
}  # fmt: skip
VARIABLES = ("variable", "braced_variable")
CMDLETS = {
    "Get-Command", "Get-Content", "Get-Item", "Join-Path", "New-Item", "Out-Null", "Pop-Location",
    "Push-Location", "Remove-Item", "Select-Object", "Set-Content", "Set-StrictMode", "Test-Path",
    "Where-Object", "Write-Host", "ForEach-Object",
}  # fmt: skip


def parsed(text: bytes) -> Any:
    powershell = pytest.importorskip("tree_sitter_powershell")
    tree_sitter = pytest.importorskip("tree_sitter")
    language = tree_sitter.Language(powershell.language())
    return tree_sitter.Parser(language).parse(text).root_node


def nodes(root: Any, kind: str) -> Iterator[Any]:
    if root.type == kind:
        yield root
    for child in root.children:
        yield from nodes(child, kind)


def texts(root: Any, kind: str) -> list[str]:
    return [node.text.decode() for node in nodes(root, kind)]


@pytest.fixture(scope="module")
def script() -> Any:
    return parsed(SCRIPT.read_bytes())


def tasks_of_script(script: Any) -> dict[str, list[str]]:
    """The commands of each task, as one line each."""
    found = {}
    for entry in nodes(script, "hash_entry"):
        name, *commands = [text.strip('"') for text in texts(entry, "string_literal")]
        found[name] = [command.replace("'", '"') for command in commands]
    return found


def tasks_of_makefile() -> dict[str, list[str]]:
    """The commands of each target, written as the script writes them."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if target := re.match(r"([a-z-]+):(?!=)", line):
            name = target[1]
            found[name] = []
        elif line.startswith("\t") and name:
            command = line.strip().removeprefix("@").removeprefix("NO_MKDOCS_2_WARNING=1 ")
            command = command.replace("$(or $(wildcard $(BIN)/python),$(PYTHON))", "python")
            found[name].append(command.replace("$(BIN)/", "").replace("$(ARGS)", "ARGS"))
        elif line and not line.startswith("#"):
            name = ""
    return found


def test_it_is_powershell(script: Any) -> None:
    assert not script.has_error
    assert parsed(SCRIPT.read_bytes().replace(b"}\n\n# Runs", b"\n\n# Runs")).has_error
    assert SCRIPT.read_bytes().isascii(), "Windows PowerShell 5 reads files without a mark as ANSI"


def test_it_runs_the_commands_of_make(script: Any) -> None:
    make = tasks_of_makefile()
    left_out = NOT_ON_WINDOWS.keys() | OF_ITS_OWN
    assert left_out <= make.keys()
    assert len(make) > 12
    assert tasks_of_script(script) == {
        name: lines for name, lines in make.items() if name not in left_out
    }


def test_it_deletes_what_make_deletes() -> None:
    (made,) = re.findall(r"^\$Made = (.*)$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    cleaned = tasks_of_makefile()["clean"][0].replace("$(VENV)", ".venv").split()[2:]
    assert re.findall(r'"([^"]+)"', made) == cleaned


def test_what_it_names_is_there(script: Any) -> None:
    variables = {name.strip("$@{}") for kind in VARIABLES for name in texts(script, kind)}
    text = SCRIPT.read_text(encoding="utf-8")
    lists = re.findall(r"((?:\$\w+, )*\$\w+) \+?= |foreach \((\$\w+) in", text)
    assigned = {name for each in lists for name in re.findall(r"\w+", " ".join(each))}
    parameters = set(re.findall(r"\[string(?:\[\])?\] \$(\w+)", text))
    assert variables <= assigned | parameters | AUTOMATIC
    functions = set(texts(script, "function_name"))
    called = {name for name in texts(script, "command_name") if "-" in name and name[0].isupper()}
    assert called <= functions | CMDLETS
    assert functions <= called, "each function is used"


def test_it_installs_from_the_pages_that_the_doctor_names() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert f'$Pages = "{device.PAGES}"' in text
    rule = re.compile(
        r"^    (?:if \(\$(driver|card) -(lt|ge) (\d+)\) \{ )?return \"\$\{Pages\}(cu\d+)\"",
        re.MULTILINE,
    )
    rules = rule.findall(text)
    assert len(rules) == 5
    compare = {"lt": operator.lt, "ge": operator.ge, "": lambda *_: True}
    for capability in ((6, 1), (7, 0), (7, 5), (8, 6), (9, 0), (10, 0), (12, 0)):
        for driver in (450, 524, 525, 572, 580, 610):
            values = {"card": 10 * capability[0] + capability[1], "driver": driver, "": 0}
            chosen = next(
                build
                for what, how, than, build in rules
                if compare[how](values[what], int(than or 0))
            )
            assert chosen == device.build_for(capability, device.cuda_of(f"{driver}.10"))
