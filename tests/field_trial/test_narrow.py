"""Networks of very few channels end no process, whatever kernels the machine has."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from ssl_kd.machine import channels_last

# What a training does with a network, for the smallest: oneDNN's AVX2 kernels wrote past their memory.
SMALLEST = """
import torch
from ssl_kd import backbones
from ssl_kd.machine import channels_last
torch.set_num_threads(1)
for base, channels in ((1, 1), (2, 3), (4, 1), (4, 3), (7, 3)):
    network = backbones.create("resnet8", channels=channels, size=16, base=base).train()
    channels_last(network)
    for bfloat16 in (False, True):
        for batch in (2, 7, 32):
            images = torch.rand(batch, channels, 16, 16).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                said = network(images)
            said.float().square().sum().backward()
print("done")
"""


def test_the_smallest_networks_learn_with_the_kernels_of_an_older_processor():
    own = {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_PERTURB_": "165"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SMALLEST], env={**os.environ, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


@pytest.mark.parametrize(
    ("shape", "stride", "narrow"),
    [((3, 4, 3), 1, True), ((4, 8, 1), 2, True), ((3, 16, 3), 1, False), ((8, 8, 1), 2, False)],
)
def test_narrow_convolutions_stay_contiguous_and_say_the_same(shape, stride, narrow):
    torch.manual_seed(0)
    channels, out, kernel = shape
    network = nn.Sequential(nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2)).double()
    images = torch.rand(2, channels, 8, 8, dtype=torch.float64)
    expected = network(images)
    channels_last(network)
    found = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    weight = network[0].weight
    assert weight.stride() == (channels * kernel**2, kernel**2, kernel, 1) or not narrow
    assert (found.stride() == expected.stride()) == narrow
