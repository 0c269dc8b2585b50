"""Names of optimizers and learning-rate schedules, and what they stand for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coinage.config import OptimConfig
from coinage.errors import Findings, Problem, did_you_mean
from coinage.optim.class_paths import find_module, import_problems


@dataclass(frozen=True, slots=True)
class Entry:
    """An optimizer's class, and arguments that it gets unless the user gives them."""

    path: str  # module.Class
    defaults: tuple[tuple[str, object], ...] = ()
    plainer: bool = False  # asked for with 8-bit or paged state

    @property
    def package(self) -> str:
        """What must be installed."""
        return self.path.partition(".")[0]


NESTEROV = (("momentum", 0.9), ("nesterov", True))
# Names as sd-scripts takes them, in any letter case. 8-bit or paged state saves nothing here: a word has a few thousand
# numbers, and bitsandbytes itself keeps tensors below 4096 values in 32 bit.
OPTIMIZERS = {
    "adamw": Entry("torch.optim.AdamW"),
    **dict.fromkeys(
        ("adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit"),
        Entry("torch.optim.AdamW", plainer=True),
    ),
    "directional": Entry("coinage.optim.directional.Directional"),
    "lion": Entry("lion_pytorch.Lion"),
    **dict.fromkeys(("lion8bit", "pagedlion8bit"), Entry("lion_pytorch.Lion", plainer=True)),
    "sgdnesterov": Entry("torch.optim.SGD", NESTEROV),
    "sgdnesterov8bit": Entry("torch.optim.SGD", NESTEROV, plainer=True),
    **dict.fromkeys(
        ("dadaptation", "dadaptadampreprint"), Entry("dadaptation.experimental.DAdaptAdamPreprint")
    ),
    "dadaptadanip": Entry("dadaptation.experimental.DAdaptAdanIP"),
    **{
        f"dadapt{name.lower()}": Entry(f"dadaptation.DAdapt{name}")
        for name in ("AdaGrad", "Adam", "Adan", "Lion", "SGD")
    },
    "prodigy": Entry("prodigyopt.Prodigy"),
    "adafactor": Entry("transformers.optimization.Adafactor"),
    **{
        f"{name.lower()}schedulefree": Entry(f"schedulefree.{name}ScheduleFree")
        for name in ("RAdam", "AdamW", "SGD")
    },
}
KNOWN = (
    "AdamW", "Directional", "AdamW8bit", "AdaFactor", "Prodigy", "Lion", "SGDNesterov", "DAdaptation", "DAdaptAdam", "DAdaptLion",
    "AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree", "Adam", "SGD", "RMSprop", "NAdam", "RAdam",
)  # fmt: skip
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "cosine_with_min_lr",
    "cosine_warmup_with_min_lr", "inverse_sqrt", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
TORCH = "torch.optim", "torch.optim.lr_scheduler"
FOREIGN = ("LBFGS", "SparseAdam")  # of torch.optim: calls the model itself; sparse gradients only
# Arguments whose range the optimizers themselves do not ask for: least, and whether that is too small already.
ARGUMENTS = {
    "d_coef": (0.0, True),
    "d0": (0.0, True),
    "growth_rate": (1.0, False),
    "slice_p": (1, False),
}


def find_optimizer(name: str) -> Entry:
    """What a name stands for: one of the table, `module.Class`, or a class of torch.optim as it is spelt."""
    return OPTIMIZERS.get(name.lower()) or Entry(name if "." in name else f"torch.optim.{name}")


def optimizer_problems(name: str) -> list[Problem]:
    """Find out whether an optimizer is there, without importing it."""
    path = find_optimizer(name).path
    module, _, kind = path.rpartition(".")
    if module == TORCH[0] and kind in FOREIGN:
        what = f"--optimizer_type {name} is not an optimizer that can train a word"
        return [Problem(what, hint="use AdamW")]
    problems = import_problems("--optimizer_type", name, path, "an optimizer")
    if module != TORCH[0]:
        return problems
    hint = did_you_mean(name, KNOWN) or f"one of {', '.join(KNOWN)}, or module.Class"
    return [replace(problem, hint=hint) for problem in problems]


