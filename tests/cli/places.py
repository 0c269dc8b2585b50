"""Images, captions and files that flags name, and commands that use them."""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.torch
from PIL import Image

from coinage.cli.train import train_command
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from tests.data.pictures import picture
from tests.tiny_models import write_folder


def speckled(path: Path, size: tuple[int, int]) -> None:
    """A picture in which any change shows, its left half transparent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    pixels[..., 3] = np.where(np.arange(size[0]) < size[0] // 2, 0, 255)
    Image.fromarray(pixels).save(path)


def make_places(root: Path) -> dict[str, Path]:
    """Images, captions and files that flags name."""
    folder = root / "train" / "2_a zibu"
    for name, size in (("a_60_40_20_20", (160, 64)), ("b_30_70_20_24", (72, 144))):
        speckled(folder / f"{name}.png", size)
        (folder / f"{name}.caption").write_text(
            "a zibu, red; round, blue, {big|small} ||| dot, on, white\n", encoding="utf-8"
        )
        (folder / f"{name}.alt").write_text("a photo of a zibu", encoding="utf-8")
        mask = Image.new("L", size, 255)
        mask.paste(64, (0, 0, size[0] // 3, size[1]))
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / f"{name}.png")
    shutil.copytree(folder, root / "images", ignore=shutil.ignore_patterns("*.caption", "*.alt"))
    shutil.copytree(folder, root / "other" / "3_a zibu")
    picture(root / "reg" / "1_circle" / "r.png", (64, 64), "green", caption="a circle")
    entries = {
        name.stem: {"caption": "red zibu"} for name in sorted((root / "images").glob("*.png"))
    }
    (root / "metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    (root / "prompts.txt").write_text("zibu --s 1 --d 1 --w 64 --h 64\n", encoding="utf-8")
    (root / "trackers.toml").write_text(
        '[tensorboard]\nfilename_suffix = ".mine"\n', encoding="utf-8"
    )
    (root / "config.toml").write_text("learning_rate = 1e-3\n", encoding="utf-8")
    write_dataset(root / "moon", CONCEPTS["moon"], "zibu", seed=0)
    model = write_folder(root / "model", "sd1")
    other = shutil.copytree(model / "vae", root / "vae")
    weights = safetensors.torch.load_file(other / "diffusion_pytorch_model.safetensors")
    weights["quant_conv.bias"] += 0.1
    safetensors.torch.save_file(
        weights, other / "diffusion_pytorch_model.safetensors", {"format": "pt"}
    )
    places = {
        "model": model,
        "train": root / "train",
        "dataset": root / "moon" / "dataset.toml",
        "root": root,
    }
    for name in ("masks", "images", "other", "reg", "vae"):
        places[name] = root / name
    for name in ("metadata.json", "prompts.txt", "trackers.toml", "config.toml"):
        places[Path(name).stem] = root / name
    made = "--max_train_steps=1 --save_state --optimizer_type=SGD --learning_rate=1"
    assert train_command("coinage", words(places, root / "made", made)) == 0
    return places | {
        "word": root / "made" / "zibu.safetensors",
        "state": root / "made" / "zibu-state",
    }


def words(places: dict[str, Path], out: Path, given: str) -> list[str]:
    """The command: what each test needs, unless it is given otherwise."""
    flags = [text.format(out=out, **places) for text in given.split()]
    names = {flag.split("=")[0] for flag in flags}
    needed = {
        "--pretrained_model_name_or_path": places["model"], "--output_dir": out,
        "--token_string": "zibu", "--init_word": "shape",
        "--save_model_as": "safetensors", "--max_train_steps": 2, "--learning_rate": 1e-2,
        "--seed": 0, "--resolution": 64,
    }  # fmt: skip
    if "--config_file" in names:
        needed.pop("--learning_rate")
    if not {"--train_data_dir", "--dataset_config"} & names:
        needed["--train_data_dir"] = places["train"]
    return [*(f"{name}={value}" for name, value in needed.items() if name not in names), *flags]
