"""Files that do not parse, and words that no file can hold: one error each, in bounded memory."""

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from coinage.checks.model import model_problems, vae_problems
from coinage.cli.main import main
from coinage.config import ModelConfig
from coinage.demo.run import MODEL
from coinage.embeddings.pairs import open_embedding
from coinage.errors import CoinageError, reason_of
from coinage.models.detect import safetensors_shapes
from coinage.models.hub_files import detect_family, native_side
from coinage.models.tokenizer_files import read_open_clip
from coinage.models.weight_files import read_tensors
from coinage.report.page import render_report
from coinage.report.record import Record
from coinage.runs.choice import Choice, read_choice
from coinage.runs.states import SUMMARY, TENSORS, digest_of
from coinage.text.clip_tokenizer import read_tokenizer
from coinage.training.state import load_state, save_state
from tests.data.fuzzing import mutated, mutated_bytes
from tests.embeddings.files import Evil
from tests.helpers import captured, flags, prepared

ADVICE = ("weights_only", "Re-running", "trusted source", "arbitrary code")
LONG = "a" * 300
COUNT = 15  # mutations of each kind of file, some 300 in all
DEEP = "[" * 100_000


def one_error(words: list[str]) -> str:
    """What a command that fails says: one error, without a traceback."""
    done = captured(lambda: main(words))
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 2000
    return done.stderr


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


TEXTS: dict[str, str | bytes | Callable[[Path], object]] = {
    "empty": "",
    "not JSON": "{",
    "not a table": "[1]",
    "deep": DEEP,
    "deep in a table": '{"a": ' + DEEP,
    "a long number": '{"in_channels": ' + "1" * 5000 + "}",
    "not text": b"\xff\xfe\x00",
    "large": b" " * (17 * 2**20),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "endless": endless,
}
SETTINGS = (
    "unet/config.json",
    "text_encoder/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
)
VOCABULARIES = (
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
)


def write(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of the demo model's settings and vocabulary, without its weights."""
    return Path(
        shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    )


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_broken_settings_of_a_model(model: Path, name: str, kind: str) -> None:
    write(model / name, TEXTS[kind])
    (problem,) = model_problems(ModelConfig(source=str(model)))
    assert problem.what.startswith(
        "--pretrained_model_name_or_path: the model's settings cannot be read: "
    )
    assert problem.where == str(model / name)
    assert detect_family(str(model)) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("unet/config.json", {"sample_size": [64, 64]}),
        ("unet/config.json", {"sample_size": 10**400}),
        ("vae/config.json", {"block_out_channels": 4}),
        ("vae/config.json", {"block_out_channels": [1] * 100_000}),
    ],
)
def test_the_side_of_odd_settings_is_the_familys(
    model: Path, name: str, content: dict[str, object]
) -> None:
    (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | content))
    assert native_side(str(model)) == 512
    (model / name).write_text("{")
    assert native_side(str(model)) is None


ODD: dict[str, dict[str, object]] = {
    "unet/config.json": {"cross_attention_dim": "x", "down_block_types": [3], "flip_sin_to_cos": 1},
    "text_encoder/config.json": {"eos_token_id": True, "hidden_act": 3, "num_hidden_layers": {}},
    "vae/config.json": {"scaling_factor": "x", "block_out_channels": "x"},
    "scheduler/scheduler_config.json": {"beta_start": "x", "beta_end": [{}], "beta_schedule": 3},
}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, settings in ODD.items() for key in settings]
)
def test_settings_of_another_kind(model: Path, name: str, key: str) -> None:
    (model / name).write_text(
        json.dumps(json.loads((model / name).read_text()) | {key: ODD[name][key]})
    )
    (problem,) = model_problems(ModelConfig(source=str(model)))
    assert f"the model's settings cannot be read: `{key}` is not " in problem.what
    assert problem.where == str(model / name)


