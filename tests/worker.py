"""One process of test_distributed: three steps of each method in float64, and the gradients they had."""

import sys
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

import ssl_kd.distributed as distributed
from ssl_kd.build import build_batches, build_cohort, build_optimizers, build_terms, read_data
from ssl_kd.config import compose
from ssl_kd.data.parts import join
from ssl_kd.engine import fit

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
}


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
    (optimizer,), rates = build_optimizers(config, cohort)
    names = {parameter: name for name, parameter in cohort.named_parameters()}
    seen: dict = {}

    def look(optimizer, args, kwargs):
        step = str(len({key.split("/")[0] for key in seen}))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                seen[f"{step}/{names[parameter]}"] = parameter.grad.clone()

    optimizer.register_step_pre_hook(look)
    prepared, optimizer = accelerator.prepare(cohort, optimizer)
    batches, _ = build_batches(
        config, data, accelerator.device, accelerator.process_index, accelerator.num_processes
    )

    def double(batch):
        if isinstance(batch, list):
            return [double(part) for part in batch]
        return {key: value.double() if key == "views" else value for key, value in batch.items()}

    join_ = join if config.grad_cache else None
    doubles = lambda start: map(double, batches(start))  # noqa: E731
    fit(prepared, terms, doubles, [optimizer], rates, accelerator, steps=3, join=join_)
    return seen, cohort


def main(mode: str, target: str) -> None:
    if mode == "mutant":
        distributed._Gather = _NoGradient
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    found: dict = {}
    spread = torch.zeros((), dtype=torch.float64)
    for name, words in METHODS.items():
        found[name], cohort = train(words, accelerator)
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
