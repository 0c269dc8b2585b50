"""Bucket lists and choices against vectors computed by running the reference's algorithm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.config import BucketConfig
from coinage.data.buckets import Size, bucket_sizes, fit

ON = BucketConfig(enabled=True)
SIDE = st.integers(16, 6000)


@pytest.mark.parametrize(
    ("resolution", "low", "high", "step", "count", "members"),
    [
        ((512, 512), 256, 1024, 64, 17, [(256, 832), (448, 576), (512, 512), (1024, 256)]),
        ((1024, 1024), 256, 2048, 64, 41, [(832, 1216), (896, 1152), (960, 1088), (768, 1344), (512, 2048)]),
        ((1024, 1024), 512, 2048, 64, 33, []),
        ((1024, 1024), 256, 2048, 32, 81, []),
        ((1024, 1024), 256, 1024, 64, 25, []),
        ((768, 768), 256, 1024, 64, 19, []),
        ((512, 768), 256, 1024, 64, 19, [(512, 768), (576, 576)]),
        ((512, 512), 128, 1024, 64, 21, []),
        ((500, 500), 256, 1024, 64, 17, [(448, 448)]),
        ((512, 512), 300, 1000, 64, 17, []),
    ],
)
def test_bucket_list(resolution: Size, low: int, high: int, step: int, count: int, members: list[Size]) -> None:
    sizes = bucket_sizes(resolution, BucketConfig(enabled=True, min_side=low, max_side=high, step=step))
    assert len(sizes) == count
    assert set(members) <= set(sizes)
    assert sizes == sorted(sizes)


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
    assert (found.bucket_wh, found.resized_wh) == (bucket, resized)


@given(SIDE, SIDE, st.integers(4, 32), st.sampled_from([32, 64]))
def test_buckets_keep_their_invariants(width: int, height: int, cells: int, step: int) -> None:
    side = cells * 64
    rules = BucketConfig(enabled=True, min_side=256, max_side=max(1024, side), step=step)
    found = fit((width, height), (side, side), rules, bucket_sizes((side, side), rules))
    (bw, bh), (rw, rh), (x, y) = found.bucket_wh, found.resized_wh, found.crop_xy
    assert bw % step == bh % step == 0
    assert bw * bh <= side * side
    assert rw >= bw
    assert rh >= bh
    assert 0 <= x <= rw - bw
    assert 0 <= y <= rh - bh


@given(SIDE, SIDE)
def test_without_buckets_every_image_becomes_the_resolution(width: int, height: int) -> None:
    found = fit((width, height), (96, 64), BucketConfig(), [])
    assert found.bucket_wh == (96, 64)
    assert found.resized_wh[0] == 96 or found.resized_wh[1] == 64