def test_a_setting_may_be_one_for_all_levels_or_none(model: Path) -> None:
    file = model / "unet" / "config.json"
    settings = {
        "transformer_layers_per_block": 1,
        "attention_head_dim": [8, 8, 8],
        "upcast_attention": None,
        "of_a_later_version": {},
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    problems = model_problems(ModelConfig(source=str(model)))
    assert {problem.what.partition(" has ")[2] for problem in problems} == {"no weights"}


@pytest.mark.parametrize("value", ["x", [4], 4.0, None, {}])
def test_channels_that_are_no_number(model: Path, value: object) -> None:
    (model / "unet" / "config.json").write_text(json.dumps({"in_channels": value}))
    (problem,) = model_problems(ModelConfig(source=str(model)))
    assert "settings cannot be read" in problem.what


BROKEN_VOCABULARIES = [
    (name, kind)
    for name in VOCABULARIES
    for kind, text in TEXTS.items()
    # Any text can be merges
    if kind != "a long number" and not (name.endswith("merges.txt") and isinstance(text, str))
]


@pytest.mark.parametrize(("name", "kind"), BROKEN_VOCABULARIES)
def test_broken_vocabularies(model: Path, name: str, kind: str) -> None:
    write(model / name, TEXTS[kind])
    both = ("vocab.json", "merges.txt")
    if name.endswith(both) and not (model / name).is_file():
        assert read_tokenizer(model / "tokenizer") is None
        return
    with pytest.raises(CoinageError, match="the model's tokenizer cannot be read"):
        read_tokenizer(model / "tokenizer")


VOCABULARY: dict[str, object] = {
    "ids are texts": {"a": "x", "<|endoftext|>": "y"},
    "ids are huge": {"a": 2**40, "<|endoftext|>": 1},
    "ids are negative": {"a": -1, "<|endoftext|>": 1},
    "no end": {"a": 1},
    "a list": ["a"],
}


@pytest.mark.parametrize("kind", VOCABULARY)
def test_vocabularies_of_odd_values(model: Path, kind: str) -> None:
    (model / "tokenizer" / "vocab.json").write_text(json.dumps(VOCABULARY[kind]))
    with pytest.raises(CoinageError, match="the model's tokenizer cannot be read"):
        read_tokenizer(model / "tokenizer")


@pytest.mark.parametrize("merges", ["a\n", "a b c\n", "a b\n" * 3, "zzz qqq\n", "\0 \0\n"])
def test_odd_merges(model: Path, merges: str) -> None:
    (model / "tokenizer" / "merges.txt").write_text(merges)
    with pytest.raises(CoinageError, match="the model's tokenizer cannot be read"):
        read_tokenizer(model / "tokenizer")


@pytest.mark.parametrize(
    "content",
    [
        {"model": []},
        {},
        {"model": {"vocab": [], "merges": {}}},
        {"model": {"vocab": {"a": 1}, "merges": 3}},
        {"model": {"vocab": {"a": 1}, "merges": [[1, 2]]}},
        {
            "model": {"vocab": {"a": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}, "merges": []},
            "added_tokens": [3],
        },
    ],
)
def test_a_broken_vocabulary_in_one_file(model: Path, content: object) -> None:
    for name in ("vocab.json", "merges.txt"):
        (model / "tokenizer" / name).unlink()
    (model / "tokenizer" / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CoinageError, match="the model's tokenizer cannot be read"):
        read_tokenizer(model / "tokenizer")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        gzip.compress(b""),
        gzip.compress(b"\xff" * 10**6),
        gzip.compress(b"a b\n")[:-9],
        gzip.compress(b"\n" * 2**25),
    ],
    # The packed ones hold the time
    ids=["nothing", "text", "nothing, packed", "no text, packed", "cut off", "only line ends"],
)
def test_a_broken_vocabulary_of_open_clip(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vocabulary.txt.gz"
    path.write_bytes(data)
    with pytest.raises(CoinageError, match="open_clip's vocabulary cannot be read"):
        read_open_clip(path)


def header(content: str | bytes, body: bytes = b"") -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(data)) + data + body


def tensor(shape: object, offsets: object) -> str:
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}})


