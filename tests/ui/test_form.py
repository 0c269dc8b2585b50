"""The form of a word, the settings that it makes, and the way back."""

import dataclasses
import json
import shlex
import tomllib
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from coinage.cli.main import main
from coinage.cli.parse import parse
from coinage.errors import CoinageError, ConfigError
from coinage.settings.flags import FLAGS
from coinage.ui.form import (
    Form,
    form_problems,
    panel_flags,
    read_form,
    run_of,
    shown_flags,
    write_form,
    write_run,
)
from coinage.ui.reopened import reopened
from coinage.ui.site import Site
from coinage.ui.workspace import WordFolder
from tests.helpers import captured
from tests.ui.sites import make_site, picture, upload

READY = Form(token="zibu", model="demo-sd1", length="quick")


def filled(client: TestClient, site: Site, form: Form, *, images: int = 3) -> WordFolder:
    """A word with images and a form."""
    word = client.post("/api/words", json={"token": form.token}).json()["id"]
    for _ in range(images):
        upload(client, word, picture(size=(64, 64)))
    folder = site.workspace.word(word)
    write_form(folder, form)
    return folder


def values_in(folder: WordFolder) -> dict[str, object]:
    return tomllib.loads(folder.run_settings.read_text(encoding="utf-8"))


def described(folder: WordFolder) -> str:
    """What `coinage train` says that it would do."""
    words = ["train", "--config_file", str(folder.run_settings), "--dry_run"]
    done = captured(lambda: main(words))
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("object", "a photo of a zibu"),
        ("style", "in the style of zibu"),
        ("person", "a photo of a zibu"),
    ],
)
def test_a_word_without_captions(kind: str, sentence: str, client: TestClient, site: Site) -> None:
    form = dataclasses.replace(READY, kind=kind, vectors=2)  # type: ignore[arg-type]
    folder = filled(client, site, form)
    assert write_run(folder, form, site.models) == []
    values = values_in(folder)
    assert values["max_train_steps"] == 300
    assert values.get("init_word") == ("person" if kind == "person" else None)
    assert values["output_dir"] == str(folder.output)
    text = described(folder)
    assert sentence in text
    assert "2 vectors" in text
    assert "300 steps" in text


def test_images_without_a_caption_beside_others_get_a_sentence(
    client: TestClient, site: Site
) -> None:
    form = dataclasses.replace(READY, kind="style", length="normal")
    folder = filled(client, site, form)
    first, *rest = client.get(f"/api/words/{folder.id}").json()["images"]
    client.patch(f"/api/words/{folder.id}/images/{first['id']}", json={"caption": "a zibu, red"})
    assert write_run(folder, form, site.models) == []
    values = values_in(folder)
    assert "max_train_steps" not in values
    captions = json.loads((folder.path / "captions.json").read_text())
    assert captions[f"{first['id']}.png"] == {"caption": "a zibu, red"}
    assert captions[f"{rest[0]['id']}.png"] == {"caption": "a painting in the style of zibu"}
    assert "3 images" in described(folder)
    for image in rest:
        client.patch(f"/api/words/{folder.id}/images/{image['id']}", json={"caption": "my zibu"})
    assert write_run(folder, form, site.models) == []
    assert not {"in_json", "use_style_template"} & values_in(folder).keys()
    described(folder)


def test_masks_of_some_images(client: TestClient, site: Site) -> None:
    folder = filled(client, site, READY)
    image = client.get(f"/api/words/{folder.id}").json()["images"][1]["id"]
    client.put(f"/api/words/{folder.id}/images/{image}/mask", content=picture(size=(64, 64)))
    assert write_run(folder, READY, site.models) == []
    assert values_in(folder)["masked_loss"] is True
    assert len(list((folder.path / "run-masks").iterdir())) == 3
    described(folder)
    client.delete(f"/api/words/{folder.id}/images/{image}/mask")
    assert write_run(folder, READY, site.models) == []
    assert "masked_loss" not in values_in(folder)


