"""Every flag of sd-scripts acts on a real run, or says in one line why it does not."""

import ast
import re
import shutil
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
from PIL import Image, ImageOps

from coinage.cli.train import train_command
from coinage.errors import CoinageError
from coinage.settings.flags import FLAGS
from coinage.training.run import Run
from tests.cli.flag_effects import EFFECTS, Outcome
from tests.cli.places import make_places, words
from tests.cli.test_flags import GOLDEN
from tests.helpers import trained

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_places(tmp_path_factory.mktemp("places"))


def plain(path: Path, parent: Path) -> str:
    """A file's name without time stamps, digests and what an event file adds."""
    name = re.sub(
        r"\d{9,}|[0-9a-f]{32}|(?<=_)[0-9a-f]{16}", "_", path.relative_to(parent).as_posix()
    )
    return re.sub(r"tfevents.*?(\.mine)?$", r"tfevents\1", name)


def run(
    places: dict[str, Path], out: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> Outcome:
    """Train as a user would, and see what is left."""
    for kept in places["root"].rglob(".coinage"):
        shutil.rmtree(kept)
    capsys.readouterr()
    code = train_command("coinage", words(places, out, given))
    told = "".join(capsys.readouterr())
    files = {plain(path, out) for path in out.rglob("*") if path.is_file()}
    files |= {
        plain(path, places["train"] / "2_a zibu")
        for path in places["train"].rglob(".coinage/**/*")
        if path.is_file()
    }
    saved = [*out.rglob("zibu.safetensors"), *out.glob("mine.safetensors")]
    if not saved:
        return Outcome(code, told, frozenset(files))
    with safetensors.safe_open(saved[0], framework="pt") as file:
        vectors = file.get_tensor("emb_params")
        return Outcome(
            code,
            told,
            frozenset(files),
            vectors.float().numpy().tobytes(),
            file.metadata(),
            str(vectors.dtype),
        )


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Of the runs so far, by what is given."""
    return {}


def test_the_table_has_every_flag() -> None:
    assert set(EFFECTS) - {flag.name for flag in FLAGS if flag.own} == set(GOLDEN)


@pytest.mark.parametrize("name", sorted(name for name, row in EFFECTS.items() if not row.tested))
def test_a_flag_acts_or_says_why_not(
    name: str,
    places: dict[str, Path],
    outcomes: dict[str, Outcome],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = EFFECTS[name]
    assert name in [word.split("=")[0] for word in row.given.split()]
    more = (
        " ".join(other.given for other in EFFECTS.values() if other.together)
        if row.together
        else f"{row.beside} {row.given}".strip()
    )
    for out, given in (("without", row.beside), ("with", more)):
        if given not in outcomes:
            outcomes[given] = run(places, tmp_path / out, given, capsys)
    before, after = outcomes[row.beside], outcomes[more]
    assert before.code == 0, before.told
    assert after.code == row.code, after.told
    assert row.does(before, after), f"{sorted(after.files)}\n{after.told}"
    assert "Traceback" not in after.told


@pytest.mark.parametrize("name", sorted(name for name, row in EFFECTS.items() if row.tested))
def test_a_flag_has_its_own_test(name: str) -> None:
    path, _, function = EFFECTS[name].tested.partition("::")
    text = (TESTS / path).read_text(encoding="utf-8")
    nodes = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    assert nodes, f"{path} has no {function}"
    first = min(node.lineno for node in (nodes[0], *nodes[0].decorator_list))
    own = "\n".join(text.splitlines()[first - 1 : nodes[0].end_lineno])
    assert re.search(rf"{name}\b", own), f"{function} never gives {name}"


def test_the_sampler_of_previews(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = f"--sample_prompts={places['prompts']} --sample_at_first --max_train_steps=1"
    for name in ("ddim", "euler_a"):
        assert run(places, tmp_path / name, f"{beside} --sample_sampler={name}", capsys).code == 0
    pictures = [
        next((tmp_path / name / "sample").iterdir()).read_bytes() for name in ("ddim", "euler_a")
    ]
    assert pictures[0] != pictures[1]


def test_latents_may_be_trusted_unchecked(places: dict[str, Path], tmp_path: Path) -> None:
    images = shutil.copytree(places["train"], tmp_path / "train")
    given = f"--train_data_dir={images} --cache_latents_to_disk"

    def learned(name: str, more: str) -> bytes:
        assert train_command("coinage", words(places, tmp_path / name, f"{given} {more}")) == 0
        return (tmp_path / name / "zibu.safetensors").read_bytes()[-128:]

    first = learned("a", "")
    for path in images.rglob("*.png"):
        with Image.open(path) as image:
            other = ImageOps.mirror(image)
        other.save(path)
    assert learned("b", "--skip_cache_check") == first
    assert learned("c", "") != first


def test_cached_latents_need_no_vae(moon_dataset: Path, tmp_path: Path) -> None:
    def spoil(run: Run) -> None:
        run.parts.vae.encoder.conv_in.weight.data.fill_(float("nan"))

    trained(moon_dataset, tmp_path / "a", "--cache_latents", change=spoil)
    with pytest.raises(CoinageError, match="makes no finite latents"):
        trained(moon_dataset, tmp_path / "b", change=spoil)
