"""Several processes learn what one learns."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.embeddings.reading import read
from coinage.errors import ConfigError
from coinage.runs.states import latest_state
from coinage.settings.discover import complete
from coinage.training.processes import ALONE, Processes, group_on_cpu
from tests.cli.test_bad_input import ROOT
from tests.helpers import HANGS, flags, rows_of, trained

SCRIPT = str(ROOT / "train_textual_inversion.py")
BASE = (
    "--max_train_steps=6",
    "--cache_latents",
    "--save_every_n_steps=2",
    "--save_state",
    "--noise_offset=0.05",
    "--lr_scheduler=linear",
)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def torchrun(*more: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *more, "--nproc_per_node=2"]


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_same(one: Path, two: Path) -> None:
    torch.testing.assert_close(
        rows_of(read(two / "zibu.safetensors")),
        rows_of(read(one / "zibu.safetensors")),
        rtol=0,
        atol=1e-5,
    )


@pytest.fixture(scope="module")
def dataset(moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, with its batch size left to the command."""
    file = tmp_path_factory.mktemp("dataset") / "dataset.toml"
    file.write_text(re.sub(r"batch_size = \d+\n", "", moon_dataset.read_text()))
    return file


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, batch 4."""
    out = tmp_path_factory.mktemp("alone")
    trained(dataset, out, *BASE, "--train_batch_size=4", "--validation_split=0.25")
    return out


def test_two_processes_learn_the_same_and_one_goes_on_from_them(
    alone: Path, dataset: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 1 --d 1\n" * 3)
    given = (
        *BASE,
        "--train_batch_size=1",
        "--gradient_accumulation_steps=2",
        "--validation_split=0.25",
        "--ddp_timeout=5",
    )
    given += (f"--sample_prompts={prompts}", "--sample_every_n_steps=6")
    told = run(
        [
            *torchrun(f"--master_port={free_port()}"),
            SCRIPT,
            *flags(dataset, tmp_path / "two", *given),
        ]
    )
    assert_same(alone, tmp_path / "two")
    assert told.count("saved ") == 1, "one process speaks and writes"
    assert told.count("2 processes") == 1
    assert len(list((tmp_path / "two" / "sample").iterdir())) == 3
    first, second = (
        [json.loads(line) for line in (out / "zibu-log.jsonl").read_text().splitlines()]
        for out in (alone, tmp_path / "two")
    )
    assert [entry["loss"] for entry in second] == pytest.approx(
        [entry["loss"] for entry in first], abs=1e-5
    )
    assert [entry["grad_norm"] for entry in second] == pytest.approx(
        [entry["grad_norm"] for entry in first], rel=1e-3
    )
    state = tmp_path / "two" / "zibu-step00000004-state"
    _, resumed = trained(
        dataset,
        tmp_path / "one",
        *BASE,
        "--train_batch_size=4",
        "--validation_split=0.25",
        f"--resume={state}",
    )
    torch.testing.assert_close(
        rows_of(resumed), rows_of(read(alone / "zibu.safetensors")), rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_accelerate_launch(alone: Path, dataset: Path, tmp_path: Path) -> None:
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
    ]
    launch += [
        "--mixed_precision=no",
        "--dynamo_backend=no",
        f"--main_process_port={free_port()}",
        "--num_cpu_threads_per_process=1",
    ]
    given = (*BASE, "--train_batch_size=2", "--validation_split=0.25")
    run([*launch, SCRIPT, *flags(dataset, tmp_path, *given)])
    assert_same(alone, tmp_path)


@pytest.mark.slow
def test_two_machines(alone: Path, dataset: Path, tmp_path: Path) -> None:
    """Two launchers meet on the loopback, one process each."""
    words = flags(
        dataset,
        tmp_path,
        *BASE,
        "--train_batch_size=2",
        "--validation_split=0.25",
        "--cache_latents_to_disk",
    )
    port = free_port()
    launches = []
    for number in (1, 0):
        place = [
            "--nnodes=2",
            f"--node_rank={number}",
            "--master_addr=127.0.0.1",
            f"--master_port={port}",
            "--nproc_per_node=1",
        ]
        command = [sys.executable, "-m", "torch.distributed.run", *place, SCRIPT, *words]
        launches.append(
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        )
    errors = [launch.communicate(timeout=HANGS)[1] for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0], errors
    assert_same(alone, tmp_path)


@pytest.mark.slow
def test_a_process_that_never_comes_is_not_waited_for(dataset: Path, tmp_path: Path) -> None:
    """`--ddp_timeout` counts minutes, and one is the least."""
    environment = ENVIRONMENT | {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    command = [sys.executable, SCRIPT, *flags(dataset, tmp_path, "--ddp_timeout=1")]
    start = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=HANGS
    )
    assert time.monotonic() - start > 55
    assert done.returncode == 1, done.stderr
    assert "error: the other processes did not connect within 1 minutes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_is_killed_ends_the_run(dataset: Path, tmp_path: Path) -> None:
    """And what was learned is kept."""
    words = [
        *torchrun(f"--master_port={free_port()}"),
        SCRIPT,
        *flags(dataset, tmp_path, "--max_train_steps=2000", "--cache_latents"),
    ]
    launched = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    log, deadline = tmp_path / "zibu-log.jsonl", time.monotonic() + HANGS
    while not (log.is_file() and len(log.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = [
        p
        for p in Path("/proc").iterdir()
        if p.name.isdecimal() and is_rank(p, 1, parent=launched.pid)
    ]
    os.kill(int(found[0].name), signal.SIGKILL)
    _, told = launched.communicate(timeout=HANGS)
    assert launched.returncode == 1
    assert "error: another process of this run has ended or cannot be reached" in told
    assert latest_state(tmp_path, "zibu") is not None
    assert read(next(tmp_path.glob("zibu-step*.safetensors"))).num_vectors == 1


def is_rank(process: Path, rank: int, parent: int) -> bool:
    """Whether a process of the system was started by another as a worker of a rank."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return int(fields[1]) == parent and f"RANK={rank}\0" in (process / "environ").read_text()
    except OSError:
        return False


