"""Broken input of every kind ends in a message: no traceback, no hang, nothing wrong taken for right."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coinage.cli.parse import parse
from coinage.data.buckets import cover
from coinage.data.captions import vary
from coinage.data.dataset_keys import KEYS
from coinage.data.examine import examine
from coinage.data.headers import read_header
from coinage.data.images import decode, load_view
from coinage.data.latent_cache import DiskCache
from coinage.data.latents import Latent
from coinage.data.sample import Sample
from coinage.data.scan import scan
from coinage.data.stored_sizes import SIZES_FILE
from coinage.data_config import DataConfig, ImageRules
from coinage.errors import CoinageError, Findings
from coinage.seeding import rng_for
from coinage.settings.discover import complete
from tests.data.fuzzing import (
    ROOT,
    accepted,
    mutated,
    mutated_bytes,
    mutated_tree,
    places,
    refused,
    written,
)
from tests.data.pictures import dataset, picture, subset

# Larger pictures are not decoded: they are slow to decode also where nothing is broken
MOST_PIXELS = 2**24
WIDEST = 256  # likewise larger resolutions

# Dataset files

PLAIN = {
    "general": {
        "shuffle_caption": True,
        "keep_tokens": 1,
        "caption_extension": ".txt",
        "caption_separator": ",",
        "flip_aug": True,
        "num_repeats": 2,
        "cache_info": True,
        "class_tokens": "zibu",
        "network_multiplier": 1.0,
        "custom_attributes": {"a": {"b": [1, "c"]}},
    },
    "datasets": [
        {
            "resolution": 16,
            "batch_size": 2,
            "validation_split": 0.34,
            "validation_seed": 3,
            "subsets": [
                {
                    "image_dir": f"{ROOT}/images",
                    "num_repeats": 3,
                    "face_crop_aug_range": [1.0, 2.0],
                },
                {
                    "image_dir": f"{ROOT}/reg",
                    "is_reg": True,
                    "caption_dropout_rate": 0.0,
                    "caption_dropout_every_n_epochs": 0,
                },
            ],
        },
    ],
}
BUCKETS = {
    "general": {"enable_bucket": True, "bucket_reso_steps": 64, "alpha_mask": True},
    "datasets": [
        {
            "resolution": [64, 128],
            "min_bucket_reso": 64,
            "max_bucket_reso": 128,
            "resize_interpolation": "area",
            "subsets": [{"image_dir": f"{ROOT}/images", "conditioning_data_dir": f"{ROOT}/masks"}],
        },
    ],
}
NO_UPSCALE = {
    "general": {
        "enable_bucket": True,
        "bucket_no_upscale": True,
        "min_bucket_reso": 64,
        "max_bucket_reso": 128,
    },
    "datasets": [{"resolution": 128, "subsets": [{"image_dir": f"{ROOT}/large"}]}],
}
METADATA = {
    "datasets": [
        {
            "resolution": 8,
            "subsets": [
                {
                    "metadata_file": f"{ROOT}/meta.json",
                    "image_dir": f"{ROOT}/images",
                    "enable_wildcard": True,
                    "secondary_separator": ";",
                },
                {
                    "metadata_file": f"{ROOT}/meta.jsonl",
                    "image_dir": f"{ROOT}/images",
                    "caption_tag_dropout_rate": 0.5,
                    "num_repeats": 2,
                },
            ],
        },
    ],
}
CAPTIONS = {
    "general": {
        "keep_tokens_separator": "|||",
        "secondary_separator": ";",
        "caption_prefix": "a",
        "caption_suffix": "b",
    },
    "datasets": [
        {
            "resolution": [8, 16],
            "custom_attributes": {"a": 1, "b": {"c": 2.0, "d": "e"}},
            "token_warmup_min": 2,
            "token_warmup_step": 0.5,
            "enable_wildcard": True,
            "color_aug": True,
            "subsets": [
                {
                    "image_dir": f"{ROOT}/images",
                    "caption_tag_dropout_rate": 0.25,
                    "random_crop": True,
                    "caption_extension": "txt",
                }
            ],
        },
    ],
}
VARIATIONS = {
    "general": {
        "loss_weight": 0.5,
        "random_rotate_max_angle": 10,
        "random_brightness_max_strength": 0.1,
        "random_contrast_max_strength": 0.2,
    },
    "datasets": [
        {
            "resolution": 8,
            "random_saturation_max_strength": 1,
            "random_hue_max_strength": 0.25,
            "caption_tag_dropout_rate": 0.5,
            "tag_dropout_mode": "random_weighted",
            "caps_randomize_probability": 0.5,
            "caps_randomize_mode": "title",
            "caps_randomize_lowercase": True,
            "subsets": [
                {
                    "image_dir": f"{ROOT}/images",
                    "tag_dropout_special_tags": ["a|b", "sea.*"],
                    "tag_dropout_special_tags_mode": "blacklist",
                    "tag_dropout_special_tags_regex": True,
                    "prior_prediction": True,
                    "samples_per_epoch": 2,
                }
            ],
        },
    ],
}
SEEDS = (PLAIN, BUCKETS, NO_UPSCALE, METADATA, CAPTIONS, VARIATIONS)
FLAGS = (
    [],
    [],
    [],
    ["--cache_latents"],
    ["--use_object_template"],
    ["--data_as_reference"],
    ["--skip_bad_images", "--require_token"],
    ["--bucket_log_ratio", "--max_data_loader_n_workers=0"],
    ["--resolution=16", "--shuffle_caption"],
)
META = {
    "a.png": {"caption": "a zibu", "tags": "red, {big|small}\nround"},
    "b": {"tags": "zibu", "image_size": [8, 8]},
    f"{ROOT}/images/c.png": {"caption": "zibu\nsecond line"},
}
LINES = [{"image_path": key, **fields} for key, fields in META.items()]
CAPTION = (
    "\ufeffa photo of zibu, {red|blue|green}, ||| round; small, été |||, {{literal}}\r\n"
    "\n  second line, zibu\n"
).encode()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in "abc":
        picture(
            folder / "images" / f"{name}.png",
            (8, 8),
            (200, 0, 0, 128),
            "RGBA",
            caption="a zibu, red",
        )
        picture(folder / "masks" / f"{name}.png", (8, 8), "white")
    picture(folder / "reg" / "r.png", (8, 8), caption="a thing")
    picture(folder / "large" / "l.png", (130, 64), caption="zibu")
    (folder / "meta.json").write_text(
        json.dumps(META).replace(ROOT, folder.as_posix()), encoding="utf-8"
    )
    (folder / "meta.jsonl").write_text(
        "\n".join(map(json.dumps, LINES)).replace(ROOT, folder.as_posix()), encoding="utf-8"
    )
    return folder


def taken(file: Path, flags: list[str], findings: Findings) -> bool:
    """Whether a dataset file is accepted and its images are found; any problem but ours comes through."""
    args = [
        "--pretrained_model_name_or_path=m",
        "--token_string=zibu",
        "--output_dir=o",
        f"--dataset_config={file}",
        *flags,
    ]
    try:
        config, _ = complete(parse("sd", args, "test"))
    except CoinageError as error:
        return refused(error)
    small = all(max(found.resolution_wh) <= WIDEST for found in config.data.datasets)
    return bool(
        examine(
            config.data, 0, "zibu", 2, None, 1, findings, decode=None if small else False
        ).samples
    )


def test_the_seeds_hold_every_key_and_are_taken(root: Path) -> None:
    names = {key for seed in SEEDS for holder, key in places(seed) if isinstance(holder, dict)}
    assert set(KEYS) <= names
    for seed in SEEDS:
        for suffix in (".toml", ".json"):
            file = root / f"dataset{suffix}"
            file.write_bytes(
                written(seed, suffix, Random(0)).replace(ROOT.encode(), root.as_posix().encode())  # noqa: S311
            )
            findings = Findings()
            assert taken(file, [], findings), seed
            assert not findings.errors


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@pytest.mark.parametrize(
    "chunk", [0, 1, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (2, 3, 4))]
)
def test_dataset_files(
    root: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, suffix: str
) -> None:
    monkeypatch.chdir(root)
    file = root / f"dataset{suffix}"

    def prepare(rng: Random) -> tuple[object, Callable[[], bool]]:
        data, flags = mutated(rng.choice(SEEDS), suffix, rng), rng.choice(FLAGS)
        file.write_bytes(data.replace(ROOT.encode(), root.as_posix().encode()))
        return (flags, data), lambda: taken(file, flags, Findings())

    good = accepted(f"dataset{suffix}", range(chunk * 200, chunk * 200 + 200), prepare)
    assert 25 <= good <= 150


# Captions, metadata, remembered sizes


def texts(kind: str, rng: Random, images: Path) -> bytes:
    """A broken file of a kind."""
    if kind == "caption":
        return mutated_bytes(CAPTION, rng)
    if kind == "jsonl":
        lines = [
            mutated(line, ".json", rng) if rng.random() < 0.4 else json.dumps(line).encode()
            for line in LINES
        ]
        data = b"\n".join(line.replace(b"\n", b"") for line in lines)
        return mutated_bytes(data, rng) if rng.random() < 0.2 else data
    if kind == "json":
        return mutated(META, ".json", rng)
    sizes = {
        f"{name}.png": [10**18, (images / f"{name}.png").stat().st_size, 8, 8, 1] for name in "abc"
    }
    return mutated(sizes, ".json", rng)


@pytest.mark.parametrize("kind", ["caption", "json", "jsonl", "sizes"])
def test_texts_beside_images(tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    for name in "abc":
        os.utime(picture(images / f"{name}.png", caption="zibu"), ns=(10**18, 10**18))
    file = {"caption": images / "b.txt", "sizes": images / SIZES_FILE}.get(
        kind, tmp_path / f"meta.{kind}"
    )
    file.parent.mkdir(exist_ok=True)

    def prepare(rng: Random) -> tuple[object, Callable[[], bool]]:
        data = texts(kind, rng, images)
        file.write_bytes(data.replace(ROOT.encode(), tmp_path.as_posix().encode()))
        metadata = file if kind.startswith("json") else None
        rules = {
            "wildcard": rng.random() < 0.5,
            "shuffle": True,
            "keep_separator": "|||",
            "secondary_separator": ";",
        }
        config = subset(images, metadata_file=metadata, cache_sizes=kind == "sizes", **rules)

        def run() -> bool:
            findings = Findings()
            samples = scan(DataConfig(datasets=(dataset(config),)), 0, findings)
            for sample in samples:
                vary(sample.caption, config.captions, "zibu", rng_for(0)).encode()
            assert all(str(problem) for problem in findings.errors)
            if kind == "sizes":
                # Else images were opened, and all is remembered anew
                return file.read_bytes() == data
            return bool(samples) and not findings.errors

        return data, run

    good = accepted(kind, range(150), prepare)
    assert 10 <= good <= 140


# Images


def saved(mode: str, kind: str, **more: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise[..., 1]))
    buffer = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(buffer, kind, **more)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010E] = "text"
    return found


PICTURES = (
    ("png", saved("RGB", "PNG")),
    ("png", saved("RGB", "PNG", exif=exif(6))),
    ("png", saved("RGBA", "PNG")),
    ("png", saved("I;16", "PNG")),
    ("png", saved("LA", "PNG", exif=exif(3))),
    ("png", saved("1", "PNG")),
    ("png", saved("P", "PNG")),
    ("png", saved("P", "PNG", transparency=1)),
    ("png", saved("RGB", "PNG", transparency=(0, 0, 0))),
    ("jpg", saved("RGB", "JPEG")),
    ("jpg", saved("RGB", "JPEG", exif=exif(5))),
    ("jpg", saved("CMYK", "JPEG")),
    ("jpg", saved("L", "JPEG")),
    ("jpg", saved("RGB", "JPEG", exif=exif(8), progressive=True)),
    ("webp", saved("RGB", "WEBP", exif=exif(7))),
    ("webp", saved("RGBA", "WEBP", lossless=True)),
    ("bmp", saved("RGB", "BMP")),
    ("bmp", saved("P", "BMP")),
)
SIDES = (0, 1, 6, 9, 255, 13377, 65535, 2**24, 2**31 - 1, 2**32 - 1)
CHUNKS = (
    b"tRNS",
    b"PLTE",
    b"eXIf",
    b"iCCP",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"sBIT",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"pHYs",
    b"IDAT",
)


def mutated_png(data: bytes, rng: Random) -> bytes:
    """Change, double, drop, move and add chunks, with right checksums.

    Otherwise only the checksums would be tried.
    """
    chunks, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2, 3))):
        i, action = rng.randrange(len(chunks)), rng.randrange(6)
        kind, body = chunks[i]
        if action == 0:
            chunks[i] = kind, mutated_bytes(body, rng)
        elif action == 1:
            header = bytearray(chunks[0][1].ljust(13, b"\0"))
            part, form = rng.choice(
                (((0, 4), ">I"), ((4, 8), ">I"), ((8, 9), "B"), ((9, 10), "B"), ((12, 13), "B"))
            )
            header[slice(*part)] = struct.pack(
                form, rng.choice(SIDES) if form == ">I" else rng.choice((0, 1, 2, 3, 4, 6, 8, 16))
            )
            chunks[0] = chunks[0][0], bytes(header)
        elif action == 2 and len(chunks) > 1:
            del chunks[i]
        elif action == 3:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[i])
        elif action == 4:
            chunks.insert(
                rng.randrange(1, len(chunks) + 1),
                (rng.choice(CHUNKS), rng.randbytes(rng.choice((0, 1, 4, 13, 26)))),
            )
        else:
            chunks[i] = rng.choice(CHUNKS), body
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return data[:8] + b"".join(parts)


def mutated_picture(suffix: str, data: bytes, rng: Random) -> bytes:
    if suffix == "png" and rng.random() < 0.8:
        return mutated_png(data, rng)
    if suffix == "jpg" and rng.random() < 0.2:  # the size in the frame header
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + rng.choice((5, 7))
        return data[:at] + struct.pack(">H", rng.choice(SIDES) & 0xFFFF) + data[at + 2 :]
    return mutated_bytes(data, rng, head=200)


def look(path: Path) -> bool:
    """Whether an image is taken; any problem but ours comes through."""
    try:
        header = read_header(path)
    except OSError as error:
        return refused(error)
    if header.stored_wh[0] * header.stored_wh[1] > MOST_PIXELS:
        return False
    results = []
    for as_reference in (False, True):
        rules = ImageRules(as_reference=as_reference, alpha_mask=True, color=True, random_crop=True)
        size = header.stored_wh if as_reference else header.upright_wh
        sample = Sample(
            path, "", replace(subset(path.parent), images=rules), 0, size, cover(size, (8, 8))
        )
        for rng in (None, rng_for(0)):
            try:
                rgb, alpha = decode(path, rules)
                assert rgb.mode == "RGB"
                assert alpha is None or (alpha.mode, alpha.size) == ("L", rgb.size)
                view = load_view(sample, flipped=True, rng=rng)
            except CoinageError as error:
                results.append(refused(error, str(path)))
                continue
            assert (view.pixels.shape, view.pixels.dtype) == ((3, 8, 8), np.float32)
            assert np.abs(view.pixels).max() <= 1
            assert (view.mask is None) == (alpha is None)
            assert view.mask is None or (
                view.mask.shape == (8, 8) and 0 <= view.mask.min() <= view.mask.max() <= 1
            )
            results.append(True)
    return all(results)


def test_the_pictures_are_taken(tmp_path: Path) -> None:
    for number, (suffix, data) in enumerate(PICTURES):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(data)
        assert look(path), path.name


@pytest.mark.parametrize("chunk", range(5))
def test_images(tmp_path: Path, chunk: int) -> None:
    def prepare(rng: Random) -> tuple[object, Callable[[], bool]]:
        suffix, data = rng.choice(PICTURES)
        data = mutated_picture(suffix, data, rng)
        path = tmp_path / f"image.{suffix}"
        path.write_bytes(data)
        return (suffix, data), lambda: look(path)

    good = accepted("image", range(chunk * 100, chunk * 100 + 100), prepare)
    assert 15 <= good <= 85


# Latents on disk

# All that a cache asks of a VAE.
VAE: Any = SimpleNamespace(
    state_dict=dict, dtype=torch.float32, config=SimpleNamespace(block_out_channels=(1, 1, 1, 1))
)
BYTES = {
    "F64": 8,
    "C64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "X": 4,
    "BF16": 2,
    "I16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
}


def mutated_entry(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, or with other bytes."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    # Safetensors writes it in any order
    header = {name: dict(sorted(header[name].items())) for name in sorted(header)}
    kind = rng.randrange(8)  # 7: written in another way, with the same meaning
    tensor = header[rng.choice(("moments", "mask"))]
    if kind == 0:
        header = mutated_tree(header, rng)
    elif kind < 3:
        header["__metadata__"] = mutated_tree(header["__metadata__"], rng)
    elif kind == 3:
        tensor["dtype"] = rng.choice(list(BYTES))
        tensor["shape"][1] = tensor["shape"][1] * 4 // BYTES[tensor["dtype"]]
    elif kind == 4:
        count = (tensor["data_offsets"][1] - tensor["data_offsets"][0]) // 4
        tensor["shape"] = rng.choice(
            (
                [count],
                [count, 1],
                [1, count],
                [2, count // 2],
                [2, 1, count // 2, 1],
                [1, *tensor["shape"]],
                [],
            )
        )
    elif kind == 5:
        value = header.pop(name := rng.choice(list(header)))
        header.update(
            rng.choice(({rng.choice(("mas", "m", "", "zoo")): value}, {name: None}, {name: {}}))
        )
    text = written(header, ".json", rng)
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + body
    return mutated_bytes(whole, rng, head=8 + len(text)) if kind == 6 else whole


def test_latents_on_disk(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (64, 64))
    mask = picture(tmp_path / "masks" / "a.png", (64, 64))
    for file in (path, mask):
        os.utime(file, ns=(10**18, 10**18))
    sample = Sample(
        path, "zibu", subset(tmp_path), 0, (64, 64), cover((64, 64), (64, 64)), mask=mask
    )
    numbers = torch.Generator().manual_seed(0)
    right = Latent(
        torch.randn(2, 4, 8, 8, generator=numbers), torch.rand(8, 8, generator=numbers), sample.fit
    )
    store = DiskCache([sample], VAE, None)
    store.save((0, False), right)
    file = store.path_for((0, False))
    whole = file.read_bytes()

    def prepare(rng: Random) -> tuple[object, Callable[[], bool]]:
        data = mutated_entry(whole, rng)
        file.write_bytes(data)

        def run() -> bool:
            store.recomputed.clear()
            found = store.load((0, False))
            if found is None:
                assert store.recomputed[path]
                return False
            assert found.mask is not None
            for one, other in ((found.moments, right.moments), (found.mask, right.mask)):
                torch.testing.assert_close(one, other, rtol=0, atol=0)
            return found.fit == right.fit

        return data, run

    good = accepted("latent", range(200), prepare)
    assert 10 <= good <= 120
