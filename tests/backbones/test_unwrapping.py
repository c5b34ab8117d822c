"""Networks as people have them in their hands: compiled, parallel, averaged, scripted, without a classifier."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import attention_refine as ar

SMALL = {"num_classes": 5, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
SIZE = {"preprocessing": {"input_size": [3, 64, 64]}}


def network() -> nn.Module:
    return timm.create_model("resnet18", **SMALL).eval()


AROUND = {
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "timm's average": timm.utils.ModelEmaV3,
    "both": lambda net: torch.compile(nn.DataParallel(net)),
}


@pytest.mark.parametrize("around", AROUND)
def test_the_network_inside_is_wrapped(around):
    outer = AROUND[around](network())
    model = ar.wrap(outer, "abn", **SIZE)
    assert type(model.backbone.net) is timm.models.ResNet and model.backbone.site.name == "layer3"
    assert any(model.backbone.net is module for module in outer.modules())


def test_a_refined_model_inside_is_wrapped_already():
    with pytest.raises(TypeError, match="wrapped already"):
        ar.wrap(torch.compile(ar.wrap(network(), **SIZE)), "abn")


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 3, 64, 64))])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(make):
    with pytest.raises(TypeError, match="is TorchScript, in which no map can act; wrap the network it was made from"):
        ar.wrap(make(network()), "abn")


@pytest.mark.parametrize("options", [{}, {"head": "abn"}, {"pool": "avg"}], ids=str)
def test_features_are_no_logits(options):
    net = timm.create_model("resnet18", **{**SMALL, "num_classes": 0})
    with pytest.raises(ValueError, match="ResNet has no classifier.*pass num_labels=... or labels="):
        ar.wrap(net, **options, **SIZE)
    assert ar.wrap(net, num_labels=3, **SIZE)(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)


def test_the_weights_of_another_network_are_said_in_a_sentence(tmp_path):
    state = network().state_dict()
    file = tmp_path / "other.safetensors"
    save_file({f"blocks.{key}": value for key, value in state.items()}, file)
    with pytest.raises(ValueError) as refusal:
        ar.wrap("resnet18", pretrained=file)
    said = str(refusal.value)
    assert "another network than 'resnet18'" in said and f"no place for {len(state)} ('blocks." in said
    assert "lacks 122 ('bn1.bias' first)" in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("cut.safetensors", "cut.safetensors is not a whole safetensors file .*; copy or download it again"),
        ("none.safetensors", "none.safetensors' is not there; pass True, False or the path of a safetensors file"),
        ("cut.pt", "cut.pt' is not a safetensors file; pass True, False or the path"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, name, sentence):
    for there in ("cut.safetensors", "cut.pt"):
        (tmp_path / there).write_bytes(b"weights " * 40)
    with pytest.raises(ValueError, match=sentence):
        ar.wrap("test_resnet", pretrained=tmp_path / name)


@pytest.mark.parametrize(
    "name, remedy", [("resnet18", "pretrained=False"), ("user/name", "the folder of a saved model")]
)
def test_a_name_that_cannot_be_fetched(name, remedy):
    """Tests run without the Hub (conftest.py)."""
    with pytest.raises(
        OSError, match=f"'{name}' cannot be fetched .*is the name right and the Hub reachable.*{remedy}"
    ):
        ar.wrap(name, "abn")


@pytest.mark.parametrize(
    "labels, sentence",
    [
        (
            ["cat", "dog", "cat"],
            r"and 'cat' is there 2 times; those of a dataset's images go to the model with each batch",
        ),
        ([0, 1, 1, 2], "and 1 is there 2 times; those of a dataset's images"),
        (["cat", None], "labels must be a list of class names, got None among them"),
        (["cat", ""], "got '' among them"),
        ([["cat", "dog"]], r"got \['cat', 'dog'\] among them"),
        (torch.tensor([0, 1]), r"got tensor\(0\) among them"),
        ([], "labels is empty: it names the classes, each once"),
        (5, "got 5; a number of classes is num_labels"),
    ],
)
def test_labels_that_are_no_class_names(labels, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        ar.wrap(network(), labels=labels)


def test_a_single_class_is_said():
    with pytest.warns(UserWarning, match=r"labels=\['Bengal'\] is a single class, which every image then belongs to"):
        assert ar.wrap(network(), labels=["Bengal"], **SIZE).num_labels == 1
    assert ar.wrap(network(), labels=[7, 8, 9], **SIZE).labels == ["7", "8", "9"]


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: timm.models.ResNet, r"got the class ResNet; pass a network made of it: ResNet\(...\)"),
        (lambda: timm.models.resnet18, "got the function resnet18; call it, and pass the network"),
        (lambda: network().state_dict(), r"weights without a network \(an OrderedDict of 80 tensors: 'conv1.weight'.*"),
        (lambda: {"epoch": 3, "model": network().state_dict()}, r"net.load_state_dict\(checkpoint\['model'\]\)"),
        (lambda: [nn.Conv2d(3, 8, 3), nn.ReLU()], r"a list of 2 layers; make one network of them, torch.nn.Sequential"),
        (lambda: [network(), "resnet18"], "a list of 2; wrap one network at a time"),
        (lambda: None, "got None"),
        (lambda: b"resnet18", "got b'resnet18'"),
        (lambda: torch.optim.SGD(network().parameters(), 0.1), "got an? SGD$"),
        (lambda: nn.ModuleList([nn.Conv2d(3, 8, 3)]), "ModuleList has no forward pass; put its layers in a network"),
        (lambda: nn.Sequential(nn.Flatten()), "Sequential has no parameters, so it is no trained network"),
        (lambda: network().to("meta"), "weights of ResNet are on the device 'meta', where they have no values"),
        (lambda: "", "'' names no network; pass a timm name"),
    ],
)
def test_what_is_no_network(make, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence) as refusal:
        ar.wrap(make(), "abn", **SIZE)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "name, sentence",
    [
        (
            "best.pth",
            r"is a file of torch, and wrap reads no pickles: make the network, net.load_state_dict\(torch.load\(",
        ),
        ("last.pt", "weights_only=True.*usually 'state_dict' or 'model'"),
        ("pytorch_model.bin", "is a file of torch"),
        ("checkpoint.pth.tar", "is a file of torch"),
        ("model.safetensors", r"is a file of weights.*ar.wrap\('resnet18', pretrained="),
        ("model.onnx", "is a model of ONNX, in which no map can act; pass the torch network"),
        ("notes.txt", "is a file, and no folder of a saved model"),
    ],
)
def test_files_are_no_networks(tmp_path, name, sentence):
    (tmp_path / name).write_bytes(b"weights")
    for path in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(ValueError, match=sentence):
            ar.wrap(path, "abn")
    if not name.endswith(".txt"):
        with pytest.raises(ValueError, match=sentence):
            ar.wrap(f"absent/{name}")


def test_pickled_weights_for_a_name_say_how_to_keep_them(tmp_path):
    torch.save(network().state_dict(), tmp_path / "best.pth")
    with pytest.raises(
        ValueError, match=r"safetensors.torch writes: save_file\(torch.load\('.*best.pth', weights_only"
    ):
        ar.wrap("resnet18", pretrained=tmp_path / "best.pth")


class Ending(nn.Module):
    """A network, and what its forward does with the logits and the last feature."""

    def __init__(self, end, last: nn.Module | None = None):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2)), nn.Linear(16, 3)
        self.end, self.last = end, nn.ModuleList([last or nn.Identity()])

    def forward(self, pixel_values: torch.Tensor):
        feature = self.body(pixel_values)
        return self.end(self.last[0](self.head(feature.mean((2, 3)))), feature)


@pytest.mark.parametrize(
    "net, sentence",
    [
        (Ending(lambda y, f: y, nn.Softmax(1)), r"ends in a softmax.*net.last\[0\] = torch.nn.Identity\(\)"),
        (Ending(lambda y, f: y[:, None].flatten(1), nn.Sigmoid()), r"ends in a sigmoid.*net.last\[0\] = torch.nn.Id"),
        (Ending(lambda y, f: {"logits": y.softmax(1)}), "leave softmax out of its forward pass, before wrapping"),
        (nn.Sequential(Ending(lambda y, f: y), nn.Softmax(1)), r"net\[1\] = torch.nn.Identity\(\)"),
        (Ending(lambda y, f: y.argmax(1, keepdim=True)), r"returns int64, numbers of classes; .*leave argmax out"),
        (Ending(lambda y, f: y.argmax(1)), "must keep a row for each image"),
        (Ending(lambda y, f: y[..., None, None]), r"returned \(1, 3, 1, 1\) .*torch.nn.Flatten"),
        (
            Ending(lambda y, f: (f.mean((2, 3)), y)),
            r"2 tensors that might be its logits: \[0\] \(1, 16\), \[1\] \(1, 3\)",
        ),
        (
            Ending(lambda y, f: {"colour": y, "shape": y}),
            r"\['colour'\] \(1, 3\), \['shape'\] \(1, 3\); .*entry 'logits'",
        ),
        (Ending(lambda y, f: None), "returned NoneType where logits .* must return a tensor"),
        (Ending(lambda y, f: y / 0), "logits of Ending are NaN or infinite for a black image: load its weights again"),
    ],
)
def test_an_output_that_is_no_logits(net, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        ar.wrap(net.eval(), "abn", **SIZE)


@pytest.mark.parametrize(
    "end",
    [
        lambda y, f: (y, f),
        lambda y, f: (f, y),
        lambda y, f: {"features": f, "out": y},
        lambda y, f: {"embedding": f.mean((2, 3)), "logits": y},
        lambda y, f: y.log_softmax(1),
    ],
)
def test_the_logits_among_what_a_network_returns(end):
    torch.manual_seed(0)
    net, pixels = Ending(end).eval(), torch.randn(2, 3, 64, 64)
    model = ar.wrap(net, "abn", **SIZE)
    logits = net.head(net.body(pixels).mean((2, 3)))
    assert model.num_labels == 3
    torch.testing.assert_close(model(pixels).logits.softmax(1), logits.softmax(1))


def test_weights_that_are_nan_are_named():
    net = network()
    net.layer1[0].conv1.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite .* and so is its weight 'layer1.0.conv1.weight'"):
        ar.wrap(net, "abn", **SIZE)


def test_a_network_of_grey_images_is_told_of_colours():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        ValueError, match=r"Sequential fails on a black image of \[3, 224, 224\] .* have three channels"
    ):
        ar.wrap(net, "abn")


def test_an_exported_network_is_refused_by_name():
    exported = torch.export.export(network().eval(), (torch.zeros(1, 3, 32, 32),)).module()
    with pytest.raises(TypeError, match="was made by torch.export, in which no map can act; wrap the network it was"):
        ar.wrap(exported)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_features_are_not_taken_for_classes(library):
    net = network() if library == "timm" else torchvision.models.resnet18()
    net.fc = nn.Identity()
    with pytest.raises(
        ValueError, match=r"ResNet has no classifier \(fc is torch.nn.Identity\(\)\), and its features are"
    ):
        ar.wrap(net, preprocessing={"input_size": [3, 32, 32]})
