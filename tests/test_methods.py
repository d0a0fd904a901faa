"""Every method as its YAML builds it: who learns from whom, and the papers' formulas in whole networks."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from ssl_kd.build import (
    build_batches,
    build_cohort,
    build_optimizers,
    build_terms,
    check_options,
    read_data,
)
from ssl_kd.cohort import Cohort
from ssl_kd.config import compose
from ssl_kd.engine import Result, fit, step
from ssl_kd.errors import InputError
from ssl_kd.groups import choices, config_folder
from ssl_kd.identity import differences
from ssl_kd.methods.ffsd import Consensus, Decoder, Fuse, Spread
from ssl_kd.run import Run
from ssl_kd.schedules import Weight, at
from ssl_kd.terms import Link, Mutual
from tests.conftest import det, unit

SMALL = "{name: resnet8, base: 8}"
ONE = f"peers={{a: {{backbone: {SMALL}}}}}"
TWO = f"peers={{a: {{backbone: {SMALL}}}, b: {{backbone: {SMALL}}}}}"
KD = ["method=kd", f"peers.teacher.backbone={SMALL}", f"peers.student.backbone={SMALL}"]


def described(method: str) -> DictConfig:
    """A method's file, as it is written."""
    config = OmegaConf.load(config_folder() / f"method/{method}.yaml")
    assert isinstance(config, DictConfig)
    return config


FLAGSHIP = described("ssl_kd")
PRETEXT = OmegaConf.load(config_folder() / f"pretext/{FLAGSHIP.pretext}.yaml")
PARTS = list(FLAGSHIP.part)
NEEDS = {"deepest": ["exits"], "shift": ["fusion"]}
PRESETS = [
    [f"method={method}", f"preset={preset}"]
    for method in choices("method")
    for preset in described(method).get("presets", {})
]
CASES = [
    *([f"method={method}"] for method in choices("method")),
    *(["method=ssl_kd", f"parts=[{','.join([*NEEDS.get(part, []), part])}]"] for part in PARTS),
    ["method=ssl_kd", f"parts=[{','.join(PARTS)}]"],
    ["method=ssl_kd", "parts=[teacher]", "~others.teacher.heads", "terms.teacher.targets=embedding"],
]


@dataclass
class Built:
    """What a config describes, on 16 digits."""

    config: DictConfig
    cohort: Cohort
    terms: list
    batches: list[dict]
    optimizers: list[Optimizer]
    rates: list[Weight]

    @property
    def links(self) -> list[Link]:
        return [link for term in self.terms for link in term.links()]

    def scalars(self) -> dict[str, Tensor]:
        """Every term on the first batch, without its weight."""
        outputs = self.cohort(self.batches[0])
        found = [term(outputs, self.batches[0], 0) for term in self.terms]
        return {name: raw for one in found for name, (raw, _) in one.items()}


def built(*words: str, dtype: torch.dtype = torch.float32, batches: int = 1) -> Built:
    config = compose([*words, "data=digits", "batch_size=16"])
    check_options(config)
    data = read_data(config)
    terms = build_terms(config)
    cohort = build_cohort(config, data.train.shape, terms).to(dtype)
    feed = iter(build_batches(config, data, torch.device("cpu"))[0](0))
    views = [next(feed) for _ in range(batches)]
    views = [{k: v.to(dtype) if k.startswith("views") else v for k, v in view.items()} for view in views]
    return Built(config, cohort, terms, views, *build_optimizers(config, cohort))


def small(words: list[str], teacher: Path) -> list[str]:
    """The words, and others that make every network small and give frozen ones their weights."""
    peers = described(words[0].removeprefix("method=")).get("peers")
    more = []
    if isinstance(peers, DictConfig):
        for name, peer in peers.items():
            plain = isinstance(peer, str)
            more += [f"peers.{name}.backbone={SMALL}"] if plain or "_target_" not in peer else []
            given = plain or not OmegaConf.is_missing(peer, "weights")
            more += [] if given else [f"peers.{name}.weights={teacher}"]
            more += [] if plain or "cut" not in peer else [f"peers.{name}.cut=0"]
    else:
        more = [TWO]
    if "method=ssl_kd" in words and any("teacher" in word for word in words):
        more += [f"others.teacher.backbone={SMALL}", f"others.teacher.weights={teacher}"]
    return [*words, *more]


