"""The table of families agrees with the released models, and nothing else asks which family it is."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coinage.models.facts import FACTS, KNOWN_WIDTHS, FamilyFacts, family_of_vectors
from coinage.models.families import FAMILIES

SRC = Path(__file__).parents[2] / "src" / "coinage"
CONFIGS = SRC / "models" / "configs"
ROOMS_OF_FAMILIES = ("models", "diffusion")
# A table of flags, one of which is --sdxl, and that of programs that read words, by family
TABLES = (
    Path("settings/foreign.py"),
    Path("embeddings/tools/newer_families.py"),
    Path("demo/worlds.py"),
)
NAMES = ("hidden_size", "num_hidden_layers")


def settings(facts: FamilyFacts, part: str) -> dict[str, object]:
    content: dict[str, object] = json.loads(
        (CONFIGS / facts.name / part / "config.json").read_text()
    )
    return content


@pytest.mark.parametrize("facts", FACTS.values(), ids=list(FACTS))
def test_facts_are_those_of_the_released_models(facts: FamilyFacts) -> None:
    for encoder in facts.text_encoders:
        config = settings(facts, encoder.folder)
        names = ("d_model", "num_layers") if encoder.kind == "t5" else NAMES
        assert tuple(config[name] for name in names) == (encoder.width, encoder.layers)
    unet, vae = settings(facts, facts.denoiser), settings(facts, "vae")
    assert unet.get("patch_size", 1) == (1 if facts.packs else facts.patch)
    assert facts.transformer in ("", unet["_class_name"])
    latents = facts.side // facts.latent_scale
    assert unet.get("sample_size", latents) == latents
    assert unet["in_channels"] == facts.input_channels
    assert vae["latent_channels"] == facts.latent_channels
    assert (unet.get("addition_embed_type") == "text_time") == facts.takes_sizes
    assert FAMILIES[facts.name].facts is facts


@pytest.mark.parametrize(
    ("widths", "family"),
    [
        ({"emb_params": 768}, "sd1"),
        ({"clip_l": 768}, "sd1"),
        ({"emb_params": 1024}, "sd2"),
        ({"clip_g": 1280}, "sdxl"),
        ({"clip_l": 768, "clip_g": 1280}, "sdxl"),
        ({"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}, "sd3"),
        ({"clip_l": 768, "t5xxl": 4096}, "flux"),
        ({"t5xxl": 4096}, "flux"),
        ({"clip_g": 1280, "t5xxl": 4096}, None),
        ({"clip_l": 1280, "clip_g": 768}, None),
        ({"emb_params": 768, "clip_l": 768}, None),
        ({"emb_params": 1280}, None),
        ({}, None),
    ],
)
def test_family_of_vectors(widths: dict[str, int], family: str | None) -> None:
    facts = family_of_vectors(widths)
    assert (facts.name if facts else None) == family


def test_known_widths() -> None:
    assert {768, 1024, 1280, 4096} == KNOWN_WIDTHS


def compared(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions that something is compared with, or looked up by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.Dict):
            yield from (key for key in node.keys if key is not None)
        elif isinstance(node, ast.Subscript):
            yield node.slice
        elif isinstance(node, ast.MatchValue):
            yield node.value


def names_a_family(node: ast.expr) -> bool:
    """A family's name as a text, alone or in a tuple, or the name of a row: `SDXL.name`."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(names_a_family, node.elts))
    if isinstance(node, ast.Attribute):
        is_row = isinstance(node.value, ast.Name) and node.value.id.lower() in FACTS
        return is_row and node.attr == "name"
    return isinstance(node, ast.Constant) and node.value in FACTS


def test_nothing_else_asks_which_family_it_is() -> None:
    questions = []
    for path in SRC.rglob("*.py"):
        place = path.relative_to(SRC)
        if place.parts[0] in ROOMS_OF_FAMILIES or place in TABLES:
            continue
        nodes = compared(ast.parse(path.read_text(encoding="utf-8")))
        questions += [f"{place}:{n.lineno}: {ast.unparse(n)}" for n in nodes if names_a_family(n)]
    assert not questions, "ask coinage.models.facts for a fact instead"


@pytest.mark.parametrize(
    "code",
    [
        'family == "sdxl"',
        '"sd1" != family',
        'family in ("sd1", "sd2")',
        "family == SDXL.name",
        '{"sd2": 1}',
        'SIZES["sdxl"]',
        'match family:\n    case "sd1":\n        pass',
    ],
)
def test_such_questions_are_found(code: str) -> None:
    assert any(map(names_a_family, compared(ast.parse(code))))
