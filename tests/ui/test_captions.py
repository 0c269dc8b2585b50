"""Captions: written, changed together, read from files of taggers, counted."""

import json
import time

import pytest
from starlette.testclient import TestClient

from coinage.errors import CoinageError
from coinage.ui.captions import Changes, captions_in, changed_caption, pattern_of
from coinage.ui.site import Site
from tests.ui.sites import picture, upload


def caption(client: TestClient, word: str, image: object, text: str) -> str:
    answer = client.patch(f"/api/words/{word}/images/{image}", json={"caption": text})
    return str(answer.json()["image"]["caption"])


def test_a_caption(client: TestClient, word: str, site: Site) -> None:
    image = upload(client, word, picture())["id"]
    path = site.workspace.word(word).images / f"{image}.txt"
    assert caption(client, word, image, " a zibu,\r\n<script>alert(1)</script> 犬 ") == (
        "a zibu,  <script>alert(1)</script> 犬"
    )
    assert path.read_text(encoding="utf-8").startswith("a zibu,")
    assert caption(client, word, image, " \n ") == ""
    assert not path.exists()
    for wrong in ({"caption": 3}, {"caption": "a", "path": "/etc"}, {}, []):
        answer = client.patch(f"/api/words/{word}/images/{image}", json=wrong)
        assert answer.status_code == 400
    too_long = client.patch(f"/api/words/{word}/images/{image}", json={"caption": "a" * 70_000})
    assert "too long" in too_long.json()["problems"][0]["what"]
    half = client.patch(f"/api/words/{word}/images/{image}", content=b'{"caption": "\\ud800"}')
    assert "UTF-8" in half.json()["problems"][0]["what"]


def test_all_captions_at_once(client: TestClient, word: str) -> None:
    for text in ("a red dog", "a (red) cat", ""):
        caption(client, word, upload(client, word, picture())["id"], text)

    def change(**changes: object) -> tuple[int, list[str]]:
        answer = client.post(f"/api/words/{word}/captions", json=changes).json()
        return answer["changed"], [image["caption"] for image in answer["images"]]

    assert change(find="(red)", replace=r"\1 blue") == (1, ["a red dog", r"a \1 blue cat", ""])
    assert change(find=r"\bred\b|blue", replace="zibu", regex=True)[0] == 2
    assert change(prefix="photo, ", suffix=", end")[1] == [
        "photo, a zibu dog, end",
        r"photo, a \1 zibu cat, end",
        "photo, , end",
    ]
    assert change(prefix="photo, ", suffix=", end")[0] == 0
    answer = client.post(f"/api/words/{word}/captions", json={"find": "(a+)+$", "regex": True})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "a*a*a*b",
        r"(a)\1",
        "(?:a+)+",
        "(?=a)",
        "[a-z]+[a-z]+",
        "a{1,9}{1,9}",
        "(a",
        "a++",
    ],
)
def test_patterns_that_may_take_forever_are_refused(pattern: str) -> None:
    with pytest.raises(CoinageError):
        pattern_of(Changes(find=pattern, regex=True))


@pytest.mark.parametrize(
    "pattern", [r"\d+", "[a-z]*b", "dog|cat", r"\(red\)", "a.b", "^the ", "x{2,3}", "a*b"]
)
def test_patterns_that_may_be_used_are_quick(pattern: str) -> None:
    changes = Changes(find=pattern, regex=True)
    found = pattern_of(changes)
    start = time.process_time()
    changed_caption("a" * 10_000, changes, found)
    assert time.process_time() - start < 5  # a hang would be years
    with pytest.raises(CoinageError, match="too long"):
        changed_caption("a" * 10_001, changes, found)


