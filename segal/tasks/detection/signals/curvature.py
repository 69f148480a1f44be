"""The Hessian of a detector's mean loss over a set of images, by its last layers' parameters.

The outputs of these layers are linear in their parameters, so that the Hessian is J^T S J with S
the loss's second derivative by the outputs, a block for each anchor, cell or proposal. The focal
loss of classes that are missed and the IoU of boxes curve downwards; of S only the part that curves
upwards is kept (negative eigenvalues of a block count as zero), without which no influence is
defined. Of Faster R-CNN, whose losses are convex in the outputs, nothing is left out.

Each block is a sum of outer products `l u u^T`, so that the Hessian is a sum of such terms over
pairs (x, u) of an input of a layer and a direction of its outputs: `l (u x^T)(u x^T)^T`. These are
what is sampled and drawn from: each by its trace, which is what it adds to that of the Hessian.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.data.image_sets import SetName
from segal.errors import SegalError
from segal.signals.base import Parameters, Workbench
from segal.signals.curvature import Curvature
from segal.signals.pixel_sample import free_bytes
from segal.tasks.detection.detectors.base import RAW, Target
from segal.tasks.detection.evidence import DetectionEvidence, RawOutputs
from segal.tasks.detection.signals.branches import Branch, LastLayers, Stage
from segal.tasks.detection.signals.last_layers import last_layers
from segal.tasks.detection.targets import Targets


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms of the Hessian that are of one layer.

    Attributes:
        inputs: (n, D) what the layer's weights take, a 1 appended where it has a bias.
        columns: (n, m) int64, the outputs that `directions` are of.
        directions: (n, m) u.
        strengths: (n,) l.
        traces: (n,) l |u|^2 |x|^2, float64.
        keys: (n,) float64, the trace over a number drawn from 0 to 1.
    """

    inputs: Tensor
    columns: Tensor
    directions: Tensor
    strengths: Tensor
    traces: Tensor
    keys: Tensor

    def __len__(self) -> int:
        """How many they are."""
        return len(self.keys)

    def keep(self, which: Tensor) -> "Terms":
        """Some of them, by a mask or by indices, repeats allowed."""
        return Terms(
            self.inputs[which],
            self.columns[which],
            self.directions[which],
            self.strengths[which],
            self.traces[which],
            self.keys[which],
        )

    def join(self, other: "Terms") -> "Terms":
        """Both."""
        return Terms(
            *(
                torch.cat([getattr(self, name), getattr(other, name)])
                for name in ("inputs", "columns", "directions", "strengths", "traces", "keys")
            )
        )

    def product(self, matrix: Tensor) -> Tensor:
        """The sum of all terms, times a matrix (K, D) of the layer's outputs and inputs."""
        slopes = (self.inputs @ matrix.T).gather(1, self.columns)
        slopes = (slopes * self.directions).sum(1) * self.strengths
        spread = self.inputs.new_zeros(len(self), len(matrix))
        spread.scatter_add_(1, self.columns, self.directions * slopes[:, None])
        return spread.T @ self.inputs


def curvature(bench: Workbench, of: SetName, terms: int | None) -> Curvature:
    """The Hessian of the mean loss over a set, from a pass over it; made once for a pass.

    With fewer terms than there are, they are sampled by priority (Duffield, Lund and Thorup, JACM
    2007): those of the largest trace over a number drawn from 0 to 1 are kept, and any that is
    smaller than the first to be left out counts as much as that. The mean over draws is the
    Hessian. What is drawn depends on the seed and the images alone.

    Args:
        bench: The workbench.
        of: The set; its labels are needed.
        terms: How many are kept; None for all of them.

    Raises:
        SegalError: If the set has no image, the detector is of a kind that has no such layers, or
            memory is too small.
    """
    return bench.once(
        ("curvature of boxes", of, terms), lambda: _TermCurvature.of(bench, of, terms)
    )


