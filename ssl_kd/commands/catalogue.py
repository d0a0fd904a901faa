"""The commands: what each is for, examples, and the options that are its own. Help and completion read this.

The options of a training stand in configs/config.yaml with their meaning, those of a probe in its function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_kd.commands.documented import Option
from ssl_kd.commands.signatures import entries, parameters, purpose
from ssl_kd.errors import InputError, nearest

Example = tuple[str, str]  # what is typed after `ssl-kd`, and what it does


@dataclass(frozen=True)
class Command:
    """what: in one line. places: words without `=`. trains: whether it takes the options of `train` too."""

    what: str
    examples: tuple[Example, ...]
    options: tuple[Option, ...] = ()
    places: str = ""
    trains: bool = False
    more: str = ""


_RUN = Option("run", "", "the run folder; needed")
_DEVICE = Option("device", "auto", "auto, cpu, cuda, mps")
_ONLINE = Option("online", "false", "fetch data that the run names and this machine does not have")
_CHECKPOINT = Option(
    "checkpoint", "null", "last, or chosen (by probe.select); null: the one that the run reports"
)
_CHANGED = Option(
    "data_changed", "null", "accept: score on the run's data although they changed since it began"
)

COMMANDS: dict[str, Command] = {
    "train": Command(
        "train a cohort; the same command continues it",
        (
            ("train", "a DoGo pair on digits, about a minute"),
            ("train method=simclr data=cifar10 peers=[resnet18]", "one network alone"),
            ("train method=dogo data=folder data.root=photos peers=[resnet18,mobilenetv3_small_100]", ""),
            (
                "train config=my.yaml epochs=50",
                "the options of a file (ssl-kd init writes one); words go before it",
            ),
            ("train run=runs/a", "the same run= again continues it"),
            ("train processes=2", "on two processes of this machine"),
            ("train tracker=[tensorboard,wandb] tracker_options.wandb.project=cats", ""),
            ("train method=dogo dry_run=true", "builds everything, runs one step, says what the run needs"),
            ("train data=folder --help", "the options of that data, too; so for method=, recipe= and optim="),
        ),
        (Option("online", "null", "true: fetch what a config.yaml in a run folder names, too"),),
        trains=True,
    ),
    "init": Command(
        "a starter config for a folder of your images",
        (
            ("init photos", "looks at the images, writes my.yaml and says what to do next"),
            ("init photos to=cats.yaml", ""),
            ("init 'shards/train-{000..012}.tar'", "tar files; also a folder of them, or an .npz"),
        ),
        (
            Option("to", "my.yaml", "the file to write"),
            Option("overwrite", "false", "write it even if it is there"),
        ),
        "FOLDER",
    ),
    "doctor": Command(
        "what is wrong with this machine, and does a training fit into its memory",
        (
            ("doctor", "versions, threads, bfloat16, accelerator, launch, disk, extras"),
            (
                "doctor method=dogo data=cifar10 peers=[resnet18,resnet50] batch_size=512",
                "its memory as well",
            ),
            ("doctor config=my.yaml", ""),
        ),
        trains=True,
        more="Exit code: 0 if there is no problem, 1 if there is one, 2 if the options are wrong.",
    ),
    "show": Command(
        "who learns what from whom",
        (("show method=dogo", ""), ("show method=ssl_kd parts=[peers,exits]", "")),
        trains=True,
    ),
    "timing": Command(
        "where the time of a step goes, and how long a training will take",
        (("timing method=dogo data=cifar10", ""), ("timing config=my.yaml measure=50", "over 50 steps")),
        (Option("measure", "20", "steps that are measured"),),
        trains=True,
    ),
    "runs": Command(
        "the runs in a folder: state, progress, scores",
        (
            ("runs", "all in runs/, those of studies too"),
            ("runs folder=runs/study sort=knn", "the best last"),
            ("runs format=json", "a line of JSON for each, for scripts"),
        ),
        (
            Option("folder", "runs", "where to look, at any depth"),
            Option("sort", "run", "run, age, state, step, knn, linear, duration, method, data"),
            Option("format", "table", "table, json"),
        ),
    ),
    "eval": Command(
        "several scores of a finished run in one table",
        (
            ("eval run=runs/a", "kNN and linear probe"),
            ("eval run=runs/a probes=[knn,linear,few_labels,robustness]", ""),
            (
                "eval run=runs/a probes=[linear,finetune] finetune.labels=0.1",
                "an option of one of the probes",
            ),
        ),
        (
            _RUN,
            Option("probes", "[knn,linear]", "which, as listed below; all: every one but transfer"),
            _CHECKPOINT,
            _CHANGED,
            _DEVICE,
            _ONLINE,
        ),
    ),
    "compare": Command(
        "did the peers help? differences of finished runs, paired by seed",
        (("compare runs/solo-* runs/pair-*", ""), ("compare runs/* base=solo out=runs", "")),
        (
            Option("base", "null", "the group that the others are compared with; null: the first"),
            Option(
                "out",
                "null",
                "where comparison.json and .html go; null: where the runs are, if in runs/, else here",
            ),
        ),
        "FOLDER ...",
    ),
    "study": Command(
        "methods x seeds from one file, trained and compared",
        (
            ("study study.yaml", "trains what is not done, continues what was stopped"),
            ("study study.yaml jobs=2 dry_run=true", "what would be trained"),
        ),
        (
            Option("out", "null", "where the runs go; null: runs/ and the name of the file"),
            Option("jobs", "1", "runs at once"),
            Option("dry_run", "false", "list the runs and train nothing"),
        ),
        "FILE.yaml",
        more=(
            "The file has groups, each with options of ssl-kd train: {solo: method=simclr, pair: "
            "method=dogo}; common, options of all groups; seeds, as 5 or [0, 7]; base, the group that the "
            "others are compared with, several of them, or for each the groups beside it: {solo: [pair]}. "
            "@NAME in an option is the run of the group NAME with the same seed, which is trained first."
        ),
    ),
    "report": Command(
        "the run as one HTML page",
        (("report run=runs/a", ""), ("report run=runs/a map=umap", "")),
        (_RUN, Option("map", "pca", "of the embeddings: pca, umap"), _CHANGED, _DEVICE, _ONLINE),
    ),
    "export": Command(
        "the network to deploy",
        (
            ("export run=runs/a peer=resnet20_1", ""),
            ("export run=runs/a peer=resnet20_1 format=onnx", "a graph, normalisation inside"),
            ("export run=runs/a peer=resnet20_1 format=hub-folder", "ready for the Hugging Face Hub"),
        ),
    ),
    "trust": Command(
        "show what a run of other people's code would execute, and allow it",
        (
            ("trust runs/a", "prints files and lines first, then puts them on record"),
            ("trust configs", "the same for configs/ of the current folder"),
        ),
        places="FOLDER",
        more=(
            "What train was started with is on record by itself. A run folder that names other modules than "
            "those of ssl_kd and its libraries is refused until it is; so is what configs/ of the current "
            "folder names. Look at the files first: from then on they are executed whenever that run is "
            "read, until one of them changes, or what the run says of them. The record lies in "
            "$XDG_STATE_HOME/ssl_kd. SSL_KD_TRUST=PATH, of a file or a folder, allows all that lies there, "
            "for as long as it is set."
        ),
    ),
    "completion": Command(
        "a script that has the Tab key complete commands and options",
        (
            ("completion bash", "in ~/.bashrc: source <(ssl-kd completion bash)"),
            ("completion zsh", "in ~/.zshrc: source <(ssl-kd completion zsh)"),
            ("completion fish", "> ~/.config/fish/completions/ssl-kd.fish"),
        ),
        places="bash | zsh | fish",
    ),
}

PROBES: dict[str, str] = {
    "knn": "nearest neighbours",
    "linear": "a linear probe",
    "few_labels": "a linear probe on 1 %, 10 %, and 1, 5, 10 labels per class",
    "linear_sgd": "the literature's linear evaluation: SGD, augmentation, 100 epochs",
    "finetune": "all weights trained on, beside the same network from scratch",
    "robustness": "corrupted test images",
    "transfer": "another data set",
    "health": "effective rank, alignment, uniformity, agreement: without labels",
}

_EXAMPLES: dict[str, tuple[Example, ...]] = {
    "knn": (("knn run=runs/a knn=[1,20]", ""),),
    "few_labels": (("few_labels run=runs/a shares=[0.01] per_class=[] draws=10", ""),),
    "finetune": (("finetune run=runs/a labels=0.1", "on a tenth of the labels"),),
    "robustness": (("robustness run=runs/a kinds=[noise,jpeg] severities=[5]", ""),),
    "transfer": (("transfer run=runs/a data=fashion_mnist", ""),),
}

# What options can be, where a default does not tell; with a command in front, where it is of that one only.
VALUES: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "float32", "bfloat16"),
    "tracker": ("none", "tensorboard", "wandb", "mlflow", "trackio"),
    "probe.select": ("last", "uniformity", "rank", "held_out"),
    "health.on_collapse": ("ignore", "warn", "stop"),
    "health.on_hurt": ("ignore", "warn", "gate"),
    "checkpoint": ("last", "chosen"),
    "data_changed": ("accept",),
    "data.overlap": ("accept",),
    "map": ("pca", "umap"),
    "runs.sort": ("run", "age", "state", "step", "knn", "linear", "duration", "method", "data"),
    "runs.format": ("table", "json"),
    "export.format": ("safetensors", "onnx", "timm", "torchvision", "hub-folder"),
    "probes": ("all", *PROBES),
    "kinds": ("noise", "blur", "jpeg", "contrast"),
}


def command(name: str) -> Command:
    """A command, or a probe as one. KeyError for any other name."""
    if name not in PROBES:
        found = COMMANDS[name]
        return (
            Command(found.what, found.examples, _exported(), more=found.more) if name == "export" else found
        )
    own = [option for option in probe_options(name) if option.key != "data"]
    other = Option("data", "", "the other data set, and any option of it, as data.root=; needed")
    return Command(
        PROBES[name],
        ((f"{name} run=runs/a", ""), *_EXAMPLES.get(name, ())),
        (_RUN, *([other] if name == "transfer" else []), *own, _CHECKPOINT, _CHANGED, _DEVICE, _ONLINE),
        more=purpose(*_probe(name)),
    )


def given(name: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a command, None for what is not said. InputError for unknown ones."""
    known = [option.key for option in command(name).options]
    refuse_unknown(name, words, known)
    return {key: words.get(key) for key in known}


def refuse_unknown(name: str, words: Mapping[str, Any], known: Sequence[str]) -> None:
    """InputError for the first word that is not among the known."""
    odd = next((key for key in words if key not in known), None)
    if odd is not None:
        raise InputError(f'"{odd}" is not an option of {name}; {nearest(odd, list(known))}')


def probe_options(name: str) -> list[Option]:
    """The options of a probe: those of its function."""
    return [option for option in parameters(*_probe(name)) if option.key != "finished"]


def _probe(name: str) -> tuple[str, str]:
    """The file and the function of a probe."""
    return "probing.py", entries("probing.py", "PROBES")[name]


def _exported() -> tuple[Option, ...]:
    return (_RUN, *(o for o in parameters("export/__init__.py", "export") if o.key != "folder"), _ONLINE)
