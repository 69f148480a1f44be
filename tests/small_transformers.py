"""Small networks of Hugging Face's transformers, of every type that segal reads."""

import torch
import transformers
from torch import nn

from segal.models.sources.huggingface import SEMANTIC, UNIVERSAL

CLASSES = ("road", "car", "sky")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
VIT = {
    **{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
    **{"intermediate_size": 32, "image_size": 64, "patch_size": 16},
}
SWIN = {
    **{"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 4},
    "out_features": STAGES,
}


def configuration(kind):  # noqa: PLR0911
    """That of a small network, by its `model_type`."""
    t = transformers
    if kind == "segformer":
        return t.SegformerConfig(
            hidden_sizes=[8, 16, 16, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 1, 2],
            decoder_hidden_size=16,
        )
    if kind == "upernet":
        convnext = t.ConvNextConfig(
            hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], out_features=STAGES
        )
        return t.UperNetConfig(backbone_config=convnext, hidden_size=16)
    if kind == "dpt":
        sizes = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
        return t.DPTConfig(**VIT, **sizes, backbone_out_indices=[0, 1, 2, 3])
    if kind == "beit":
        return t.BeitConfig(**VIT, out_indices=[1, 2, 3, 4], use_relative_position_bias=True)
    if kind == "eomt":
        sizes = {k: v for k, v in VIT.items() if k != "intermediate_size"}
        return t.EomtConfig(**sizes, num_blocks=1, num_queries=5, num_upscale_blocks=1)
    if kind == "maskformer":
        detr = t.DetrConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
            num_queries=5,
        )
        return t.MaskFormerConfig(
            backbone_config=t.SwinConfig(**SWIN),
            decoder_config=detr,
            fpn_feature_size=32,
            mask_feature_size=32,
        )
    if kind in {"mobilevit", "mobilevitv2"}:
        sizes = {"image_size": 64, "aspp_out_channels": 16, "atrous_rates": [1, 2, 3]}
        if kind == "mobilevitv2":
            return t.MobileViTV2Config(**sizes, width_multiplier=0.25, n_attn_blocks=[1, 1, 1])
        return t.MobileViTConfig(
            **sizes, hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 16]
        )
    if kind == "mobilenet_v2":
        return t.MobileNetV2Config(depth_multiplier=0.25, image_size=64)
    if kind == "data2vec-vision":
        return t.Data2VecVisionConfig(**VIT, out_indices=[1, 2, 3, 4])
    assert kind == "mask2former"
    return t.Mask2FormerConfig(
        backbone_config=t.SwinConfig(**SWIN),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=5,
    )


def written(kind, folder, weights=True, **changes):
    """A folder of save_pretrained, and the library's own network."""
    torch.manual_seed(1)
    config = configuration(kind)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: i for i, name in enumerate(CLASSES)}
    for key, value in changes.items():
        setattr(config, key, value)
    network = getattr(transformers, (SEMANTIC | UNIVERSAL)[kind])(config).eval()
    gain = 3 if kind == "eomt" else 0.5
    for value in network.parameters():  # of small initial weights every pixel would be of a class
        if value.ndim > 1:
            nn.init.normal_(value, std=gain / value[0].numel() ** 0.5)
    network.save_pretrained(folder) if weights else config.save_pretrained(folder)
    return network
