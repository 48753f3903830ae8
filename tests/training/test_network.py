"""The late fusion network: shapes, equation 2, budgets, and DenseNet-201 as published."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from tests.training.published import published_lite_state  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fusematte.training.front import LiteFront  # noqa: E402
from fusematte.training.network import (  # noqa: E402
    CONFIGS,
    STRIDE,
    DenseNet201Encoder,
    DetailPath,
    EfficientNetLiteEncoder,
    InvertedBottleneck,
    LateFusionNetwork,
    Prediction,
    build_network,
    count_macs,
)

torch.set_num_threads(1)  # on busy cores two threads wait for one another


@pytest.fixture(scope="module")
def networks() -> dict[str, LateFusionNetwork]:
    torch.manual_seed(0)
    return {name: build_network(name).eval() for name in CONFIGS}


@pytest.fixture(scope="module")
def predictions(networks: dict[str, LateFusionNetwork]) -> dict[str, Prediction]:
    torch.manual_seed(1)
    with torch.no_grad():
        return {name: net(torch.rand(1, 3, 64, 64)) for name, net in networks.items()}


FUSED = [name for name, config in CONFIGS.items() if config.decoders == 2]


@pytest.mark.parametrize("name", FUSED)
def test_maps_have_the_pictures_size_and_range(
    predictions: dict[str, Prediction], name: str
) -> None:
    prediction = predictions[name]
    for part in (prediction.alpha, prediction.foreground, prediction.background, prediction.beta):
        assert part.shape == (1, 1, 64, 64)
        assert part.dtype == torch.float32
        assert 0 <= part.min() <= part.max() <= 1
        assert part.std() > 0


@pytest.mark.parametrize("name", FUSED)
def test_equation_2_holds_between_the_maps(predictions: dict[str, Prediction], name: str) -> None:
    alpha, foreground, background, beta, *_ = predictions[name]
    expected = beta * foreground + (1 - beta) * (1 - background)
    torch.testing.assert_close(alpha, expected, atol=1e-6, rtol=0)
    # Hence the two branches bracket alpha (section 3.2).
    low, high = (op(foreground, 1 - background) for op in (torch.minimum, torch.maximum))
    assert (alpha >= low - 1e-6).all()
    assert (alpha <= high + 1e-6).all()


@pytest.mark.parametrize("name", FUSED)
def test_probabilities_come_from_the_last_logits(
    predictions: dict[str, Prediction], name: str
) -> None:
    prediction = predictions[name]
    assert len(prediction.foreground_logits) == len(prediction.background_logits) == 1
    torch.testing.assert_close(
        prediction.foreground, torch.sigmoid(prediction.foreground_logits[-1])
    )
    torch.testing.assert_close(
        prediction.background, torch.sigmoid(prediction.background_logits[-1])
    )


@pytest.mark.parametrize(
    ("name", "sides"),
    # Upwards from 1/32; the edge network's last block leaves 1/4 by a pixel shuffle.
    [("edge", [4, 8, 64]), ("paper", [4, 8, 16, 32, 64])],
)
def test_training_gives_side_outputs_of_every_block(
    networks: dict[str, LateFusionNetwork], name: str, sides: list[int]
) -> None:
    network = networks[name].train()
    with torch.no_grad():
        prediction = network(torch.rand(1, 3, 64, 64))
    network.eval()
    for logits in (prediction.foreground_logits, prediction.background_logits):
        assert [tuple(block.shape) for block in logits] == [(1, 1, side, side) for side in sides]


@pytest.mark.parametrize("size", [(32, 32), (64, 160), (96, 32)])
def test_edge_takes_any_size_in_steps(
    networks: dict[str, LateFusionNetwork], size: tuple[int, int]
) -> None:
    assert all(side % STRIDE == 0 for side in size)
    with torch.no_grad():
        assert networks["edge"](torch.rand(1, 3, *size)).alpha.shape == (1, 1, *size)


def test_previous_alpha_defaults_to_nobody() -> None:
    network = build_network("edge").eval()
    assert isinstance(network.encoder, EfficientNetLiteEncoder)
    nn.init.normal_(network.encoder.previous.weight)  # it starts at zero
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        none = network(image).alpha
        zeros = network(image, torch.zeros(1, 1, 64, 96)).alpha
        ones = network(image, torch.ones(1, 1, 64, 96)).alpha
    assert torch.equal(none, zeros)
    assert not torch.allclose(none, ones)


def test_the_detail_path_changes_nothing_until_it_has_learnt() -> None:
    detailed = build_network("edge").eval()
    plain = LateFusionNetwork(replace(detailed.config, detail_width=0)).eval()
    plain.load_state_dict(
        {k: v for k, v in detailed.state_dict().items() if not k.startswith("detail.")}
    )
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(detailed(image).alpha, plain(image).alpha)


def test_the_detail_path_answers_for_every_pixel() -> None:
    path = DetailPath(8, 4, 3).eval()
    nn.init.normal_(path.head.weight)
    features = torch.rand(1, 8, 16, 24)
    image = torch.rand(1, 3, 64, 96)
    changed = image.clone()
    changed[..., 30, 41] = 1 - changed[..., 30, 41]  # one pixel
    with torch.no_grad():
        first, second = path(image, features), path(changed, features)
    assert first.shape == (1, 3, 64, 96)
    rows, columns = torch.nonzero((first != second).any(1)[0], as_tuple=True)
    assert (rows == 30).any() and (columns == 41).any()
    assert rows.max() - rows.min() < 20 and columns.max() - columns.min() < 20


def test_without_the_fusion_alpha_lies_half_way(networks: dict[str, LateFusionNetwork]) -> None:
    with torch.no_grad():
        prediction = networks["edge"](torch.rand(1, 3, 64, 64), fuse=False)
    expected = (prediction.foreground + 1 - prediction.background) / 2
    torch.testing.assert_close(prediction.alpha, expected)
    assert (prediction.beta == 0.5).all()


def test_a_single_decoder_costs_as_much_as_two(
    networks: dict[str, LateFusionNetwork], predictions: dict[str, Prediction]
) -> None:
    picture = torch.zeros(1, 3, 288, 512)
    single, pair = (count_macs(networks[name], picture) for name in ("edge-single", "edge"))
    assert single == pytest.approx(pair, rel=0.02)
    prediction = predictions["edge-single"]
    torch.testing.assert_close(prediction.background, 1 - prediction.foreground)
    assert prediction.background_logits == []
    assert not torch.equal(prediction.alpha, prediction.foreground)  # it was refined


def test_edge_keeps_its_budget(networks: dict[str, LateFusionNetwork]) -> None:
    network = networks["edge"]
    assert count_macs(network, torch.zeros(1, 3, 288, 512)) <= 7e9
    assert sum(parameter.numel() for parameter in network.parameters()) <= 7e6


def test_every_parameter_is_trained(networks: dict[str, LateFusionNetwork]) -> None:
    network = networks["edge"].train()
    prediction = network(torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64))
    outputs = [prediction.alpha, *prediction.foreground_logits, *prediction.background_logits]
    torch.stack([output.sum() for output in outputs]).sum().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None]
    network.zero_grad()
    network.eval()
    assert idle == []


def test_unknown_configuration_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"there is no network 'huge'.*edge, paper, edge-single, edge-still"
    ):
        build_network("huge")


# --- multiply-accumulates -------------------------------------------------------------------------


def macs_of(module: nn.Module, *shape: int) -> int:
    return count_macs(nn.Sequential(module), torch.zeros(shape))


def test_macs_of_a_convolution() -> None:
    # 3 x 3 over 5 channels for each of 2 * 8 * 6 * 7 outputs: 45 * 672 (bias not counted).
    assert macs_of(nn.Conv2d(5, 8, 3, padding=1), 2, 5, 6, 7) == 45 * 672


def test_macs_of_a_strided_and_a_grouped_convolution() -> None:
    # Stride 2: 8 * 3 * 4 outputs, 45 each.
    assert macs_of(nn.Conv2d(5, 8, 3, 2, 1), 1, 5, 6, 7) == 45 * 8 * 3 * 4
    # Depthwise: one input channel for each output.
    assert macs_of(nn.Conv2d(6, 6, 3, padding=1, groups=6), 1, 6, 4, 4) == 9 * 6 * 4 * 4


def test_macs_of_a_transposed_convolution() -> None:
    # Each of 3 * 5 * 4 inputs is spread by 4 x 4 weights to 7 channels: 60 * 112.
    assert macs_of(nn.ConvTranspose2d(3, 7, 4, 2, 1), 1, 3, 5, 4) == 60 * 112


def test_counting_leaves_no_hook_behind() -> None:
    layer = nn.Conv2d(1, 1, 1)
    network = nn.Sequential(layer)
    assert count_macs(network, torch.zeros(1, 1, 2, 2)) == 4
    assert count_macs(network, torch.zeros(1, 1, 2, 2)) == 4
    assert not layer._forward_hooks


# --- DenseNet-201 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(networks: dict[str, LateFusionNetwork]) -> DenseNet201Encoder:
    found = networks["paper"].encoder
    assert isinstance(found, DenseNet201Encoder)
    return found


def test_densenet_has_the_published_number_of_parameters(encoder: DenseNet201Encoder) -> None:
    # torchvision's densenet201 has 20,013,928, of which 1920 * 1000 + 1000 are its classifier's.
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == 20_013_928 - (1920 * 1000 + 1000) == 18_092_928


def test_densenet_has_torchvisions_names(encoder: DenseNet201Encoder) -> None:
    names = set(encoder.state_dict())
    assert names >= {
        "features.conv0.weight",
        "features.norm0.running_mean",
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock3.denselayer48.conv1.weight",
        "features.denseblock4.denselayer32.norm2.running_var",
        "features.transition3.conv.weight",
        "features.transition1.norm.bias",
        "features.norm5.weight",
    }
    # 98 dense layers with two convolutions each, three transitions, the first one: 200; the
    # classifier is the 201st layer.
    weights = {name for name in names if name.endswith("weight") and "conv" in name}
    assert len(weights) == 200


def test_densenet_taps_are_those_of_the_docstring(encoder: DenseNet201Encoder) -> None:
    with torch.no_grad():
        taps = encoder(torch.rand(1, 3, 64, 96))
    shapes = [
        (1, width, 64 >> step, 96 >> step)
        for step, width in enumerate((64, 256, 512, 1792, 1920), start=1)
    ]
    assert [tuple(tap.shape) for tap in taps] == shapes
    assert taps[-1].min() >= 0


@pytest.mark.parametrize("old", [False, True], ids=["current names", "names before 0.3"])
def test_densenet_loads_torchvisions_file(encoder: DenseNet201Encoder, old: bool) -> None:
    state: dict[str, Tensor] = {
        name: torch.full_like(value, 2) for name, value in encoder.state_dict().items()
    }
    if old:
        for kind in ("norm1", "norm2", "conv1", "conv2"):
            dotted = f".{kind[:-1]}.{kind[-1]}."
            state = {
                name.replace(f".{kind}.", dotted) if "denselayer" in name else name: value
                for name, value in state.items()
            }
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(1000, 1920), torch.zeros(1)
    fresh = DenseNet201Encoder()
    fresh.load_imagenet_weights(state)
    assert all((value == 2).all() for value in fresh.state_dict().values())


def test_densenet_refuses_an_incomplete_file(encoder: DenseNet201Encoder) -> None:
    state = dict(encoder.state_dict())
    del state["features.norm5.bias"]
    with pytest.raises(RuntimeError, match=r"features\.norm5\.bias"):
        DenseNet201Encoder().load_imagenet_weights(state)


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite() -> EfficientNetLiteEncoder:
    torch.manual_seed(0)
    return EfficientNetLiteEncoder().eval()


def test_lite_has_the_published_number_of_parameters(lite: EfficientNetLiteEncoder) -> None:
    # The published network has 4,652,008; we leave out its last stage (192 -> 1152 -> 320), the
    # 1280-wide head and the classifier, norms and biases included.
    stage = 192 * 1152 + 9 * 1152 + 1152 * 320 + 2 * (1152 + 1152 + 320)
    left_out = stage + 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    published = (LiteFront(), lite.blocks)
    count = sum(parameter.numel() for part in published for parameter in part.parameters())
    assert count == 4_652_008 - left_out == 2_353_408


def test_lite_taps_are_those_of_the_docstring(lite: EfficientNetLiteEncoder) -> None:
    with torch.no_grad():
        features = lite(torch.rand(1, 3, 64, 96), torch.rand(1, 1, 64, 96))
    shapes = [(1, c, 64 >> i, 96 >> i) for i, c in enumerate(lite.channels, start=2)]
    assert [tuple(f.shape) for f in features] == shapes


def test_lite_loads_the_published_file() -> None:
    state = published_lite_state()
    fresh, front = EfficientNetLiteEncoder(), LiteFront()
    fresh.load_imagenet_weights(state)
    front.load_imagenet_weights(state)
    assert torch.equal(front.stem[0].weight, state["_conv_stem.weight"])
    for blocks, index, number in (
        (front.blocks, 0, 0),
        (fresh.blocks, 0, 3),
        (fresh.blocks, 11, 14),
    ):
        block = blocks[index]
        assert isinstance(block, InvertedBottleneck)
        filters = state[f"_blocks.{number}._depthwise_conv.weight"]
        assert torch.equal(block.depthwise[0].weight, filters)
        assert torch.equal(
            block.project[1].running_var, state[f"_blocks.{number}._bn2.running_var"]
        )


def test_lite_refuses_an_incomplete_file() -> None:
    state = published_lite_state()
    del state["_blocks.3._bn1.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.depthwise\.1\.weight"):
        EfficientNetLiteEncoder().load_imagenet_weights(state)
    LiteFront().load_imagenet_weights(state)
    del state["_conv_stem.weight"]
    with pytest.raises(RuntimeError, match=r"stem\.0\.weight"):
        LiteFront().load_imagenet_weights(state)


def test_lite_starts_without_a_say_of_the_previous_alpha(lite: EfficientNetLiteEncoder) -> None:
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        without, filled = (lite(image, torch.full((1, 1, 64, 64), v)) for v in (0.0, 1.0))
    torch.testing.assert_close(without, filled)
