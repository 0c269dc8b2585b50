"""Imports go one way, and what must stay light imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "coinage"
RANK = {
    "wording": -2,
    **dict.fromkeys(("data_config", "errors", "later_fields"), -1),
    **dict.fromkeys(("config", "seeding", "system"), 0),
    **dict.fromkeys(("diffusion", "optim", "terminal", "text"), 1),
    "models": 2,
    "data": 3,
    **dict.fromkeys(("report", "runs"), 4),
    **dict.fromkeys(("embeddings", "hub"), 5),
    **dict.fromkeys(("generate", "settings"), 6),
    "scoring": 7,
    "checks": 8,
    "training": 9,
    "api": 10,
    "demo": 11,
    **dict.fromkeys(("doctor", "ui"), 12),
    "cli": 13,
    **dict.fromkeys(("train_textual_inversion", "sdxl_train_textual_inversion"), 14),
}
# TrainConfig's methods from_mapping, from_toml and to_toml import it when they are called.
LAZY = ("config", "settings")
LIGHT = """
checks.advice checks.checklist checks.compiler checks.data checks.dataset checks.device checks.disk
checks.flow checks.footprint checks.memory checks.merging checks.model checks.output checks.plan
checks.run_length checks.scoring checks.several_words checks.word cli.cmd_convert cli.cmd_doctor
cli.cmd_dataset cli.cmd_demo cli.cmd_evaluate
cli.cmd_generate cli.cmd_inspect cli.cmd_report cli.cmd_ui cli.cmd_verify cli.console
cli.japanese_help cli.job cli.language
cli.main cli.parse cli.plan cli.sharing cli.signals cli.train cli.words config data.augment data.batches
data.buckets data.captioned_images data.captions data.coverage data.dataset_config data.dataset_file
data.dataset_folders data.dataset_keys data.default_prompts data.examine data.folder
data.group_problems data.headers data.images data.masks data.metadata data.parallel_reads
data.sample data.sampling data.scan data.stored_sizes data.summary demo.concepts demo.dataset demo.grid
demo.language demo.reader demo.run demo.score demo.world doctor.anonymous doctor.examination
doctor.hardware doctor.places doctor.software doctor.trial embeddings.format_names embeddings.naming
embeddings.pickle_check embeddings.pixels errors hub later_fields models.costs models.detect models.facts
models.family_facts models.hub_files models.prediction models.sizes models.text_encoder_sizes
models.tokenizer_files
optim.arguments optim.class_paths optim.reach optim.table report.charts report.comparison
report.contact_sheet report.curves report.environment report.figures report.fit report.measures
report.page report.pictures report.previews report.record report.word_maps runs.choice runs.digests
runs.files runs.lock runs.names runs.sharing runs.states scoring.encoder_files scoring.intervals
scoring.page scoring.prompts scoring.results scoring.scorer seeding settings.build
settings.build_data settings.build_log settings.build_optimizer settings.conflicts
settings.defaults settings.discover settings.flag_values
settings.flags settings.foreign settings.help_texts
settings.idle_flags settings.mapping settings.number_range
settings.pairs settings.ranges settings.scripts settings.tidy settings.toml_file settings.values
settings.word_tables system.accelerator system.files system.full_memory system.launch system.nvidia
system.text_files system.typed_json terminal.messages terminal.progress terminal.wrapping text.clip_tokenizer
text.init_words text.placeholder text.prompts text.samplers text.unigram_tokenizer
text.whole_words training.convergence training.outline
training.results ui.actions ui.app ui.captioner ui.captions ui.drawing ui.ending ui.events ui.files ui.form
ui.image_list ui.images ui.job ui.job_process ui.jobs ui.library ui.models ui.previews ui.processes ui.queue
ui.reopened ui.security ui.server ui.sessions ui.site ui.starting ui.task_process ui.tasks ui.trash
ui.texts ui.web ui.words ui.workspace wording
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
            if (own, other) == LAZY:
                continue
            if own in RANK and other in RANK and other != own and RANK[other] >= RANK[own]:
                wrong.append(f"{path.relative_to(SRC)} imports {module}")
    assert not wrong


def test_families_do_not_import_each_other() -> None:
    families = ("stable_diffusion", "sdxl", "sd3", "flux")
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