class _TermCurvature(Curvature):
    def __init__(self, branches: Sequence[Branch], terms: Sequence[Terms]) -> None:
        self._branches, self._terms = branches, terms
        self._shapes = {
            name: p.shape for branch in branches for name, p in branch.parameters.items()
        }
        self.pixels = sum(map(len, terms))

    @classmethod
    def of(cls, bench: Workbench, of: SetName, count: int | None) -> "_TermCurvature":
        """See `curvature`."""
        layers = last_layers(bench.model)
        sample = _Sample(layers, count, torch.Generator().manual_seed(bench.seed))
        images = 0
        for image in labelled(bench, of):
            sample.add(*image)
            images += 1
        return cls(layers.branches, sample.terms(images))

    def flatten(self, parameters: Parameters) -> Tensor:
        return torch.cat([parameters[name].double().flatten() for name in self._shapes])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        parts = torch.split(vector, [shape.numel() for shape in self._shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def product(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        along, found, start = self.unflatten(vector), {}, 0
        for branch, terms in zip(self._branches, self._terms, strict=True):
            stop = start + len(terms)
            weight, bias = f"{branch.name}.weight", f"{branch.name}.bias"
            matrix = along[weight].flatten(1)
            if bias in along:
                matrix = torch.cat([matrix, along[bias][:, None]], 1)
            own = terms
            if rows is not None:
                own = terms.keep(rows[(rows >= start) & (rows < stop)] - start)
            product = own.product(matrix.to(terms.inputs)).double()
            if rows is not None:
                product *= self.pixels / len(rows)
            width = self._shapes[weight][1:].numel()
            found[weight] = product[:, :width]
            if bias in along:
                found[bias] = product[:, width]
            start = stop
        return self.flatten(found)


def labelled(bench: Workbench, of: SetName) -> Iterator[tuple[RawOutputs, Target, Tensor]]:
    """Each image of a set: what the detector says of it, its boxes, and where these are all listed.

    Raises:
        SegalError: If the set has no image, or its labels are unknown.
    """
    empty = True
    for visit in bench.visit(of, (RAW,)):
        evidence = cast(DetectionEvidence, visit.evidence)
        if visit.labels is None:
            raise SegalError(
                f"the {of} set: its labels are unknown",
                expected="labels, since a gradient is taken on them",
                got="images alone, such as " + ", ".join(evidence.images[:1]),
                remedy="give a labelled set of images",
            )
        objects = cast(Targets, visit.labels).objects
        for raw, target, known in zip(evidence.raw, objects, visit.mask, strict=True):
            if known.any():
                empty = False
                yield raw, target, known
    if empty:
        raise SegalError(
            f"the {of} set: not one image to take a gradient on",
            expected="labelled images; one without boxes will do",
            got="none",
            remedy="check the labels, and the list of images",
        )


class _Found(NamedTuple):
    """The terms of one stage and layer of an image, with their inputs still in the tower.

    Attributes:
        branch: Position of the layer.
        kind: The layer.
        strengths: (a, m) l, of a anchors with m terms each.
        anchors: (a,) int64, which.
        vectors: (a, m, K), or None for the unit vectors.
        traces: (a, m) float64.
    """

    branch: int
    kind: Branch
    strengths: Tensor
    anchors: Tensor
    vectors: Tensor | None
    traces: Tensor


class _Sample:
    """Terms that are kept while images go by."""

    def __init__(self, layers: LastLayers, count: int | None, generator: torch.Generator) -> None:
        self._layers, self._count, self._generator = layers, count, generator
        self._kept: list[Terms | None] = [None for _ in layers.branches]
        self._threshold = 0.0  # the largest key that was left out

    def add(self, raw: RawOutputs, target: Target, known: Tensor) -> None:
        """Looks at the terms of an image."""
        for stage in self._layers.compared(raw, target, known):
            for found in _terms_of(self._layers, raw, stage):
                drawn = torch.rand(
                    found.traces.shape, generator=self._generator, dtype=torch.float64
                ).clamp_min_(torch.finfo(torch.float64).tiny)
                keys = (found.traces / drawn.to(found.traces)).flatten()
                chosen = (keys > self._threshold).nonzero()[:, 0]
                if self._count is not None and len(chosen) > self._count + 1:
                    chosen = chosen[keys[chosen].topk(self._count + 1).indices]
                self._join(raw, found, keys, chosen)

    def terms(self, images: int) -> list[Terms]:
        """What is kept, as terms of the mean over so many images."""
        found = []
        for branch, kept in zip(self._layers.branches, self._kept, strict=True):
            terms = _nothing(branch) if kept is None else kept
            larger = terms.traces.clamp_min(self._threshold) / terms.traces / images
            found.append(replace(terms, strengths=terms.strengths * larger.to(terms.strengths)))
        return found

    def _join(self, raw: RawOutputs, found: _Found, keys: Tensor, chosen: Tensor) -> None:
        if self._count is not None:
            everything = torch.cat([keys[chosen], *(t.keys for t in self._kept if t is not None)])
            if len(everything) > self._count:
                lowest = everything.topk(self._count + 1).values[-1]
                self._threshold = max(self._threshold, float(lowest))
            chosen = chosen[keys[chosen] > self._threshold]
            self._kept = [t and t.keep(t.keys > self._threshold) for t in self._kept]
        self._check_memory(found.kind, len(chosen))
        new, before = _gather(raw, found, keys, chosen), self._kept[found.branch]
        self._kept[found.branch] = new if before is None else before.join(new)

    def _check_memory(self, branch: Branch, count: int) -> None:
        weight = branch.layer.weight
        wanted = 2 * count * weight[0].numel() * weight.element_size()
        wanted += sum(
            t.inputs.numel() * t.inputs.element_size() for t in self._kept if t is not None
        )
        free = free_bytes(weight.device)
        if wanted > free:
            raise SegalError(
                "the Hessian of the labelled set does not fit in memory",
                expected=f"at most {free >> 20} MiB, which is free",
                got=f"{wanted >> 20} MiB so far",
                remedy="give a smaller strategy.hessian_pixels, such as 10000",
            )


def _terms_of(layers: LastLayers, raw: RawOutputs, stage: Stage) -> list[_Found]:
    residuals, at = stage.residuals(create_graph=True)
    weights, found = stage.weights(), []
    for number, branch in enumerate(layers.branches):
        if branch.name not in residuals:
            continue
        residual, outputs = residuals[branch.name], at[branch.name]
        anchors = torch.arange(len(outputs), device=outputs.device)
        vectors: Tensor | None = None
        if branch.curvature == "diagonal":
            strengths = _derivative(residual.sum(), outputs)
        elif branch.curvature == "softmax":
            strengths = outputs.detach().softmax(1)
            eye = torch.eye(branch.width).to(strengths)
            vectors = eye - strengths[:, None, :]
        else:
            anchors = stage.positive.nonzero()[:, 0]
            rows = [
                _derivative(residual[:, k].sum(), outputs)[anchors] for k in range(branch.width)
            ]
            blocks = torch.stack(rows, 1)
            if branch.rectified:
                open_ = (outputs.detach()[anchors] > 0).to(blocks)
                blocks = blocks * open_[:, :, None] * open_[:, None, :]
            strengths, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
            vectors = vectors.mT
        strengths = strengths.clamp_min(0) * weights[anchors, None].to(strengths)
        traces = strengths.double() * _squares(raw, branch)[anchors, None]
        if vectors is not None:
            traces = traces * vectors.double().square().sum(-1)
        found.append(_Found(number, branch, strengths, anchors, vectors, traces))
    return found


def _derivative(of: Tensor, by: Tensor) -> Tensor:
    """Zero where the loss is linear, such as L1."""
    if not of.requires_grad:
        return torch.zeros_like(by)
    (found,) = torch.autograd.grad(of, by, retain_graph=True, allow_unused=True)
    return torch.zeros_like(by) if found is None else found


def _squares(raw: RawOutputs, branch: Branch) -> Tensor:
    """(A,) float64, |x|^2 with the 1 of a bias."""
    layer: Any = branch.layer
    one = 0.0 if layer.bias is None else 1.0
    inputs = branch.inputs(raw)
    if isinstance(layer, nn.Linear):
        return inputs[0].double().square().sum(1) + one
    parts = []
    for tower in inputs:
        squares = tower.double().square().sum(0)[None, None]
        kernel = squares.new_ones(1, 1, *layer.kernel_size)
        sums = F.conv2d(squares, kernel, None, layer.stride, layer.padding, layer.dilation)
        parts.append(sums.flatten().repeat_interleave(layer.out_channels // branch.width) + one)
    return torch.cat(parts)


def _gather(raw: RawOutputs, found: _Found, keys: Tensor, chosen: Tensor) -> Terms:
    branch, each = found.kind, found.strengths.shape[1]
    row, which = torch.div(chosen, each, rounding_mode="floor"), chosen % each
    anchors = found.anchors[row]
    inputs, slots = _inputs(raw, branch, anchors)
    first = slots * branch.width
    if found.vectors is None:
        columns = (first + which)[:, None]
        directions = torch.ones_like(columns, dtype=inputs.dtype)
    else:
        columns = first[:, None] + torch.arange(branch.width, device=first.device)
        directions = found.vectors[row, which].to(inputs)
    return Terms(
        inputs=inputs,
        columns=columns,
        directions=directions,
        strengths=found.strengths.flatten()[chosen].to(inputs),
        traces=found.traces.flatten()[chosen],
        keys=keys[chosen],
    )


def _inputs(raw: RawOutputs, branch: Branch, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D) what a layer's weights take at anchors, and (n,) which of their cell's they are."""
    layer: Any = branch.layer
    inputs, slots = branch.inputs(raw), torch.zeros_like(anchors)
    if isinstance(layer, nn.Linear):
        found = inputs[0][anchors]
    else:
        found = inputs[0].new_empty(len(anchors), layer.weight[0].numel())
        per_cell, start = layer.out_channels // branch.width, 0
        for tower in inputs:
            padded = F.pad(tower, [p for p in reversed(layer.padding) for _ in range(2)])
            (dy, dx), (sy, sx), (ky, kx) = layer.dilation, layer.stride, layer.kernel_size
            height = (padded.shape[1] - dy * (ky - 1) - 1) // sy + 1
            width = (padded.shape[2] - dx * (kx - 1) - 1) // sx + 1
            stop = start + height * width * per_cell
            here = ((anchors >= start) & (anchors < stop)).nonzero()[:, 0]
            cell = torch.div(anchors[here] - start, per_cell, rounding_mode="floor")
            slots[here] = (anchors[here] - start) % per_cell
            y, x = torch.div(cell, width, rounding_mode="floor") * sy, cell % width * sx
            patches = [padded[:, y + i * dy, x + j * dx] for i in range(ky) for j in range(kx)]
            found[here] = torch.stack(patches, 1).flatten(0, 1).T
            start = stop
    if layer.bias is not None:
        found = torch.cat([found, torch.ones_like(found[:, :1])], 1)
    return found, slots


def _nothing(branch: Branch) -> Terms:
    weight = branch.layer.weight
    width = weight[0].numel() + (branch.layer.bias is not None)
    empty = weight.detach().new_empty(0)
    none = empty.double()
    columns = torch.empty(0, 1, dtype=torch.int64, device=weight.device)
    return Terms(weight.new_empty(0, width), columns, empty[:, None], empty, none, none)
