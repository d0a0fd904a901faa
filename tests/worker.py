"""One process of test_distributed: three steps of each method in float64, and the gradients they had."""

import sys
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

import ssl_kd.distributed as distributed
from ssl_kd.build import (
    build_batches,
    build_cache,
    build_cohort,
    build_optimizers,
    build_terms,
    read_data,
)
from ssl_kd.config import compose
from ssl_kd.data.parts import join
from ssl_kd.engine import fit

TINY = "{backbone: {name: resnet8, base: 8}}"


def constant(weights: dict[str, float]) -> list[str]:
    """Words that give terms their full weight from the first step on."""
    return [f"terms.{name}.weight={weight}" for name, weight in weights.items()]


KD = [
    "method=kd",
    f"peers={{teacher: {{backbone: resnet8, frozen: true}}, student: {TINY}}}",
    "terms.kl.weight=1.0",
]
# Every term is as strong as the others, so that a wrong gradient of one of them is seen.
MAPS = dict.fromkeys(["self", "fused", "trans", "self_leader", "decode", "decode_attention"], 10.0)
METHODS = {
    "cached": [
        "method=simclr",
        "peers={a: {backbone: {name: vit_tiny_patch16_224, patch_size: 4, depth: 1, embed_dim: 48}}}",
        "peer.heads.projection={_target_: torch.nn.Linear, out_features: 32}",
        "accumulate=2",
        "grad_cache=true",
    ],
    "simclr": ["method=simclr"],
    "dogo": ["method=dogo", "peers={a: resnet20, b: resnet8}", "terms.kl.weight=1.0"],
    "moco": [
        "method=moco",
        "peers.query.backbone=resnet8",
        "peers.key.backbone=resnet8",
        "peers.queue.size=100",
    ],
    "dml": ["method=dml", "peers={a: resnet20, b: resnet8}"],
    "dcm": ["method=dcm", f"peers={{a: {TINY}, b: {TINY}}}"],
    "ffsd": ["method=ffsd", f"peers={{a: {TINY}, b: {TINY}}}", *constant({**MAPS, "diversity": 1.0})],
    "kd": [*KD, "recipe=supervised"],
    "kd_cached": [*KD, "recipe=plain", "peers.teacher.cache=true"],
    "ssl_kd": [
        "method=ssl_kd",
        f"peers={{a: {TINY}, b: {TINY}}}",
        "parts=[peers,exits,deepest,fusion,shift,ema]",
        *constant({**MAPS, "diversity": 1.0}),
        *constant(dict.fromkeys(["kl", "exits", "deepest", "kl_fusion", "kl_leader", "ema"], 0.39)),
    ],
}
MUTATED = ("simclr", "dogo", "ssl_kd")  # whose losses compare images across processes


class _NoGradient(distributed._Gather):
    """The mutation: a gather that gives back only the gradient of this process's own loss."""

    @staticmethod
    def backward(ctx, *grads):
        return grads[0].narrow(ctx.dim, distributed.rank() * ctx.size, ctx.size), None


def train(words: list[str], accelerator: Accelerator) -> tuple[dict, torch.nn.Module]:
    config = compose([*words, "data=digits", "batch_size=32", "channels_last=false"])
    data = read_data(config)
    terms = build_terms(config)
    cohort = build_cohort(config, data.train.shape, terms).double()
    if accelerator.num_processes > 1:
        distributed.global_batch_norm(cohort)
    optimizers, rates = build_optimizers(config, cohort)
    names = {parameter: name for name, parameter in cohort.named_parameters()}
    seen: dict = {}

    def look(optimizer, args, kwargs):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            step = sum(f"{k}/{names[parameter]}" in seen for k in range(3))
            seen[f"{step}/{names[parameter]}"] = parameter.grad.clone()

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(look)
    prepared, *optimizers = accelerator.prepare(cohort, *optimizers)
    batches, _ = build_batches(
        config, data, accelerator.device, accelerator.process_index, accelerator.num_processes
    )

    def double(batch):
        if isinstance(batch, list):
            return [double(part) for part in batch]
        return {key: value.double() if key == "views" else value for key, value in batch.items()}

    join_ = join if config.grad_cache else None
    doubles = lambda start: map(double, batches(start))  # noqa: E731
    cache = build_cache(config, cohort, batches.recipe, len(data.train))
    if cache is not None:
        cache.fill(map(double, batches.once()))
    fit(prepared, terms, doubles, optimizers, rates, accelerator, steps=3, join=join_, known=cache)
    return seen, cohort


def main(mode: str, target: str) -> None:
    if mode == "mutant":
        distributed._Gather = _NoGradient
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    found: dict = {}
    spread = torch.zeros((), dtype=torch.float64)
    for name in MUTATED if mode == "mutant" else METHODS:
        found[name], cohort = train(METHODS[name], accelerator)
        for value in cohort.state_dict().values():
            every = accelerator.gather(value.double().reshape(1, -1))
            spread = torch.maximum(spread, (every - every[:1]).abs().max())
    config = compose(["data=digits", "batch_size=32"])
    place = SimpleNamespace(rank=accelerator.process_index, world=accelerator.num_processes)
    batches, _ = build_batches(config, read_data(config), accelerator.device, place.rank, place.world)
    found["rows"] = accelerator.gather(next(batches(0))["index"])
    found["spread"] = spread
    if accelerator.is_main_process:
        torch.save(found, target)
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