BOORU = {"id": 1, "tag_string": "1girl long_hair ^_^", "tag_string_general": "1girl"}
FILES = {
    "caption": (b"\n  a photo of zibu \nmore", "dog.caption", {"dog": "a photo of zibu"}),
    "comma list": (b"1girl, solo, long hair\n", "Dog.PNG.txt", {"dog": "1girl, solo, long hair"}),
    "bom": ("a dog".encode("utf-16"), "dog.txt", {"dog": "a dog"}),
    "booru": (json.dumps(BOORU).encode(), "dog.json", {"dog": "1girl, long hair, ^_^"}),
    "by group": (
        json.dumps({"tags": {"artist": ["x"], "general": ["long_hair", "solo"]}}).encode(),
        "dog.json",
        {"dog": "long hair, solo"},
    ),
    "scores": (
        b'{"tags": {"long_hair": 0.9, "solo": 0.5}}',
        "dog.json",
        {"dog": "long hair, solo"},
    ),
    "list": (b'{"tags": [{"name": "long_hair"}, "solo"]}', "dog.json", {"dog": "long hair, solo"}),
    "kohya": (
        json.dumps(
            {"/x/dog.png": {"caption": "a dog", "tags": "red, big"}, "cat": {"tags": "cat"}}
        ).encode(),
        "meta.json",
        {"dog": "a dog,red, big", "cat": "cat"},
    ),
    "lines": (
        b'{"file_name": "train/dog.png", "text": "a dog"}\n\n{"file_name": "cat.png", "text": "a cat"}\n',
        "metadata.jsonl",
        {"dog": "a dog", "cat": "a cat"},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_captions(name: str) -> None:
    data, file, captions = FILES[name]
    assert captions_in(data, file) == captions


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"x", "a.exe"),
        (b"\xff\xfe\x00", "a.txt"),
        (b"{", "a.json"),
        (b"[]", "a.json"),
        (b"{}", "a.json"),
        (b"[" * 100_000, "a.json"),
        (b"[" * 100_000, "a.jsonl"),
        (b'{"a.png": 3}', "a.json"),
        (b"\x80\x04\x95.", "a.json"),
    ],
)
def test_files_that_hold_no_captions(data: bytes, name: str) -> None:
    with pytest.raises(CoinageError):
        captions_in(data, name)


def test_captions_find_their_images_by_name(client: TestClient, word: str) -> None:
    for name in ("Dog.png", "sub/cat.jpg", "bird.webp"):
        upload(client, word, picture(), name)
    data = json.dumps(
        {"dog.png": {"caption": "a dog"}, "cat": {"caption": "a cat"}, "cow": {"caption": "x"}}
    )
    address = f"/api/words/{word}/captions"
    answer = client.put(address, params={"name": "m.json"}, content=data.encode()).json()
    assert (answer["changed"], answer["missing"]) == (2, ["cow"])
    assert [image["caption"] for image in answer["images"]] == ["a dog", "a cat", ""]
    none = client.put(address, params={"name": "cow.txt"}, content=b"a cow")
    assert none.status_code == 400
    assert "none of the images" in none.json()["problems"][0]["what"]


def count(client: TestClient, *texts: str, **more: object) -> tuple[list[int], bool]:
    answer = client.post("/api/tokens", json={"texts": texts, **more}).json()
    assert answer["most"] == 75
    return answer["counts"], answer["exact"]


def test_tokens_of_a_model(client: TestClient) -> None:
    """The demo's vocabulary knows its own words, and spells others."""
    asked = {"model": "demo-sd1", "word": "zibu", "vectors": 4}
    assert count(client, "a photo of zibu", "", "zibu zibu", **asked) == ([7, 0, 8], True)
    assert count(client, "a photo of zibu", model="demo-sd1") == ([7], True)  # spelled: z i b u


def test_tokens_are_estimated_without_a_vocabulary(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.ui.captions.local_tokenizer", lambda _: None)
    assert count(client, "a photo of zibu, 12 犬", word="zibu", vectors=3) == ([10], False)
    assert count(client, "a dog", model="none")[0] == [2]
    for wrong in ({"texts": ["a" * 20_000]}, {"texts": [], "vectors": 0}, {"texts": "a"}):
        assert client.post("/api/tokens", json=wrong).status_code == 400
