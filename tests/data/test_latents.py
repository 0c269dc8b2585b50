"""Latents: cached and uncached alike, bad numbers retried, on disk found only where right."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from coinage.data.batches import plan_epoch
from coinage.data.buckets import cover
from coinage.data.images import View
from coinage.data.latent_cache import DiskCache
from coinage.data.latents import Latents, Memory, Store, encode
from coinage.data.sample import LATENTS, Sample
from coinage.data.scan import scan
from coinage.data_config import DataConfig
from coinage.demo.run import MODEL
from coinage.errors import CoinageError, ConfigError, Findings
from tests.data.pictures import dataset, picture, scanned, subset
from tests.helpers import config_for


def vae(dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(MODEL / "vae", torch_dtype=dtype).eval()


VAE = vae()


def view(value: float = 0.0) -> View:
    return View(np.full((3, 64, 64), value, dtype=np.float32), None, cover((64, 64), (64, 64)))


def samples(moon_dataset: Path, tmp_path: Path, *more: str) -> list[Sample]:
    return scan(config_for(moon_dataset, tmp_path, *more).data, 0, Findings())


@pytest.mark.parametrize("readers", [0, 2])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_cached_latents_are_those_encoded_on_the_way(
    moon_dataset: Path, tmp_path: Path, readers: int, kind: str
) -> None:
    images = samples(moon_dataset, tmp_path, "--flip_aug")
    plan = plan_epoch(images, [4], seed=0, epoch=0)[:3]
    live = list(Latents(VAE, images, readers).of(plan, 0, 0))
    store: Store = Memory() if kind == "memory" else DiskCache(images, VAE, tmp_path / "cache")
    cached = Latents(VAE, images, readers, store)
    done: list[int] = []
    cached.cache(3, done.append)
    assert done[-1] == 16
    for one, two in zip(live, cached.of(plan, 0, 0), strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.moments.shape == (2, 4, 16, 16)
            torch.testing.assert_close(a.moments, b.moments, rtol=1e-4, atol=1e-4)


def test_the_vae_takes_as_many_images_as_asked(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path, "--cache_latents", "--vae_batch_size=3").data
    model, sizes = vae(), []
    model.encoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    Latents(model, scan(config, 0, Findings()), 0, Memory()).cache(
        config.vae_batch_size, lambda _: None
    )
    assert sizes == [3, 3, 2]


def test_mean_and_deviation_are_the_posteriors() -> None:
    (latent,) = encode(VAE, [view()], ["a.png"])
    with torch.no_grad():
        posterior = VAE.encode(torch.zeros(1, 3, 64, 64)).latent_dist
    torch.testing.assert_close(latent.moments[0], posterior.mean[0])
    torch.testing.assert_close(latent.moments[1], posterior.std[0])


def test_a_mask_is_averaged_to_the_latents() -> None:
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[:, :32] = 1
    mask[0, 40] = 1
    (latent,) = encode(VAE, [View(view().pixels, mask, view().fit)], ["a.png"])
    assert latent.mask is not None
    factor = 64 // latent.mask.shape[0]
    expected = (
        torch.from_numpy(mask).reshape(64 // factor, factor, 64 // factor, factor).mean(dim=(1, 3))
    )
    torch.testing.assert_close(latent.mask, expected)


def overflowing() -> AutoencoderKL:
    """A VAE whose first layer overflows in half precision and not in single."""
    model = vae(torch.float16)
    with torch.no_grad():
        model.encoder.conv_in.weight.mul_(3e4)
        model.encoder.conv_in.bias.mul_(3e4)
    return model


def test_an_overflow_is_retried_in_float32_and_remembered() -> None:
    model = overflowing()
    assert not torch.isfinite(model.encode(torch.ones(1, 3, 64, 64).half()).latent_dist.mean).all()
    (latent,) = encode(model, [view(1.0)], ["a.png"])
    assert torch.isfinite(latent.moments).all()
    assert model.dtype == torch.float32
    seen: list[torch.dtype] = []
    model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    encode(model, [view(1.0)], ["b.png"])
    assert seen == [torch.float32], "no image is tried in half precision again"


def broken() -> AutoencoderKL:
    model = vae()
    with torch.no_grad():
        model.quant_conv.bias.fill_(float("nan"))
    return model


def test_an_image_without_finite_latents_is_named(tmp_path: Path) -> None:
    with pytest.raises(CoinageError, match=r"no finite latents[\s\S]*b\.png"):
        encode(broken(), [view()], ["b.png"])
    picture(tmp_path / "a.png", (64, 64))
    images, _ = scanned(tmp_path, (64, 64))
    with pytest.raises(CoinageError, match=r"no finite latents[\s\S]*a\.png"):
        Latents(broken(), images, 0, DiskCache(images, VAE, None)).cache(1, lambda _: None)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_images_that_fail_are_named_together(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in "abc":
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    images, _ = scanned(tmp_path, (64, 64))
    for name in "ac":
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"{name}.png").read_bytes()[:-900])
    with pytest.raises(ConfigError) as caught:
        Latents(VAE, images, 2, Memory()).cache(2, lambda _: None)
    assert [Path(p.where).name for p in caught.value.problems] == ["a.png", "c.png"]


# On disk


class Counting(AutoencoderKL):
    """A VAE that counts what it encodes."""

    calls = 0

    def encode(self, x, return_dict=True):  # type: ignore[no-untyped-def]
        self.calls += len(x)
        return super().encode(x, return_dict)


def encoded(
    images: list[Sample],
    folder: Path | None = None,
    model: AutoencoderKL | None = None,
    **more: bool,
) -> tuple[int, dict[str, str]]:
    """How many images had to be encoded, and why those on disk were not used."""
    model = model or VAE
    counting = Counting.from_config(model.config)
    counting.load_state_dict(model.state_dict())
    counting.eval()
    latents = Latents(counting, images, 2, DiskCache(images, counting, folder, **more))
    latents.cache(2, lambda _: None)
    return counting.calls, {path.name: why for path, why in latents.recomputed.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a", "b", "c")):
        picture(tmp_path / "images" / f"{name}.png", (64, 64), (i * 80, 0, 200), caption="zibu")
    return tmp_path / "images"


def images_in(folder: Path, **rules: object) -> list[Sample]:
    return scanned(folder, (64, 64), **rules)[0]


def entries(folder: Path) -> list[Path]:
    return sorted((folder / LATENTS).iterdir())


def test_latents_are_found_again(folder: Path) -> None:
    assert encoded(images_in(folder)) == (3, {})
    assert len(entries(folder)) == 3
    assert encoded(images_in(folder)) == (0, {})


def test_a_moved_folder_keeps_its_latents(folder: Path) -> None:
    encoded(images_in(folder))
    moved = folder.rename(folder.with_name("moved"))
    assert encoded(images_in(moved)) == (0, {})


def test_a_touched_image_is_still_the_same(folder: Path) -> None:
    encoded(images_in(folder))
    (folder / "a.png").touch()
    assert encoded(images_in(folder)) == (0, {})


def edit(path: Path) -> None:
    picture(path, (64, 64), "green")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "broken"),
    "empty": (lambda path: path.write_bytes(b""), "broken"),
    "a flipped byte": (
        lambda path: path.write_bytes(path.read_bytes()[:-5] + b"\xff" + path.read_bytes()[-4:]),
        "broken",
    ),
    "no safetensors": (lambda path: path.write_text("latents"), "broken"),
    "another program's": (
        lambda path: shutil.copy(MODEL / "vae" / "diffusion_pytorch_model.safetensors", path),
        "another format",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_entry_is_made_anew_and_told(folder: Path, name: str) -> None:
    encoded(images_in(folder))
    spoil, why = SPOILED[name]
    spoil(entries(folder)[1])
    calls, told = encoded(images_in(folder))
    assert calls == 1
    assert list(told) == ["b.png"]
    assert why in told["b.png"]
    assert encoded(images_in(folder)) == (0, {})


def test_an_edited_image_is_encoded_again_and_told(folder: Path) -> None:
    encoded(images_in(folder))
    edit(folder / "b.png")
    assert encoded(images_in(folder), trust=True) == (0, {}), "trusted unchecked"
    assert encoded(images_in(folder)) == (1, {"b.png": "the image has changed"})


def test_an_entry_of_another_image_is_not_used(folder: Path) -> None:
    encoded(images_in(folder))
    first, second, _ = entries(folder)
    shutil.copy(first, second)
    assert encoded(images_in(folder)) == (1, {"b.png": "the image has changed"})


def test_other_settings_have_entries_of_their_own(folder: Path) -> None:
    encoded(images_in(folder))
    assert encoded(scanned(folder, (32, 32))[0])[0] == 3, "another size"
    assert encoded(images_in(folder, flip=True))[0] == 3, "the mirror images"
    assert encoded(images_in(folder, alpha_mask=True))[0] == 3
    assert encoded(scanned(folder, (32, 32), interpolation="nearest")[0])[0] == 3
    other = vae()
    with torch.no_grad():
        other.encoder.conv_in.bias.add_(0.1)
    assert encoded(images_in(folder), model=other)[0] == 3, "another VAE"
    assert encoded(images_in(folder), model=vae(torch.bfloat16))[0] == 3, "another precision"
    assert encoded(images_in(folder)) == (0, {}), "and nothing was overwritten"


def test_equal_stems_do_not_share_an_entry(folder: Path) -> None:
    picture(folder / "a.jpg", (64, 64), "white")
    assert encoded(images_in(folder))[0] == 4
    assert len(entries(folder)) == 4


@pytest.mark.parametrize("name", ["x" * 240 + ".png", "\u732b" * 80 + ".png"])
def test_long_names_have_entries_too(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name, (64, 64))
    images = images_in(tmp_path)
    assert encoded(images) == (1, {})
    assert encoded(images) == (0, {})


def test_an_image_that_is_gone_has_no_entry(folder: Path) -> None:
    images = images_in(folder)
    encoded(images)
    (folder / "a.png").unlink()
    store = DiskCache(images, VAE, None)
    assert store.load((0, False)) is None
    assert store.recomputed == {folder / "a.png": "the image cannot be read"}


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device of POSIX")
@pytest.mark.parametrize("kind", ["device", "huge"])
def test_a_file_without_an_end_is_not_read(folder: Path, kind: str) -> None:
    images = images_in(folder)
    encoded(images)
    first = entries(folder)[0]
    first.unlink()
    if kind == "device":
        first.symlink_to("/dev/zero")
    else:
        with first.open("wb") as file:
            file.truncate(2**40)
    assert encoded(images) == (1, {"a.png": "the file is broken"})


def test_latents_of_a_turned_image_are_none_of_an_upright_one(folder: Path) -> None:
    """A version that overlooks an orientation keeps what lies on its side; a square image hides it."""
    upright = images_in(folder)
    turned = [replace(sample, rotated=True) for sample in upright]
    encoded(upright)
    assert encoded(turned)[0] == 3
    assert encoded(upright)[0] == 0


def test_a_mask_is_kept_with_its_latents_and_watched(folder: Path, tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "masks" / f"{name}.png", (64, 64), (128, 0, 0))
    images = images_in(folder, mask_dir=tmp_path / "masks")
    encoded(images)
    store = DiskCache(images, VAE, None)
    latent = store.load((0, False))
    assert latent is not None
    assert latent.mask is not None
    assert latent.mask.mean().item() == pytest.approx(128 / 255)
    picture(tmp_path / "masks" / "a.png", (64, 64), (255, 0, 0))
    assert encoded(images)[0] == 1


def test_a_cache_folder_serves_several_image_folders(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other" / "images")
    edit(tmp_path / "other" / "images" / "a.png")
    data = DataConfig(
        datasets=(
            dataset(subset(folder), subset(tmp_path / "other" / "images"), resolution=(64, 64)),
        )
    )
    images = scan(data, 0, Findings())
    assert encoded(images, tmp_path / "cache")[0] == 6
    assert encoded(images, tmp_path / "cache")[0] == 0
    assert not (folder / LATENTS).exists()


def test_a_full_disk_stops_with_one_error_and_leaves_no_half_files(folder: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit that not every system has")
    images, limits = images_in(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            CoinageError, match="cannot keep latents: cannot write the file: File too large"
        ) as caught:
            Latents(VAE, images, 0, DiskCache(images, VAE, None)).cache(1, lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "--cache_dir" in str(caught.value)
    assert list((folder / LATENTS).iterdir()) == []
