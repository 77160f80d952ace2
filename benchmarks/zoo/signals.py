"""Speech, and pictures together with text."""

from __future__ import annotations

from typing import Any

from zoo.entry import random, tokens
from zoo.library import register

register(
    "signals", "Whisper", "WhisperForConditionalGeneration",
    lambda: {"input_features": random(2, 16, 32)(), "decoder_input_ids": tokens(2, 5)()},
    vocab_size=40, num_mel_bins=16, d_model=32, encoder_layers=2, decoder_layers=2,
    encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128,
    max_source_positions=16, max_target_positions=16, use_cache=False, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
register(
    "signals", "Wav2Vec2", "Wav2Vec2ForCTC", lambda: {"input_values": random(2, 800)()},
    vocab_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, conv_dim=[16, 16, 16], conv_kernel=[10, 3, 2], conv_stride=[5, 2, 2],
    num_feat_extract_layers=3, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    pad_token_id=0, apply_spec_augment=False,
)  # fmt: skip

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
register(
    "signals", "CLIP", "CLIPModel",
    lambda: {"input_ids": tokens(2, 7)(), "pixel_values": random(2, 3, 32, 32)()},
    text_config=TOWER | {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 2,
                         "bos_token_id": 1, "pad_token_id": 0},
    vision_config=TOWER | {"image_size": 32, "patch_size": 8}, projection_dim=24,
)  # fmt: skip
