"""A contrast of nothing is refused: before a training begins, and where a loss is called by itself."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from ssl_kd import InputError, losses
from ssl_kd.config import compose
from ssl_kd.losses.needs import LIGHTLY, needs_rows, rows_needed
from ssl_kd.testing import compare_processes
from ssl_kd.training import build, step

from .case import Case, check

ONE = "peers={a: {backbone: {name: resnet8, base: 4}}}"
TWO = "peers={a: {backbone: {name: resnet8, base: 4}}, b: {backbone: {name: resnet8, base: 4}}}"
QUICK = ["data=digits", "data.limit=64", "epochs=1", "tracker=none", "device=cpu", "run=run"]
COMPARED = r'the term "{}" compares images and needs 2 of them at once, and gets 1 .*take a larger batch_size'
PARTS = " or fewer parts by accumulate"
NORM = r'"{}" has a batch norm, {}, that gets {} values? per channel, .*take a larger batch_size'
LINEAR = "peer.heads.projection.layers=1"
NARROW = r'the term "{}" learns nothing from the {} of "a", which have {} and need {}; {}'


def arrays(classes: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8), np.uint8)
    labels = np.arange(16) % classes
    np.savez("a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def train(*words: str) -> list[str]:
    return ["train", *QUICK, *words]


def one(method: str, term: str, peers: str = ONE, *words: str) -> list[Case]:
    """One image a batch, and one image a part."""
    source = "a loss of exactly 0 with a gradient of 0"
    how = {"alone": ["batch_size=1"], "in-parts": ["batch_size=32", "accumulate=32"]}
    return [
        Case(
            f"{method}-{name}",
            source,
            train(f"method={method}", peers, *said, *words),
            COMPARED.format(term) + (PARTS if name == "in-parts" else ""),
        )
        for name, said in how.items()
    ]


CASES = [
    *one("simclr", "nt_xent"),
    *one("simclrv2", "nt_xent"),
    *one("dcl", "dcl"),
    *one("supcon", "sup_con"),
    *one("barlow_twins", "barlow_twins"),
    *one("vicreg", "vicreg"),
    *one("dogo", "nt_xent", TWO),
    *one("exits", "nt_xent", TWO),
    *one("fusion", "nt_xent", TWO),
    *one("ssl_kd", "nt_xent", TWO),
    Case(
        "similarity-alone",
        "a distillation of 1 x 1 matrices",
        train("method=dogo", TWO, "pretext=supervised", "batch_size=1"),
        COMPARED.format("kl"),
    ),
    Case(
        "cached-with-batch-norm",
        "grad_cache shows the loss all images, and batch norm one",
        train("method=simclr", ONE, "batch_size=32", "accumulate=32", "grad_cache=true"),
        NORM.format("a", r"heads\.projection\.1", 2) + ", or fewer parts of it by accumulate",
    ),
    *[
        Case(
            f"{method}-batch-norm",
            "a head's batch norm over the two views of one image",
            train(f"method={method}", ONE, "batch_size=1"),
            NORM.format("a", r"heads\.projection\.1", 2),
        )
        for method in ("byol", "simsiam", "dino")
    ],
    Case(
        "each-view-for-itself",
        "per_view leaves a batch norm one value",
        train("method=byol", ONE, "batch_size=1", "peer.per_view=true"),
        NORM.format("a", r"heads\.projection\.1", 1),
    ),
    Case(
        "advice-without-batch-norm",
        "a head without batch norm may be cached",
        train("method=simclr", ONE, LINEAR, "batch_size=32", "accumulate=32"),
        COMPARED.format("nt_xent") + PARTS + " or grad_cache=true, which shows the loss all parts at once$",
    ),
    Case(
        "one-view-of-each-class",
        "supervised contrast without a pair",
        train("method=supcon", ONE, LINEAR, "recipe.views=1", "batch_size=2", "seed=1", "dry_run=true"),
        "SupCon has nothing to learn from: .* take two views, or a larger batch",
    ),
    Case(
        "lightly",
        "another library's loss is no different",
        train(
            "method=simclr",
            ONE,
            "batch_size=1",
            "terms.nt_xent.loss={_target_: lightly.loss.NTXentLoss}",
            "terms.nt_xent.spread=true",
        ),
        COMPARED.format("nt_xent"),
    ),
    Case(
        "data-too-small", "data.limit under the batch", train("data.limit=8", "batch_size=32"), "larger than"
    ),
    Case(
        "cached-without-batch-norm",
        "what the refusal advises works",
        train(
            "method=simclr", ONE, LINEAR, "batch_size=32", "accumulate=32", "grad_cache=true", "dry_run=true"
        ),
    ),
    *[
        Case(
            f"two-{method}",
            "two images are a contrast",
            train(f"method={method}", ONE, "batch_size=2", "dry_run=true"),
        )
        for method in ("simclr", "barlow_twins", "byol")
    ],
    *[
        Case(
            f"one-class-{method}",
            "a cross-entropy over one class is 0",
            [
                "train",
                *QUICK[2:],
                "data=arrays",
                "data.path=a.npz",
                f"method={method}",
                peers,
                "batch_size=8",
            ],
            NARROW.format("ce", "logits", "1 class", 2, "take data of 2 classes or more, or a method that"),
            lambda: arrays(1),
        )
        for method, peers in (("supervised", ONE), ("dml", TWO), ("ffsd", TWO), ("dcm", TWO))
    ],
    Case(
        "two-classes-without-the-true-one",
        "what is left of two classes without the true one is one",
        ["train", *QUICK[2:], "data=arrays", "data.path=a.npz", "method=dml", TWO, "batch_size=8"]
        + ["terms.kl.loss={_target_: ssl_kd.losses.not_true_kl}", "terms.kl.given=[batch.label]"],
        NARROW.format("kl", "logits", "2 classes", 3, "take data of 3 classes or more"),
        lambda: arrays(2),
    ),
    *[
        Case(
            f"one-value-{method}",
            "a unit row of one value is 1 or -1",
            train(f"method={method}", ONE, *words, "batch_size=8"),
            NARROW.format(term, head, "1 value", 2, f"say a wider one, as peers.a.heads.{head}.out=128"),
        )
        for method, term, head, words in [
            ("simclr", "nt_xent", "projection", ["peer.heads.projection.out=1"]),
            ("dcl", "dcl", "projection", ["peer.heads.projection.out=1"]),
            ("supcon", "sup_con", "projection", ["peer.heads.projection.out=1"]),
            ("byol", "byol", "prediction", [f"peer.heads.{h}.out=1" for h in ("projection", "prediction")]),
        ]
    ],
    *[
        Case(
            f"one-view-{method}",
            "a comparison of views without a second one",
            train(f"method={method}", *peers, "recipe.views=1", "batch_size=8"),
            f'the term "{term}" compares 2 views of each image, and recipe.views is 1; take recipe.views=2$',
        )
        for method, term, peers in [
            *[(m, m, [ONE]) for m in ("dcl", "barlow_twins", "vicreg", "byol", "simsiam", "dino")],
            ("simclr", "nt_xent", [ONE]),
            ("moco", "info_nce", []),
            ("dogo", "nt_xent", [TWO]),
        ]
    ],
    Case(
        "one-image-with-a-label",
        "labels need no other image",
        train("method=supervised", ONE, "batch_size=1", "dry_run=true"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_contrast_of_nothing(case, capsys):
    if case.name == "lightly":
        pytest.importorskip("lightly")
    check(case, capsys)


@pytest.mark.parametrize("name", ["nt_xent", "dcl", "barlow_twins", "vicreg"])
def test_a_loss_called_with_one_image_says_so(name):
    with pytest.raises(ValueError, match="needs 2 of them at once; it got 1"):
        getattr(losses, name)(torch.randn(2, 1, 8))
    assert math.isfinite(getattr(losses, name)(torch.randn(2, 2, 8)))


def test_losses_with_another_argument_say_so_too():
    views = torch.randn(2, 1, 8)
    with pytest.raises(ValueError, match="sup_con .* needs 2"):
        losses.sup_con(views, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="similarity_kl .* needs 2"):
        losses.similarity_kl(views, views)
    with pytest.raises(ValueError, match="no negatives"):
        losses.info_nce(views, views, torch.zeros(0, 8))


def test_one_view_of_each_class_is_refused_and_a_pair_is_not():
    views = torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match="no two of these of one class"):
        losses.sup_con(views, torch.tensor([0, 1, -1]))
    assert losses.sup_con(views, torch.tensor([0, 1, 0])) > 0


def test_a_loss_of_ones_own_says_how_many_it_needs():
    @needs_rows(3)
    def own(views, gather=True):
        return views.mean()

    class Own:
        least_rows = 5
        gather_distributed = True

        def __call__(self, a, b):
            return (a - b).mean()

    assert rows_needed(own) == (3, True) and rows_needed(partial(own, gather=False)) == (3, False)
    assert rows_needed(Own()) == (5, True) and rows_needed(lambda views: views.mean()) == (1, False)
    with pytest.raises(ValueError, match="own compares images and needs 3"):
        own(torch.zeros(2, 2, 4))
    assert own(torch.zeros(2, 3, 4)) == 0


def test_the_losses_of_lightly_that_compare_images_are_there():
    lightly = pytest.importorskip("lightly.loss")
    for name in LIGHTLY:
        if hasattr(lightly, name):
            options = {"loss_dim": 4} if name == "DirectCLRLoss" else {}
            assert rows_needed(getattr(lightly, name)(**options))[0] == 2


def test_of_one_image_a_contrast_has_no_gradient_which_is_why_it_is_refused():
    """The formula itself, without the check."""
    views = torch.randn(2, 1, 8, requires_grad=True)
    loss = losses.nt_xent.__wrapped__(views)
    loss.backward()
    assert loss == 0 and not views.grad.any()


def test_maps_of_one_place_have_no_attention_to_compare():
    student, teacher = torch.rand(2, 4, 3, 1, 1, requires_grad=True), torch.rand(2, 4, 5, 6, 6)
    with pytest.raises(InputError, match="learns nothing from maps of 1 x 1; take a larger data.size"):
        losses.attention_distance(student, teacher)
    with pytest.raises(InputError, match="needs maps of 2 x 2 or more, and got 1 .*larger data.size"):
        losses.diversity(student, teacher)


@pytest.mark.usefixtures("warm_processes")
def test_one_image_in_each_process_is_enough_where_a_loss_gathers_them_and_else_refused():
    compared = {name: [f"method={name}", ONE, "batch_size=4"] for name in ("simclr", "barlow_twins")}
    found = compare_processes(compared, 4, steps=1)
    for name in compared:
        assert max(found[name][4].losses, found[name][4].gradients) <= 1e-9
    alone = [*compared["simclr"], "terms.nt_xent.loss.gather=false"]
    with pytest.raises(InputError, match="needs 2 of them at once, and gets 1 .*processes 4.*gather"):
        compare_processes({"alone": alone}, 4, steps=1)


def test_the_look_at_batch_norm_leaves_no_trace(capsys):
    """Two images: the look runs the networks once, and the first step is that of a run without it."""
    words = [*QUICK, "method=simclr", ONE, "batch_size=2"]
    found = []
    for looked in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not looked:
                patch.setattr("ssl_kd.training.small", lambda config, processes: False)
            parts = build(compose(words))
        buffers = torch.cat([b.flatten().double() for b in parts.own.buffers()])
        result = step(
            parts.cohort, parts.terms, next(parts.batches(0)), parts.optimizers, parts.accelerator, 0
        )
        found.append((buffers, float(result.loss)))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