def test_prompts_are_drawn(client: TestClient, site: Site) -> None:
    prompts = ["a zibu --d 7", "# zibu, 犬"]
    form = dataclasses.replace(READY, prompts=prompts, negative="bad")
    folder = filled(client, site, form)
    assert write_run(folder, form, site.models) == []
    written = json.loads((folder.path / "sample-prompts.json").read_text(encoding="utf-8"))
    same = {"negative_prompt": "bad", "seed": 1, "sample_steps": 20}
    same |= {"width": 64, "height": 64}  # of the built-in model
    assert written == [
        {"prompt": "a zibu --d 7"} | same,
        {"prompt": "--d 7", "compared_with": 1} | same,
        {"prompt": "# zibu, 犬"} | same,
        {"prompt": "#, 犬", "compared_with": 3} | same,
    ]
    assert values_in(folder)["sample_every_n_steps"] == 50
    described(folder)


def test_everything_that_is_missing_is_said_at_once(client: TestClient, site: Site) -> None:
    form = Form(token="zibu", flags={"--learning_rate": "fast", "--lr": "1"})
    folder = filled(client, site, form, images=0)
    texts = [problem.what for problem in write_run(folder, form, site.models)]
    assert len(texts) == 4
    assert not folder.run_settings.exists()
    for part in (
        "no model",
        "no images",
        "--learning_rate fast is not a number",
        "--lr is not a flag",
    ):
        assert any(part in text for text in texts)
    gone = dataclasses.replace(READY, model="0" * 16)
    assert "not there any more" in str(write_run(folder, gone, site.models)[0])


FORMS = st.builds(
    Form,
    token=st.sampled_from(["zibu", "my-word", "犬", "<cat>", "it's", "-x"]),
    model=st.just("demo-sd1"),
    kind=st.sampled_from(["object", "style", "person"]),
    vectors=st.integers(1, 75),
    length=st.sampled_from(["quick", "normal", "long"]),
    prompts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1), max_size=2
    ),
    flags=st.fixed_dictionaries(
        {},
        optional={
            "--learning_rate": st.sampled_from(["0.005", "1e-05"]),
            "--optimizer_args": st.sampled_from(["weight_decay=0.01 betas=0.9,0.99", "'a=b c'"]),
            "--flip_aug": st.just("true"),
            "--lr_scheduler": st.just("cosine"),
            "--caption_prefix": st.sampled_from(["my $HOME `x` \"y\" 'z'", "犬 \\ ^"]),
            "--seed": st.just("7"),
            "--max_train_steps": st.just("77"),
        },
    ),
)


@settings(max_examples=25, deadline=None)
@given(form=FORMS)
def test_settings_open_as_the_form_that_made_them(
    form: Form, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(
        form.length == "normal" or "--max_train_steps" not in form.flags
    )  # which says the length
    site = make_site(tmp_path_factory.mktemp("site") / "work")
    folder = WordFolder(site.workspace.words / "zibu")
    folder.path.mkdir()
    write_form(folder, form)
    run = run_of(folder, form, site.models)
    # What only holds while images have no captions, as here
    for text in (run.toml, run.command):
        found = reopened(text, site.workspace, site.models)
        assert found.form == form
        assert (found.notes, found.images_of) == ([], "zibu")
    argv = shlex.split(run.command.replace("\\\n", " "))[2:]
    assert parse("coinage", argv, "coinage train").given() == run.values.given()
    (folder.path / "run.toml").write_text(run.toml, encoding="utf-8")
    again = parse("coinage", ["--config_file", str(folder.path / "run.toml")], "coinage train")
    assert again.given() == run.values.given()


def opened(site: Site, text: str) -> Form:
    return reopened(text, site.workspace, site.models).form


def test_a_command_of_sd_scripts(site: Site) -> None:
    text = """accelerate launch --num_cpu_threads_per_process 1 train_textual_inversion.py \\
      --pretrained_model_name_or_path=/models/x.safetensors --token_string "mychar" --init_word=girl ^
      --num_vectors_per_token=4 --train_data_dir C:/images --output_dir out `
      --use_object_template --learning_rate 5e-4 --mixed_precision bf16 --optimizer_args a=1 b=2
      --wandb_api_key hidden --max_train_steps 3000"""
    found = reopened(text, site.workspace, site.models)
    assert found.form == Form(
        token="mychar",
        vectors=4,
        length="long",
        flags={
            "--init_word": "girl",
            "--learning_rate": "0.0005",
            "--mixed_precision": "bf16",
            "--optimizer_args": "a=1 b=2",
        },
    )
    notes = " ".join(found.notes)
    assert "choose one" in notes
    assert "--wandb_api_key" in notes
    assert "hidden" not in notes
    assert found.images_of == ""


def test_scores_are_left_to_the_command_line(site: Site) -> None:
    """The page names no encoder by its path, so it keeps the word of the lowest loss."""
    text = "coinage train --token_string zibu --keep_best scores --score_clip clip"
    found = reopened(text, site.workspace, site.models)
    assert found.form.flags == {"--keep_best": "true"}
    assert any("--keep_best scores" in note and "--score_clip" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["names no word"]),
        ("hello world", ["neither a TOML nor a command"]),
        ("coinage train --token_string 'a", ["quotation mark"]),
        (
            "coinage train --learnin_rate 1 --seed x --token_string",
            [
                "unknown flag --learnin_rate",
                "--seed x",
                "--token_string needs one value",
            ],
        ),
        ('learnin_rate = 1\nseed = "x"\ntoken_string = "a"', ["learnin_rate", 'seed = "x"']),
        ('token_string = "a b"\nnum_vectors_per_token = 99', ["has a space", "99 vectors"]),
        ("x = " + "[" * 5000, ["neither"]),
    ],
)
def test_everything_that_is_wrong_with_a_text(text: str, parts: list[str], site: Site) -> None:
    with pytest.raises(ConfigError) as caught:
        reopened(text, site.workspace, site.models)
    texts = [str(problem) for problem in caught.value.problems]
    for part in parts:
        assert any(part in text for text in texts), texts
    assert len(texts) == len(parts)


