"""A report is its own record, holds nothing that runs, and stays small."""

import random
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from coinage.errors import CoinageError
from coinage.report.comparison import differences, render_comparison
from coinage.report.environment import duration, environment
from coinage.report.fit import MOST_BYTES, fit_pictures, fit_words, pick_evenly
from coinage.report.page import read_report, render_report
from coinage.report.record import Curves, Image, PreviewPrompt, Record, Row, Shot, Tool, from_json
from tests.report import samples

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "' onload='window.broken = 1",
    '<script type="application/json" id="record">{}</script>',
    "<!-- {{ 7 * 7 }} {% raw %} ]]> &amp; &lt;",
    "javascript:window.broken=1",
    "https://example.com/x.png",
    "żółw 猫 🦊 \u202eeman \u2028 \x00 \ud800 end",
]


def fit(record: Record) -> Record:
    return fit_pictures(fit_words(record), MOST_BYTES // 2)


class Seen(HTMLParser):
    """What a browser would make of a page: its elements, and its text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the library's name
        self._raw = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._raw else data


def written(path: Path, page: str) -> Path:
    path.write_text(page, encoding="utf-8")
    return path


def hostile(text: str) -> Record:
    """A record whose every text is the same."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return text
        if isinstance(value, list | tuple):
            return type(value)(map(filled, value))
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value,
                **{
                    entry.name: filled(getattr(value, entry.name))
                    for entry in fields(value)
                    if entry.name != "status"
                },
            )
        return value

    run = samples.failed()
    whole = replace(
        samples.finished(), problem="p", warnings=["w"], vocabulary=run.vocabulary, status="failed"
    )
    return replace(filled(whole), vocabulary={text: (0.1, 0.2, 0.3)}, token=text)


