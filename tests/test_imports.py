"""Imports go one way, and what must stay light imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "coinage"
RANK = {
    "wording": -2, "errors": -1, "config": 0, "seeding": 0, "words": 0, "launch": 0, "terminal": 0, "text_files": 0,
    "run_files": 0, "content": 2, "run_lock": 1, "memory": 1,
    "files": 1, "progress": 1, "prompts": 2, "config_build": 1, "clip_tokenizer": 1, "model_files": 1,
    "tokens": 1, "diffusion": 1, "importing": 1, "optimizer_table": 2, "reach": 3, "report": 2,
    "tokenizer_files": 2, "embeddings": 2, "data": 2, "config_io": 3, "families": 3, "state_files": 3,
    "hub": 4, "chosen": 4, "text_encoders": 2, "init_words": 2, "run_fit": 3, "output_names": 1,
    "preview_set": 3, "preflight": 4, "contact_sheet": 3, "generate": 4, "vocabulary": 4,
    "model_sizes": 2, "footprint": 3, "disk": 3, "advice": 4,
    "verify": 4, "inspection": 5, "training": 5, "demo": 6, "cli": 7,
}  # fmt: skip
LIGHT = """
errors config config_build config_io prompts preflight files progress words clip_tokenizer model_files tokenizer_files contact_sheet
data.folder data.metadata data.telling
data.examine data.scan data.sources data.headers data.images data.augment data.captions data.coverage data.buckets data.batches
data.summary cli.flags cli.notes cli.parse optimizer_table cli.build cli.build_data cli.cmd_dataset cli.cmd_demo cli.cmd_generate
cli.build_log cli.plan model_sizes footprint disk advice hub reach preview_set cli.kohya cli.main cli.entries cli.several
demo.run demo.score embeddings.naming chosen
importing cli.ranges cli.pairs text_encoders init_words run_fit output_names
report.record report.measures report.charts report.figures report.fit report.previews report.page cli.cmd_report terminal wording text_files
cli.values cli.foreign cli.tidy cli.settings_file
content run_files run_lock state_files
memory
""".split()  # noqa: SIM905 - a list of names reads best so


def imported(path: Path, *, top_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"coinage.{alias.name}" for alias in node.names if node.module == "coinage"}
    return names


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "coinage" and len(parts) > 1 else None


def test_every_room_has_a_rank() -> None:
    rooms = {path.stem for path in SRC.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} - {"__init__"}
    assert rooms == set(RANK)


def test_imports_go_one_way() -> None:
    wrong = []
    for path in SRC.rglob("*.py"):
        own = path.relative_to(SRC).with_suffix("").parts[0]
        for module in imported(path, top_only=False):
            other = room(module)
            if own in RANK and other in RANK and other != own and RANK[other] >= RANK[own]:
                wrong.append(f"{path.relative_to(SRC)} imports {module}")
    assert not wrong


def test_families_do_not_import_each_other() -> None:
    families = {p.stem for p in (SRC / "families").glob("*.py")} - {"__init__", "base", "clip_text", "loading"}
    assert families
    for name in families:
        others = {f"coinage.families.{other}" for other in families - {name}}
        assert not imported(SRC / "families" / f"{name}.py", top_only=False) & others


def test_light_modules_import_nothing_heavy() -> None:
    code = f"import sys; {'; '.join(f'import coinage.{name}' for name in LIGHT)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "accelerate"} & set(done.stdout.split())


def test_every_module_is_short() -> None:
    long = [str(p) for p in SRC.rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 500]
    assert not long