HEADERS = {
    "empty": b"",
    "deep": header(DEEP),
    "a list": header("[1]"),
    "a long number": header('{"a": ' + "1" * 5000 + "}"),
    "an infinite size": header(tensor([float("inf")], [0, 4])),
    "a size that is text": header(tensor("123", [0, 4])),
    "a huge size": header(tensor([2**70], [0, 4])),
    "a negative size": header(tensor([-1], [0, 4])),
    "true": header(tensor([True], [0, 4]), b"abcd"),
    "no offsets": header(tensor([1], [])),
    "beyond the end": header(tensor([1], [0, 2**62])),
    "a header of 17 MB": header(b'{"a":' + b"[0" + b",0" * (17 * 2**19) + b"]}"),
    "longer than the file": struct.pack("<Q", 2**63) + b"{}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_broken_headers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[kind])
    with pytest.raises(CoinageError):
        safetensors_shapes(path)
    assert len(model_problems(ModelConfig(source=str(path)))) == 1


CHOICE = {
    "name": "a",
    "init_word": "b",
    "num_vectors": 2,
    "learning_rate": 0.1,
    "seed": 1,
    "given_seed": 1,
    "ranking": [["a", 0.1]],
}
CHOICES = {
    **TEXTS,
    "an unknown field": json.dumps(CHOICE | {"more": 1}),
    **{
        f"{name} = {value!s:.9}": json.dumps(CHOICE | {name: value})
        for name, value in (
            ("name", 3), ("init_word", []), ("num_vectors", 0), ("num_vectors", True),
            ("num_vectors", 10**9), ("seed", 2**63),
            ("learning_rate", float("nan")), ("learning_rate", -1.0), ("learning_rate", "x"),
            ("given_seed", 1.5),
            ("ranking", 3), ("ranking", [3]), ("ranking", [["a", "x"]]), ("ranking", [["a", 10**400]]),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", CHOICES)
def test_broken_choices(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "choice.json", CHOICES[kind])
    assert read_choice(tmp_path / "choice.json") is None


def test_a_choice_is_read_as_it_was_written(tmp_path: Path) -> None:
    choice = Choice("a", None, 2, 0.1, 2**62, -1, [("a", 0.5), ("b", None)])
    (tmp_path / "choice.json").write_bytes(choice.as_json())
    assert read_choice(tmp_path / "choice.json") == choice


def test_what_torch_advises_is_not_passed_on(tmp_path: Path) -> None:
    for name, legacy in (
        ("zip.ckpt", False),
        ("old.ckpt", True),
        ("vae.pt", False),
        ("vae.bin", True),
    ):
        torch.save(
            {"state_dict": {"a": Evil(tmp_path / "ran")}},
            tmp_path / name,
            _use_new_zipfile_serialization=not legacy,
        )
        with pytest.raises(CoinageError) as caught:
            read_tensors(tmp_path / name)
        assert caught.value.problems[0].what == "cannot read the model: it holds more than tensors"
    (tmp_path / "garbage.ckpt").write_bytes(b"\x80\x02garbage")
    with pytest.raises(CoinageError, match="cannot read the model: it is damaged"):
        read_tensors(tmp_path / "garbage.ckpt")
    with pytest.raises(UnpicklingError) as advised:
        torch.load(tmp_path / "zip.ckpt", weights_only=True)
    assert any(word in str(advised.value) for word in ADVICE)
    assert not any(word in reason_of(advised.value) for word in ADVICE)
    assert not (tmp_path / "ran").exists()


def test_nor_from_a_state_or_an_embedding(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path)
    save_state(run, tmp_path / "a-state")
    torch.save({"init_word": "", "rows": Evil(tmp_path / "ran")}, tmp_path / "a-state" / TENSORS)
    summary = json.loads((tmp_path / "a-state" / SUMMARY).read_text())
    summary["digest"] = digest_of((tmp_path / "a-state" / TENSORS).read_bytes())
    (tmp_path / "a-state" / SUMMARY).write_text(json.dumps(summary))
    with pytest.raises(CoinageError, match="the state cannot be used: it holds more than tensors"):
        load_state(run, tmp_path / "a-state")
    torch.save({"emb_params": Evil(tmp_path / "ran")}, tmp_path / "word.pt")
    with pytest.raises(CoinageError) as caught:
        open_embedding(tmp_path / "word.pt")
    assert not any(word in str(caught.value) for word in ADVICE)
    assert not (tmp_path / "ran").exists()


def folder_with(model: Path, part: str, name: str) -> Path:
    """The demo model with a hostile pickle in place of a part's weights."""
    shutil.copytree(MODEL, model, dirs_exist_ok=True)
    for file in (model / part).glob("*.safetensors"):
        file.unlink()
    torch.save({"a": Evil(model.parent / "ran")}, model / part / name)
    return model


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("text_encoder", "pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.bin"),
        ("unet", "diffusion_pytorch_model.bin"),
    ],
)
def test_nor_from_a_folder(tmp_path: Path, part: str, name: str) -> None:
    folder = folder_with(tmp_path / "model", part, name)
    told = one_error(
        [
            "generate",
            str(folder),
            "a",
            "--steps=1",
            "--width=64",
            "--height=64",
            f"--output={tmp_path}",
        ]
    )
    assert not any(word in told for word in ADVICE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"beta_start": "x"}, "scheduler"),
        ({"beta_start": None}, "scheduler"),
        ({"beta_end": [1]}, "scheduler"),
        ({"beta_schedule": {}}, "scheduler"),
    ],
)
def test_odd_schedules(tmp_path: Path, settings: dict[str, object], shown: str) -> None:
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    told = one_error(
        [
            "generate",
            str(folder),
            "a",
            "--steps=1",
            "--width=64",
            "--height=64",
            f"--output={tmp_path}",
        ]
    )
    assert shown in told


