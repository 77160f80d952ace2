"""Further language models: other ways to write positions, heads, gates, experts and states."""

from __future__ import annotations

from typing import Any

from zoo.entry import tokens
from zoo.language import DECODER, GROUPED, SMALL
from zoo.library import register, text

T5: dict[str, Any] = {
    "vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 128, "num_layers": 2, "num_heads": 4,
    "use_cache": False, "decoder_start_token_id": 0,
}  # fmt: skip
STATES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "use_cache": False,
}  # fmt: skip
GPT: dict[str, Any] = {
    "vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32,
    "use_cache": False,
}  # fmt: skip

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "XLNet": (
        "XLNetForSequenceClassification",
        {"vocab_size": 40, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 128,
         "use_mems_eval": False},
    ),
    "Funnel": (
        "FunnelForSequenceClassification",
        {"vocab_size": 40, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8,
         "d_inner": 128, "num_decoder_layers": 1},
    ),
    "MPNet": ("MPNetForSequenceClassification", SMALL),
    "DeBERTa": (
        "DebertaForSequenceClassification",
        SMALL
        | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "hidden_dropout_prob": 0.0,
           "attention_probs_dropout_prob": 0.0},
    ),
    "FNet": (
        "FNetForSequenceClassification",
        {name: value for name, value in SMALL.items() if name != "num_attention_heads"},
    ),
    "ModernBERT": (
        "ModernBertForSequenceClassification",
        SMALL
        | {"global_attn_every_n_layers": 2, "local_attention": 4, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "BLOOM": (
        "BloomForCausalLM",
        {"vocab_size": 40, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
    ),
    "Falcon": (
        "FalconForCausalLM",
        {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_kv_heads": 2, "new_decoder_architecture": True, "use_cache": False},
    ),
    "GPT-J": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "GPT-BigCode, one key/value head": ("GPTBigCodeForCausalLM", GPT),
    "StableLM": ("StableLmForCausalLM", GROUPED),
    "OLMo 2": ("Olmo2ForCausalLM", GROUPED),
    "Phi-3": ("Phi3ForCausalLM", GROUPED),
    "Gemma 2": ("Gemma2ForCausalLM", GROUPED | {"head_dim": 8}),
    "Cohere": ("CohereForCausalLM", GROUPED),
    "DeepSeek-V3": (
        "DeepseekV3ForCausalLM",
        DECODER
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
           "moe_intermediate_size": 32, "first_k_dense_replace": 1, "kv_lora_rank": 16,
           "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
           "n_group": 1, "topk_group": 1, "experts_implementation": "batched_mm"},
    ),
    "Mamba": ("MambaForCausalLM", STATES | {"state_size": 4}),
    "RWKV": (
        "RwkvForCausalLM",
        STATES
        | {"attention_hidden_size": 32, "intermediate_size": 128, "context_length": 32,
           "rescale_every": 0},
    ),
}  # fmt: skip

for name, (model, config) in MODELS.items():
    register("attentions", name, model, text(8), **config)

register(
    "attentions", "UMT5", "UMT5ForConditionalGeneration", text(8, decoder_input_ids=tokens(2, 5)),
    **T5,
)  # fmt: skip
