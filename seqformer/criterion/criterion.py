"""The training objective: match in every decoder layer, then sum five losses over the layers.

First all layers are matched with one device-to-host copy; then every loss is computed for all
layers, clips and instances in one piece, and split by layer only to be named.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_box_iou
from ..config import LossConfig
from ..model.masks import mask_loss_sums
from ..structures import ClipOutput, ClipTargets
from .losses import at_least_float32, dice, scatter_one_hot, sigmoid_focal
from .matcher import HungarianMatcher, Matches
from .targets import BatchTargets, check_targets


class SetCriterion:
    """Set prediction loss of SeqFormer (paper 3.4); see `__call__`."""

    def __init__(self, config: LossConfig | None = None) -> None:
        self.config = config or LossConfig()
        self.matcher = HungarianMatcher(self.config)

    @classmethod
    def from_config(cls, config: LossConfig) -> SetCriterion:
        """The criterion of a training run."""
        return cls(config)

    def __call__(
        self,
        output: ClipOutput,
        targets: list[ClipTargets],
        num_instances: Tensor | float | None = None,
    ) -> dict[str, Tensor]:
        """All losses, unweighted, each divided by `num_instances`.

        Args:
            output: of the model in training form (all decoder layers).
            targets: one per clip.
            num_instances: normaliser, positive; None takes the instances of this batch, at least
                1. In training it is the count of the global batch, over the number of processes.

        Returns: `loss_ce`, `loss_bbox`, `loss_giou`, `loss_mask`, `loss_dice` of the last layer,
            the same with `_0`, `_1`, ... of the earlier ones, and the log values `class_error`,
            `cardinality_error`. Every entry is attached to the graph even without any instance.
        Raises: ValueError naming what is wrong with the targets.
        """
        check_targets(output, targets)
        if num_instances is None:
            num_instances = max(sum(len(t["labels"]) for t in targets), 1)
        assignment = self.matcher.begin(output.class_logits, output.boxes, targets)
        # While the costs travel, the device gets what does not depend on the assignment.
        expected = BatchTargets.of(output, targets)
        cardinality = _cardinality_error(output, expected)
        matches = assignment.finish()
        per_layer = {
            "loss_ce": self._class_loss(output, expected, matches),
            **self._box_losses(output, expected, matches),
            **self._mask_losses(output, expected, matches),
        }
        losses: dict[str, Tensor] = {}
        for name, value in per_layer.items():
            losses |= _named_by_layer(name, value / num_instances)
        losses["class_error"] = _class_error(output, expected, matches)
        return losses | _named_by_layer("cardinality_error", cardinality)

    def names(self, num_layers: int) -> list[str]:
        """What `__call__` returns for D decoder layers, by name."""
        layered = ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice")
        unnamed = torch.zeros(num_layers)
        names = [n for kind in layered for n in _named_by_layer(kind, unnamed)]
        return [*names, "class_error", *_named_by_layer("cardinality_error", unnamed)]

    def weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        """The number to minimise; log values take no part."""
        config = self.config
        weights = {
            "loss_ce": config.class_weight,
            "loss_bbox": config.box_weight,
            "loss_giou": config.giou_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        terms = {name: value for name, value in losses.items() if name.startswith("loss_")}
        factors = [weights["_".join(name.split("_")[:2])] for name in terms]
        return torch.stack(torch._foreach_mul(list(terms.values()), factors)).sum()

    def _class_loss(self, output: ClipOutput, expected: BatchTargets, matches: Matches) -> Tensor:
        logits = at_least_float32(output.class_logits)
        labels = expected.labels[matches.target]
        index = (matches.layer, matches.clip, matches.query, labels)
        one_hot = scatter_one_hot(logits.shape, index, logits)
        loss = sigmoid_focal(logits, one_hot, self.config.focal_alpha, self.config.focal_gamma)
        return loss.flatten(1).sum(1)

    def _box_losses(
        self, output: ClipOutput, expected: BatchTargets, matches: Matches
    ) -> dict[str, Tensor]:
        boxes = rearrange(at_least_float32(output.boxes), "d b t q xywh -> d b q t xywh")
        matched = boxes[matches.layer, matches.clip, matches.query]  # [N, T, 4]
        target_boxes = expected.boxes[matches.target]
        # parity: frames in which an instance is absent count too, with their 1e-6 boxes.
        distance = (matched - target_boxes).abs().sum(-1).mean(-1)
        giou = generalized_box_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(target_boxes))
        return {
            "loss_bbox": _sum_by_layer(distance, matches, output),
            "loss_giou": _sum_by_layer((1 - giou).mean(-1), matches, output),
        }

    def _mask_losses(
        self, output: ClipOutput, expected: BatchTargets, matches: Matches
    ) -> dict[str, Tensor]:
        params = output.mask_params[matches.layer, matches.clip, matches.query]
        references = rearrange(output.reference_points, "d b t q xy -> d b q t xy")
        references = references[matches.layer, matches.clip, matches.query]  # [N, T, 2]
        focal, overlap, area, target_area = mask_loss_sums(
            output.mask_features,
            params,
            # parity: in training the reference is scaled by the clip's own size, before padding.
            references * expected.sizes[matches.clip][:, None],
            matches.clip,
            output.mask_stride,
            expected.masks,
            matches.target,
            self.config.focal_alpha,
            self.config.focal_gamma,
        )
        # parity: padded area counts as background in both losses.
        return {
            "loss_mask": _sum_by_layer(focal / expected.masks.shape[1:].numel(), matches, output),
            "loss_dice": _sum_by_layer(dice(overlap, area, target_area), matches, output),
        }


@torch.no_grad()
def _cardinality_error(output: ClipOutput, expected: BatchTargets) -> Tensor:
    """[D]. parity: the published count takes the last class for "no object", although it is not."""
    logits = output.class_logits
    counted = (logits.argmax(-1) != logits.shape[-1] - 1).sum(2).float()  # [D, B]
    return (counted - expected.counts).abs().mean(1)


@torch.no_grad()
def _class_error(output: ClipOutput, expected: BatchTargets, matches: Matches) -> Tensor:
    """Percentage of the last layer's matched queries whose best class is wrong."""
    pairs = sum(len(query) for query, _ in matches.host_indices[-1])
    clip, query, target = (
        index[index.shape[0] - pairs :] for index in (matches.clip, matches.query, matches.target)
    )
    correct = output.class_logits[-1, clip, query].argmax(-1) == expected.labels[target]
    return 100 - 100 * correct.float().sum() / max(pairs, 1)


def training_losses(
    model: torch.nn.Module,
    images: Tensor,
    padding_mask: Tensor | None,
    targets: list[ClipTargets],
) -> dict[str, Tensor]:
    """Loss dictionary of one batch under the published names.

    Args:
        model: a `SeqFormer`.
        images: [B, T, 3, H, W] normalised, zero where padded.
        padding_mask: [B, H, W] bool, True on padding, or None.
        targets: per clip `labels` [N], `boxes` [N, T, 4], `masks` [N, T, H, W] and `size` (H, W)
            of the clip before padding.

    Returns: as `SetCriterion.__call__`.
    """
    return SetCriterion()(model(images, padding_mask), targets)


def _named_by_layer(name: str, values: Tensor) -> dict[str, Tensor]:
    """[D] -> the last layer under `name`, earlier ones under `name_0`, `name_1`, ..."""
    *earlier, last = values.unbind()
    return {name: last} | {f"{name}_{layer}": value for layer, value in enumerate(earlier)}


def _sum_by_layer(values: Tensor, matches: Matches, output: ClipOutput) -> Tensor:
    """[N] -> [D]."""
    layers = output.class_logits.shape[0]
    return values.new_zeros(layers).index_add(0, matches.layer, values)
