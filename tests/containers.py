"""Reading what containers are made of, and the commands that make and start them."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE, COMPOSE = ROOT / "Dockerfile", ROOT / "compose.yaml"
RUNPOD, BATCH = ROOT / "examples/runpod.json", ROOT / "examples/train.sbatch"
PORT = "8484"


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction of the Dockerfile: its name in capitals, and the rest in one line."""

    name: str
    text: str


@cache
def instructions() -> tuple[Instruction, ...]:
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return tuple(Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line)


def texts_of(name: str) -> list[str]:
    return [line.text for line in instructions() if line.name == name]


def build_arguments() -> dict[str, str]:
    """The build arguments of the Dockerfile with their defaults."""
    return dict(text.split("=", 1) for text in texts_of("ARG"))


def torch_builds() -> list[str]:
    """What the comment above `ARG TORCH` offers."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    comment = re.search(r"^# (.+)\nARG TORCH=", text, re.MULTILINE)
    assert comment
    return re.findall(r"\b(?:cpu|cu\d{3})\b", comment[1])


@cache
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8")))


@cache
def runpod() -> dict[str, Any]:
    return dict(json.loads(RUNPOD.read_text(encoding="utf-8")))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise AssertionError(message)


def _parser(**flags: str) -> _Parser:
    """A parser of flags with a value, or without one where it is "yes"; what follows is kept."""
    parser = _Parser(allow_abbrev=False, add_help=False)
    for name, kind in flags.items():
        action = "append" if kind == "many" else "store_true" if kind == "yes" else "store"
        parser.add_argument(f"--{name.replace('_', '-')}", action=action)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


BUILD = _parser(tag="one", build_arg="many")
RUN = _parser(
    rm="yes", detach="yes", name="one", gpus="one", user="one", volume="many", publish="many",
    env="many", shm_size="one", stop_timeout="one", no_healthcheck="yes",
)  # fmt: skip
COMPOSED = _parser(profile="many")
SERVICE = _parser(rm="yes", build="yes", detach="yes")
APPTAINER = _parser(nv="yes")


def coinage_words(words: Sequence[str]) -> list[str]:
    """Check a command that makes or starts containers; what Coinage is told in it, [] for nothing.

    Raises:
        AssertionError: the Dockerfile or compose.yaml has not what it names.
    """
    if words[0] == "apptainer":
        return _of_apptainer(words[1:])
    checks = {"build": _of_build, "run": _of_run, "compose": _of_compose}
    if words[1] in checks:
        return checks[words[1]](words[2:])
    assert words[1] in ("push", "stop", "logs", "tag")
    return []


def _of_build(words: Sequence[str]) -> list[str]:
    args = BUILD.parse_args(words)
    assert args.rest == ["."]
    given = dict(text.split("=", 1) for text in args.build_arg or ())
    assert given.keys() <= build_arguments().keys()
    assert given.get("TORCH", "cpu") in torch_builds() or "TORCH_VERSION" in given
    assert args.tag.endswith(given.get("TORCH", "cpu"))
    return []


def _of_run(words: Sequence[str]) -> list[str]:
    args = RUN.parse_args(words)
    image, *rest = args.rest
    name, _, build = image.partition(":")
    assert name == "coinage"
    assert build in torch_builds()
    assert (build != "cpu") == bool(args.gpus)
    for volume in args.volume or ():
        assert volume.split(":")[1] == "/workspace" or volume.endswith(":ro")
    for port in args.publish or ():
        assert port.endswith(f":{PORT}")
        assert "COINAGE_PASSWORD" in (args.env or ()), "the page needs a password"
    assert all("PASSWORD=" not in text for text in args.env or ())
    return rest


def _of_compose(words: Sequence[str]) -> list[str]:
    args = COMPOSED.parse_args(words)
    services = compose()["services"]
    known = {profile for service in services.values() for profile in service["profiles"]}
    assert set(args.profile or ()) <= known
    verb, *rest = args.rest
    if verb in ("up", "down", "logs"):
        SERVICE.parse_args(rest)
        return []
    assert verb == "run"
    service, *inside = SERVICE.parse_args(rest).rest
    assert service in services
    return inside


def _of_apptainer(words: Sequence[str]) -> list[str]:
    verb, *rest = words
    if verb == "build":
        assert rest[1].startswith("docker-daemon:coinage:")
        return []
    assert verb == "exec"
    _, program, *inside = APPTAINER.parse_args(rest).rest
    assert program == "coinage"
    return inside
