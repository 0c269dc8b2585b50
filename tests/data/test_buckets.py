"""Bucket lists and choices against vectors computed by running sd-scripts' algorithm."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.data.buckets import Size, bucket_sizes, cover, fit, letterbox, size_condition
from coinage.data_config import BucketConfig

ON = BucketConfig(enabled=True)
SIDE = st.integers(16, 6000)


@pytest.mark.parametrize(
    ("resolution", "low", "high", "step", "count", "members"),
    [
        ((512, 512), 256, 1024, 64, 17, [(256, 832), (448, 576), (512, 512), (1024, 256)]),
        (
            (1024, 1024),
            256,
            2048,
            64,
            41,
            [(832, 1216), (896, 1152), (960, 1088), (768, 1344), (512, 2048)],
        ),
        ((1024, 1024), 512, 2048, 64, 33, []),
        ((1024, 1024), 256, 2048, 32, 81, []),
        ((1024, 1024), 256, 1024, 64, 25, []),
        ((768, 768), 256, 1024, 64, 19, []),
        ((768, 768), 256, 1536, 64, 29, []),
        ((512, 512), 320, 768, 64, 9, []),
        ((512, 768), 256, 1024, 64, 19, [(512, 768), (576, 576)]),
        ((512, 512), 128, 1024, 64, 21, []),
        ((500, 500), 256, 1024, 64, 17, [(448, 448)]),
        ((512, 512), 300, 1000, 64, 17, []),
    ],
)
def test_bucket_list(
    resolution: Size, low: int, high: int, step: int, count: int, members: list[Size]
) -> None:
    sizes = bucket_sizes(
        resolution, BucketConfig(enabled=True, min_side=low, max_side=high, step=step)
    )
    assert len(sizes) == count
    assert set(members) <= set(sizes)
    assert sizes == sorted(sizes)


def test_the_list_at_512_entry_by_entry() -> None:
    tall = [
        *((256, h) for h in (832, 896, 960, 1024)),
        (320, 704),
        (320, 768),
        (384, 640),
        (448, 576),
    ]
    assert bucket_sizes((512, 512), ON) == sorted([*tall, (512, 512), *((h, w) for w, h in tall)])


@pytest.mark.parametrize(
    ("image", "bucket", "resized"),
    [
        ((800, 600), (576, 448), (597, 448)),
        ((600, 800), (448, 576), (448, 597)),
        ((1920, 1080), (640, 384), (683, 384)),
        ((768, 512), (640, 384), (640, 427)),
        ((300, 250), (576, 448), (576, 480)),
        ((513, 512), (512, 512), (513, 512)),
        ((576, 448), (576, 448), (576, 448)),
        ((3000, 500), (1024, 256), (1536, 256)),
        ((342, 300), (512, 512), (584, 512)),
        ((300, 342), (448, 576), (505, 576)),
    ],
)
def test_choice_at_512(image: Size, bucket: Size, resized: Size) -> None:
    found = fit(image, (512, 512), ON, bucket_sizes((512, 512), ON))
    assert found is not None
    assert (found.bucket_wh, found.resized_wh) == (bucket, resized)


@pytest.mark.parametrize(
    ("image", "bucket", "resized"),
    [
        ((800, 600), (1152, 896), (1195, 896)),
        ((1920, 1080), (1344, 768), (1365, 768)),
        ((1500, 1000), (1216, 832), (1248, 832)),
        ((1000, 1500), (832, 1216), (832, 1248)),
    ],
)
def test_choice_at_1024(image: Size, bucket: Size, resized: Size) -> None:
    rules = BucketConfig(enabled=True, min_side=256, max_side=2048)
    found = fit(image, (1024, 1024), rules, bucket_sizes((1024, 1024), rules))
    assert found is not None
    assert (found.bucket_wh, found.resized_wh) == (bucket, resized)


@pytest.mark.parametrize(
    ("image", "side", "step", "bucket", "resized"),
    [
        ((800, 600), 512, 64, (512, 384), (512, 384)),
        ((768, 512), 512, 64, (576, 384), (576, 384)),
        ((1920, 1080), 512, 64, (640, 384), (683, 384)),
        ((400, 300), 512, 64, (384, 256), (400, 300)),
        ((700, 375), 512, 64, (576, 320), (597, 320)),
        ((3000, 500), 512, 64, (1152, 192), (1152, 192)),
        ((800, 600), 1024, 64, (768, 576), (800, 600)),
        ((800, 600), 1024, 32, (800, 576), (800, 600)),
    ],
)
def test_choice_without_upscaling(
    image: Size, side: int, step: int, bucket: Size, resized: Size
) -> None:
    found = fit(image, (side, side), BucketConfig(enabled=True, no_upscale=True, step=step), [])
    assert found is not None
    assert (found.bucket_wh, found.resized_wh) == (bucket, resized)


@pytest.mark.parametrize("image", [(50, 50), (100, 63), (20000, 100)])
def test_an_image_below_the_step_has_no_bucket(image: Size) -> None:
    assert fit(image, (512, 512), BucketConfig(enabled=True, no_upscale=True), []) is None


def test_by_log_ratio_tall_and_wide_images_are_treated_alike() -> None:
    sizes = bucket_sizes((512, 512), ON)
    by_ratio = replace(ON, log_ratio=True)
    wide, tall = (fit(size, (512, 512), by_ratio, sizes) for size in ((342, 300), (300, 342)))
    assert wide is not None
    assert tall is not None
    assert wide.bucket_wh == tall.bucket_wh[::-1]


@pytest.mark.parametrize(
    ("image", "bucket", "box"),
    [
        ((800, 600), (576, 448), (0, 8, 576, 440)),
        ((1920, 1080), (640, 384), (0, 12, 640, 372)),
        ((768, 512), (640, 384), (32, 0, 608, 384)),
    ],
)
def test_the_references_crop_is_a_letterbox(
    image: Size, bucket: Size, box: tuple[int, ...]
) -> None:
    assert tuple(map(int, letterbox(image, bucket))) == box


def test_size_conditioning() -> None:
    tall, wide = cover((1000, 1500), (832, 1216)), cover((800, 600), (576, 448))
    found = [
        size_condition((1000, 1500), tall, flipped=flipped, as_reference=True)
        for flipped in (False, True)
    ]
    assert [f.crop_top_left for f in found] == [(0, 10), (0, 11)]
    assert (found[0].original_hw, found[0].target_hw) == ((1500, 1000), (1216, 832))
    exact = [
        size_condition((800, 600), wide, flipped=flipped).crop_top_left for flipped in (False, True)
    ]
    assert exact == [(0, 10), (0, 11)]
    square = cover((512, 512), (512, 512))
    for as_reference in (False, True):
        assert size_condition(
            (512, 512), square, flipped=True, as_reference=as_reference
        ).crop_top_left == (0, 0)


@given(SIDE, SIDE, st.integers(4, 32), st.sampled_from([32, 64]), st.booleans())
def test_buckets_keep_their_invariants(
    width: int, height: int, cells: int, step: int, no_upscale: bool
) -> None:
    side = cells * 64
    rules = BucketConfig(
        enabled=True, min_side=256, max_side=max(1024, side), step=step, no_upscale=no_upscale
    )
    found = fit((width, height), (side, side), rules, bucket_sizes((side, side), rules))
    if found is None:
        assert no_upscale
        return
    (bw, bh), (rw, rh), (x, y) = found.bucket_wh, found.resized_wh, found.crop_xy
    assert bw % step == bh % step == 0
    # Without enlarging, one side is rounded to a whole pixel before the other is made to fit, as in
    # sd-scripts.
    assert bw * bh <= side * side * (1 + (1 / min(bw, bh) if no_upscale else 0))
    assert rw >= bw
    assert rh >= bh
    assert 0 <= x <= rw - bw
    assert 0 <= y <= rh - bh
    assert not no_upscale or (rw <= width and rh <= height)


@given(SIDE, SIDE)
def test_without_buckets_every_image_becomes_the_resolution(width: int, height: int) -> None:
    found = fit((width, height), (96, 64), BucketConfig(), [])
    assert found is not None
    assert found.bucket_wh == (96, 64)
    assert found.resized_wh[0] == 96 or found.resized_wh[1] == 64
