"""Names of optimizers and learning-rate schedules, and the classes behind them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coinage.config import OptimConfig
from coinage.errors import Findings, Problem, did_you_mean
from coinage.optim.class_paths import find_module, import_problems


@dataclass(frozen=True, slots=True)
class OptimizerEntry:
    """A row of the table: an optimizer's class, and what the rest of the code needs to know about it.

    Attributes:
        path: module.Class.
        label: its name in hints; "" for one that is not offered.
        defaults: arguments that it gets unless the user gives them.
        asked_for_8bit: the name asks for 8-bit or paged state, and gets plain state.
        turns: it keeps the lengths of the rows, and its rate is an angle in radians.
        finds_own_rate: it finds its own rate, and the learning rate is a factor of that.
        schedule_free: it needs no schedule, and trains at another point than it saves.
        judged_as_adamw: the size of its steps is known, so that rates and movements can be judged.
        starts_at_zero: it can take a first step at rate 0, as warm-ups have.
    """

    path: str
    label: str = ""
    defaults: tuple[tuple[str, object], ...] = ()
    asked_for_8bit: bool = False
    turns: bool = False
    finds_own_rate: bool = False
    schedule_free: bool = False
    judged_as_adamw: bool = False
    starts_at_zero: bool = True

    @property
    def package(self) -> str:
        """The package that must be installed."""
        return self.path.partition(".")[0]

    @property
    def class_name(self) -> str:
        """The name of the class without its module."""
        return self.path.rpartition(".")[2]


NESTEROV = (("momentum", 0.9), ("nesterov", True))


def _adamw(label: str = "", *, asked_for_8bit: bool = False) -> OptimizerEntry:
    return OptimizerEntry(
        "torch.optim.AdamW", label, asked_for_8bit=asked_for_8bit, judged_as_adamw=True
    )


def _dadapt(name: str, label: str = "", *, starts_at_zero: bool = True) -> OptimizerEntry:
    path = f"dadaptation.{name}"
    return OptimizerEntry(path, label, finds_own_rate=True, starts_at_zero=starts_at_zero)


def _schedule_free(name: str) -> OptimizerEntry:
    return OptimizerEntry(f"schedulefree.{name}", name, schedule_free=True)


# Names as sd-scripts takes them, in any letter case. 8-bit or paged state saves nothing here: a
# word has a few thousand numbers, and bitsandbytes itself keeps tensors below 4096 values in 32
# bit.
OPTIMIZERS = {
    "adamw": _adamw("AdamW"),
    "directional": OptimizerEntry(
        "coinage.optim.directional.Directional", "Directional", turns=True
    ),
    "adamw8bit": _adamw("AdamW8bit", asked_for_8bit=True),
    "pagedadamw": _adamw(asked_for_8bit=True),
    "pagedadamw8bit": _adamw(asked_for_8bit=True),
    "pagedadamw32bit": _adamw(asked_for_8bit=True),
    "adafactor": OptimizerEntry("transformers.optimization.Adafactor", "AdaFactor"),
    "prodigy": OptimizerEntry("prodigyopt.Prodigy", "Prodigy", finds_own_rate=True),
    "lion": OptimizerEntry("lion_pytorch.Lion", "Lion"),
    "lion8bit": OptimizerEntry("lion_pytorch.Lion", asked_for_8bit=True),
    "pagedlion8bit": OptimizerEntry("lion_pytorch.Lion", asked_for_8bit=True),
    "sgdnesterov": OptimizerEntry("torch.optim.SGD", "SGDNesterov", NESTEROV),
    "sgdnesterov8bit": OptimizerEntry("torch.optim.SGD", "", NESTEROV, asked_for_8bit=True),
    "dadaptation": _dadapt("experimental.DAdaptAdamPreprint", "DAdaptation"),
    "dadaptadampreprint": _dadapt("experimental.DAdaptAdamPreprint"),
    "dadaptadam": _dadapt("DAdaptAdam", "DAdaptAdam"),
    "dadaptlion": _dadapt("DAdaptLion", "DAdaptLion"),
    "dadaptadagrad": _dadapt("DAdaptAdaGrad"),
    "dadaptadan": _dadapt("DAdaptAdan"),
    "dadaptadanip": _dadapt("experimental.DAdaptAdanIP"),
    "dadaptsgd": _dadapt("DAdaptSGD", starts_at_zero=False),  # divides by what it has moved
    "adamwschedulefree": _schedule_free("AdamWScheduleFree"),
    "radamschedulefree": _schedule_free("RAdamScheduleFree"),
    "sgdschedulefree": _schedule_free("SGDScheduleFree"),
}
OTHER_TORCH_OPTIMIZERS = ("Adam", "SGD", "RMSprop", "NAdam", "RAdam")
# Names that hints offer
OFFERED_OPTIMIZERS = (
    *(entry.label for entry in OPTIMIZERS.values() if entry.label),
    *OTHER_TORCH_OPTIMIZERS,
)
OWN_PACKAGES = ("torch", "transformers", "coinage")  # that are always there
# What the extra `optimizers` brings, also for optimizers that the table does not name
OPTIMIZER_PACKAGES = {
    *(entry.package for entry in OPTIMIZERS.values() if entry.package not in OWN_PACKAGES),
    "bitsandbytes",
    "pytorch_optimizer",
}
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr", "inverse_sqrt", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
TORCH_OPTIMIZERS, TORCH_SCHEDULES = "torch.optim", "torch.optim.lr_scheduler"
# Of torch.optim: the first calls the model itself, the second is for sparse gradients only
UNUSABLE_OPTIMIZERS = ("LBFGS", "SparseAdam")
# Arguments whose range the optimizers themselves do not check: the least value, and whether that is
# too small already.
ARGUMENT_RANGES = {
    "d_coef": (0.0, True),
    "d0": (0.0, True),
    "growth_rate": (1.0, False),
    "slice_p": (1, False),
}


def find_optimizer(name: str) -> OptimizerEntry:
    """Return the row of an optimizer.

    Args:
        name: of the table, in any letter case; `module.Class`; or a class of torch.optim as it is
            spelt. A class that the table has under another name gets the properties of that row.
    """
    if entry := OPTIMIZERS.get(name.lower()):
        return entry
    path = name if "." in name else f"{TORCH_OPTIMIZERS}.{name}"
    for entry in OPTIMIZERS.values():
        if entry.path == path:
            return replace(entry, defaults=(), asked_for_8bit=False)
    adaptive = any(part in path.lower() for part in ("dadapt", "prodigy"))
    schedule_free = path.startswith("schedulefree.")
    return OptimizerEntry(path, finds_own_rate=adaptive, schedule_free=schedule_free)


def optimizer_problems(name: str) -> list[Problem]:
    """Find out whether an optimizer is there, without importing it."""
    path = find_optimizer(name).path
    module, _, kind = path.rpartition(".")
    if module == TORCH_OPTIMIZERS and kind in UNUSABLE_OPTIMIZERS:
        what = f"--optimizer_type {name} is not an optimizer that can train a word"
        return [Problem(what, hint="use AdamW")]
    problems = import_problems("--optimizer_type", name, path, "an optimizer", OPTIMIZER_PACKAGES)
    if module != TORCH_OPTIMIZERS:
        return problems
    hint = did_you_mean(name, OFFERED_OPTIMIZERS)
    hint = hint or f"one of {', '.join(OFFERED_OPTIMIZERS)}, or module.Class"
    return [replace(problem, hint=hint) for problem in problems]


def remark_on_optimizer(config: OptimConfig, findings: Findings) -> None:
    """Note whose code is run; warn when name, rate or schedule are probably a mistake."""
    entry = find_optimizer(config.name)
    name = entry.class_name
    _note_origin("--optimizer_type", config.name, findings)
    _note_origin("--lr_scheduler_type", config.schedule_class, findings)
    if entry.asked_for_8bit:
        findings.note(
            f"{config.name}: the trained rows are a few kilobytes, "
            f"so plain {name} with float32 state is used"
        )
    if entry.finds_own_rate and config.learning_rate <= 0.1:
        findings.warn(
            f"--learning_rate {config.learning_rate:g}: {name} sets its own rate, "
            "and this is a factor of it: use --learning_rate 1.0"
        )
    scheduled = config.schedule != "constant" or config.schedule_arguments
    if entry.schedule_free and scheduled and not config.schedule_class:
        findings.note(
            f"--lr_scheduler {config.schedule} has no effect: a schedule-free optimizer needs none"
        )


def _note_origin(flag: str, path: str, findings: Findings) -> None:
    """Note the file of a class that is not of torch."""
    module = path.rpartition(".")[0]
    if not module or module in (TORCH_OPTIMIZERS, TORCH_SCHEDULES):
        return
    spec = find_module(module)
    if spec:
        findings.note(f"{flag} {path}: its code comes from {spec.origin or 'several folders'}")


def warmup_problems(name: str, warmup: float) -> list[Problem]:
    """Find an optimizer that cannot take a first step at rate 0."""
    if not warmup or find_optimizer(name).starts_at_zero:
        return []
    what = f"--lr_warmup_steps: {name} cannot begin at a rate of 0"
    return [Problem(what, hint="leave out --lr_warmup_steps, or use --optimizer_type DAdaptAdam")]


def norm_problems(name: str, mode: str) -> list[Problem]:
    """Find a `--norm_mode` for an optimizer whose rows must not be changed from outside."""
    if mode == "none" or not find_optimizer(name).schedule_free:
        return []
    hint = "leave it out, or use --optimizer_type AdamW"
    return [Problem(f"--norm_mode {mode} cannot be used with {name}", hint=hint)]


def schedule_problems(
    name: str, warmup: float, class_name: str, relative_step: bool
) -> list[Problem]:
    """Find a schedule that is unknown or does not go with a warm-up.

    Args:
        name: of `--lr_scheduler`.
        warmup: of `--lr_warmup_steps`.
        class_name: of `--lr_scheduler_type`; it wins over the name.
        relative_step: the optimizer is an Adafactor that finds its own rate.
    """
    problems = []
    if class_name:
        if warmup:
            what = "--lr_warmup_steps does nothing with --lr_scheduler_type"
            problems.append(Problem(what, hint="leave one of them out"))
        return problems + class_problems(class_name)
    if name == "adafactor" and not relative_step:
        what = "--lr_scheduler adafactor is for --optimizer_type AdaFactor with relative_step=True"
        problems.append(Problem(what))
    elif name == "reduce_lr_on_plateau":
        problems.append(_plateau(f"--lr_scheduler {name}"))
    elif name not in (*SCHEDULES, "adafactor"):
        hint = did_you_mean(name, SCHEDULES) or f"one of {', '.join(SCHEDULES)}"
        problems.append(Problem(f"--lr_scheduler {name} is not known", hint=hint))
    if warmup and (name in ("constant", "adafactor") or relative_step):
        hint = "use constant_with_warmup" if name == "constant" else "leave out --lr_warmup_steps"
        problems.append(Problem(f"--lr_scheduler {name} has no warm-up", hint=hint))
    return problems


def schedule_path(class_name: str) -> str:
    """Return module.Class for the class that `--lr_scheduler_type` names."""
    return class_name if "." in class_name else f"{TORCH_SCHEDULES}.{class_name}"


def class_problems(class_name: str) -> list[Problem]:
    """Find out whether a schedule's class is there, without importing it."""
    flag = "--lr_scheduler_type"
    if class_name.rpartition(".")[2] == "ReduceLROnPlateau":
        return [_plateau(f"{flag} {class_name}")]
    return import_problems(flag, class_name, schedule_path(class_name), "a learning-rate schedule")


def _plateau(given: str) -> Problem:
    return Problem(
        f"{given} waits for a measurement that training does not make", hint="use cosine"
    )
