"""Gradient caching: the gradient of the whole batch at the memory of a part."""

import pytest
import torch
from torch import nn

from ssl_kd import Cohort, Each, Encoder, Follow, Mutual, step
from ssl_kd.data.parts import join, split
from ssl_kd.losses import cross_entropy, nt_xent, similarity_kl


def network(norm: type[nn.Module] | None = None) -> nn.Module:
    middle = norm(8) if norm else nn.GroupNorm(2, 8)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), middle, nn.ReLU(), nn.Flatten(), nn.Linear(72, 16))


def cohort(norm: type[nn.Module] | None = None) -> Cohort:
    torch.manual_seed(0)
    heads = lambda: {"z": nn.Linear(16, 6), "logits": nn.Linear(16, 4)}  # noqa: E731
    peers = {name: Encoder(network(norm), heads()) for name in ("a", "b")}
    peers["slow"] = Encoder(network(norm), heads())
    return Cohort(peers, follow={"slow": Follow("a")})


TERMS = [
    Each("nt_xent", nt_xent, ["a", "b"], "z"),
    Mutual("kl", similarity_kl, ["a", "b", "slow"], "z", between="all", weight=0.7),
    Each("ce", cross_entropy, ["a"], ["logits", "batch.label"]),
]


def batch(dtype: torch.dtype) -> dict:
    torch.manual_seed(1)
    return {
        "views": torch.rand(2, 12, 3, 8, 8, dtype=dtype),
        "label": torch.arange(12) % 4,
        "row": torch.arange(12),
        "rows": 12,
    }


def parts(whole: dict, count: int) -> list[dict]:
    """What the recipe makes of the parts of the raw batch, for a recipe that only copies."""
    views = whole["views"].transpose(0, 1)
    raw = split({**whole, "views": views}, count)
    return [{**part, "views": part["views"].transpose(0, 1)} for part in raw]


def after(accelerator, given, dtype=torch.float64, norm=None, **options):
    """The cohort's state, loss and terms after one step of plain gradient descent."""
    ours = cohort(norm).to(dtype)
    optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=0.5)
    result = step(
        ours, TERMS[:1] + TERMS[2:] if norm else TERMS, given, [optimizer], accelerator, 0, **options
    )
    return ours.state_dict(), result


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("dtype, near", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cached_gradients_are_those_of_the_whole_batch(accelerator, count, dtype, near):
    whole, expected = after(accelerator, batch(dtype), dtype)
    cached, result = after(accelerator, parts(batch(dtype), count), dtype, join=join)
    for key, value in whole.items():
        assert (cached[key] - value).abs().max() <= near
    assert float(result.loss) == pytest.approx(float(expected.loss), abs=near)
    assert result.terms.keys() == expected.terms.keys() and len(result.outputs) == count
    for key, (raw, weight) in expected.terms.items():
        assert float(result.terms[key][0]) == pytest.approx(float(raw), abs=near)
        assert result.terms[key][1] == weight


def test_plain_accumulation_is_something_else_for_a_loss_that_compares(accelerator):
    whole, _ = after(accelerator, batch(torch.float64))
    accumulated, _ = after(accelerator, parts(batch(torch.float64), 3))
    assert max(float((accumulated[key] - value).abs().max()) for key, value in whole.items()) > 1e-3


def test_gradients_are_clipped_as_those_of_the_whole_batch(accelerator):
    whole, _ = after(accelerator, batch(torch.float64), clip=0.05)
    cached, _ = after(accelerator, parts(batch(torch.float64), 3), clip=0.05, join=join)
    assert all((cached[key] - value).abs().max() <= 1e-12 for key, value in whole.items())


def test_batch_norm_normalises_each_part_by_itself_and_tracks_it_once(accelerator):
    """The gradient is exactly that of a batch whose parts are normalised apart, as on several GPUs."""
    given = parts(batch(torch.float64), 2)
    ours, _ = after(accelerator, given, norm=nn.BatchNorm2d, join=join)
    slow = cohort(nn.BatchNorm2d).double()
    said = [slow(part) for part in given]
    whole, outputs = join(given, said)
    terms = {k: v for term in TERMS[:1] + TERMS[2:] for k, v in term(outputs, whole, 0).items()}
    sum(raw * weight for raw, weight in terms.values()).backward()
    with torch.no_grad():
        for parameter in slow.parameters():
            if parameter.grad is not None:
                parameter -= 0.5 * parameter.grad
    slow.advance([], 0)
    for key, value in slow.state_dict().items():
        assert (ours[key] - value).abs().max() <= 1e-12, key


def test_a_batch_in_parts_is_the_whole_again():
    whole = batch(torch.float32) | {"note": "same", "step": torch.tensor(3)}
    again, said = join(parts(whole, 3), [{"a": {"z": torch.full((2, 4, 5), float(k))}} for k in range(3)])
    assert torch.equal(again["views"], whole["views"]) and torch.equal(again["label"], whole["label"])
    assert torch.equal(again["row"], whole["row"]) and again["rows"] == 12 and again["note"] == "same"
    assert (
        said["a"]["z"].shape == (2, 12, 5) and said["a"]["z"][0, :, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    )
