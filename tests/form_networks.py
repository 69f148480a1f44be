"""Networks of one's own that give their logits in every form that there is."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

Named = namedtuple("Named", ["loss", "logits"])


@dataclass
class Output:
    logits: torch.Tensor
    hidden_states: tuple = ()


class ModelOutput(OrderedDict):
    """As that of transformers: a mapping whose values are attributes too."""

    def __init__(self, **values):
        super().__init__(values)
        self.__dict__.update(values)


FORMS = {
    "tensor": lambda x, _: x,
    "tuple": lambda x, features: (features, x),
    "list": lambda x, features: [x, x * 2, features],
    "logits": lambda x, features: {"loss": None, "logits": x},
    "out": lambda x, features: OrderedDict(out=x, aux=x * 0),
    "dataclass": lambda x, features: Output(x, (features,)),
    "named tuple": lambda x, features: Named(None, x),
    "model output": lambda x, features: ModelOutput(logits=x, hidden_states=features),
}


class Network(nn.Module):
    """Cells of four pixels; the logits are upsampled, or left at another size.

    Args:
        outputs: Channels of the logits.
        form: One of `FORMS`.
        upsampled: How many times; None to the input's size.
        channels: Of the input.
    """

    def __init__(self, outputs, form="tensor", upsampled=None, channels=3, dropout=0.0):
        super().__init__()
        self.body = nn.Conv2d(channels, 7, 3, stride=4, padding=1)
        self.pointwise = nn.Conv2d(7, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(6, outputs, 1)
        self.form, self.upsampled = FORMS[form], upsampled

    def forward(self, images):
        cells = self.body(images.to(self.body.weight)).relu()
        features = self.dropout(self.activation(self.norm(self.pointwise(cells))))
        low = self.head(features)
        size = images.shape[-2:]
        if self.upsampled is not None:
            size = [round(side * self.upsampled) for side in low.shape[-2:]]
        return self.form(F.interpolate(low, size, mode="bilinear"), features)


def plain(num_classes):
    return Network(num_classes)


def of_form(num_classes, **options):
    return Network(num_classes, **options)


def low_resolution(num_classes):
    return Network(num_classes, "model output", 1)


def one_output(num_classes):
    return Network(1)


def four_channels(num_classes):
    return Network(num_classes, channels=4)


class Headless(Network):
    """Its logits are no upsampling of a convolution's output."""

    def forward(self, images):
        return super().forward(images).tanh() * 3


def headless(num_classes):
    return Headless(num_classes, dropout=0.3)


class Odd(Network):
    """Fails as networks do that were built for one size."""

    def forward(self, images):
        assert images.shape[-1] == images.shape[-2], "Input height doesn't match model"
        return super().forward(images)


def square_only(num_classes):
    return Odd(num_classes)


class Encoder(nn.Module):
    """Returns what has its values as attributes too, as encoders of transformers do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 7, 3, stride=4, padding=1)

    def forward(self, images):
        return ModelOutput(last_hidden_state=self.body(images).relu())


class OfTransformers(nn.Module):
    """An encoder of that kind, dropout, a head."""

    def __init__(self, outputs):
        super().__init__()
        self.backbone = Encoder()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(7, outputs, 1)

    def forward(self, pixel_values):
        cells = self.backbone(pixel_values).last_hidden_state
        return ModelOutput(loss=None, logits=self.head(self.dropout(cells)))
