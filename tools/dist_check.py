"""Build the packages, check what is in them, and use the wheel outside the checkout, without network.

`make dist` builds into dist/ and tries the wheel with the packages of .venv. `--full` installs its
dependencies anew, as `pip install` does on a machine that has nothing but Python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
MOST_BYTES = 40_000_000
SOURCES = ("LICENSE", "README.md", "pyproject.toml")
WORD = ("--token_string=zibu", "--init_word=shape", "--max_train_steps=2", "--output_dir=output")
DEMO = "demo_output"


def commands(python: Path) -> list[list[str]]:
    """What a user may do first, in this order, in an empty folder."""
    run = [str(python), "-m"]
    data = [
        f"--pretrained_model_name_or_path={DEMO}/model",
        f"--dataset_config={DEMO}/dataset/dataset.toml",
    ]
    launch = [*run, "accelerate.commands.launch", "--cpu", "--num_processes=1", "-m"]
    return [
        [str(python.with_name("coinage")), "--version"],
        [str(python.with_name("coinage")), "doctor"],
        [str(python.with_name("coinage")), "demo", "--steps=4", f"--output={DEMO}"],
        [str(python.with_name("coinage")), "train", *data, *WORD],
        [*launch, "coinage.train_textual_inversion", *data, *WORD],
        [*run, "coinage.sdxl_train_textual_inversion", "--help"],
    ]


def build() -> tuple[Path, Path]:
    """Build sdist and wheel anew; return both."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", DIST, ROOT],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    return sdist, wheel


def problems_of(sdist: Path, wheel: Path, tracked: Sequence[str]) -> list[str]:
    """Return what is missing, too much, too large or wrong in the packages.

    Args:
        sdist: the archive of the sources.
        wheel: the archive that is installed.
        tracked: all files of the repository, from its root.
    """
    modules = {name.removeprefix("src/") for name in tracked if name.startswith("src/coinage/")}
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if ".dist-info/" not in name}
        (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(about)
    with tarfile.open(sdist) as sources:
        packed = {name.partition("/")[2] for name in sources.getnames()}
    found = [f"the wheel lacks {name}" for name in sorted(modules - installed)]
    found += [f"the wheel should not have {name}" for name in sorted(installed - modules)]
    needed = {f"src/{name}" for name in modules} | {*SOURCES}
    found += [f"the sdist lacks {name}" for name in sorted(needed - packed)]
    for file in (sdist, wheel):
        if file.stat().st_size > MOST_BYTES:
            found.append(f"{file.name} has {file.stat().st_size} bytes, more than {MOST_BYTES}")
    try:
        Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        found += [f"metadata: {error}" for error in group.exceptions]
    return found


def install(wheel: Path, folder: Path, *, full: bool) -> Path:
    """Install a wheel into a new environment; return its Python."""
    venv.create(folder, with_pip=full)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    if full:
        limits = ["--constraint", str(ROOT / "constraints.txt")]
        for what in (
            "torch",
            str(wheel),
        ):  # torch first and alone: the build that lies ready is taken
            subprocess.run([python, "-m", "pip", "install", "--quiet", *limits, what], check=True)
    else:
        (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        target = [sys.executable, "-m", "pip", "--python", python]
        subprocess.run(
            [*target, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
        )
    return python


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def try_out(python: Path, folder: Path) -> list[str]:
    """Run all commands offline, in a folder and with a home that are empty; return what failed."""
    home = folder / "home"
    home.mkdir()
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    before = state_of(python.parents[1])
    failed = []
    for command in commands(python):
        shown = " ".join(Path(word).name if word == command[0] else word for word in command)
        print(f"  {shown}", flush=True)
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            failed.append(f"{shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    if state_of(python.parents[1]) != before:
        failed.append("something was written into the installed package, which may be read-only")
    return failed


def main() -> int:
    """Build, check, install and use the packages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="Install all dependencies anew.")
    args = parser.parse_args()
    sdist, wheel = build()
    listed = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - wherever it is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    problems = problems_of(sdist, wheel, listed.stdout.splitlines())
    for file in (sdist, wheel):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        python = install(wheel, Path(folder) / "environment", full=args.full)
        problems += try_out(python, Path(folder))
    for problem in problems:
        print(f"error: {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
