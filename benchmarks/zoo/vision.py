"""Vision models of the transformers library: transformers, hierarchies, modern convolutions."""

from __future__ import annotations

from typing import Any

from zoo.library import image, register

PATCHES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTForImageClassification", PATCHES),
    "DeiT": ("DeiTForImageClassification", PATCHES),
    "BEiT": ("BeitForImageClassification", PATCHES | {"use_relative_position_bias": True}),
    "DINOv2": ("Dinov2ForImageClassification", PATCHES),
    "Swin": ("SwinForImageClassification", WINDOWS),
    "SwinV2": ("Swinv2ForImageClassification", WINDOWS),
    "SegFormer": (
        "SegformerForSemanticSegmentation",
        {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
         "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [2, 4],
         "mlp_ratios": [4, 4], "decoder_hidden_size": 32, "num_labels": 4},
    ),
    "PoolFormer": (
        "PoolFormerForImageClassification",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_encoder_blocks": 4,
         "mlp_ratio": 4.0},
    ),
    "LeViT": (
        "LevitForImageClassification",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4],
         "depths": [1, 1, 1], "key_dim": [8, 8, 8], "mlp_ratio": [2, 2, 2],
         "attention_ratio": [2, 2, 2]},
    ),
    "ConvNeXt": (
        "ConvNextForImageClassification", {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
    ),
    "ConvNeXtV2": (
        "ConvNextV2ForImageClassification",
        {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]},
    ),
    "ResNet (transformers)": (
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 2, 1]},
    ),
    "RegNet": (
        "RegNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 2, 1],
         "groups_width": 8},
    ),
    "MobileNetV1 (transformers)": (
        "MobileNetV1ForImageClassification", {"depth_multiplier": 0.25, "image_size": 64}
    ),
    "MobileNetV2 (transformers)": (
        "MobileNetV2ForImageClassification", {"depth_multiplier": 0.35, "image_size": 64}
    ),
    "EfficientNet (transformers)": (
        "EfficientNetForImageClassification",
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    ),
}  # fmt: skip

for name, (model, config) in MODELS.items():
    size = config.get("image_size", 64)
    register("vision", name, model, image(size), **config)

register(
    "vision", "DETR", "DetrForObjectDetection", image(64),
    d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, num_queries=6,
    decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, use_timm_backbone=False,
    use_pretrained_backbone=False, backbone=None,
    backbone_config={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32],
                     "depths": [1, 1, 1, 1], "out_features": ["stage4"]},
)  # fmt: skip