@pytest.fixture(scope="module")
def word(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("word") / "word.safetensors"
    save_file({"emb_params": torch.randn(2, 128)}, path)
    return path


BYTES = os.fsdecode(b"\xff")
PATHS: dict[str, Callable[[Path, Path, Path], list[str]]] = {
    "dataset": lambda *_: ["dataset", LONG],
    "dataset --model": lambda d, *_: ["dataset", str(d), "--model", LONG],
    "dataset --html=": lambda d, *_: ["dataset", str(d), "--html="],
    "dataset --html=/": lambda d, *_: ["dataset", str(d), "--html=/"],
    "dataset --html=LONG": lambda d, *_: ["dataset", str(d), f"--html={LONG}"],
    "dataset --token": lambda d, *_: ["dataset", str(d), f"--token={BYTES}"],
    "inspect": lambda *_: ["inspect", LONG],
    "inspect a folder": lambda *_: ["inspect", "/"],
    "inspect --model": lambda _, w, __: ["inspect", str(w), "--model", LONG],
    "convert": lambda _, __, tmp: ["convert", LONG, str(tmp / "a.pt")],
    "convert to a long name": lambda _, w, tmp: ["convert", str(w), str(tmp / f"{LONG}.pt")],
    "convert to the root": lambda _, w, __: ["convert", str(w), "/", "--to=pt"],
    "convert to nothing": lambda _, w, __: ["convert", str(w), "", "--to=pt"],
    "convert to bytes": lambda _, w, tmp: ["convert", str(w), str(tmp / f"{BYTES}.safetensors")],
    "convert --token": lambda _, w, tmp: ["convert", str(w), str(tmp / "a.pt"), "--token", BYTES],
    "verify --model": lambda _, w, __: ["verify", str(w), "--model", LONG],
    "verify": lambda *_: ["verify", LONG, "--model", str(MODEL)],
    "verify --token": lambda _, w, __: ["verify", str(w), f"--model={MODEL}", f"--token={BYTES}"],
    "generate": lambda *_: ["generate", LONG, "a"],
    "generate --embedding": lambda *_: ["generate", str(MODEL), "a", "--embedding", LONG],
    "generate --vae": lambda *_: ["generate", str(MODEL), "a", "--vae", LONG],
    "generate --output": lambda _, __, tmp: [
        "generate",
        str(MODEL),
        "a",
        "--output",
        str(tmp / LONG),
    ],
    "generate PROMPT": lambda _, __, tmp: ["generate", str(MODEL), BYTES, f"--output={tmp}"],
    "generate --negative": lambda _, __, tmp: [
        "generate",
        str(MODEL),
        "a",
        "--negative",
        BYTES,
        f"--output={tmp}",
    ],
    "generate NAME=": lambda _, w, tmp: [
        "generate",
        str(MODEL),
        "a",
        "--embedding",
        f"{BYTES}={w}",
        f"--output={tmp}",
    ],
    "report": lambda *_: ["report", LONG],
    "report of a pipe": lambda _, __, tmp: ["report", str(pipe(tmp))],
    "report of a circle": lambda _, __, tmp: ["report", str(circle(tmp))],
    "train --token_string": lambda d, _, tmp: ["train", *flags(d, tmp, f"--token_string={BYTES}")],
    "train --init_word": lambda d, _, tmp: ["train", *flags(d, tmp, f"--init_word={BYTES}")],
    "train --caption_prefix": lambda d, _, tmp: [
        "train",
        *flags(d, tmp, f"--caption_prefix={BYTES}"),
    ],
    "train --output_name": lambda d, _, tmp: ["train", *flags(d, tmp, f"--output_name={BYTES}")],
    "train --output_dir": lambda d, _, tmp: ["train", *flags(d, tmp / BYTES)],
    "train MODEL": lambda d, _, tmp: [
        "train",
        *flags(d, tmp, f"--pretrained_model_name_or_path={LONG}"),
    ],
    "train --vae": lambda d, _, tmp: ["train", *flags(d, tmp, f"--vae={LONG}")],
    "train --weights": lambda d, _, tmp: ["train", *flags(d, tmp, f"--weights={LONG}")],
}


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a-report.html")
    return folder / "a-report.html"


def circle(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "a")
    return folder / "a"


@pytest.mark.parametrize("name", PATHS)
def test_names_that_no_file_can_have_and_words_that_utf8_cannot_hold(
    moon_dataset: Path, word: Path, tmp_path: Path, name: str
) -> None:
    words = PATHS[name](moon_dataset, word, tmp_path)
    told = one_error(words)
    assert ("not text in UTF-8" in told) == any(BYTES in word for word in words)


@pytest.mark.parametrize("what", ["vae", "source"])
def test_long_names_are_not_found(what: str) -> None:
    model = ModelConfig(
        source=LONG if what == "source" else str(MODEL), vae=LONG if what == "vae" else None
    )
    assert len(model_problems(model) + vae_problems(model)) == 1


@dataclass(frozen=True)
class Fuzzed:
    """A kind of file: where it lies below a folder, and the command that reads it."""

    file: str
    command: Callable[[Path], list[str]]
    tree: bool = False  # of JSON, whose values are changed too


def drawn(root: Path, model: str, *more: str) -> list[str]:
    return [
        "generate",
        str(root / model),
        "a zibu",
        "--steps=1",
        "--width=64",
        "--height=64",
        f"--output={root / 'out'}",
        *more,
    ]


def looked_at(root: Path, *more: str) -> list[str]:
    return [
        "dataset",
        str(root / "data" / "dataset.toml"),
        "--token=zibu",
        f"--model={root / 'model'}",
        *more,
    ]


FUZZED = [
    *(Fuzzed(f"model/{name}", lambda root: drawn(root, "model"), tree=True) for name in SETTINGS),
    *(Fuzzed(f"model/{name}", looked_at, tree=name.endswith(".json")) for name in VOCABULARIES),
    Fuzzed(
        "model/tokenizer/vocab.json",
        lambda root: ["inspect", str(root / "word.safetensors"), f"--model={root / 'model'}"],
        tree=True,
    ),
    Fuzzed("model/unet/diffusion_pytorch_model.safetensors", lambda root: drawn(root, "model")),
    Fuzzed(
        "model/text_encoder/model.safetensors",
        lambda root: ["inspect", str(root / "word.safetensors"), f"--model={root / 'model'}"],
    ),
    Fuzzed("evil.ckpt", lambda root: drawn(root, "evil.ckpt")),
    Fuzzed("evil.pt", lambda root: drawn(root, "model", "--vae", str(root / "evil.pt"))),
    Fuzzed("evil.pt", lambda root: ["inspect", str(root / "evil.pt")]),
    Fuzzed(
        "word.safetensors",
        lambda root: ["convert", str(root / "word.safetensors"), str(root / "out.pt"), "--force"],
    ),
    Fuzzed("data/dataset.toml", looked_at),
    Fuzzed("a-report.html", lambda root: ["report", str(root / "a-report.html")]),
    Fuzzed(
        "zibu-autopilot.json",
        lambda root: ["train", *flags(root / "data" / "dataset.toml", root / "out", "--dry_run")],
        tree=True,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(FUZZED)))
def test_hundreds_of_broken_files(tmp_path: Path, moon_dataset: Path, place: int) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    shutil.copytree(moon_dataset.parent, tmp_path / "data")
    save_file(
        {"emb_params": torch.randn(2, 128)},
        tmp_path / "word.safetensors",
        {"ti.token_string": "zibu"},
    )
    torch.save(
        {"state_dict": {"model.diffusion_model.a": Evil(tmp_path / "ran")}}, tmp_path / "evil.ckpt"
    )
    torch.save({"a": torch.zeros(2), "b": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "a-report.html").write_text(render_report(Record(name="a")), encoding="utf-8")
    (tmp_path / "zibu-autopilot.json").write_text(json.dumps(CHOICE))
    kind, rng = FUZZED[place], Random(place)  # noqa: S311 - a test
    path = tmp_path / kind.file
    whole = path.read_bytes()
    for number in range(COUNT):
        broken = (
            mutated(json.loads(whole), ".json", rng)
            if kind.tree and number % 3
            else mutated_bytes(whole, rng, head=2000)
        )
        path.write_bytes(broken)
        read_choice(tmp_path / "zibu-autopilot.json")
        done = captured(lambda: main(kind.command(tmp_path)))
        assert done.returncode in (0, 1, 2)
        assert "Traceback" not in done.stderr
        assert (done.returncode == 0) == ("error:" not in done.stderr), done.stderr
        assert not any(word in done.stderr for word in ADVICE)
        assert not (tmp_path / "ran").exists()