def test_a_text_opens_no_file(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('["a secret"]')
    toml = f'token_string = "zibu"\nsample_prompts = "{secret}"\nvae = "{secret}"\nweights = "{secret}"'
    found = reopened(toml, site.workspace, site.models)
    assert found.form == Form(token="zibu")
    assert "secret" not in " ".join(found.notes)


def test_the_panel_names_no_file_and_no_secret() -> None:
    names = set(panel_flags())
    by_name = {flag.name: flag for flag in FLAGS}
    assert names < set(by_name)
    assert not any(by_name[name].path or by_name[name].secret for name in names)
    assert {"--learning_rate", "--seed", "--optimizer_type", "--early_stop"} < names
    assert (
        not {"--output_dir", "--resume", "--dataset_config", "--token_string", "--config_file"}
        & names
    )
    rows = {row["name"]: row for row in shown_flags()}
    assert rows["--clip_skip"]["range"] == {"least": 1, "most": 100}
    assert rows["--loss_type"]["choices"] == ["l1", "l2", "huber", "smooth_l1"]
    assert json.dumps(shown_flags())


def test_the_panel_in_japanese() -> None:
    english, japanese = shown_flags(), shown_flags("ja")
    alike = [{**row, "help": ""} for row in english]
    assert alike == [{**row, "help": ""} for row in japanese]
    rows = {row["name"]: row["help"] for row in japanese}
    assert rows["--clip_skip"] == "テキストエンコーダーの後ろから n 番目の層を使う。1 は最後の層。"
    assert "（不要。" in rows["--sdpa"]
    assert not {row["help"] for row in english} & set(rows.values())


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"token": ""}, "empty"),
        ({"token": "a b"}, "space"),
        ({"token": "a" * 65}, "cannot be a word"),
        ({"token": "a\x1b"}, "cannot be a word"),
        ({"vectors": 0}, "0 vectors"),
        ({"prompts": ["a"] * 21}, "more than 20 prompts"),
        ({"negative": "a" * 2001}, "too long"),
        ({"flags": {"--output_dir": "/etc"}}, "can be set here"),
        ({"flags": {"--seed": "-5"}}, "--seed -5"),
        ({"flags": {"--caption_prefix": "\ud800"}}, "UTF-8"),
    ],
)
def test_forms_that_cannot_be_used(changes: dict[str, object], part: str) -> None:
    problems = form_problems(dataclasses.replace(READY, **changes))  # type: ignore[arg-type]
    assert len(problems) == 1
    assert part in problems[0].what


def test_a_damaged_form_says_so(client: TestClient, site: Site, word: str) -> None:
    folder = site.workspace.word(word)
    folder.form.write_text('{"token": 3}')
    answer = client.get(f"/api/words/{word}")
    assert answer.status_code == 400
    assert "damaged" in answer.json()["problems"][0]["what"]
    (card,) = client.get("/api/words").json()
    assert (card["token"], card["id"]) == (word, word)
    assert "cannot be read" in card["reason"]
    folder.form.write_text("{")
    with pytest.raises(CoinageError, match="damaged"):
        read_form(folder)
