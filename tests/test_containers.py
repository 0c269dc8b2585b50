"""Dockerfile, compose.yaml and templates fit together, and start Coinage as it can be started.

No engine runs here: `docs/guides/containers.md` says how an image is built and tried.
"""

import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coinage.cli.cmd_ui import HOSTS_VARIABLE, VARIABLE, ui_parser
from coinage.ui.server import PORT
from tests.containers import (
    BATCH,
    DOCKERFILE,
    ROOT,
    build_arguments,
    coinage_words,
    compose,
    instructions,
    runpod,
    texts_of,
    torch_builds,
)

WORKSPACE = "/workspace"
LINUX = pytest.mark.skipif(sys.platform == "win32", reason="a script of bash")


def exec_form(name: str) -> list[str]:
    """The words of an instruction that starts no shell."""
    (text,) = texts_of(name)
    words = json.loads(text)
    assert all(isinstance(word, str) for word in words)
    return list(words)


def tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - wherever it is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


# Dockerfile


def test_the_image_is_not_root_and_starts_no_shell() -> None:
    (user,) = texts_of("USER")
    assert user == "${USER_ID}:0"
    assert build_arguments()["USER_ID"] != "0"
    assert exec_form("ENTRYPOINT") == ["tini", "--", "coinage"]
    assert " tini " in texts_of("RUN")[0]
    # Nothing that needs root comes later
    names = [line.name for line in instructions()]
    assert "RUN" not in names[names.index("USER") :]


def test_the_page_is_served_to_others_with_a_password_at_its_port() -> None:
    command = exec_form("CMD")
    assert command[0] == "ui"
    args = ui_parser().parse_args(command[1:])
    assert (args.listen, args.port, args.no_browser, args.end_runs) == ("0.0.0.0", PORT, True, True)  # noqa: S104
    assert args.folder == Path("~/coinage")
    (environment,) = texts_of("ENV")[1:]
    variables = dict(word.split("=", 1) for word in shlex.split(environment))
    assert variables["HOME"] == WORKSPACE
    assert variables[HOSTS_VARIABLE] == "localhost"
    assert not any("PASSWORD" in name for name in variables)
    assert texts_of("EXPOSE") == [str(PORT)]
    assert texts_of("VOLUME") == texts_of("WORKDIR")[-1:] == [WORKSPACE]


def test_the_health_check_asks_the_page(tmp_path: Path) -> None:
    (text,) = texts_of("HEALTHCHECK")
    program, flag, code = json.loads(text.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    assert f"'127.0.0.1', {PORT}," in code

    def check(answer: str) -> int:
        server = (
            "import sys; from http.server import HTTPServer, BaseHTTPRequestHandler as Handler\n"
            f"class Page(Handler):\n def do_GET(self): self.send_response({answer} "
            "if self.path == '/login' else 404); self.end_headers()\n"
            "server = HTTPServer(('127.0.0.1', 0), Page); print(server.server_port, flush=True)\n"
            "server.handle_request()"
        )
        command = [sys.executable, "-c", server]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as page:
            assert page.stdout
            there = code.replace(str(PORT), page.stdout.readline().strip())
            done = subprocess.run([sys.executable, "-c", there], check=False, cwd=tmp_path)
        return done.returncode

    assert check("200") == 0
    assert check("500") == 1


def test_the_image_has_the_versions_that_are_tested() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    )
    assert build_arguments()["TORCH_VERSION"] == pinned["torch"]
    assert build_arguments()["TORCH"] == torch_builds()[0] == "cpu"
    for extra in build_arguments()["EXTRAS"].split(","):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        name for text in texts_of("COPY") if "--from" not in text for name in text.split()[:-1]
    }
    assert "*" in lines
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    # The wheel is made of them, and of nothing that is not tracked
    sent = [line for line in tracked() if line in kept or line.startswith("src/")]
    refused = [line for line in lines if line.startswith("**/")]
    assert not [
        name
        for name in sent
        if any(fnmatch.fnmatch(f"/{name}", f"*{line[2:]}*") for line in refused)
    ]


@pytest.mark.parametrize(
    "command",
    [
        "docker build --tag coinage:cu126 --build-arg CUDA=cu126 .",
        "docker build --tag coinage:cu999 --build-arg TORCH=cu999 .",
        "docker run --rm --publish 127.0.0.1:8484:8484 coinage:cpu",
        "docker run --rm --publish 9000:80 --env COINAGE_PASSWORD coinage:cpu",
        "docker run --env COINAGE_PASSWORD=secret coinage:cpu",
        "docker run --volume photos:/data coinage:cpu",
        "docker run coinage:cu126",
        "docker run --gpu all coinage:cu126",
        "docker compose --profile amd up",
        "docker compose run --rm page train",
    ],
)
def test_commands_that_do_not_fit_are_found(command: str) -> None:
    with pytest.raises(AssertionError):
        coinage_words(shlex.split(command))


# compose.yaml


