"""Language models: encoders, decoders, both; grouped queries, gated networks, experts."""

from __future__ import annotations

from typing import Any

from zoo.entry import tokens
from zoo.library import register, text

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
}
DECODER = SMALL | {"use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = DECODER | {"num_key_value_heads": 2}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", SMALL),
    "RoBERTa": ("RobertaForSequenceClassification", SMALL),
    "DistilBERT": (
        "DistilBertForSequenceClassification",
        {"vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
         "max_position_embeddings": 32},
    ),
    "ALBERT": ("AlbertForSequenceClassification", SMALL | {"embedding_size": 16}),
    "ELECTRA": ("ElectraForSequenceClassification", SMALL | {"embedding_size": 16}),
    "DeBERTa-v2": (
        "DebertaV2ForSequenceClassification",
        SMALL
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
           "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    ),
}  # fmt: skip

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": (
        "GPT2LMHeadModel",
        {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32,
         "use_cache": False, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "GPT-NeoX": ("GPTNeoXForCausalLM", DECODER),
    "OPT": (
        "OPTForCausalLM",
        DECODER | {"ffn_dim": 128, "word_embed_proj_dim": 32},
    ),
    "Llama, grouped queries": ("LlamaForCausalLM", GROUPED),
    "Mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": 16}),
    "Qwen2": ("Qwen2ForCausalLM", GROUPED),
    "Qwen3": ("Qwen3ForCausalLM", GROUPED | {"head_dim": 8}),
    "Gemma": ("GemmaForCausalLM", GROUPED | {"num_key_value_heads": 1, "head_dim": 8}),
    "Phi": ("PhiForCausalLM", DECODER),
    "Mixtral": (  # the default kernel of its experts wants widths that are multiples of 4
        "MixtralForCausalLM",
        GROUPED | {"num_local_experts": 4, "experts_implementation": "batched_mm"},
    ),
}  # fmt: skip

for name, (model, config) in {**ENCODERS, **DECODERS}.items():
    register("language", name, model, text(), **config)

register(
    "language", "T5", "T5ForConditionalGeneration", text(decoder_input_ids=tokens(2, 5)),
    vocab_size=40, d_model=32, d_kv=8, d_ff=128, num_layers=2, num_heads=4, use_cache=False,
    decoder_start_token_id=0,
)  # fmt: skip
register(
    "language", "BART", "BartForConditionalGeneration", text(decoder_input_ids=tokens(2, 5)),
    vocab_size=40, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=32,
    use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    forced_eos_token_id=2,
)  # fmt: skip
