"""The word to start from, found by measurement."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.errors import ConfigError
from coinage.report.page import read_report
from coinage.settings.discover import complete
from coinage.training.run import Run
from coinage.training.search.init_word import (
    FUNCTION_WORDS,
    NEUTRAL,
    Search,
    SearchSettings,
    draws_of,
    start_from_the_best,
    turned,
    whole_words,
)
from tests.helpers import TAUGHT, config_for, flags, prepared

# A search that takes a second
SMALL = SearchSettings(
    probes=2,
    pool=6,
    nouns=("shape", "object", "dog"),
    draws=4,
    rounds=((1, 4), (2, 2)),
    steps=2,
    step_draws=2,
)


def auto(dataset: Path, out: Path, *more: str) -> Run:
    return prepared(dataset, out, TAUGHT, "--init_word=auto", "--cache_latents", *more)


def test_the_best_word_is_found_and_the_model_is_as_before(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = auto(moon_dataset, tmp_path)
    rows, encoders = run.rows, run.parts.word_encoders
    assert torch.equal(rows[0][0], run.parts.embeddings[0].table.float().mean(dim=0)), (
        "neutral until a word is found"
    )
    start_from_the_best(run, SMALL)
    found, token = run.config.word.init_word, run.parts.tokenizers[0]
    assert found
    (index,) = token.encode(found, add_special_tokens=False)
    assert torch.equal(run.rows[0][0], run.parts.embeddings[0].table[index])
    assert torch.equal(run.start[0], run.rows[0])
    assert run.rows[0] is rows[0], "what the optimizer trains"
    assert run.parts.word_encoders == encoders
    assert run.parts.text_encoders[0].get_input_embeddings() is run.parts.embeddings[0]
    assert rows[0].grad is None
    learned = [after for *_, after in run.results.init_words]
    assert learned == sorted(learned)
    assert NEUTRAL in [word for word, *_ in run.results.init_words]
    again = auto(moon_dataset, tmp_path)
    start_from_the_best(again, SMALL)
    assert again.results.init_words == run.results.init_words


def test_what_is_measured_is_the_loss_of_the_caption_with_that_word(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = auto(moon_dataset, tmp_path, "--num_vectors_per_token=2")
    search = Search(run)
    starts = [search.rows(text) for text in ("circle", "red square", "")]
    together = search.losses(starts, draws_of(run, 5))
    assert together.shape == (3, 5)
    for start, losses in zip(starts, together, strict=True):
        torch.testing.assert_close(
            search.losses([start], draws_of(run, 5))[0], losses, rtol=1e-4, atol=1e-6
        )
    assert not torch.allclose(together[0], together[1], rtol=1e-3)
    assert search.passes == 30


def test_gradients_are_those_of_the_losses(moon_dataset: Path, tmp_path: Path) -> None:
    run = auto(moon_dataset, tmp_path)
    search, draws = Search(run), draws_of(run, 2)
    start = search.rows("circle")
    (slope,) = search.slopes([start, search.rows("red")], draws)[0]
    step = 1e-2 * slope / slope.norm()
    higher, lower = (
        search.losses([(start[0] + step,), (start[0] - step,)], draws).sum(dim=1)
        * draws[0].moments[0, 0].numel()
    )
    assert float(higher - lower) == pytest.approx(float(2e-2 * slope.norm()), rel=0.05)


def test_draws_spread_over_images_and_timesteps(moon_dataset: Path, tmp_path: Path) -> None:
    run = auto(moon_dataset, tmp_path, "--min_timestep=100", "--max_timestep=900")
    draws = draws_of(run, 16)
    timesteps = sorted(int(draw.timesteps[0]) for draw in draws if draw.timesteps is not None)
    assert timesteps == [125 + 50 * k for k in range(16)]
    assert len({draw.captions[0] for draw in draws}) == 8
    assert len({draw.generators[0].initial_seed() for draw in draws}) == 16


def test_words_are_whole_and_mean_something(moon_dataset: Path, tmp_path: Path) -> None:
    words = whole_words(auto(moon_dataset, tmp_path))
    assert {"circle", "red", "shape"} <= set(words)
    assert not {"the", "with", "a"} & set(words)
    assert "without" in FUNCTION_WORDS


def test_rows_turn_and_keep_their_lengths() -> None:
    rows, gradient = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 1.0], [0.0, 7.0]])
    after = turned(rows, gradient, 0.16)
    torch.testing.assert_close(after.norm(dim=1), torch.tensor([3.0, 2.0]))
    assert after[0, 1] < 0, "down the gradient"
    assert torch.equal(after[1], rows[1]), "a gradient along the row turns nothing"


def test_a_run_tells_and_goes_on_without_another_search(
    moon_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = flags(
        moon_dataset,
        tmp_path,
        "--init_word=auto",
        "--cache_latents",
        "--sample_every_n_steps=0",
        "--save_state",
    )
    assert train_command("sd", given) == 0
    told = capsys.readouterr().err
    with safe_open(tmp_path / "zibu.safetensors", "pt") as file:
        header = file.metadata()
    assert header["ti.init_search"] == "auto"
    assert f"start   {header['ti.init_word']} (best of " in told
    starts = read_report(tmp_path / "zibu-report.html").starts
    assert starts[0][0] == header["ti.init_word"] or starts[0][0] == NEUTRAL
    monkeypatch.setattr(Search, "find", lambda _: pytest.fail("it is searched again"))
    assert train_command("sd", [*given, "--resume=latest", "--max_train_steps=4"]) == 0
    assert read_report(tmp_path / "zibu-report.html").starts == starts
    with safe_open(tmp_path / "zibu.safetensors", "pt") as file:
        assert file.metadata()["ti.init_word"] == header["ti.init_word"]


def test_a_dry_run_says_that_it_would_be_searched(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_command("sd", flags(moon_dataset, tmp_path, "--init_word=auto", "--dry_run")) == 0
    assert "from a start word found automatically" in capsys.readouterr().err


def test_auto_is_not_for_a_file_and_the_word_itself_can_be_had(
    moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        complete(
            parse(
                "sd", flags(moon_dataset, tmp_path, "--init_word=auto", "--weights=word.pt"), "test"
            )
        )
    word = config_for(moon_dataset, tmp_path, "--init_word= auto").word
    assert (word.init_word, word.search) == (" auto", False)


def test_with_several_vectors_two_words_in_a_row_are_tried_too(
    moon_dataset: Path, tmp_path: Path
) -> None:
    search = Search(auto(moon_dataset, tmp_path, "--num_vectors_per_token=2"))
    texts = ["circle", "red", "white"]
    losses = search.losses([search.rows(text) for text in texts], search._draws[:2])
    found, kept = search._with_phrases(texts, losses)
    every = [*texts, *(f"{a} {b}" for a in texts for b in texts if a != b)]
    measured = dict(
        zip(
            every,
            search.losses([search.rows(text) for text in every], search._draws[:2])
            .mean(dim=1)
            .tolist(),
            strict=True,
        )
    )
    assert found == sorted(every, key=lambda text: measured[text])[:3]
    assert kept.mean(dim=1).tolist() == pytest.approx([measured[text] for text in found], rel=1e-4)
    alone = Search(auto(moon_dataset, tmp_path))
    assert alone._with_phrases(texts, losses)[0] == texts, "one vector holds no two words"