def of(kind: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - a table
    """Anything of a type, as odd as JSON allows."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is float:
        return st.floats()
    if kind is int:
        return st.integers(-(2**40), 2**40)
    if kind in (str, bool):
        return st.text(max_size=8) if kind is str else st.booleans()
    if is_dataclass(kind):
        return st.builds(
            kind,
            **{name: of(hint) for name, hint in get_type_hints(kind).items() if name != "version"},
        )
    if origin is list:
        return st.lists(of(inner[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(of(inner[0]), of(inner[1]), max_size=2)
    if origin is tuple:
        return st.tuples(*map(of, inner))
    if origin is Literal:
        return st.sampled_from(inner)
    assert origin is UnionType
    return st.none() | of(inner[0])


@pytest.mark.parametrize(
    "record",
    [samples.finished(), samples.training(), samples.failed(), Record()],
    ids=["finished", "training", "failed", "empty"],
)
def test_what_is_written_is_read(record: Record, tmp_path: Path) -> None:
    page = render_report(record)
    assert read_report(written(tmp_path / "a-report.html", page)) == record
    assert render_report(read_report(tmp_path / "a-report.html")) == page


@given(of(Record))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_record_makes_a_page(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    page = render_report(record)
    found = read_report(written(tmp_path_factory.mktemp("any") / "a-report.html", page))
    assert found == fit(record)
    assert fit(found) == found
    assert (
        "nan"
        not in page.split("<body>")[1].split("<script")[0].lower().replace(record.token.lower(), "")
        or "nan" in str(record).lower()
    )
    render_comparison([record, found, samples.failed()])


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts_are_inert(text: str, tmp_path: Path) -> None:
    record = hostile(text)
    plain = Seen(render_report(hostile("word")))
    page = render_report(record)
    for seen, told in (
        (Seen(page), plain),
        (Seen(render_comparison([record, record])), Seen(render_comparison([hostile("word")] * 2))),
    ):
        assert [
            tag for tag, _ in seen.elements if tag in ("script", "img", "meta", "style", "link")
        ] == [tag for tag, _ in told.elements if tag in ("script", "img", "meta", "style", "link")]
        for _, attrs in seen.elements:
            assert not [name for name in attrs if name.startswith("on")]
            assert not {"href", "srcset", "action"} & set(attrs)
            assert (attrs.get("src") or "data:image/").startswith("data:image/")
        assert text.encode(errors="replace").decode().replace("\x00", "�")[:9] in seen.text.replace(
            "\x00", "�"
        )
    assert read_report(written(tmp_path / "a-report.html", page)) == fit(record)


def test_only_pictures_are_pictures() -> None:
    image = replace(samples.photos(1, "w")[0], thumbnail="https://example.com/a.png")
    shot = Shot(
        step=1,
        pictures=[
            "data:text/html;base64,PGI+",
            'data:image/png;base64,"onload=',
            "data:image/svg+xml;base64,PHN2Zz4=",
            "data:image/png;base64,AAAA",
        ],
    )
    found = fit(
        Record(images=[image], shots=[shot], prompts=[PreviewPrompt(text=str(i)) for i in range(4)])
    )
    assert found.images[0].thumbnail == ""
    assert found.shots[0].pictures == [None, None, None, "data:image/png;base64,AAAA"]
    shot = replace(shot, heat=shot.pictures)
    found = fit(replace(found, shots=[shot]))
    assert found.shots[0].heat == found.shots[0].pictures


def noise(size: int, seed: int) -> str:
    return "data:image/png;base64," + "".join(random.Random(seed).choices("abcdefgh", k=size))  # noqa: S311


@pytest.mark.parametrize(("count", "size"), [(100, 40_000), (3, 2_400_000), (2, 6_000_000)])
def test_pictures_never_make_a_page_large(count: int, size: int, tmp_path: Path) -> None:
    record = samples.finished()
    url = noise(size, 0)
    record.shots = [
        Shot(step=10 * i, pictures=[url, url[:-100], None], heat=[url[:-200], None])
        for i in range(count)
    ]
    record.images = [replace(record.images[0], thumbnail=url[: size // 4]) for _ in range(count)]
    record.image_count = count
    page = render_report(record)
    assert len(page.encode()) < MOST_BYTES
    found = read_report(written(tmp_path / "a-report.html", page))
    assert "To keep this page small" in Seen(page).text
    assert found.left_out.get("shots", 0) == count - len(found.shots)
    if len(found.shots) > 1:
        assert (found.shots[0].step, found.shots[-1].step) == (0, record.shots[-1].step)
        gaps = [b.step - a.step for a, b in zip(found.shots, found.shots[1:], strict=False)]
        assert max(gaps) - min(gaps) <= 10
    assert render_report(found) == page
    assert len(render_comparison([record] * 5).encode()) < 16_000_000


@pytest.mark.slow
def test_words_and_numbers_never_make_a_page_large() -> None:
    long = "wörter <und> & " * 400
    count = 300
    record = replace(
        samples.finished(),
        warnings=[long] * count,
        command=long * 90,
        usage=[long] * count,
        settings=[(long, [(long, long)] * 100)] * 100,
        prompts=[PreviewPrompt(text=long) for _ in range(200)],
        shots=[Shot(step=i, pictures=[None] * 200) for i in range(count)],
        images=[
            Image(
                name=long,
                thumbnail="",
                caption=[(long, True)] * 9,
                size_wh=(9, 9),
                bucket_wh=(8, 8),
                repeats=1,
                marks=[long] * 9,
            )
        ]
        * count,
        rows=[
            Row(key="k", number=i, first=[(long, 0.5)] * 99, now=[(long, 0.5)] * 99)
            for i in range(150)
        ],
        tools=[Tool(tool=long, loads=True, same=True, difference=0.1, write=long, why=long)] * 200,
        measured=[(i, 1 / 3) for i in range(count)],
        curves=Curves(
            step=list(range(count)),
            loss=[1 / 3] * count,
            norms=[[1 / 7] * 150] * count,
            angles=[[1 / 7] * 150] * count,
        ),
    )
    page = render_report(record)
    assert len(page.encode()) < MOST_BYTES
    assert "warnings" in Seen(page).text.split("To keep this page small")[1]


def test_curves_are_thinned_to_what_they_tell() -> None:
    count = 6000
    losses: list[float | None] = [0.5] * count
    losses[17], losses[18] = 7.0, None
    curves = Curves(
        step=list(range(1, count + 1)),
        loss=losses,
        low=losses,
        high=losses,
        bands=[[None, 0.25]] * count,
        angles=[[float(i)] for i in range(count)],
    )
    found = fit(Record(curves=curves)).curves
    assert len(found.step) == len(found.loss) == len(found.bands) == 600
    assert found.step[-1] == count
    assert found.angles[-1] == [count - 1]
    assert max(value for value in found.high if value) == 7
    assert min(value for value in found.low if value) == 0.5
    assert found.bands[0] == [None, 0.25]


def test_numbers_that_are_none_do_not_stop_a_report() -> None:
    curves = Curves(
        step=[1, 2],
        loss=[float("nan"), 0.5],
        low=[0.1, float("-inf")],
        high=[float("inf"), 1],
        rate=[1e-3, 1e-3],
    )
    record = Record(
        curves=curves,
        measured=[(1, float("nan")), (2, 0.5)],
        seconds=float("inf"),
        vocabulary={"k": (0.1, float("nan"), 1)},
    )
    record.tools = [
        Tool(tool="t", loads=True, same=False, difference=float("inf"), write="w", why="")
    ]
    found = from_json(fit(record).as_json())
    assert found.curves.loss == [None, 0.5]
    assert (found.measured, found.seconds, found.vocabulary, found.tools[0].difference) == (
        [(2, 0.5)],
        0.0,
        {},
        1e30,
    )
    assert "differs" in Seen(render_report(record)).text


def test_pick_evenly() -> None:
    assert pick_evenly(range(5), 9) == [0, 1, 2, 3, 4]
    assert pick_evenly(range(9), 3) == [0, 4, 8]
    assert pick_evenly(range(9), 1) == [8]
    assert pick_evenly(range(9), 0) == []
    assert pick_evenly("", 4) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a report"),
        (b"\x00\xff" * 99, "not a report"),
        (b"<html><script>1</script></html>", "not a report"),
        (b'<script type="application/json" id="record">{"version":1}', "not a report"),
        (
            b'<script type="application/json" id="record">{"version":</script>',
            "no record that can be read",
        ),
        (
            b'<script type="application/json" id="record">{"version":2}</script>',
            "not a record of this version",
        ),
        (
            b'<script type="application/json" id="record">{"version":1,"step":"9"}</script>',
            "'9' is not an integer",
        ),
        (
            b'<script type="application/json" id="record">{"version":1,"step":1'
            + b"0" * 99
            + b"}</script>",
            "is not an integer",
        ),
        (
            b'<script type="application/json" id="record">{"version":1,"seconds":NaN}</script>',
            "is not a number",
        ),
        (
            b'<script type="application/json" id="record">{"version":1,"status":["failed"]}</script>',
            "no record that can be read",
        ),
        (
            b'<script type="application/json" id="record">{"version":1,"shots":[{"step":1}]}</script>',
            "no record that can be read",
        ),
        (
            b'<script type="application/json" id="record">' + b"[" * 100_000 + b"</script>",
            "no record that can be read",
        ),
        (
            b'<script type="application/json" id="record">{"version":1,"name":"\xff"}</script>',
            "no record that can be read",
        ),
    ],
)
def test_what_is_no_report(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a-report.html"
    path.write_bytes(content)
    with pytest.raises(CoinageError, match=told):
        read_report(path)


def test_unreadable_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CoinageError, match="file not found"):
        read_report(tmp_path / "none.html")
    with pytest.raises(CoinageError, match="a folder, not a file"):
        read_report(tmp_path)
    monkeypatch.setattr("coinage.report.page.LARGEST_FILE", 10_000)
    with pytest.raises(CoinageError, match="too large"):
        read_report(written(tmp_path / "a-report.html", render_report(samples.finished())))


def test_fields_of_a_later_program_are_left_aside() -> None:
    text = Record(name="a").as_json()
    assert from_json(text[:-1] + ',"mood":"good"}') == Record(name="a")


def test_the_page_asks_for_nothing_and_renews_itself_only_in_training() -> None:
    for record in (
        samples.training(),
        samples.finished(),
        samples.failed(),
        Record(status="stopped"),
    ):
        metas = [attrs for tag, attrs in Seen(render_report(record)).elements if tag == "meta"]
        policy = next(
            attrs["content"]
            for attrs in metas
            if attrs.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy
        assert "default-src 'none'" in policy
        refresh = [attrs["content"] for attrs in metas if attrs.get("http-equiv") == "refresh"]
        assert refresh == (["15"] if record.status == "training" else [])


def test_sections_stand_only_where_there_is_something() -> None:
    def ids(record: Record) -> set[str | None]:
        return {
            attrs.get("id") for tag, attrs in Seen(render_report(record)).elements if tag == "h2"
        } - {None}

    assert ids(Record()) == set()
    assert ids(samples.finished()) == {
        "next",
        "previews",
        "journey",
        "learning",
        "nearest",
        "tools",
        "images",
        "settings",
    }
    assert ids(samples.failed()) == {"journey", "learning", "nearest", "settings"}
    assert "warnings" in ids(samples.training())


def test_a_failure_is_told_loudly() -> None:
    seen = Seen(render_report(samples.failed()))
    assert "the loss is not finite at step 42" in seen.text
    assert any(attrs.get("role") == "alert" for _, attrs in seen.elements)
    assert not any(
        attrs.get("role") == "alert"
        for _, attrs in Seen(render_report(samples.finished())).elements
    )


def test_every_picture_has_words_and_every_part_a_heading() -> None:
    for page in (render_report(samples.finished()), render_comparison(samples.compared())):
        seen = Seen(page)
        assert all(attrs.get("alt") for tag, attrs in seen.elements if tag == "img")
        assert all(
            attrs.get("aria-label")
            for tag, attrs in seen.elements
            if attrs.get("role") in ("img", "region") or tag == "input"
        )
        labelled = [
            attrs["aria-labelledby"]
            for tag, attrs in seen.elements
            if tag == "section" and "aria-labelledby" in attrs
        ]
        assert set(labelled) <= {attrs.get("id") for _, attrs in seen.elements}
        assert [tag for tag, _ in seen.elements].count("h1") == 1


def test_pairs_stand_side_by_side_with_their_label() -> None:
    seen = Seen(render_report(samples.training()))
    order = [attrs["data-prompt"] for _, attrs in seen.elements if "data-prompt" in attrs]
    assert order == ["0", "1", "2", "3", "4", "5"]
    assert seen.text.count("the same without the word") == 3
    assert Seen(render_report(samples.finished())).text.count("the same without the word") == 1


def test_what_differs() -> None:
    runs = samples.compared()[:2]
    assert differences(runs) == [
        ("--learning_rate", ["5e-4", "1e-4"]),
        ("--lr_scheduler", ["cosine", ""]),
    ]
    assert differences(runs[:1]) == []


def test_compared_words_of_their_own_stand_together() -> None:
    page = Seen(
        render_comparison([samples.finished(), samples.finished(name="other", token="mydog")])
    )
    tiles = [
        (attrs["data-run"], attrs["data-prompt"])
        for _, attrs in page.elements
        if "data-run" in attrs
    ]
    assert tiles[:4] == [("0", "0"), ("1", "0"), ("0", "1"), ("1", "1")]
    assert "step 300 of 300" in page.text
    assert "100 % of each run" in Seen(render_comparison(samples.compared())).text


def test_times() -> None:
    assert [duration(s) for s in (0, 59.4, 61, 3599, 3600, 86_399)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "59 min 59 s",
        "1 h 0 min",
        "23 h 59 min",
    ]


def test_a_page_that_lacks_a_value_is_an_error_and_not_a_gap() -> None:
    for name in ("report.html", "compare.html", "contact_sheet.html"):
        with pytest.raises(UndefinedError):
            environment().get_template(name).render()
