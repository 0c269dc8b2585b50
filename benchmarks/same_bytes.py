"""Check that two revisions train the same files: `python benchmarks/same_bytes.py BASE [--new REV]`.

Trains short runs with the code of both revisions, by this interpreter, on the demo's models and on
images made here, and compares what they wrote:

- embeddings and pictures, byte for byte;
- states: every tensor and value in `state.pt`, and `state.json`;
- logs and other JSON files, without times.

The lines that the commands print are compared as well, without times, but not judged: `--texts`
shows how they differ. `--new` takes a revision, or a folder such as `.` to try the files as they
are. The exit code is 1 where a file differs, is missing, or a command fails.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
FAMILIES = ("sd1", "sd2", "sdxl")
WORD, SECOND_WORD = "zibu", "wopo"
TIMES = re.compile(
    r" *(\d{4}-\d\d-\d\d|\d+:\d\d(:\d\d)?|[\d.]+ (img/s|images/s|s|seconds|minutes)\b)"
)
TIME_KEYS = frozenset({"time", "seconds", "started", "ended", "date", "elapsed"})
NOT_JUDGED = frozenset({".html", ".text"})


# The runs


COMMON = (
    "--save_model_as=safetensors",
    "--sample_every_n_steps=0",
    "--seed=3",
    "--on_problem=warn",
)
SHORT = ("--init_word=shape", "--learning_rate=5e-3", "--max_train_steps=6")
SAVES = ("--save_every_n_steps=2", "--save_state")
CAPTIONS_AND_NOISE = (
    "--optimizer_type=Lion",
    "--learning_rate=1e-3",
    "--lr_scheduler=cosine_with_restarts",
    "--lr_warmup_steps=1",
    "--gradient_accumulation_steps=2",
    "--max_grad_norm=0.01",
    "--loss_type=huber",
    "--min_snr_gamma=5",
    "--noise_offset=0.1",
    "--adaptive_noise_scale=-0.05",
    "--ip_noise_gamma=0.1",
    "--shuffle_caption",
    "--keep_tokens=1",
    "--token_warmup_step=4",
    "--caption_suffix=drawn by hand",
    "--enable_wildcard",
    "--flip_aug",
    "--color_aug",
    "--random_crop",
    "--enable_bucket",
    "--min_bucket_reso=64",
    "--max_bucket_reso=128",
    "--max_token_length=150",
    "--save_precision=fp16",
    "--init_word=shape",
    "--max_train_steps=4",
)
MASKS_AND_VECTORS = (
    "--optimizer_type=Directional",
    "--learning_rate=0.05",
    "--lr_scheduler=linear",
    "--loss_type=smooth_l1",
    "--debiased_estimation_loss",
    "--multires_noise_iterations=3",
    "--alpha_mask",
    "--masked_loss",
    "--cache_latents",
    "--mixed_precision=bf16",
    "--validation_split=0.25",
    "--validate_every_n_steps=2",
    "--num_vectors_per_token=3",
    "--init_word=round shape",
    "--save_every_n_epochs=1",
    "--max_train_epochs=2",
)
TEMPLATES = (
    "--optimizer_type=torch.optim.Adagrad",
    "--learning_rate=1e-2",
    "--lr_scheduler=polynomial",
    "--loss_type=l1",
    "--use_style_template",
    "--role=negative",
    "--save_model_as=pt",
    "--init_word=shape",
    "--max_train_steps=4",
)
SEARCHES = (
    "--init_word=auto",
    "--autopilot=2",
    "--early_stop",
    "--keep_best",
    "--validation_split=0.25",
    "--validate_every_n_steps=2",
    "--learning_rate=2e-2",
    "--cache_latents",
    "--max_train_steps=12",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run finds its files: the code of a revision, and the model of a family."""

    code: Path
    model: Path

    @property
    def family(self) -> str:
        return self.model.name

    @property
    def script(self) -> str:
        name = "train_textual_inversion.py"
        return str(self.code / (f"sdxl_{name}" if self.family == "sdxl" else name))

    @property
    def model_flags(self) -> list[str]:
        flags = [f"--pretrained_model_name_or_path={self.model}"]
        return [*flags, "--v2"] if self.family == "sd2" else flags

    def train(self, *flags: str, out: str = "out", processes: int = 1) -> list[str]:
        """Return the command that trains `WORD` in the current folder."""
        command = [sys.executable, self.script]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
            command[1:1] = [*launcher, f"--master_port={free_port()}"]
        given = [
            *self.model_flags,
            f"--dataset_config={WORD}.toml",
            f"--output_dir={out}",
            f"--token_string={WORD}",
        ]
        return [*command, *given, *COMMON, *flags]

    def train_words(self) -> list[str]:
        """Return the command that trains the two words of `words.toml`."""
        shared = [*self.model_flags, "--output_dir=out"]
        given = ["--config_file=words.toml", *shared, *COMMON, *SHORT, *SAVES]
        return [sys.executable, self.script, *given]


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def train_and_resume(place: Place) -> list[list[str]]:
    """Train six steps; then go on from the state saved after four."""
    state = f"out/{WORD}-step00000004-state"
    first = place.train(*SHORT, *SAVES)
    return [first, place.train(*SHORT, *SAVES, f"--resume={state}", out="resumed")]


