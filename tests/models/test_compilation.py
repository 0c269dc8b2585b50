"""The UNet's repeated blocks are compiled for the passes that learn, where there is a compiler."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from packaging.version import Version
from torch import Tensor, nn

from coinage.models.compilation import compile_denoiser, repeated_blocks
from tests.helpers import small_model

# torch's compiler looks at it
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
Graphs = list[torch.fx.GraphModule]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was compiled in another test is not taken again."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def unet() -> UNet2DConditionModel:
    loaded: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
        small_model(), subfolder="unet"
    )
    return loaded.requires_grad_(requires_grad=False)


def predicted(unet: UNet2DConditionModel, batch: int, height: int, width: int) -> Tensor:
    """A prediction, as in a step."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, 4, height, width, generator=generator)
    hidden = torch.randn(batch, 7, unet.config.cross_attention_dim, generator=generator)
    sample: Tensor = unet(latents, torch.full((batch,), 7), hidden.requires_grad_()).sample
    return sample


def counting(graphs: Graphs) -> Callable[[torch.fx.GraphModule, list[Tensor]], object]:
    """A compiler that keeps what it was given, and changes nothing."""

    def compiler(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    return compiler


def compile_counted(unet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    graphs: Graphs = []
    real, backend = torch.compile, counting(graphs)
    monkeypatch.setattr(torch, "compile", lambda f, **_: real(f, backend=backend))
    compile_denoiser(unet, "inductor")
    return graphs


class Blocks(nn.Module):
    """A UNet's repeated blocks without the rest."""

    _repeated_blocks = ("BasicTransformerBlock",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(8, 1, 8, cross_attention_dim=4) for _ in range(3)
        )

    def forward(self, batch: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(batch, length, 8, generator=generator)
        hidden = torch.randn(batch, 7, 4, generator=generator).requires_grad_()
        for block in self.blocks:
            states = block(states, encoder_hidden_states=hidden)
        return states


@pytest.mark.skipif(Version(torch.__version__) < Version("2.8"), reason="that torch adds a graph")
def test_blocks_are_compiled_once_and_then_for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks()
    graphs = compile_counted(blocks, monkeypatch)
    with torch.no_grad():
        due = blocks(2, 16)
    assert not graphs, "a pass that does not learn"
    torch.testing.assert_close(blocks(2, 16), due)
    assert len(graphs) == 2, "the first block's own input needs no gradient"
    blocks(2, 24)
    assert len(graphs) == 4, "for any length"
    blocks(3, 32)
    assert len(graphs) <= 6, "of any number"
    count = len(graphs)
    for batch, length in [(2, 40), (4, 16), (5, 48)]:
        blocks(batch, length)
    assert len(graphs) == count


@pytest.mark.slow
def test_checkpointed_blocks_are_compiled(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet.enable_gradient_checkpointing()
    unet.train()
    graphs = compile_counted(unet, monkeypatch)
    predicted(unet, 1, 8, 8).sum().backward()
    assert graphs


def test_a_model_that_names_no_blocks_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert not repeated_blocks(layers)
    graphs = compile_counted(layers, monkeypatch)
    layers(torch.zeros(1, 2))
    assert len(graphs) == 1


def failing(error: Exception) -> Callable[..., object]:
    """A function that raises."""

    def fails(*_: object, **__: object) -> object:
        raise error

    return fails


def test_without_a_compiler_a_run_goes_on_and_says_so_once(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    due = predicted(unet, 1, 8, 8)
    real, backend = torch.compile, failing(RuntimeError("No working C++ compiler found\nin PATH"))
    monkeypatch.setattr(torch, "compile", lambda f, **_: real(f, backend=backend))
    compile_denoiser(unet, "inductor")
    for _ in range(2):
        assert torch.equal(predicted(unet, 1, 8, 8), due)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "coinage"]
    assert line == "--torch_compile: goes on without the compiler: No working C++ compiler found"


@pytest.mark.slow
# Of torch's own modules, when they are imported
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_without_a_compiler_is_told(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    compile_denoiser(unet, "inductor")
    predicted(unet, 1, 8, 8)
    assert "goes on without the compiler: No working C++ compiler found" in caplog.text


def test_a_system_without_compilation_is_told_too(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", failing(RuntimeError("torch.compile is not supported")))
    compile_denoiser(unet, "inductor")
    predicted(unet, 1, 8, 8)
    assert "goes on without the compiler: torch.compile is not supported" in caplog.text


def test_full_memory_is_no_reason_to_go_on(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, backend = torch.compile, failing(torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(torch, "compile", lambda f, **_: real(f, backend=backend))
    compile_denoiser(unet, "inductor")
    with pytest.raises(RuntimeError, match="out of memory"):
        predicted(unet, 1, 8, 8)


@pytest.mark.slow
def test_the_whole_command_runs_compiled(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from coinage.cli.train import train_command
    from tests.helpers import flags

    compiled = ("--torch_compile", "--dynamo_backend=aot_eager", "--max_train_steps=2")
    assert train_command("sd", flags(moon_dataset, tmp_path, *compiled)) == 0
    assert "--torch_compile" not in capsys.readouterr().err
