"""Further models of the transformers library: vision, speech, time series, decisions."""

from __future__ import annotations

from typing import Any

import torch

from zoo.entry import random, tokens
from zoo.library import image, register
from zoo.signals import TOWER
from zoo.vision import PATCHES

STAGES: dict[str, Any] = {"image_size": 64, "depths": [1, 1, 1, 1]}
FOUR: dict[str, Any] = {"hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4]}

VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "PVT": ("PvtForImageClassification", STAGES | FOUR | {"mlp_ratios": [2, 2, 2, 2]}),
    "MobileViT": (
        "MobileViTForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 16, 32], "num_attention_heads": 2,
         "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32]},
    ),
    "SwiftFormer": ("SwiftFormerForImageClassification", STAGES | {"embed_dims": [8, 16, 16, 32]}),
    "Hiera": (
        "HieraForImageClassification",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1],
         "num_heads": [1, 2, 4, 8], "masked_unit_size": [8, 8], "query_stride": [2, 2],
         "num_query_pool": 2},
    ),
    "HGNet": (
        "HGNetV2ForImageClassification",
        {"stem_channels": [3, 8, 8], "embedding_size": 8, "hidden_sizes": [16, 16, 32, 32],
         "depths": [1, 1, 1, 1], "stage_in_channels": [8, 16, 16, 32],
         "stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [16, 16, 32, 32],
         "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2]},
    ),
    "DPT": (
        "DPTForDepthEstimation",
        PATCHES
        | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "fusion_hidden_size": 16,
           "neck_hidden_sizes": [8, 8, 16, 16]},
    ),
    "GLPN": (
        "GLPNForDepthEstimation",
        FOUR | {"num_encoder_blocks": 4, "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
    ),
    "YOLOS": (
        "YolosForObjectDetection", PATCHES | {"image_size": [32, 32], "num_detection_tokens": 4}
    ),
    "SuperPoint": (
        "SuperPointForKeypointDetection",
        {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 32,
         "descriptor_decoder_dim": 16},
    ),
}  # fmt: skip

for name, (model, config) in VISION.items():
    size = 32 if config.get("image_size", 64) in (32, [32, 32]) else 64
    register("further", name, model, image(size), **config)

WAVES: dict[str, Any] = {
    "vocab_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "pad_token_id": 0, "apply_spec_augment": False,
}  # fmt: skip
for name, model, more in (
    ("HuBERT", "HubertForCTC", {}),
    ("Wav2Vec2-Conformer", "Wav2Vec2ConformerForCTC", {"conv_depthwise_kernel_size": 3}),
    ("SEW-D", "SEWDForCTC", {"squeeze_factor": 2}),
):
    register("further", name, model, lambda: {"input_values": random(2, 800)()}, **(WAVES | more))
register(
    "further", "AST", "ASTForAudioClassification", lambda: {"input_values": random(2, 32, 16)()},
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    patch_size=8, frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16,
)  # fmt: skip
register(
    "further", "EnCodec", "EncodecModel", lambda: {"input_values": random(2, 1, 640)()},
    num_filters=8, hidden_size=16, upsampling_ratios=[2, 2], codebook_size=16, codebook_dim=16,
    num_lstm_layers=1,
)  # fmt: skip
register(
    "further", "ViLT", "ViltModel",
    lambda: {"input_ids": tokens(2, 7)(), "pixel_values": random(2, 3, 32, 32)()},
    **TOWER, vocab_size=40, max_position_embeddings=40, image_size=32, patch_size=8,
    max_image_length=-1,
)  # fmt: skip
register(
    "further", "SigLIP", "SiglipModel",
    lambda: {"input_ids": tokens(2, 7)(), "pixel_values": random(2, 3, 32, 32)()},
    text_config=TOWER | {"vocab_size": 40, "max_position_embeddings": 16, "pad_token_id": 0,
                         "bos_token_id": 1, "eos_token_id": 2},
    vision_config=TOWER | {"image_size": 32, "patch_size": 8},
)  # fmt: skip
register(
    "further", "PatchTST", "PatchTSTForPrediction",
    lambda: {"past_values": random(2, 32, 3)()},
    num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16,
    num_attention_heads=2, num_hidden_layers=2, ffn_dim=64, prediction_length=4,
    do_mask_input=False,
)  # fmt: skip
register(
    "further", "Time series transformer", "TimeSeriesTransformerForPrediction",
    lambda: {
        "past_values": random(2, 14)(), "past_time_features": random(2, 14, 2)(),
        "past_observed_mask": torch.ones(2, 14), "future_values": random(2, 4)(),
        "future_time_features": random(2, 4, 2)(),
    },
    prediction_length=4, context_length=7, lags_sequence=[1, 2, 3, 7], num_time_features=2,
    d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, use_cache=False,
)  # fmt: skip
register(
    "further", "Decision transformer", "DecisionTransformerModel",
    lambda: {
        "states": random(2, 5, 6)(), "actions": random(2, 5, 3)(), "rewards": random(2, 5, 1)(),
        "returns_to_go": random(2, 5, 1)(), "timesteps": torch.arange(5).repeat(2, 1),
        "attention_mask": torch.ones(2, 5),
    },
    state_dim=6, act_dim=3, hidden_size=32, n_layer=2, n_head=4, n_inner=128, max_ep_len=16,
    n_positions=32,
)  # fmt: skip