def test_compose_starts_the_image_as_it_is_built() -> None:
    services = compose()["services"]
    assert set(services) == {"cpu", "gpu"}
    for name, service in services.items():
        assert service["profiles"] == [name]
        assert service["build"]["args"].keys() <= build_arguments().keys()
        assert service["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
        (volume,) = service["volumes"]
        source, _, target = volume.rpartition(":")
        assert target == WORKSPACE
        assert re.search(r":-(\w+)}", source)[1] in compose()["volumes"]  # type: ignore[index]
        # Handed on from the shell: no value of it is in the file
        assert VARIABLE in service["environment"]
        assert f"{HOSTS_VARIABLE}=${{{HOSTS_VARIABLE}:-localhost}}" in service["environment"]
        assert service["user"].endswith(":-1000:0}")
        assert "command" not in service
    assert services["cpu"]["build"]["args"] == {"TORCH": "cpu"}
    assert (
        re.search(r":-(\w+)}", services["gpu"]["build"]["args"]["TORCH"])[1] in torch_builds()[1:]
    )  # type: ignore[index]
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["cpu"]


# RunPod


def test_the_template_of_runpod_starts_the_page_under_the_name_of_its_proxy() -> None:
    template = runpod()
    assert template["ports"] == [f"{PORT}/http"]
    assert template["volumeMountPath"] == WORKSPACE
    assert template["imageName"].rpartition(":")[2] in torch_builds()
    assert template["env"][VARIABLE].startswith("{{ RUNPOD_SECRET_")
    assert template["dockerEntrypoint"] == [*exec_form("ENTRYPOINT")[:-1], "sh", "-c"]
    (line,) = template["dockerStartCmd"]
    shown = subprocess.run(
        ["sh", "-c", line.replace("exec coinage", 'printf "%s\\n"')],  # noqa: S607
        env={**os.environ, "RUNPOD_POD_ID": "abc123"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = shown.stdout.splitlines()
    args = ui_parser().parse_args(words[1:])
    assert words[:-2] == exec_form("CMD")
    assert args.allow_host == [f"abc123-{PORT}.proxy.runpod.net"]


# SLURM


def options_of_batch() -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.+))?$", BATCH.read_text(), re.MULTILINE)
    return dict(lines)


def test_the_batch_script_asks_for_its_signal_and_is_queued_again() -> None:
    options = options_of_batch()
    assert options["signal"] == "B:USR1@180"
    assert "requeue" in options
    assert options["open-mode"] == "append"


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with an environment to activate, and a scontrol that writes down what it is told."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    (programs / "scontrol").write_text('#!/bin/sh\necho "$@" >> told\n')
    (programs / "scontrol").chmod(0o755)
    return tmp_path


def submitted(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    return subprocess.Popen(["bash", BATCH, *words], cwd=folder, env=environment)  # noqa: S607


def wait_for_file(path: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.02)


@LINUX
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGUSR1, 143, "requeue 7\n"),  # the time is nearly up, and all is saved
        (signal.SIGUSR1, 1, ""),  # it has failed: it would fail again
        (signal.SIGUSR1, 0, ""),  # it has ended just then
        (signal.SIGTERM, 143, ""),  # preempted, or cancelled: SLURM decides
    ],
)
def test_what_the_batch_script_does_with_signals(
    cluster: Path, number: signal.Signals, code: int, told: str
) -> None:
    """In place of a training, a program that saves for a moment, and ends with a code."""
    program = cluster / ".venv" / "bin" / "coinage"
    program.write_text(
        f"#!/bin/bash\ntrap 'sleep 0.2; echo saved > saved; exit {code}' TERM\n"
        "touch started\nwhile true; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    job = submitted(cluster)
    wait_for_file(cluster / "started", 20)
    job.send_signal(number)
    assert job.wait(20) == code
    assert (cluster / "saved").is_file()
    assert ((cluster / "told").read_text() if (cluster / "told").exists() else "") == told


@LINUX
@pytest.mark.slow
def test_a_job_that_is_queued_again_goes_on(cluster: Path, moon_dataset: Path) -> None:
    from tests.helpers import small_model

    activate = cluster / ".venv" / "bin" / "activate"
    activate.write_text(f'{activate.read_text()}PATH="$PATH:{Path(sys.executable).parent}"\n')
    (cluster / "run.toml").write_text(
        f'pretrained_model_name_or_path = "{small_model()}"\ndataset_config = "{moon_dataset}"\n'
        'token_string = "zibu"\ninit_word = "shape"\noutput_dir = "output"\n'
        "max_train_steps = 400\nsample_every_n_steps = 0\nearly_stop = false\n"
    )
    log = cluster / "output" / "zibu-log.jsonl"
    job = submitted(cluster, "run.toml")
    end = time.monotonic() + 300
    while not log.is_file() or log.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < end
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(120) == 143
    assert (cluster / "told").read_text() == "requeue 7\n"
    (state,) = (cluster / "output").glob("zibu-step*-state")
    stopped = int(state.name.split("step")[1].split("-")[0])
    assert 0 < stopped < 400
    assert submitted(cluster, "run.toml").wait(300) == 0
    assert (cluster / "output" / "zibu.safetensors").is_file()
    steps = [json.loads(line).get("step", 0) for line in log.read_text().splitlines()]
    assert max(steps) == 400
    assert len([step for step in steps if step == stopped + 1]) == 1


def test_the_dockerfile_names_its_page() -> None:
    page = re.search(r"docs/\S+\.md", DOCKERFILE.read_text(encoding="utf-8"))
    assert page
    assert (ROOT / page[0]).is_file()
