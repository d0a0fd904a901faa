"""Vision encoders of transformers: from a config, from a folder with and without weights, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from ssl_kd.architecture import architecture
from ssl_kd.backbones import create
from ssl_kd.cli import main as cli
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.train import main

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("own_folder")

TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
VIT = TOKENS | {"intermediate_size": 64}
MAPS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
ENCODERS = {
    "vit": VIT,
    "deit": VIT,
    "beit": VIT,
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "dinov2": TOKENS,
    "dinov2_with_registers": TOKENS,
    "convnext": MAPS,
    "resnet": MAPS | {"embedding_size": 8, "layer_type": "basic"},
    "swin": {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 4, "patch_size": 2},
}
QUICK = [
    "epochs=1",
    "batch_size=128",
    "precision=float32",
    "probe.baselines=false",
    "health.every=0",
    "run=runs/a",
]


def images(count: int = 2, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def saved(
    kind: str = "ViT", size: int = 32, folder: str = "net", task: str = "ForImageClassification", **more
):
    """What save_pretrained writes of a tiny network, and that network."""
    import transformers

    options = {"ViT": VIT | {"image_size": size}, "ConvNext": MAPS, "Dinov2": TOKENS | {"image_size": size}}[
        kind
    ]
    torch.manual_seed(1)
    model = getattr(transformers, kind + task)(getattr(transformers, f"{kind}Config")(**options, **more))
    model.eval().save_pretrained(folder)
    return model


def changed(**more) -> None:
    """The config.json of net/ with other words."""
    said = json.loads(Path("net/config.json").read_text()) | more
    Path("net/config.json").write_text(json.dumps(said))


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_from_its_config_learns_with_all_its_parameters_and_stages(kind):
    torch.manual_seed(0)
    backbone = create("hf", size=32, config={"model_type": kind, **ENCODERS[kind]})
    backbone(images()).square().sum().backward()
    assert not [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
    assert all(key.endswith("mask_token") for key in frozen)
    with torch.no_grad():
        plain = backbone.eval()(images())
        embedding, maps = backbone.forward_stages(images(), list(backbone.stage_channels))
    assert torch.equal(embedding, plain) and plain.shape == (2, backbone.width)
    assert [m.shape[:2] for m in maps.values()] == [(2, c) for c in backbone.stage_channels.values()]
    assert all(m.shape[2] == m.shape[3] for m in maps.values()) and len(maps) >= 3
    assert min(list(maps.values())[-1].shape[2:]) >= 2


def test_equal_seeds_give_equal_weights_and_grey_images_are_taken():
    states = []
    for _ in range(2):
        torch.manual_seed(2)
        states.append(create("hf", channels=1, config={"model_type": "vit", **VIT}).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert states[0]["net.model.embeddings.patch_embeddings.projection.weight"].shape[1] == 1


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "ConvNext"])
def test_a_pretrained_folder_gives_the_features_that_transformers_gives(kind):
    theirs = saved(kind, size=96)
    backbone = create("hf/net", size=96, pretrained=True, mean=0.0, std=1.0).eval()
    with torch.no_grad():
        said = theirs.base_model(pixel_values=images(size=96))
        token = said.last_hidden_state[:, 0] if kind == "ViT" else said.pooler_output
        torch.testing.assert_close(backbone(images(size=96)), token)


def test_a_folder_is_built_for_the_images_of_the_run_and_only_pretrained_for_its_own():
    saved(size=64)
    for pretrained, tokens in ((False, 17), (True, 65)):
        backbone = create("hf/net", size=32, pretrained=pretrained).eval()
        assert backbone.net.model.embeddings.position_embeddings.shape[1] == tokens
        assert backbone(images()).shape == (2, 32)


def test_options_of_a_folder_can_be_changed_and_mistyped_ones_are_refused():
    saved()
    assert len(create("hf/net", config={"num_hidden_layers": 1}).stage_channels) == 1
    with pytest.raises(
        InputError, match='hf/net: its config has no "hiden_size"; did you mean "hidden_size"'
    ):
        create("hf/net", config={"hiden_size": 8})
    with pytest.raises(InputError, match='hf: vit has no option "hiden_size"; did you mean "hidden_size"'):
        create("hf", config={"model_type": "vit", "hiden_size": 8})


def test_a_runs_config_holds_the_architecture_and_where_the_weights_are():
    saved(task="Model")
    found = compose(
        ["peers={a: {backbone: {name: hf/net, pretrained: true}}, b: {backbone: {name: hf/net}}}"]
    ).peers
    assert Path(found.a.weights).resolve() == Path("net/model.safetensors").resolve()
    assert not found.b.get("weights") and "pretrained" not in found.a.backbone
    assert found.a.backbone.config.hidden_size == 32 and found.a.backbone.config.image_size == 32
    assert "image_size" not in found.b.backbone.config


def test_pretrained_weights_are_where_training_starts_from(capsys):
    theirs = saved(task="Model", num_channels=1)
    words = ["method=simclr", "data=digits", "data.size=32", "optim.rate.peak=0.0", *QUICK]
    assert main([*words, "peers={a: {backbone: {name: hf/net, pretrained: true}}}"]) == 0
    name = "peers.a.backbone.net.model.embeddings.position_embeddings"
    kept = load_file("runs/a/checkpoints/last/cohort.safetensors")[name]
    torch.testing.assert_close(kept, theirs.state_dict()["embeddings.position_embeddings"])
    Path("net").rename("gone")
    assert cli(["knn", "run=runs/a"]) == 0
    assert OmegaConf.load("runs/a/config.yaml").peers.a.backbone.config.model_type == "vit"


def test_weights_of_another_network_are_refused(capsys):
    saved(task="Model", num_channels=3)
    words = ["method=simclr", "data=digits", "data.size=32", *QUICK]
    assert main([*words, "peers={a: {backbone: {name: hf/net, pretrained: true}}}"]) == 2
    assert "another network; they differ in" in capsys.readouterr().err
    tensors = load_file("net/model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "layer.2" not in k and "layers.2" not in k},
        "net/model.safetensors",
    )
    with pytest.raises(InputError, match="lacks"):
        create("hf/net", pretrained=True)


@pytest.mark.parametrize(("said", "sentence"), [
    ({"auto_map": {"AutoModel": "evil.Model"}}, ""),
    ({"attn_implementation": "someone/kernels"}, 'says "attn_implementation", and nothing is fetched'),
    ({"_attn_implementation": "someone/kernels"}, ""),
    ({"quantization_config": {"quant_method": "hqq"}}, 'says "quantization_config"'),
    ({"nested": {"use_timm_backbone": True}}, 'says "use_timm_backbone"'),
    ({"model_type": "timm_wrapper"}, '"timm_wrapper" is no encoder of images'),
    ({"model_type": "bert"}, 'did you mean "beit"'),
    ({"model_type": "clip"}, "that of its images is clip_vision_model"),
    ({"name": "${oc.env:HOME}"}, "refers to something else"),
])  # fmt: skip
def test_a_folder_neither_executes_nor_fetches_anything(said, sentence):
    saved()
    Path("net/evil.py").write_text("open('CANARY', 'w').close()\nclass Model: pass\n")
    Path("net/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch CANARY'\ntR.")
    changed(**said)
    if sentence:
        with pytest.raises(InputError, match=sentence.replace("$", r"\$")):
            create("hf/net")
    else:
        assert create("hf/net").width == 32
        assert not any(key.startswith(("_", "auto")) for key in architecture("hf/net", {}))
    assert not Path("CANARY").exists()


def test_pickled_weights_are_not_read():
    saved()
    Path("net/model.safetensors").rename("net/pytorch_model.bin")
    with pytest.raises(InputError, match="there is no model.safetensors in the folder net; pickled weights"):
        create("hf/net", pretrained=True)
    assert create("hf/net").width == 32


@pytest.mark.parametrize(("name", "config", "sentence"), [
    ("hf", None, "hf names a network of Hugging Face, as hf/FOLDER"),
    ("hf/./nowhere", None, "there is no folder ./nowhere"),
    ("hf/net", None, "there is no config.json in the folder net"),
    ("hf", {"model_type": "vit", **VIT, "hidden_size": "many"}, "hf: vit cannot be made of its options"),
    ("hf", {"model_type": "vit", **VIT, "patch_size": 64}, "hf cannot take images of 32 pixels"),
    ("hf", 7, "config is a mapping"),
])  # fmt: skip
def test_what_is_not_there_or_fits_nothing_is_said_in_a_sentence(name, config, sentence):
    Path("net").mkdir()
    with pytest.raises(InputError, match=sentence) as refusal:
        create(name, config=config)
    assert "\n" not in str(refusal.value)


def test_pretrained_and_weights_are_not_said_both():
    saved()
    with pytest.raises(InputError, match="peers.a has weights, and its backbone is pretrained"):
        compose(["peers={a: {backbone: {name: hf/net, pretrained: true}, weights: runs/b}}"])
