"""Every command and every Python block of the README and the documentation is run.

The blocks of a page run in order, in a folder that has what the pages speak of: a model, images, a
trained word. Trainings are shortened. What cannot run here (see `READ_ONLY`) is read by the parser
of the program that would run it. Blocks that a translation shares with its English page run once.
`make docs` checks links and anchors.
"""

import logging
import os
import re
import runpy
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from coinage.cli.cmd_demo import demo_parser
from coinage.cli.cmd_doctor import doctor_parser
from coinage.cli.cmd_ui import ui_parser
from coinage.cli.main import COMMANDS, main
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from tests.containers import coinage_words
from tests.embeddings.files import tensors
from tests.helpers import captured, small_model
from tests.pages import ROOT, Block, blocks_of, is_translation, name_of, own_blocks_of
from tests.tiny_models import write_clip, write_dino, write_flux, write_sd3

# `make check` compares them with their tables
GENERATED = {ROOT / "docs" / "reference" / "flags.md", ROOT / "docs" / "compared.md"}
WRITTEN = {*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")} - GENERATED
PAGES = sorted(page for page in WRITTEN if own_blocks_of(page) or not is_translation(page))
# These programs are not run here: `check_*` below reads their commands instead.
READ_ONLY = {
    "make": "runs this suite, or trains for minutes",
    "pip": "changes the environment",
    "uvx": "installs a package",
    "uv": "the same",
    "pipx": "the same",
    "accelerate": "starts processes; its script is run in this one",
    "torchrun": "starts processes, on several GPUs or machines",
    "srun": "needs a SLURM cluster",
    "sbatch": "needs a SLURM cluster; tests/test_containers.py runs the script",
    "docker": "needs an engine; tests/containers.py reads it, and what is told to Coinage is checked",
    "apptainer": "the same",
    "curl": "needs the network",
    "coinage demo": "takes a minute; tests/demo runs it",
    "coinage ui": "waits for a browser; tests/ui runs it",
    "coinage doctor": "imports everything again; tests/doctor runs it",
    "python benchmarks/": "takes minutes to hours",
    "PowerShell": "needs Windows",
}
WAITING = {"demo": demo_parser, "doctor": doctor_parser, "ui": ui_parser}
FASTER = {"generate": ("--steps=2",), "evaluate": ("--steps=2", "--count=1", "--prompts=few.txt")}
IGNORED = (  # of the shell
    "source", ".", "read", "export", "mkdir", "Set-ExecutionPolicy", ".venv/Scripts/Activate.ps1"
)  # fmt: skip
WRITE_SETTINGS = ("--config_file=parsed.toml", "--output_config")
SHORTER = ("--max_train_steps=2", "--sample_every_n_steps=0", "--on_problem=warn", "--seed=0")
# Pages whose trainings run also in the default suite; those of the others are only checked there.
TRAINED = ("README.md",)


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without comments."""
    text = block.text.replace("$SLURM_ARRAY_TASK_ID", "0")
    if block.language == "powershell":
        text = text.replace("`\n", " ").replace("\\", "/")
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words]


def write_images(folder: Path, word: str) -> None:
    """Eight pictures with captions that contain the word."""
    made = write_dataset(folder.parent / f"{folder.name}.made", CONCEPTS["moon"], word, seed=0)
    shutil.copytree(made.parent / "images", folder, dirs_exist_ok=True)
    shutil.rmtree(made.parent)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages take for granted."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(small_model(), folder / "path/to/model")
    write_images(folder / "path/to/images", "mychar")
    for name, word in {"photos/mychar": "mychar", "photos/mydog": "mydog"}.items():
        write_images(folder / name, word)
    for name in ("photos", "drawings", "images/10_mychar"):
        shutil.copytree(folder / "path/to/images", folder / name, dirs_exist_ok=True)
    (folder / "dataset.toml").write_text(
        '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "photos"\n'
    )
    (folder / "run.toml").write_text(
        'pretrained_model_name_or_path = "path/to/model"\ntrain_data_dir = "path/to/images"\n'
        'token_string = "mychar"\noutput_dir = "output"\n'
        'init_word = "shape"\nmax_train_steps = 2\nsample_every_n_steps = 0\n'
    )
    shared, tables = 'pretrained_model_name_or_path = "path/to/model"\noutput_dir = "output"\n', ""
    for word in ("mychar", "mydog"):
        tables += f'[[words]]\ntoken_string = "{word}"\ntrain_data_dir = "photos/{word}"\n'
    for name in ("words.toml", "words/0.toml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(shared + tables)
    train = ["train", "--config_file", str(folder / "run.toml"), *SHORTER]
    log = logging.getLogger("coinage")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("handlers", "level", "propagate"):  # the command sets up the log
            patch.setattr(log, name, getattr(log, name))
        patch.chdir(folder)
        assert captured(lambda: main(train)).returncode == 0
    word = folder / "output/mychar.safetensors"
    for copy in ("output/mybad.safetensors", "style.safetensors", "demo_output/zibu.safetensors"):
        (folder / copy).parent.mkdir(exist_ok=True)
        shutil.copy(word, folder / copy)
    tensors(folder / "lora.safetensors", {"lora_unet_mid.lora_up.weight": torch.ones(2, 2)})
    (folder / "few.txt").write_text("a {}\n")
    write_clip(folder / "path/to/clip")
    write_dino(folder / "path/to/dino")
    write_sd3(folder / "path/to/sd3")
    write_flux(folder / "path/to/flux")
    shutil.copytree(folder / "output", folder / "sweep/seed0")
    for name in ("demo", "demo_output"):
        shutil.copytree(folder / "path/to/model", folder / name / "model")
    write_dataset(folder / "demo/dataset", CONCEPTS["moon"], "zibu", seed=0)
    return folder


@pytest.fixture
def sandbox(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder, as the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    yield folder
    shutil.rmtree(folder)


def check_make(words: Sequence[str]) -> None:
    targets = re.findall(
        r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    given = {word for word in words[1:] if not re.match(r"[A-Z]+=", word)}
    assert given <= set(targets), f"not a target: {shlex.join(words)}"


def check_make_script(words: Sequence[str]) -> None:
    """Its tasks are those of make, and setup alone; test_make_ps1.py reads it."""
    _, task, *given = words
    if task != "setup":
        check_make(["make", task])
    script = (ROOT / "make.ps1").read_text(encoding="utf-8")
    parameters = re.findall(r"\[string\] \$(\w+)", script)
    named = [word.removeprefix("-") for word in given if word.startswith("-")]
    assert set(named) <= set(parameters), f"not a parameter: {shlex.join(words)}"


def check_pip(words: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {"torch", ".", *(f".[{extra}]" for extra in project["optional-dependencies"])}
    values = iter(words[2:])
    for word in values:
        if word in ("-c", "--index-url"):
            value = next(values)
            assert value.startswith("https://") or (ROOT / value).is_file()
        elif not word.startswith("-"):
            assert word in known, f"unknown package or extra: {shlex.join(words)}"


def check_installer(words: Sequence[str]) -> None:
    """It installs the wheel that `make dist` builds, and may run its command."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    (at,) = (at for at, word in enumerate(words) if word.endswith(".whl"))
    assert words[at] == f"dist/{name.replace('-', '_')}-*.whl"
    if words[at + 1 :]:
        assert words[at + 1] == "coinage"
        run_coinage(words[at + 2 :], really=False)


def check_benchmark(words: Sequence[str]) -> None:
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert f'"{flag}"' in source, f"{words[1]} has no {flag}"


def check_files(words: Sequence[str]) -> None:
    """Check that the files of ours are there that a command hands to another computer."""
    named = [word.removeprefix("@") for word in words if "examples/" in word]
    assert named
    assert all((ROOT / name).is_file() for name in named)


def script_of(words: Sequence[str]) -> list[str]:
    """The script and its arguments, of what a launcher starts in several processes."""
    if words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        args = launch_command_parser().parse_args(words[2:])
        return ["python", args.training_script, *args.training_script_args]
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(words[1:])
    assert args.module
    assert args.training_script == "coinage.cli.main"
    return ["coinage", *args.training_script_args]


CHECKED: dict[str, Callable[[Sequence[str]], None]] = {
    "make": check_make,
    "./make.ps1": check_make_script,
    "pip": check_pip,
    "uvx": check_installer,
    "uv": check_installer,
    "pipx": check_installer,
    "sbatch": check_files,
    "curl": check_files,
}


def run_training(argv: Sequence[str], train: Callable[[list[str]], int], *, really: bool) -> str:
    """Train for two steps, or only check; the output."""
    stops = any(flag in argv for flag in ("--dry_run", "--debug_dataset"))
    start = [] if "--init_word" in argv or "--weights" in argv else ["--init_word=shape"]
    more = [*SHORTER, *start] if really and not stops else []
    more += [] if really or stops else ["--dry_run"]
    done = captured(lambda: train([*argv, *more]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(rest: Sequence[str], *, really: bool) -> str:
    if rest[:2] == ["-m", "venv"]:
        return ""
    if rest[0] == "-c":
        exec(rest[1], {})  # noqa: S102 - a line of our documentation
        return ""
    if rest[0].startswith("benchmarks/"):
        check_benchmark(["python", *rest])
        return ""
    return run_script(rest, really=really)


def run_coinage(rest: Sequence[str], *, really: bool) -> str:
    if rest[0] in WAITING:
        WAITING[rest[0]]().parse_args(rest[1:])
        return ""
    if rest[0] == "train":
        return run_training(rest[1:], lambda argv: main(["train", *argv]), really=really)
    faster = FASTER.get(rest[0], ())
    done = captured(lambda: main([*rest, *faster]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_command(words: Sequence[str], *, really: bool) -> str:
    """Run a command as far as it can be run here; its output."""
    program, *rest = words
    if program in ("exec", "srun"):
        start = next(at for at, word in enumerate(rest) if not word.startswith("-"))
        return run_command(rest[start:], really=really)
    if program in ("accelerate", "torchrun"):
        program, *rest = script_of(words)
    if program in IGNORED:
        return ""
    if program in CHECKED:
        CHECKED[program](words)
        return ""
    if program in ("docker", "apptainer"):
        rest = coinage_words(words)
        return run_coinage(rest, really=really) if rest else ""
    if program == "coinage":
        return run_coinage(rest, really=really)
    assert program in ("python", "python3", "py"), f"unknown program: {shlex.join(words)}"
    return run_python([word for word in rest if word != "-3.11"], really=really)


def run_script(words: Sequence[str], *, really: bool) -> str:
    """Run one of the scripts in this process; a module of its name does the same."""
    name = words[0].removeprefix("coinage.")
    script = ROOT / (name if name.endswith(".py") else f"{name}.py")

    def train(argv: list[str]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [str(script), *argv])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(script), run_name="__main__")
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run_training(words[1:], train, really=really)


def run_line(words: list[str], *, really: bool) -> None:
    """Run a command with the environment before it and the redirection behind it."""
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, os.environ[name] = words.pop(0).partition("=")
    target = Path(words[words.index(">") + 1]) if ">" in words else None
    output = run_command(words[: words.index(">")] if target else words, really=really)
    if target:
        assert output or not really
        target.write_text(output, encoding="utf-8")


def check_powershell(words: list[str]) -> None:
    """Parse a training command; check the others as elsewhere."""
    if words[:2] == ["coinage", "train"]:
        assert captured(lambda: main([*words[1:], *WRITE_SETTINGS])).returncode == 0
    else:
        run_command(words, really=False)


def shortened(text: str) -> str:
    """A text with included files in their place, and with few steps and small pictures."""
    text = re.sub(
        r'^--8<-- "(.+)"$', lambda found: (ROOT / found[1]).read_text(), text, flags=re.MULTILINE
    )
    text = re.sub(r"(--[wh] |width = |height = )\d+", r"\g<1>64", text)
    text = re.sub(r"(--s |sample_steps = )\d+", r"\g<1>2", text)
    text = text.replace("product((1e-3, 5e-3, 2e-2), (0, 1))", "product((5e-3,), (0, 1))")
    return re.sub(r"(max_train_steps\W+)\d+", r"\g<1>2", text)


def run_block(block: Block, names: dict[str, object], *, really: bool) -> None:
    """Run or read a block; Python blocks of a page share their names."""
    if block.language == "bash":
        for words in commands_of(block):
            run_line(words, really=really)
    elif block.language == "powershell":
        for words in commands_of(block):
            check_powershell(words)
    elif block.language == "python":
        with redirect_stdout(StringIO()):
            exec(compile(shortened(block.text), "a block", "exec"), names)  # noqa: S102 - ours
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "yaml":  # of a cluster, whose disk is at /data
        for command in re.findall(r'"exec (.+)"', block.text):
            here = command.replace("/data/", "").replace("$JOB_COMPLETION_INDEX", "0")
            run_line(shlex.split(here), really=really)
    else:
        assert block.language == "text", f"a block without a known language: {block.text[:60]}"


def run_page(page: Path, *, really: bool) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.title:
            Path(block.title).parent.mkdir(exist_ok=True)
            Path(block.title).write_text(shortened(block.text), encoding="utf-8")
    for block in own_blocks_of(page):
        run_block(block, names, really=really)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_works(page: Path, sandbox: Path) -> None:
    del sandbox
    run_page(page, really=name_of(page) in TRAINED)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_training_command_trains(page: Path, sandbox: Path) -> None:
    del sandbox
    run_page(page, really=True)


def test_the_reference_names_every_command_of_the_program() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`coinage {name}`" not in text] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [page for page in (ROOT / "docs").rglob("*.md") if not is_translation(page)]
    assert {page.relative_to(ROOT / "docs").as_posix() for page in pages} == set(listed)


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?|\w+\.py)`", text)
    places = (ROOT, ROOT / "src/coinage", ROOT / "src/coinage/training/observers")
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert len(named) > 15
    assert missing == []