def remark_on_optimizer(config: OptimConfig, findings: Findings) -> None:
    """Say whose code is run, and what is probably not as the name, the rate or the schedule are meant."""
    entry = find_optimizer(config.name)
    name = entry.path.rpartition(".")[2]
    for flag, path in (
        ("--optimizer_type", config.name),
        ("--lr_scheduler_type", config.schedule_class),
    ):
        module = path.rpartition(".")[0]
        spec = find_module(module) if module and module not in TORCH else None
        if spec:
            findings.note(f"{flag} {path}: its code is run from {spec.origin or 'several folders'}")
    if entry.plainer:
        findings.note(
            f"{config.name}: the trained rows are a few kilobytes, so plain {name} with float32 state is used"
        )
    if ("dadapt" in name.lower() or "prodigy" in name.lower()) and config.learning_rate <= 0.1:
        given = f"--learning_rate {config.learning_rate:g}"
        findings.warn(
            f"{given}: {name} sets its own rate, and this is a factor of it: use --learning_rate 1.0"
        )
    idle = config.schedule != "constant" or config.schedule_arguments
    if entry.package == "schedulefree" and idle and not config.schedule_class:
        findings.note(
            f"--lr_scheduler {config.schedule} has no effect: a schedule-free optimizer needs none"
        )


def warmup_problems(name: str, warmup: float) -> list[Problem]:
    """Whether an optimizer bears a first step at rate 0: D-Adaptation's SGD divides by what it has moved."""
    if not warmup or find_optimizer(name).path != "dadaptation.DAdaptSGD":
        return []
    what = f"--lr_warmup_steps: {name} cannot begin at a rate of 0"
    return [Problem(what, hint="leave out --lr_warmup_steps, or use --optimizer_type DAdaptAdam")]


def norm_problems(name: str, mode: str) -> list[Problem]:
    """Whether the lengths of the rows are an optimizer's own affair: a schedule-free one trains at another point than it saves."""
    if mode == "none" or find_optimizer(name).package != "schedulefree":
        return []
    return [
        Problem(
            f"--norm_mode {mode} is not for {name}",
            hint="leave it out, or use --optimizer_type AdamW",
        )
    ]


def schedule_problems(
    name: str, warmup: float, own_class: str, relative_step: bool
) -> list[Problem]:
    """Whether a schedule is known and goes with a warm-up.

    Args:
        name: of `--lr_scheduler`.
        warmup: of `--lr_warmup_steps`.
        own_class: of `--lr_scheduler_type`; it wins over the name.
        relative_step: whether the optimizer is an Adafactor that finds its own rate.
    """
    problems = []
    if own_class:
        if warmup:
            what = "--lr_warmup_steps does nothing with --lr_scheduler_type"
            problems.append(Problem(what, hint="leave one of them out"))
        return problems + class_problems(own_class)
    if name == "adafactor" and not relative_step:
        problems.append(
            Problem(
                "--lr_scheduler adafactor is for --optimizer_type AdaFactor with relative_step=True"
            )
        )
    elif name == "reduce_lr_on_plateau":
        problems.append(_plateau(f"--lr_scheduler {name}"))
    elif name not in (*SCHEDULES, "adafactor"):
        hint = did_you_mean(name, SCHEDULES) or f"one of {', '.join(SCHEDULES)}"
        problems.append(Problem(f"--lr_scheduler {name} is not known", hint=hint))
    if warmup and (name in ("constant", "adafactor") or relative_step):
        hint = "use constant_with_warmup" if name == "constant" else "leave out --lr_warmup_steps"
        problems.append(Problem(f"--lr_scheduler {name} has no warm-up", hint=hint))
    return problems


def schedule_path(own_class: str) -> str:
    """Return module.Class of what `--lr_scheduler_type` names."""
    return own_class if "." in own_class else f"{TORCH[1]}.{own_class}"


def class_problems(own_class: str) -> list[Problem]:
    """Find out whether a schedule's class is there, without importing it."""
    flag = "--lr_scheduler_type"
    if own_class.rpartition(".")[2] == "ReduceLROnPlateau":
        return [_plateau(f"{flag} {own_class}")]
    return import_problems(flag, own_class, schedule_path(own_class), "a learning-rate schedule")


def _plateau(given: str) -> Problem:
    return Problem(f"{given} waits for a measure that training has none of", hint="use cosine")
