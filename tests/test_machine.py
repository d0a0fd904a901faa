"""What the machine offers: compiled networks are the same networks."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ssl_kd import Cohort, Encoder
from ssl_kd.backbones import create
from ssl_kd.errors import InputError
from ssl_kd.machine import MOST_TOKENS, compile_networks, full_attention, full_convolutions, lacks_memory
from tests.conftest import newer_torch


def cohort() -> Cohort:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8))
    return Cohort({"a": Encoder(small, {"z": nn.Linear(8, 4)})})


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # what the compiler says is not ours
@newer_torch
def test_a_compiled_network_is_the_same_network_under_the_same_names():
    plain, ours, batch = cohort(), cohort(), {"views": torch.rand(2, 3, 1, 8, 8)}
    compile_networks(ours)
    counters.clear()
    a, b = plain(batch)["a"]["z"], ours(batch)["a"]["z"]
    assert counters["frames"]["ok"] == 1  # the backbone went through the compiler, and nothing else did
    assert plain.state_dict().keys() == ours.state_dict().keys()
    torch.testing.assert_close(a, b)
    a.square().sum().backward(), b.square().sum().backward()
    for x, y in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_stages_are_read_through_the_compiled_network():
    backbone = create("resnet8", channels=1, size=8)
    ours = Cohort({"a": Encoder(backbone, {}, stages=["stage1"])})
    compile_networks(ours)
    assert backbone.net._compiled_call_impl is not None and backbone._compiled_call_impl is None


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler"):
        compile_networks(cohort())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator to wait for")
def test_a_step_never_waits_for_the_device():
    from ssl_kd.config import compose
    from ssl_kd.engine import step
    from ssl_kd.training import build

    parts = build(compose(["method=dogo", "peers=[resnet8,resnet8]", "batch_size=64", "device=cuda"]))
    batches = parts.batches(0)
    for index in range(6):
        if index == 3:  # caches are warm
            torch.cuda.set_sync_debug_mode("error")
        try:
            step(parts.cohort, parts.terms, next(batches), parts.optimizers, parts.accelerator, index)
        finally:
            if index == 5:
                torch.cuda.set_sync_debug_mode("default")
    parts.accelerator.end_training()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own setting")
def test_freed_memory_is_kept_and_not_mapped_anew():
    """In a process of its own, since the setting stays: page faults of 60 tensors of 64 MiB."""
    code = (
        "import resource, sys, torch\n"
        "from ssl_kd.system.allocator import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(1 << 24); before = faults()\n"
        "for _ in range(60): torch.ones(1 << 24)\n"
        "print(faults() - before)"
    )
    root = str(Path(__file__).parent.parent)
    faults = {
        side: int(subprocess.check_output([sys.executable, "-c", code, side], cwd=root))
        for side in ("keep", "give")
    }
    assert faults["keep"] < faults["give"] / 4  # the heap may still grow by a few at the start


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own setting")
def test_large_pieces_are_given_back_where_that_is_asked_for():
    """In a process of its own: MiB that stay of a tensor of 64 MiB between two others."""
    code = (
        "import torch\n"
        "from ssl_kd.system.allocator import keep_freed_memory, large_pieces_given_back\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20\n"
        "def left():\n"
        "    before, piece = resident(), torch.ones(1 << 24)\n"
        "    above = torch.ones(1 << 24)\n"
        "    del piece\n"
        "    return resident() - before - 64\n"
        "keep_freed_memory()\n"
        "with large_pieces_given_back(): print(left())\n"
        "print(left())"
    )
    inside, outside = subprocess.check_output(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1]
    ).split()
    assert int(inside) < 20 and int(outside) > 44


def test_depthwise_convolutions_compute_in_float32_under_autocast_and_nothing_else_changes():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), torch.nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False))
    x = torch.randn(2, 4, 6, 6)
    before, names, plain = {k: v.clone() for k, v in net.state_dict().items()}, list(net.state_dict()), net(x)
    full_convolutions(net)
    assert list(net.state_dict()) == names and all(torch.equal(net.state_dict()[k], before[k]) for k in names)
    assert torch.equal(net(x), plain) and type(net[0]) is torch.nn.Conv2d
    with torch.autocast("cpu", torch.bfloat16):
        middle = net[0](x)
        found = net[1](middle)
    assert found.dtype == torch.bfloat16  # the next layer gets what it would have got
    exact = torch.nn.functional.conv2d(middle.float(), net[1].weight, None, 2, 1, 1, 8)
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize(("kernel", "edge", "stride"), [(3, 1, 2), (5, 1, 2), (3, 3, 4), (7, 2, 4)])
def test_a_convolution_on_a_map_smaller_than_its_stride_has_its_true_gradient(kernel, edge, stride):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(16, 16, kernel, stride, kernel // 2, bias=False)
    full_convolutions(net)
    x = torch.randn(8, 16, edge, edge)
    exact = torch.nn.Conv2d(16, 16, kernel, stride, kernel // 2, bias=False)
    exact.load_state_dict(net.state_dict())
    exact(x).square().sum().backward()
    for left_over in (1e6, float("inf")) * 4:  # what freed memory holds, and a kernel may take as its own
        for size in torch.randint(100, 100_000, (30,)).tolist():
            torch.full((size,), left_over)
        net.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
        out.float().square().sum().backward()
        assert (net.weight.grad - exact.weight.grad).abs().max() < 0.02 * exact.weight.grad.abs().max()
    with torch.autocast("cpu", torch.bfloat16):  # a map that is not: as it would have been
        large = torch.randn(2, 16, 2 * stride, 2 * stride)
        assert net(large).dtype == torch.bfloat16 and torch.equal(net(large), exact(large))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "the machine has not enough memory: lower batch_size=, "),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "the accelerator has not"),
        (RuntimeError("could not create a primitive"), "the machine has not enough memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "the accelerator has not enough"),
    ],
)
def test_a_want_of_memory_is_known_by_what_the_libraries_say(error, says):
    assert says in lacks_memory(error)


def test_no_other_error_is_taken_for_a_want_of_memory():
    assert not any(map(lacks_memory, (ValueError("x"), RuntimeError("shapes differ"), KeyError("memory"))))


def test_what_torch_says_where_memory_ends_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert "the machine has not enough memory" in lacks_memory(error.value)


@pytest.mark.parametrize("tokens", [16, 64, 1024])
def test_attention_that_learns_computes_in_float32_under_autocast_unless_it_is_long(tokens):
    torch.manual_seed(0)
    net = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, tokens, 8)
    with torch.autocast("cpu", torch.bfloat16):
        before = net(x, x, x, need_weights=False)[0]
    plain = net(x, x, x, need_weights=False)[0]
    wrapped = torch.nn.Sequential(_Itself(net))
    full_attention(wrapped)
    assert torch.equal(wrapped(x), plain)  # without autocast: as it is
    with torch.autocast("cpu", torch.bfloat16):
        found = wrapped(x)
        with torch.no_grad():
            assert torch.equal(wrapped(x), before)
    assert found.dtype == torch.bfloat16
    short = tokens <= MOST_TOKENS
    assert torch.equal(found, before) != short
    if short:
        assert (found - plain).abs().mean() < (before - plain).abs().mean()
    with torch.autocast("cpu", torch.bfloat16):  # and only inside of that module
        assert torch.equal(net(x, x, x, need_weights=False)[0], before)


def test_attention_is_torchs_own_after_an_error_in_the_module():
    own = torch.nn.functional.scaled_dot_product_attention
    wrapped = torch.nn.Sequential(torch.nn.Linear(4, 4))
    full_attention(wrapped)
    with pytest.raises(RuntimeError):
        wrapped(torch.zeros(2, 3))
    assert torch.nn.functional.scaled_dot_product_attention is own


class _Itself(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]
