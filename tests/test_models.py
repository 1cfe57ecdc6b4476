"""Models: architectures, weights that fit or do not, layers by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="the torch extra is not installed")

from clear.architectures import ARCHITECTURES, digits_cnn, resnet20, resnet56  # noqa: E402
from clear.images import Preprocess  # noqa: E402
from clear.models import find_layer, last_linear, layer_names, load_model  # noqa: E402

pytestmark = pytest.mark.torch


def save(model: torch.nn.Module, path: Path, **changes: torch.Tensor | None) -> Path:
    state = model.state_dict() | {key.replace("__", "."): value for key, value in changes.items()}
    safetensors.save_file({key: value for key, value in state.items() if value is not None}, path)
    return path


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


class TestLoadModel:
    @pytest.mark.parametrize("name", sorted(ARCHITECTURES))
    def test_every_built_in_architecture_takes_its_own_weights(self, tmp_path: Path, name: str) -> None:
        model = ARCHITECTURES[name]()
        loaded = load_model(save(model, tmp_path / "w.safetensors"), name)
        assert same_weights(model, loaded)
        assert not any(module.training for module in loaded.modules())

    def test_a_callable_a_dotted_name_and_a_built_in_name_give_the_same_model(self, tmp_path: Path) -> None:
        model = digits_cnn()
        path = save(model, tmp_path / "w.safetensors")
        for architecture in (digits_cnn, "clear.architectures:digits_cnn", "digits_cnn", lambda: digits_cnn()):
            assert same_weights(load_model(path, architecture), model)

    def test_the_number_of_classes_is_read_from_the_weights_or_passed_on(self, tmp_path: Path) -> None:
        path = save(digits_cnn(num_classes=3), tmp_path / "w.safetensors")
        assert load_model(path, "digits_cnn").linear.out_features == 3
        assert load_model(path, digits_cnn, num_classes=3).linear.out_features == 3

    @pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "data parallel"])
    def test_checkpoints_are_unwrapped(self, tmp_path: Path, wrap: str) -> None:
        model = digits_cnn()
        state = model.state_dict()
        content = {"plain": state, "data parallel": {f"module.{key}": value for key, value in state.items()}}
        torch.save(content.get(wrap, {wrap: state, "epoch": 3}), tmp_path / "w.pt")
        assert same_weights(load_model(tmp_path / "w.pt", "digits_cnn"), model)

    def test_weights_without_batch_counters_are_accepted(self, tmp_path: Path) -> None:
        model = resnet20()
        counters = {key.replace(".", "__"): None for key in model.state_dict() if key.endswith("num_batches_tracked")}
        assert len(counters) == 19
        loaded = load_model(save(model, tmp_path / "w.safetensors", **counters), "resnet20")
        assert torch.equal(loaded.linear.weight, model.linear.weight)

    def test_weights_that_do_not_fit_are_listed_in_one_line(self, tmp_path: Path) -> None:
        path = save(
            digits_cnn(), tmp_path / "w.safetensors", fc__bias=None, new=torch.ones(1), conv1__bias=torch.ones(2)
        )
        with pytest.raises(ValueError, match=r"w\.safetensors: weights do not fit DigitsCnn") as caught:
            load_model(path, "digits_cnn")
        for fault in (r"1 missing (fc.bias)", "1 unexpected (new)", "1 wrong shape (conv1.bias (2,) for (32,))"):
            assert fault in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("architecture", ["os:getcwd", dict])
    def test_an_architecture_that_gives_no_network_is_refused(self, tmp_path: Path, architecture: object) -> None:
        path = save(digits_cnn(), tmp_path / "w.safetensors")
        with pytest.raises(TypeError, match=r"returns a (str|dict): want an nn\.Module"):
            load_model(path, architecture)

    def test_long_lists_of_keys_are_cut(self, tmp_path: Path) -> None:
        path = save(resnet56(), tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=r"216 unexpected \(.*, \.\.\.\)") as caught:
            load_model(path, "resnet20")
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        ("architecture", "error", "message"),
        [
            ("resnet21", ValueError, "not built in: want one of .*resnet20"),
            ("no_such_module:net", ValueError, "cannot be imported: No module named 'no_such_module'"),
            ("clear.architectures:nothing", ValueError, "cannot be imported: .*nothing"),
            ("clear.architectures:CIFAR_PREPROCESS.mean", ValueError, "cannot be imported"),
            ("sys:path", TypeError, "not callable"),
            (3, TypeError, "want a callable"),
        ],
    )
    def test_an_architecture_that_does_not_exist_is_one_line(self, tmp_path, architecture, error, message) -> None:
        path = save(digits_cnn(), tmp_path / "w.safetensors")
        with pytest.raises(error, match=message) as caught:
            load_model(path, architecture)
        assert "\n" not in str(caught.value)

    def test_files_that_hold_no_state_dict_are_refused(self, tmp_path: Path) -> None:
        torch.save([torch.ones(2)], tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"w\.pt: holds no state dict"):
            load_model(tmp_path / "w.pt", "digits_cnn")
        (tmp_path / "w.onnx").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"suffix '\.onnx' is not known"):
            load_model(tmp_path / "w.onnx", "digits_cnn")
        with pytest.raises(FileNotFoundError):
            load_model(tmp_path / "absent.safetensors", "digits_cnn")

    def test_without_torch_the_message_is_the_line_that_installs_it(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ImportError, match=r'pip install "clear-pockets\[torch\]"'):
            load_model(tmp_path / "w.safetensors", "digits_cnn")


class TestLayers:
    def test_names_are_dotted_and_find_their_module(self) -> None:
        model = resnet20()
        assert "layer3.2.conv2" in layer_names(model)
        assert find_layer(model, "layer3.2.conv2") is model.layer3[2].conv2
        assert last_linear(model) == ("linear", model.linear)

    def test_a_wrong_name_lists_the_closest_ones(self) -> None:
        with pytest.raises(ValueError, match=r"layer 'layer3.2.conv3' is not in the model: .*'layer3.2.conv[12]'"):
            find_layer(resnet20(), "layer3.2.conv3")
        with pytest.raises(ValueError, match="such as .*'linear'"):
            find_layer(resnet20(), "???")

    def test_a_model_without_a_linear_layer_asks_for_a_name(self) -> None:
        with pytest.raises(ValueError, match=r"Sequential has no nn.Linear: name a layer, such as \['0'\]"):
            last_linear(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


class TestArchitectures:
    def test_parameter_counts_are_those_of_the_paper(self) -> None:
        # He et al. 2016, table 6: 0.27M, 0.46M, 0.66M, 0.85M.
        sizes = [sum(p.numel() for p in ARCHITECTURES[f"resnet{n}"]().parameters()) for n in (20, 32, 44, 56)]
        assert [round(size / 1e6, 2) for size in sizes] == [0.27, 0.46, 0.66, 0.85]

    def test_the_shortcut_subsamples_and_pads_with_zero_channels(self) -> None:
        block = resnet20().layer2[0].eval()
        torch.nn.init.zeros_(block.bn2.weight)  # the residual branch gives nothing: only the shortcut is left
        x = torch.rand(2, 16, 8, 8)
        y = block(x)
        assert y.shape == (2, 32, 4, 4)
        assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
        assert not y[:, :8].any()
        assert not y[:, 24:].any()

    def test_the_digits_net_has_64_penultimate_features(self) -> None:
        model = digits_cnn()
        assert (model.linear.in_features, model.linear.out_features) == (64, 10)
        assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


class TestPreprocess:
    def test_it_scales_then_normalises_channel_by_channel(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        got = Preprocess(mean, std)(images).numpy()
        want = ((images / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        assert got.dtype == np.float32

    def test_grey_is_repeated_and_colour_becomes_luma(self) -> None:
        grey = np.full((1, 2, 2, 1), 51, np.uint8)
        assert Preprocess((0.0,) * 3, (1.0,) * 3)(grey).unique().tolist() == pytest.approx([0.2])
        red = np.zeros((1, 2, 2, 3), np.uint8)
        red[..., 0] = 255
        assert Preprocess((0.0,), (1.0,), channels=1)(red).unique().tolist() == pytest.approx([0.299])

    def test_images_of_different_sizes_are_resized_to_one(self) -> None:
        images = [np.full((h, w, 3), 255, np.uint8) for h, w in ((4, 9), (16, 3), (8, 8))]
        resized = Preprocess((0.0,) * 3, (1.0,) * 3, size=(8, 8))(images)
        assert resized.shape == (3, 3, 8, 8)
        torch.testing.assert_close(resized, torch.ones_like(resized))

    def test_other_inputs_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"dtype torch.float32 and shape \(2, 3, 8, 8\): want uint8"):
            Preprocess((0.0,), (1.0,))(torch.zeros(2, 3, 8, 8))
