"""What a network costs: multiply-adds by hand, bytes by hand, and a time that changes nothing."""

import pytest
import torch
from torch import nn

from ssl_kd.backbones import create
from ssl_kd.cost import latency, macs, size
from ssl_kd.errors import InputError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def test_multiply_adds_are_those_of_the_convolution_and_the_linear_layer():
    assert macs(network(), (3, 16, 16)) == 16 * 16 * 3 * 3 * 3 * 8 + 8 * 5


def test_multiply_adds_do_not_depend_on_precision_or_layout():
    expected = macs(network(), (3, 16, 16))
    assert macs(network().bfloat16().to(memory_format=torch.channels_last), (3, 16, 16)) == expected


def test_attention_is_counted():
    vit = create("vit_tiny_patch16_224", channels=3, size=32)
    width, patch, tokens = 192, 4, 65  # patches of 4 pixels in an image of 32, and the class token
    products = 12 * tokens * width**2  # qkv, projection and the two of the mlp
    attention = 2 * tokens**2 * width
    patches = (tokens - 1) * 3 * patch**2 * width
    assert macs(vit, (3, 32, 32)) == 12 * (products + attention) + patches


def test_known_networks_have_the_multiply_adds_of_the_literature():
    assert macs(create("resnet20", channels=3, size=32), (3, 32, 32)) == pytest.approx(41e6, rel=0.02)


def test_bytes_are_four_for_every_floating_number_whatever_its_precision():
    floats = 3 * 3 * 3 * 8 + 4 * 8 + 8 * 5 + 5
    counter = 8  # bytes of batch norm's int64 number of batches
    assert size(network()) == 4 * floats + counter == size(network().bfloat16())
    shared = nn.Linear(4, 4, bias=False)
    assert size(nn.Sequential(shared, shared)) == 4 * 16


def test_measuring_leaves_modes_buffers_gradients_and_threads_as_they_were():
    net = network()
    net[1].eval()
    modes = [part.training for part in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    threads = torch.get_num_threads()
    macs(net, (3, 8, 8))
    assert latency(net, (3, 8, 8), batch=2, threads=threads + 1, seconds=0.0) > 0
    assert [part.training for part in net.modules()] == modes and torch.get_num_threads() == threads
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad and not p.is_inference() for p in net.parameters())


def test_modes_and_threads_are_restored_when_the_network_fails():
    net, threads = network(), torch.get_num_threads()
    with pytest.raises(RuntimeError):
        macs(net, (1, 8, 8))
    with pytest.raises(RuntimeError):
        latency(net, (1, 8, 8), threads=threads + 1)
    assert net.training and torch.get_num_threads() == threads


def test_a_larger_batch_takes_longer():
    net = create("resnet8", channels=3, size=32)
    assert latency(net, (3, 32, 32), batch=32, seconds=0.1) > latency(net, (3, 32, 32), seconds=0.1)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        latency(network(), (3, 8, 8), batch=0)