def test_wrong_input_is_told_once(dataset: Path, tmp_path: Path) -> None:
    words = flags(dataset, tmp_path, "--token_string=wobo")
    done = subprocess.run(
        [*torchrun(f"--master_port={free_port()}"), SCRIPT, *words],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode
    assert done.stderr.count("no caption contains the word wobo") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--deepspeed", "--zero_stage=3"], "--zero_stage 3 shards a model that is frozen"),
        (["--offload_param_device=nvme"], "offloading a few kilobytes to NVMe"),
    ],
)
def test_sharding_is_refused(given: list[str], message: str, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        complete(parse("sd", flags(dataset, tmp_path, *given), "test"))


def test_shares() -> None:
    assert list(ALONE.share([1, 2, 3])) == [1, 2, 3]
    assert [list(Processes(rank, 2).share([1, 2, 3])) for rank in (0, 1)] == [[1, 3], [2]]
    assert ALONE.gather("a") == ["a"]


@pytest.mark.slow
def test_two_processes_search_try_and_end_as_one_does(dataset: Path, tmp_path: Path) -> None:
    """The init word, the settings and the last step are found by the losses of both."""
    given = (
        "--init_word=auto",
        "--autopilot=3",
        "--early_stop",
        "--keep_best",
        "--validate_every_n_steps=2",
        "--max_train_steps=120",
    )
    words = [*given, "--learning_rate=2e-2", "--cache_latents"]
    assert (
        train_command("sd", flags(dataset, tmp_path / "alone", *words, "--train_batch_size=4")) == 0
    )
    run(
        [
            *torchrun(f"--master_port={free_port()}"),
            SCRIPT,
            *flags(dataset, tmp_path / "two", *words, "--train_batch_size=2"),
        ]
    )
    one, two = (
        (tmp_path / name / "zibu-log.jsonl").read_text().splitlines() for name in ("alone", "two")
    )
    assert len(one) == len(two) < 120, "both end early, at the same step"
    for name in ("zibu", "zibu-best"):
        first, second = (
            read(tmp_path / folder / f"{name}.safetensors") for folder in ("alone", "two")
        )
        torch.testing.assert_close(rows_of(second), rows_of(first), rtol=0, atol=1e-4)
    first, second = (
        json.loads((tmp_path / name / "zibu-autopilot.json").read_text())["ranking"]
        for name in ("alone", "two")
    )
    assert [name for name, _ in first] == [name for name, _ in second]


def test_objects_do_not_go_through_the_memory_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL would: cached latents of all images are among them."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        assert group_on_cpu(None) is None, "gloo itself exchanges them there"
        monkeypatch.setattr(torch.distributed, "get_backend", lambda *_: "nccl")
        group = group_on_cpu(1)
        monkeypatch.undo()
        assert torch.distributed.get_backend(group) == "gloo"
        found: list[object] = [None]
        torch.distributed.all_gather_object(found, {"a": 1}, group=group)
        assert found == [{"a": 1}]
    finally:
        torch.distributed.destroy_process_group()