def once(made: Built, accelerator) -> Result:
    """A step late in the training, where every weight has risen; without an optimiser, so gradients stay."""
    return step(made.cohort, made.terms, made.batches[0], [], accelerator, made.config.steps - 1)


def alike(a: Built, b: Built) -> bool:
    """The same names, and the same bits of weights, buffers and gradients."""
    ours, theirs = a.cohort.state_dict(), b.cohort.state_dict()
    learned = [dict(one.cohort.named_parameters()) for one in (a, b)]
    grads = [{k: torch.zeros(()) if p.grad is None else p.grad for k, p in one.items()} for one in learned]
    return all(
        list(x) == list(y) and all(torch.equal(x[key], y[key]) for key in x)
        for x, y in ((ours, theirs), (grads[0], grads[1]))
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A state dict with a classifier and a projection."""
    words = [ONE, "peer.heads.projection={_target_: ssl_kd.heads.mlp, out: 128, hidden: 512}"]
    config = compose(["method=supervised", *words, "data=digits", "seed=7"])
    data = read_data(config)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(build_cohort(config, data.train.shape).peers["a"].state_dict(), path)
    return path


@pytest.mark.parametrize("words", [*CASES, *PRESETS], ids=" ".join)
def test_a_step_gives_a_gradient_to_all_that_learns_and_to_nothing_else(words, teacher, accelerator):
    made = built(*small(words, teacher))
    assert torch.isfinite(once(made, accelerator).loss)
    for name, parameter in made.cohort.named_parameters():
        _, peer, part, *_ = name.split(".")
        if peer in made.cohort.trainable and made.config.peers[peer].get("frozen") != part:
            assert parameter.grad is not None and parameter.grad.any(), name
        else:
            assert parameter.grad is None and not parameter.requires_grad, name


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_term_has_a_gradient_in_its_student_and_in_no_other_network(words, teacher):
    made = built(*small(words, teacher))
    learned = {name: p for name, p in made.cohort.named_parameters() if p.requires_grad}
    scalars = made.scalars()
    assert set(scalars) == {link.name for link in made.links}
    for link in made.links:
        found = torch.autograd.grad(
            scalars[link.name], list(learned.values()), retain_graph=True, allow_unused=True
        )
        reached = {name.split(".")[1] for name, grad in zip(learned, found, strict=True) if grad is not None}
        assert reached == {link.student.split(".")[0]}, link.name


# The flagship


def test_its_part_peers_is_dogo_bit_for_bit(accelerator):
    dogo, ours = (built(*words, TWO) for words in (["method=dogo"], ["method=ssl_kd", "parts=[peers]"]))
    assert {line.split(":")[0] for line in differences(dogo.config, ours.config)} == {"method", "parts"}
    assert [(link.name, link.student, link.teacher) for link in dogo.links] == [
        (link.name, link.student, link.teacher) for link in ours.links
    ]
    assert alike(dogo, ours)
    results = [once(made, accelerator) for made in (dogo, ours)]
    assert torch.equal(results[0].loss, results[1].loss) and results[0].terms == results[1].terms
    assert alike(dogo, ours) and any(p.grad is not None for p in ours.cohort.parameters())


@pytest.mark.parametrize("part", PARTS)
def test_a_part_switched_off_leaves_no_peer_no_head_no_map_and_no_term(part):
    rest = [name for name in PARTS if part not in [name, *NEEDS.get(name, [])]]
    config = compose(small(["method=ssl_kd", f"parts=[{','.join(rest)}]"], Path("teacher.pt")))
    left = [PRETEXT, FLAGSHIP, *(FLAGSHIP.part[name] for name in rest)]

    def names(*path: str) -> set[str]:
        nodes = [OmegaConf.select(node, ".".join(path)) or {} for node in left]
        return {str(name) for node in nodes for name in node}

    assert set(config.terms) == names("terms")
    added = {name.removeprefix("a_").removeprefix("b_") for name in config.peers} - {"a", "b"}
    assert added == names("others")
    for kind in ("heads", "stages"):
        assert set(config.peers.a.get(kind, {})) == names("peer", kind)
        if "leader" in config.peers:
            assert set(config.peers.leader.get(kind, {})) == names("others", "leader", kind)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=ssl_kd", "parts=[nonsense]"], 'has no part "nonsense"; there are: deepest, ema, exits'),
        (["method=ssl_kd", "parts=[fusoin]"], 'has no part "fusoin"; did you mean "fusion"?'),
        (["method=dogo", "parts=[peers]"], "the method dogo has no parts to choose"),
        (["method=ssl_kd", "parts=[teacher]"], "peers.teacher.weights is needed"),
        (["method=ssl_kd", "parts=[deepest]"], 'the term "deepest" reads "a.projection1", but a has'),
        (["method=ssl_kd", "parts=[shift]"], 'nothing before says "b.map3"'),
        (
            ["method=ssl_kd", "separate_views=true"],
            '"fusion" reads what other networks say of the same views',
        ),
        (["method=ffsd", "data.size=4"], "fusion needs maps of at least 2 x 2, and the smallest is 1 x 1"),
        (["method=ssl_kd", "data.size=4"], "fusion needs maps of at least 2 x 2, and the smallest is 1 x 1"),
        (["method=ssl_kd", "others.maps.how=sum"], 'how is "sum", but can be: mean, similarity, maps'),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(words, says):
    with pytest.raises(InputError) as error:
        built(*words, TWO)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["ffsd", "fusion", "ssl_kd"])
def test_fusion_of_a_single_student_is_refused(method):
    with pytest.raises(InputError, match="fusion needs at least two peers to fuse, and there is only a.map3"):
        built(f"method={method}", ONE)


def test_a_teacher_of_other_classes_is_refused_before_the_first_step(tmp_path):
    made = built("method=supervised", ONE)
    made.cohort.peers["a"].heads["logits"] = torch.nn.Linear(32, 7)
    torch.save(made.cohort.peers["a"].state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        InputError, match="another network; they differ in .heads.logits.weight., .7, 32. there"
    ):
        built("method=kd", f"peers.teacher.backbone={SMALL}", f"peers.teacher.weights={tmp_path}/a.pt")


def test_a_frozen_teacher_whose_weights_have_no_projection_is_refused(tmp_path):
    made = built("method=supervised", ONE)
    torch.save(made.cohort.peers["a"].state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match='has no head "projection", and teacher is frozen'):
        built(
            "method=ssl_kd", "parts=[teacher]", TWO, f"others.teacher.backbone={SMALL}",
            f"others.teacher.weights={tmp_path}/a.pt",
        )  # fmt: skip


def similarity(z: Tensor) -> Tensor:
    return unit(z[0]) @ unit(z[1]).T


def rows_kl(p: Tensor, logits: Tensor) -> Tensor:
    """KL of distributions p (B, K) and softmax(logits), mean over rows."""
    return (p * (p.log() - logits.log_softmax(1))).sum(1).mean()


def test_the_fused_head_learns_the_row_softmax_of_the_mean_of_the_peers_similarities():
    third = f"peers={{a: {{backbone: {SMALL}}}, b: {{backbone: {SMALL}}}, c: {{backbone: wrn-10-1}}}}"
    made = built("method=ssl_kd", "parts=[fusion]", third, dtype=torch.float64)
    made.cohort.returns = None
    said = made.cohort(made.batches[0])
    mean = torch.stack([similarity(said[name]["projection"]) for name in "abc"]).mean(0)
    found = next(term for term in made.terms if term.name == "kl_fusion")(said, made.batches[0], 0)
    slow = rows_kl((mean / 0.1).softmax(1), similarity(said["fusion"]["projection"]) / 0.1)
    assert found["kl_fusion"][0].item() == pytest.approx(slow.item(), rel=1e-10)


def test_a_consensus_has_the_mean_of_the_cosines_whatever_the_widths_and_lengths():
    z = [(i + 1) * det((2, 6, 8 * (i + 1)), 0.3 + 0.2 * i, 0.1) for i in range(3)]
    seen = {name: {"z": value} for name, value in zip("abc", z, strict=True)}
    said = Consensus(["a.z", "b.z", "c.z"], how="similarity")({}, seen)["said"]
    assert said.shape == (2, 6, 48)
    assert torch.allclose(similarity(said), torch.stack([similarity(x) for x in z]).mean(0), atol=1e-12)


# Supervised, and distillation from a teacher


def test_supervised_training_is_dml_with_one_peer_bit_for_bit(accelerator):
    runs = [built(f"method={method}", ONE, batches=2) for method in ("supervised", "dml")]
    for made in runs:
        assert [link.name for link in made.links] == ["ce/a"]
        fit(made.cohort, made.terms, lambda k, made=made: iter(made.batches[k:]), made.optimizers, made.rates,
            accelerator, steps=2)  # fmt: skip
        once(made, accelerator)
    assert alike(*runs)
    assert [type(optimizer) for optimizer in runs[0].optimizers] == [SGD]


def finished(folder: Path) -> Built:
    """A run folder of supervised training, without the training."""
    made = built("method=supervised", ONE, "seed=5", f"run={folder}")
    with torch.no_grad():  # an untrained network says much the same of all images
        made.cohort.peers["a"].heads["logits"].weight.mul_(20)
    run = Run(folder)
    run.start(made.config)
    run.save(made.cohort, [], made.config.steps)
    return made


def test_a_student_learns_from_a_teacher_that_is_a_finished_run(tmp_path, accelerator):
    theirs = finished(tmp_path / "run").cohort.peers["a"].state_dict()
    made = built(*KD, f"peers.teacher.weights={tmp_path}/run", dtype=torch.float64)
    assert made.cohort.frozen == {"teacher"} and not made.cohort.peers["teacher"].training
    labels = made.batches[0]["label"]
    said = made.cohort(made.batches[0])
    s, t = (said[name]["logits"][0].detach() for name in ("student", "teacher"))
    distilled = 25 * rows_kl((t / 5).softmax(1), s / 5)
    result = step(made.cohort, made.terms, made.batches[0], made.optimizers, accelerator, 0)
    assert result.loss.item() == pytest.approx((0.9 * F.cross_entropy(s, labels) + 0.1 * distilled).item())
    now = made.cohort.peers["teacher"].state_dict()
    assert all(torch.equal(value.to(now[key].dtype), now[key]) for key, value in theirs.items())


@pytest.mark.parametrize(
    ("words", "formula"),
    [
        (["preset=full"], lambda s, t: 400 * rows_kl((t / 20).softmax(1), s / 20)),
        (["preset=mse"], lambda s, t: (s - t).square().mean()),
        (["preset=mse", "terms.kl.loss.reduction=sum"], lambda s, t: (s - t).square().sum(1).mean()),
        (
            ["~terms.ce", "terms.kl.loss.temperature=inf", "terms.kl.weight=1.0"],
            lambda s, t: ((s - t).square().sum(1) / 20 - (s - t).sum(1).square() / 200).mean(),
        ),
    ],
    ids=["full", "mse", "mse of the paper", "infinite temperature"],
)
def test_distillation_without_labels_is_the_teachers_formula_alone(words, formula, tmp_path, accelerator):
    finished(tmp_path / "run")
    made = built(*KD, f"peers.teacher.weights={tmp_path}/run", *words, dtype=torch.float64)
    assert [link.name for link in made.links] == ["kl/student"]
    said = made.cohort(made.batches[0])
    s, t = (said[name]["logits"][0].detach() for name in ("student", "teacher"))
    assert once(made, accelerator).loss.item() == pytest.approx(formula(s, t).item(), rel=1e-10)


# DCM

HEADS = ["logits1", "logits2", "logits"]


def connections(*words: str) -> list[Link]:
    term = next(term for term in build_terms(compose(["method=dcm", *words])) if term.name == "kl")
    assert isinstance(term, Mutual)
    return term.links()


def test_dcm_has_six_cross_entropies_and_eighteen_kls_and_none_inside_a_network():
    links = [link for term in build_terms(compose(["method=dcm", TWO])) for link in term.links()]
    assert {link.name for link in links} == {
        "ce/a", "ce/b", "ce1/a", "ce1/b", "ce2/a", "ce2/b",
        "kl/a.logits1<-b.logits1", "kl/a.logits1<-b.logits2", "kl/a.logits1<-b.logits",
        "kl/a.logits2<-b.logits1", "kl/a.logits2<-b.logits2", "kl/a.logits2<-b.logits",
        "kl/a.logits<-b.logits1", "kl/a.logits<-b.logits2", "kl/a.logits<-b.logits",
        "kl/b.logits1<-a.logits1", "kl/b.logits1<-a.logits2", "kl/b.logits1<-a.logits",
        "kl/b.logits2<-a.logits1", "kl/b.logits2<-a.logits2", "kl/b.logits2<-a.logits",
        "kl/b.logits<-a.logits1", "kl/b.logits<-a.logits2", "kl/b.logits<-a.logits",
    }  # fmt: skip
    assert len(links) == 24 and all(at(link.weight, 0) * link.share == 1 for link in links)


@pytest.mark.parametrize(("heads", "count"), [("same", 6), ("cross", 12), ("dense", 18)])
def test_the_connection_map_of_dcm_is_an_option(heads, count):
    links = connections(TWO, f"terms.kl.heads={heads}")
    same = [link for link in links if link.student.split(".")[1] == link.teacher.split(".")[1]]
    assert len(links) == count and len(same) == {"same": 6, "cross": 0, "dense": 6}[heads]


def test_three_networks_of_dcm_are_joined_by_every_ordered_pair():
    links = connections("peers={a: resnet8, b: resnet8, c: resnet8}")
    assert len({link.name for link in links}) == 54 and all(link.share == 1 for link in links)
    meaned = connections("peers={a: resnet8, b: resnet8, c: resnet8}", "terms.kl.reduce=mean")
    assert sum(link.share for link in meaned) == pytest.approx(3)


def test_the_terms_of_dcm_add_up_to_the_authors_total_and_do_not_teach_the_teacher():
    logits = [(3 * det((4, 10), 0.37 + 0.11 * i, 0.2 * i)).requires_grad_() for i in range(6)]
    outputs = {
        name: {head: logits[3 * k + i][None] for i, head in enumerate(HEADS)} for k, name in enumerate("ab")
    }
    batch = {"label": torch.tensor([1, 7, 3, 9])}
    terms = build_terms(compose(["method=dcm", TWO]))
    scalars = {name: value for term in terms for name, value in term(outputs, batch, 0).items()}
    total = sum(raw * weight for raw, weight in scalars.values())
    assert total.item() == pytest.approx(60.798129538093704, rel=1e-9)
    found = sum(raw for name, (raw, _) in scalars.items() if name.startswith("kl/"))
    assert found.item() == pytest.approx(41.708133657834814, rel=1e-9)
    one = scalars["kl/a.logits1<-b.logits"][0]
    grads = torch.autograd.grad(one, logits, allow_unused=True)
    assert [grad is not None for grad in grads] == [True, False, False, False, False, False]


# FFSD


def test_the_modules_of_ffsd_have_the_published_numbers_of_parameters():
    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    shapes = {"a.map3": (64, 8, 8), "b.map3": (64, 8, 8), "a.map2": (32, 16, 16), "a.map1": (16, 32, 32)}
    assert count(Fuse(["a.map3", "b.map3"], shapes), nn.Linear(64, 100)) == 16_228
    assert count(Decoder(["a.map1", "a.map2", "a.map3"], "b.map3", shapes)) == 23_136
    assert count(Spread(64, shapes, ["a.map3", "b.map3"])) == 9_152


def test_the_whole_of_ffsd_on_resnet20_has_the_published_numbers_of_parameters():
    config = compose(["method=ffsd", "data=cifar100", "data.path=none"])
    config.classes, config.steps = 100, 1000
    cohort = build_cohort(config, (3, 32, 32), build_terms(config))
    counts = {name: sum(p.numel() for p in peer.parameters()) for name, peer in cohort.peers.items()}
    assert counts == {
        "resnet20_1": 278_324, "resnet20_2": 278_324, "leader": 278_324 + 9_152, "fusion": 16_228,
        "logits": 0, "maps": 0, "resnet20_2_decoder": 23_136, "leader_decoder": 23_136,
    }  # fmt: skip


def activity(x: Tensor) -> Tensor:
    return x.square().mean(1).flatten(1)  # (B, H * W)


def distance(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a.flatten(1), b.detach().flatten(1)))
    return (a - b).square().mean()


def softened(z: Tensor, target: Tensor) -> Tensor:
    return 4 * rows_kl((target.detach() / 2).softmax(1), z / 2)


def decoded(blocks: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Shallow to deep."""
    found: list[Tensor] = []
    for block in blocks:
        x = block(x)
        found.insert(0, x)
    return found


def shown(blocks: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """What a decoder makes of another network's map: by running statistics, without gradient."""
    blocks.eval()
    with torch.no_grad():
        found = decoded(blocks, x)
    blocks.train()
    return found


def in_turn(nets: nn.ModuleDict, optimizers: dict[str, Optimizer], views: Tensor, labels: Tensor) -> None:
    """One iteration of FFSD as its authors run it: all networks forward, then each its own loss and step."""
    diverse, fuse, decode = 1e-5, 10, 1000

    def update(name: str, loss: Tensor) -> None:
        loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    maps, z = {}, {}
    for name in ("a", "b", "leader"):
        embedding, found = nets[name].backbone.forward_stages(views, ["stage1", "stage2", "stage3"])
        maps[name], z[name] = list(found.values()), nets[name].heads["logits"](embedding)
    spread = nets["leader"].heads["trans"](maps["leader"][2])
    together = torch.cat([maps["a"][2], maps["b"][2]], 1).detach()
    fused = nets["fusion"].backbone.fuse(together)
    z["fusion"] = nets["fusion"].heads["logits"](fused.mean((2, 3)))
    mean = (z["a"] + z["b"]).detach() / 2
    of_b, of_leader = nets["b_decoder"].steps, nets["leader_decoder"].steps

    update("a", F.cross_entropy(z["a"], labels) + softened(z["a"], z["b"]))

    before = maps["a"][2].detach()
    weak = activity(before)
    n = weak.norm(dim=1, keepdim=True)
    h = weak / n
    t = h.kthvalue(h.shape[1] // 3, dim=1, keepdim=True).values
    target = (n / 2 - h) * (h - t).sign() + n / 2
    own = activity(maps["b"][2])
    apart = (own / own.norm(dim=1, keepdim=True) - target).square().mean()
    moved = before + (n * (target - h) / before.shape[1]).view(-1, 1, *before.shape[2:])
    learned = zip(maps["b"], shown(of_b, moved), strict=False)
    apart = apart + sum(distance(activity(x), activity(y)) for x, y in learned)
    update("b", F.cross_entropy(z["b"], labels) + softened(z["b"], z["a"]) + diverse * apart)

    update("fusion", F.cross_entropy(z["fusion"], labels) + softened(z["fusion"], mean))

    learned = zip(maps["leader"], shown(of_leader, fused.detach()), strict=False)
    near = distance(activity(maps["leader"][2]), activity(fused)) + distance(
        activity(spread), activity(together)
    )
    near = near + sum(distance(activity(x), activity(y)) for x, y in learned)
    update("leader", F.cross_entropy(z["leader"], labels) + softened(z["leader"], z["fusion"]) + fuse * near)

    for name, owner, blocks in (("b_decoder", "b", of_b), ("leader_decoder", "leader", of_leader)):
        pairs = list(zip(decoded(blocks, maps[owner][2].detach()), maps[owner], strict=False))
        update(name, decode * sum(distance(x, y) + distance(activity(x), activity(y)) for x, y in pairs))


def test_two_steps_of_ffsd_are_the_authors_steps_of_one_network_after_the_other(accelerator):
    words = ["method=ffsd", "preset=reference", "optim.decay=all", TWO]
    ours, theirs = (built(*words, dtype=torch.float64, batches=2) for _ in range(2))
    start = ours.config.steps // 3  # the weights have risen, the rates have not fallen
    fit(
        ours.cohort, ours.terms, lambda k: iter(ours.batches), ours.optimizers, ours.rates, accelerator,
        start=start, steps=start + 2,
    )  # fmt: skip
    nets = theirs.cohort.peers
    optimizers: dict[str, Optimizer] = {
        name: Adam(nets[name].parameters(), lr=1e-3, weight_decay=1e-4)
        if name.endswith("decoder")
        else SGD(
            nets[name].parameters(), lr=0.1, momentum=0.9, nesterov=True,
            weight_decay=1e-5 if name == "fusion" else 1e-4,
        )
        for name in ("a", "b", "leader", "fusion", "b_decoder", "leader_decoder")
    }  # fmt: skip
    begun = {key: value.clone() for key, value in theirs.cohort.state_dict().items()}
    for batch in theirs.batches:
        in_turn(nets, optimizers, batch["views"][0], batch["label"])
    found = ours.cohort.state_dict()
    for key, value in theirs.cohort.state_dict().items():
        assert torch.allclose(found[key], value, rtol=1e-10, atol=1e-12), key
        assert key.endswith((".mean", ".std")) or not torch.equal(begun[key], value), key


def test_the_weights_of_ffsd_rise_over_five_epochs_as_published():
    config = compose(["method=ffsd", "preset=reference", TWO])
    data = read_data(config)
    terms = {term.name: term for term in build_terms(config)}
    per_epoch = len(data.train) // config.batch_size
    ramp = [0.0407622, 0.1652989, 0.4493290, 0.8187308, 1.0, 1.0]
    for names, peak in (
        (["diversity", "self"], 1e-5),
        (["fused", "trans", "self_leader"], 10),
        (["decode", "decode_attention"], 1000),
    ):
        for name in names:
            found = [at(terms[name].weight, epoch * per_epoch) / peak for epoch in range(6)]
            assert found == pytest.approx(ramp, rel=0.005), name
    assert all(terms[name].weight == 1 for name in ("ce", "kd", "kd_fusion", "kd_leader"))


MIXED = (
    f"peers={{a: {{backbone: {SMALL}}}, b: wrn-10-1, c: {{backbone: {{name: mobilenet_v1, widen: 0.1}}}}}}"
)


@pytest.mark.parametrize("words", [["method=ffsd"], ["method=fusion"]], ids=" ".join)
def test_only_neighbours_of_different_networks_are_pushed_apart_and_all_of_them_learn(words, accelerator):
    leader = "others.leader.backbone={name: resnet20, base: 4}"
    made = built(*words, MIXED, leader)
    chain = {(link.student, link.teacher) for link in made.links if link.name.startswith("diversity/")}
    assert chain == {("b.map3", "a.map3"), ("c.map3", "b.map3")}
    decoders = [name for name in made.cohort.peers if name.endswith("decoder")]
    assert decoders == ["b_decoder", "c_decoder", "leader_decoder"]
    shows = {name: made.cohort.peers[name].shown for name in decoders}
    assert shows == {"b_decoder": "a.map3", "c_decoder": "b.map3", "leader_decoder": "fusion.map"}
    assert torch.isfinite(once(made, accelerator).loss)
    assert not [name for name, p in made.cohort.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_fusion_and_the_decoders_of_ffsd_have_optimisers_of_their_own():
    made = built("method=ffsd", "preset=reference", TWO)
    found = {
        name: (type(optimizer), group["weight_decay"], at(rate, 0))
        for optimizer, rate in zip(made.optimizers, made.rates, strict=True)
        for name in {group["peer"] for group in optimizer.param_groups}
        for group in optimizer.param_groups
        if group["peer"] == name and group["adapt"]
    }
    assert found == {
        **dict.fromkeys(["a", "b", "leader"], (SGD, 1e-4, 0.1)),
        "fusion": (SGD, 1e-5, 0.1),
        **dict.fromkeys(["b_decoder", "leader_decoder"], (Adam, 1e-4, 0.001)),
    }
    assert len(made.optimizers) == 4
    covered = [id(p) for o in made.optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in made.cohort.parameters())


@pytest.mark.parametrize(("word", "decayed"), [("optim.decay=null", False), ("optim.decay=all", True)])
def test_biases_and_norms_are_decayed_where_the_optimiser_says_all(word, decayed):
    for method in ("ffsd", "dcm"):
        made = built(f"method={method}", TWO, word)
        groups = [group for optimizer in made.optimizers for group in optimizer.param_groups]
        assert all((group["weight_decay"] > 0) == (decayed or group["adapt"]) for group in groups)


def test_a_decoder_can_be_given_another_optimiser_from_the_command_line():
    words = ["others.decoder.optim.optimizer._target_=torch.optim.SGD", "peers.leader_decoder.optim.rate=0.5"]
    made = built("method=ffsd", TWO, *words)
    by_peer = {
        o.param_groups[0]["peer"]: (o, rate) for o, rate in zip(made.optimizers, made.rates, strict=True)
    }
    assert isinstance(by_peer["b_decoder"][0], SGD) and isinstance(by_peer["leader_decoder"][0], Adam)
    assert by_peer["leader_decoder"][1] == 0.5