def train_with_options(place: Place) -> list[list[str]]:
    """Train with optimizers, losses and caption rules that pass much of the code."""
    return [
        place.train(*CAPTIONS_AND_NOISE, out="captions"),
        place.train(*MASKS_AND_VECTORS, out="masks"),
        place.train(*TEMPLATES, out="templates"),
    ]


CASES: dict[str, Callable[[Place], list[list[str]]]] = {
    "word": train_and_resume,
    "words": lambda place: [place.train_words()],
    "processes": lambda place: [place.train(*SHORT, *SAVES, processes=2)],
    "options": train_with_options,
    "search": lambda place: [place.train(*SEARCHES)],
}


# The images and settings


def write_image(path: Path, number: int, width: int, height: int) -> None:
    """Write a disc on a plain ground, transparent in one corner; the number sets the colours."""
    draw = np.random.default_rng(number)
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[..., :3] = draw.integers(0, 256, 3, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(width, height) / 3) ** 2
    pixels[disc, :3] = draw.integers(0, 256, 3, np.uint8)
    pixels[: height // 4, : width // 4, 3] = 0
    Image.fromarray(pixels, "RGBA").save(path)


def write_word(folder: Path, word: str, first: int) -> None:
    """Write eight captioned images of three sizes, and the dataset file, for one word."""
    images = folder / word
    images.mkdir(parents=True)
    sizes = [(64, 64), (96, 64), (64, 96)]
    for number in range(8):
        write_image(images / f"{number}.png", first + number, *sizes[number % len(sizes)])
        caption = f"a {word}, {{red|blue}} light, on a table, number {number}"
        (images / f"{number}.txt").write_text(caption, encoding="utf-8")
    settings = f"""\
[general]
caption_extension = ".txt"
[[datasets]]
resolution = 64
batch_size = 2
[[datasets.subsets]]
image_dir = "{word}"
num_repeats = 2
"""
    (folder / f"{word}.toml").write_text(settings, encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write what every run reads: two words' images, and the config file that trains both."""
    tables = ""
    for number, word in enumerate((WORD, SECOND_WORD)):
        write_word(folder, word, 100 * number)
        tables += f'[[words]]\ntoken_string = "{word}"\ndataset_config = "{word}.toml"\n'
        tables += f"num_vectors_per_token = {number + 1}\n"
    (folder / "words.toml").write_text(tables, encoding="utf-8")


# Running both revisions


def copy_code(revision: str, folder: Path) -> Path:
    """Copy the code of a revision, or of a folder such as `.`, into an empty folder."""
    names = ["src", "train_textual_inversion.py", "sdxl_train_textual_inversion.py"]
    if (source := Path(revision)).is_dir():
        shutil.copytree(source / "src", folder / "src")
        for script in names[1:]:
            shutil.copy(source / script, folder)
        return folder
    git = ["git", "archive", revision, *names]
    archive = subprocess.run(git, cwd=REPOSITORY, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"error: {revision}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def environment_for(code: Path) -> dict[str, str]:
    """Return the environment in which a revision's own code runs, the same way each time."""
    return os.environ | {
        "PYTHONPATH": str(code / "src"),
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


def check_import(code: Path) -> None:
    """Exit unless Python finds the package in this copy."""
    where = [sys.executable, "-c", "import coinage; print(coinage.__file__)"]
    done = subprocess.run(
        where, env=environment_for(code), capture_output=True, text=True, check=True
    )
    if not Path(done.stdout.strip()).is_relative_to(code):
        sys.exit(f"error: Python imports {done.stdout.strip()} rather than the copy in {code}")


def run_case(case: str, place: Place, folder: Path, data: Path) -> float:
    """Run the commands of a case in a folder of its own, beside its files; return the seconds.

    What each command prints is left in `1.text`, `2.text`, ..., with the exit code below.
    """
    shutil.copytree(data, folder)
    start = time.monotonic()
    for number, command in enumerate(CASES[case](place), 1):
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment_for(place.code),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        text = f"{done.stdout}\nexit code {done.returncode}\n"
        (folder / f"{number}.text").write_text(text, encoding="utf-8")
    return time.monotonic() - start


# Comparing


def written_in(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their relative paths."""
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }


def without_times(value: object) -> object:
    """Return a JSON value without the entries that hold a time."""
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in TIME_KEYS}
    if isinstance(value, list):
        return [without_times(part) for part in value]
    return value


def read_json(path: Path) -> object:
    """Read a JSON file, or one with a JSON value on each line, without times."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in text.splitlines()]
    return without_times(json.loads(text))


def leaves(value: object, where: str = "") -> Iterator[tuple[str, object]]:
    """Yield the place and value of every number, text and tensor in a tree of dicts and lists."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from leaves(part, f"{where}[{number}]")
    else:
        yield where, value


def is_same(base: object, new: object) -> bool:
    """Return whether two values are equal to the last bit; nan equals nan."""
    if isinstance(base, torch.Tensor) and isinstance(new, torch.Tensor):
        same_kind = base.dtype == new.dtype and base.shape == new.shape
        return same_kind and base.numpy().tobytes() == new.numpy().tobytes()
    return repr(base) == repr(new)


def first_difference(base: object, new: object) -> str:
    """Return where two trees of tensors and values first differ; empty if they do not."""
    pairs = zip_longest(leaves(base), leaves(new), fillvalue=("nothing", None))
    for (place, before), (other_place, after) in pairs:
        if place != other_place:
            return f"{place} became {other_place}"
        if not is_same(before, after):
            return f"{place}: {before!r} became {after!r}"
    return ""


def compare_files(base: Path, new: Path) -> str:
    """Return how two files of the same name differ; empty if they are the same."""
    if base.read_bytes() == new.read_bytes():
        return ""
    if base.suffix in (".json", ".jsonl"):
        return first_difference(read_json(base), read_json(new))
    if base.name == "state.pt":
        load = [torch.load(path, map_location="cpu", weights_only=True) for path in (base, new)]
        return first_difference(*load)
    return "other bytes"


def compare_folders(base: Path, new: Path) -> list[str]:
    """Return a line for each file that is missing or differs, and each command that failed."""
    before, after = written_in(base), written_in(new)
    differences = [f"{name}: only before" for name in sorted(before.keys() - after.keys())]
    differences += [f"{name}: only now" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        if before[name].suffix == ".text":
            differences += failures(name, before[name], after[name])
        elif before[name].suffix not in NOT_JUDGED:
            difference = compare_files(before[name], after[name])
            differences += [f"{name}: {difference}"] if difference else []
    return differences


def failures(name: str, before: Path, after: Path) -> list[str]:
    """Return the last words of the commands that failed."""
    lines = []
    for side, path in (("before", before), ("now", after)):
        text = " ".join(path.read_text(encoding="utf-8").split())
        if not text.endswith("exit code 0"):
            lines.append(f"{name}: failed {side}: ... {text[-300:]}")
    return lines


def printed_lines(path: Path) -> list[str]:
    """Return the lines that a command printed, without times and those printed every few seconds."""
    lines = TIMES.sub(" TIME", path.read_text(encoding="utf-8")).splitlines()
    return [line for line in lines if not line.endswith(" left")]


def compare_texts(base: Path, new: Path) -> list[str]:
    """Return the lines of a diff between what the commands of two folders printed, without times."""
    diff: list[str] = []
    for name in sorted(path.name for path in base.glob("*.text")):
        before, after = (printed_lines(side / name) for side in (base, new))
        changes = list(difflib.unified_diff(before, after, lineterm="", n=0))
        diff += [line for line in changes[2:] if not line.startswith("@@")]
    return diff


# The command


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the revision to compare with")
    parser.add_argument("--new", default="HEAD", help="revision or folder (default: %(default)s)")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--jobs", type=int, default=1, help="families at a time")
    parser.add_argument("--texts", action="store_true", help="show how the printed lines differ")
    parser.add_argument("--keep", type=Path, help="leave all files in this new folder")
    return parser.parse_args(argv)


def compare_case(case: str, model: Path, root: Path, *, texts: bool) -> bool:
    """Run a case with both revisions, print its row and differences, return whether all is the same.

    Both run in the same folder, one after the other, so that no path can make a difference.
    """
    family = model.name
    here = root / f"{family}-{case}"
    seconds, sides = [], []
    for side in ("base", "new"):
        seconds.append(run_case(case, Place(root / side, model), here, root / "data"))
        sides.append(here.rename(root / f"{here.name}-{side}"))
    differences, text = compare_folders(*sides), compare_texts(*sides)
    count = len(written_in(sides[0])) - len(written_in(root / "data"))
    numbers = f"{count} | {len(differences)} | {len(text)} | {seconds[0]:.0f} | {seconds[1]:.0f}"
    lines = [f"    {line}" for line in differences + (text if texts else [])]
    print("\n".join([f"| {family} {case} | {numbers} |", *lines]), flush=True)
    return not differences


def compare_all(args: argparse.Namespace, root: Path) -> int:
    """Copy both revisions, run every case, print the table; return the exit code."""
    for side, revision in (("base", args.base), ("new", args.new)):
        (root / side).mkdir(parents=True)
        check_import(copy_code(revision, root / side))
    shutil.copytree(root / "base/src/coinage/demo/models", root / "models")
    write_data(root / "data")
    print("| run | files | different | text lines | before s | now s |\n|---|---|---|---|---|---|")

    def compare_family(family: str) -> bool:
        model = root / "models" / family
        same = [compare_case(case, model, root, texts=args.texts) for case in args.cases]
        return all(same)

    with ThreadPoolExecutor(args.jobs) as pool:
        same = list(pool.map(compare_family, args.families))
    return 0 if all(same) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two revisions; return the exit code."""
    args = read_arguments(argv)
    if args.keep:
        return compare_all(args, args.keep.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return compare_all(args, Path(folder).resolve())


if __name__ == "__main__":
    sys.exit(main())
