"""Imports go one way, and what must stay light imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "coinage"
RANK = {
    "wording": -2,
    "errors": -1,
    **dict.fromkeys(("config", "seeding", "system"), 0),
    **dict.fromkeys(("diffusion", "optim", "terminal", "text"), 1),
    "models": 2,
    "data": 3,
    **dict.fromkeys(("report", "runs"), 4),
    **dict.fromkeys(("embeddings", "hub"), 5),
    **dict.fromkeys(("generate", "settings"), 6),
    "checks": 7,
    "training": 8,
    "demo": 9,
    "cli": 10,
}
LIGHT = """
checks.advice checks.dataset checks.disk checks.footprint checks.preflight checks.run_length settings.build settings.build_data
settings.build_log cli.cmd_dataset cli.cmd_demo cli.cmd_generate cli.cmd_report settings.flags settings.foreign
settings.idle_flags cli.main settings.pairs cli.parse cli.plan settings.ranges settings.toml_file settings.tidy cli.train
settings.scripts settings.values settings.word_tables cli.words config data.augment data.batches data.buckets data.captions
data.captioned_images data.coverage data.dataset_config data.dataset_file data.dataset_folders data.dataset_keys
data.default_prompts data.examine data.folder data.group_problems data.masks data.stored_sizes
data.headers data.images data.metadata data.scan data.summary demo.run demo.score
embeddings.naming errors hub models.detect models.facts models.hub_files models.sizes models.text_encoder_sizes models.tokenizer_files
optim.class_paths optim.reach optim.table report.charts report.contact_sheet report.figures report.fit
report.comparison report.environment report.measures report.page report.previews report.record runs.choice runs.digests runs.files runs.lock
runs.names runs.states system.files system.full_memory system.text_files system.typed_json terminal.messages terminal.progress
text.clip_tokenizer text.init_words text.placeholder text.prompts text.samplers wording
cli.cmd_convert cli.cmd_inspect cli.cmd_verify cli.console cli.signals data.parallel_reads data.sample
demo.concepts demo.dataset demo.grid demo.language demo.reader demo.world embeddings.pickle_check embeddings.pixels
models.prediction optim.arguments report.curves report.pictures seeding settings.defaults system.launch
training.convergence training.observers training.results training.search
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
    rooms = {
        path.stem
        for path in SRC.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    } - {"__init__"}
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
    families = ("stable_diffusion", "sdxl")
    for name in families:
        others = {f"coinage.models.{other}" for other in families if other != name}
        assert not imported(SRC / "models" / f"{name}.py", top_only=False) & others


def test_light_modules_import_nothing_heavy() -> None:
    imports = "; ".join(f"import coinage.{name}" for name in LIGHT)
    code = f"import sys; {imports}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "accelerate"} & set(done.stdout.split())


def test_every_module_is_short() -> None:
    long = [
        str(p) for p in SRC.rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 500
    ]
    assert not long
