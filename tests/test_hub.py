"""Uploads and resuming against a hub of our own: what arrives, what is told, what is never lost."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import HubConfig
from coinage.demo.run import MODEL
from coinage.embeddings.reading import read
from coinage.errors import CoinageError, ConfigError
from coinage.hub import Uploader, fetch_state, open_uploader
from coinage.settings.discover import complete
from coinage.training.run import Run
from tests.fake_hub import KEY, FakeHub, Repo, fake_hub
from tests.helpers import TAUGHT, flags, rows_of, trained

REPO = "models/me/word"
UPLOAD = ("--huggingface_repo_id=me/word", f"--huggingface_token={KEY}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(monkeypatch, str(tmp_path / "cache")) as found:
        yield found


def uploader_for(**more: object) -> Uploader:
    uploader = open_uploader(HubConfig(repo_id="me/word", token=KEY, **more))  # type: ignore[arg-type]
    assert uploader
    return uploader


def test_every_embedding_and_state_is_uploaded(
    moon_dataset: Path, tmp_path: Path, hub: FakeHub
) -> None:
    out = tmp_path / "o"
    more = [
        "--save_every_n_steps=2",
        "--save_state",
        "--save_state_to_huggingface",
        "--huggingface_path_in_repo=words/",
        "--async_upload",
    ]
    trained(moon_dataset, out, *UPLOAD, *more, "--save_last_n_steps=1")
    repo = hub.repos[REPO]
    assert repo.private
    names = ["zibu-step00000002.safetensors", "zibu.safetensors"]
    states = [
        f"{stem}-state/{file}"
        for stem in ("zibu-step00000002", "zibu")
        for file in ("state.json", "state.pt")
    ]
    assert sorted(repo.files) == sorted(f"words/{name}" for name in names + states)
    assert {
        path: (out / path.removeprefix("words/")).read_bytes() for path in repo.files
    } == repo.files
    assert repo.messages == [
        "Add zibu-step00000002-state, zibu-step00000002.safetensors",
        "Add zibu-state, zibu.safetensors",
    ]


@pytest.mark.parametrize(
    ("more", "name", "private"),
    [
        (["--huggingface_repo_visibility=public"], "models/me/word", False),
        (["--huggingface_repo_type=dataset"], "datasets/me/word", True),
        (["--huggingface_repo_type=space"], "spaces/me/word", True),
    ],
)
def test_a_repository_is_made_as_asked(
    moon_dataset: Path, tmp_path: Path, hub: FakeHub, more: list[str], name: str, private: bool
) -> None:
    trained(moon_dataset, tmp_path / "o", *UPLOAD, *more, "--max_train_steps=1", "--save_state")
    assert hub.repos[name].private is private
    assert list(hub.repos[name].files) == ["zibu.safetensors"]  # states only where asked for


def test_a_repository_that_is_there_is_left_as_it_is(tmp_path: Path, hub: FakeHub) -> None:
    hub.repos[REPO] = Repo(files={"README.md": b"mine"})
    uploader = uploader_for()
    (tmp_path / "w.pt").write_bytes(b"1")
    uploader.send([tmp_path / "w.pt"], last=True)
    assert hub.repos[REPO].files == {"README.md": b"mine", "w.pt": b"1"}
    assert "POST /api/repos/create" not in hub.requests


def test_a_hub_that_refuses_stops_the_run_before_the_model_is_loaded(
    moon_dataset: Path, tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = True
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", *UPLOAD)) == 1
    told = capsys.readouterr().err
    assert "error: --huggingface_repo_id me/word: the hub refuses" in told
    assert "hf auth login" in told
    assert "loading" not in told
    assert KEY not in told
    assert not list((tmp_path / "o").iterdir())


def test_an_upload_that_fails_is_told_and_sent_with_the_next(
    tmp_path: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    uploader = uploader_for()
    hub.failing = 1
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
        uploader.send([tmp_path / name])
    assert "not uploaded to me/word: a: Server error '500" in caplog.text
    assert "the next save sends it again" in caplog.text
    assert "uploaded to me/word: a, b" in caplog.text
    assert hub.repos[REPO].files == {"a": b"a", "b": b"b"}
    hub.failing = 1
    uploader.send([tmp_path / "a"], last=True)
    assert "send it by hand: hf upload me/word FILE" in caplog.text
    assert KEY not in caplog.text


def test_a_hub_out_of_reach_costs_no_embedding(
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://no-such-host.invalid")
    _, word = trained(moon_dataset, tmp_path, *UPLOAD, "--max_train_steps=1")
    assert "the hub cannot be reached" in caplog.text
    assert "not uploaded to me/word: zibu.safetensors" in caplog.text
    assert torch.equal(rows_of(read(tmp_path / "zibu.safetensors")), rows_of(word))


def test_in_the_background_files_may_be_deleted_while_they_are_sent(
    tmp_path: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = uploader_for(background=True)
    hub.held.clear()
    (tmp_path / "w.pt").write_bytes(b"1")
    uploader.send([tmp_path / "w.pt"])
    assert "takes its time" not in caplog.text, "it has not waited for the hub, which is held"
    (tmp_path / "w.pt").unlink()
    assert not hub.repos[REPO].files
    threading.Timer(0.2, hub.held.set).start()
    uploader.close()
    assert hub.repos[REPO].files == {"w.pt": b"1"}


@pytest.mark.parametrize("background", [True, False])
def test_a_hub_that_does_not_answer_holds_nobody_up_for_long(
    background: bool,
    moon_dataset: Path,
    tmp_path: Path,
    hub: FakeHub,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coinage.hub.PATIENCE", 0.5)
    hub.held.clear()
    given = [
        "--huggingface_repo_id=me/word",
        f"--huggingface_token={KEY}",
        "--save_every_n_steps=1",
        *(["--async_upload"] if background else []),
    ]

    def free_at_the_end(run: Run) -> None:
        run.optimizer.register_step_post_hook(
            lambda *_: hub.held.set() if background and run.step == 2 else None
        )

    trained(moon_dataset, tmp_path, *given, change=free_at_the_end)
    if background:
        assert len(hub.repos[REPO].files) == 4
        assert "the hub is slow" not in caplog.text
    else:
        assert not hub.repos[REPO].files
        assert caplog.text.count("the hub is slow") == 1, "it is waited for once"
        assert "not everything was uploaded" in caplog.text
        assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_a_repository_that_is_public_is_told(
    hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.repos[REPO] = Repo(private=False)
    uploader_for()
    assert "the repository me/word already exists and is public" in caplog.text
    uploader_for(private=False)
    assert caplog.text.count("and is public") == 1


def test_only_a_states_own_files_are_sent(
    tmp_path: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "zibu-state"
    (state / "folder").mkdir(parents=True)
    for name in ("state.json", ".state.pt.9.tmp"):
        (state / name).write_bytes(b"x")
    uploader_for(states=True).send([state], last=True)
    assert list(hub.repos[REPO].files) == ["zibu-state/state.json"]
    assert "state.pt: No such file" in caplog.text


def test_without_a_network_resuming_is_one_error(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    for name, value in (("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://no-such-host.invalid")):
        with monkeypatch.context() as patched:
            patched.setattr(constants, name, value)
            with pytest.raises(CoinageError, match="me/word/zibu-state cannot be fetched"):
                fetch_state("me/word/zibu-state", KEY)


@pytest.mark.perf
def test_a_hub_out_of_reach_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://no-such-host.invalid")
    start = time.monotonic()
    with pytest.raises(CoinageError, match="cannot be fetched"):
        fetch_state("me/word/zibu-state", KEY)
    uploader_for()
    assert time.monotonic() - start < 20


def test_a_folder_on_the_disk_wins(moon_dataset: Path, tmp_path: Path, hub: FakeHub) -> None:
    state = tmp_path / "owner" / "repo" / "zibu-state"
    trained(
        moon_dataset,
        tmp_path / "owner" / "repo",
        "--save_state_on_train_end",
        "--max_train_steps=1",
    )
    argv = flags(moon_dataset, tmp_path / "o", f"--resume={state}", "--resume_from_huggingface")
    config, findings = complete(parse("sd", argv, "test"))
    assert config.state.resume == str(state)
    assert "is a folder here" in " ".join(findings.notes)
    assert not hub.requests


def test_a_run_goes_on_from_a_state_on_the_hub(
    moon_dataset: Path, tmp_path: Path, hub: FakeHub
) -> None:
    _, straight = trained(moon_dataset, tmp_path / "whole", "--max_train_steps=4")
    more = [
        "--max_train_steps=4",
        "--save_every_n_steps=2",
        "--save_state",
        "--save_state_to_huggingface",
    ]
    trained(moon_dataset, tmp_path / "a", *UPLOAD, *more)
    shutil.rmtree(tmp_path / "a")
    place = "me/word/zibu-step00000002-state"
    resume = [
        f"--resume={place}:main:model",
        "--resume_from_huggingface",
        f"--huggingface_token={KEY}",
        "--max_train_steps=4",
    ]
    argv = [
        argument
        for argument in flags(moon_dataset, tmp_path / "b", *resume)
        if argument != "--seed=0"
    ]
    config, _ = complete(parse("sd", argv, "test"))
    assert config.loop.seed == 0  # the state's own
    run, again = trained(moon_dataset, tmp_path / "b", *resume)
    assert run.step == 4
    assert torch.equal(rows_of(straight), rows_of(again))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "me/word/zibu-stat",
            "no state in zibu-stat of me/word\nhint: the states there are: zibu-state, zibu-state2",
        ),
        ("me/word/old", "another trainer's; continue from its embedding instead: --weights"),
        ("me/nothing/zibu-state", "cannot be fetched: 404"),
        ("me/word", "write owner/repo/folder"),
        ("latest", "write owner/repo/folder"),
    ],
)
def test_a_state_that_is_not_on_the_hub(
    moon_dataset: Path, tmp_path: Path, hub: FakeHub, place: str, message: str
) -> None:
    names = [
        f"{folder}/{file}"
        for folder in ("zibu-state", "zibu-state2")
        for file in ("state.json", "state.pt")
    ]
    hub.repos[REPO] = Repo(files=dict.fromkeys([*names, "old/optimizer.bin"], b"{}"))
    with pytest.raises(CoinageError, match=message):
        fetch_state(place, KEY)
    argv = flags(
        moon_dataset,
        tmp_path,
        f"--resume={place}",
        "--resume_from_huggingface",
        "--learning_rate=-1",
    )
    with pytest.raises(ConfigError) as caught:
        complete(parse("sd", argv, "test"))
    assert message.split("\n", maxsplit=1)[0] in str(caught.value)
    assert "--learning_rate -1.0" in str(caught.value)  # all problems together


def test_wrong_hub_flags_are_found_together(moon_dataset: Path, tmp_path: Path) -> None:
    wrong = [
        "--huggingface_path_in_repo=../x",
        "--huggingface_repo_id=a/b/c",
        "--huggingface_repo_type=modle",
        "--huggingface_repo_visibility=publc",
    ]
    with pytest.raises(ConfigError) as caught:
        complete(parse("sd", flags(moon_dataset, tmp_path, *wrong), "test"))
    for part in (
        "../x is not a folder",
        "a/b/c is not a repository",
        "did you mean `model`",
        "publc is not known",
    ):
        assert part in str(caught.value)
    with pytest.raises(
        ConfigError, match="--save_state_to_huggingface needs --huggingface_repo_id"
    ):
        complete(parse("sd", flags(moon_dataset, tmp_path, "--save_state_to_huggingface"), "test"))


def test_a_key_is_never_shown(moon_dataset: Path, tmp_path: Path) -> None:
    config, _ = complete(
        parse("sd", flags(moon_dataset, tmp_path, *UPLOAD, "--wandb_api_key=secretkey"), "test")
    )
    assert KEY not in repr(config)
    assert "secretkey" not in repr(config)


def test_a_model_is_brought_from_the_hub(moon_dataset: Path, tmp_path: Path, hub: FakeHub) -> None:
    files = {
        path.relative_to(MODEL).as_posix(): path.read_bytes()
        for path in MODEL.rglob("*")
        if path.is_file()
    }
    hub.repos["models/me/model"] = Repo(files=files)
    _, local = trained(moon_dataset, tmp_path / "a", TAUGHT)
    _, brought = trained(moon_dataset, tmp_path / "b", "--pretrained_model_name_or_path=me/model")
    assert torch.equal(rows_of(local), rows_of(brought))
