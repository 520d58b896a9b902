#!/usr/bin/env python3
"""Writes architectures.json: the logits of tiny models of each architecture, from transformers.

    make_architectures.py OUT.json

Weights are the numbers of a small generator that architectures_test.cc repeats, tensor by
tensor; everything runs in float32. Recorded: the logits of the last of TOKENS, and what a GGUF file
holds beside the weights (the frequency factors of Llama 3). Needs: torch transformers.
"""
import json
import math
import sys

import torch
import transformers

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, FFN, VOCABULARY = 48, 2, 4, 2, 16, 80, 264
TOKENS = [1, 5, 100, 263, 42, 7, 7, 200, 3, 150, 64, 9]


def numbers(name, count, spread, middle):
    state = 0
    for c in name.encode():
        state = (state * 31 + c) & 0xFFFFFFFF
    out = []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(((state >> 8) / 16777216 - 0.5) * spread + middle)
    return out


def fill(model):
    def put(parameter, name, spread, middle=0.0):
        values = torch.tensor(numbers(name, parameter.numel(), spread, middle), dtype=torch.float32)
        parameter.data = values.reshape(parameter.shape)

    put(model.model.embed_tokens.weight, "token_embd.weight", 2.0)
    for i, layer in enumerate(model.model.layers):
        at, attention, mlp = f"blk.{i}.", layer.self_attn, layer.mlp
        put(layer.input_layernorm.weight, at + "attn_norm.weight", 0.5, 1.0)
        put(layer.post_attention_layernorm.weight, at + "ffn_norm.weight", 0.5, 1.0)
        for ours, theirs in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
            put(theirs.weight, at + f"attn_{ours}.weight", 0.6)
            if theirs.bias is not None:
                put(theirs.bias, at + f"attn_{ours}.bias", 1.0)
        if hasattr(attention, "q_norm"):
            put(attention.q_norm.weight, at + "attn_q_norm.weight", 0.5, 1.0)
            put(attention.k_norm.weight, at + "attn_k_norm.weight", 0.5, 1.0)
        put(attention.o_proj.weight, at + "attn_output.weight", 0.6)
        put(mlp.gate_proj.weight, at + "ffn_gate.weight", 0.6)
        put(mlp.up_proj.weight, at + "ffn_up.weight", 0.6)
        put(mlp.down_proj.weight, at + "ffn_down.weight", 0.5)
    put(model.model.norm.weight, "output_norm.weight", 0.5, 1.0)
    put(model.lm_head.weight, "output.weight", 0.5)


def halves(weight, heads):
    """From rows whose neighbours rotate together, as in a `llama` file, to halves that do, as in
    transformers."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def run(name, kind, **options):
    config = kind.config_class(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD, intermediate_size=FFN, vocab_size=VOCABULARY,
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False, **options)
    model = kind(config).eval()
    fill(model)
    if name.startswith("llama"):
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data = halves(layer.self_attn.q_proj.weight.data, HEADS)
            layer.self_attn.k_proj.weight.data = halves(layer.self_attn.k_proj.weight.data, KV_HEADS)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, -1]
    entry = {"name": name, "logits": [float(f"{x:.7g}") for x in logits.tolist()]}
    inverse = model.model.rotary_emb.inv_freq
    plain = [1e4 ** (-2 * i / HEAD) for i in range(HEAD // 2)]
    if name == "llama3":
        entry["rope_freqs"] = [float(p / f) for p, f in zip(plain, inverse.tolist())]
    print(name, logits[:4].tolist(), inverse.tolist(), file=sys.stderr)
    return entry


torch.set_num_threads(1)
base = {"rope_theta": 10000.0}
cases = [
    run("llama", transformers.LlamaForCausalLM, rope_parameters={"rope_type": "default", **base}),
    run("llama3", transformers.LlamaForCausalLM, rope_parameters={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, **base}),
    run("qwen2", transformers.Qwen2ForCausalLM, rope_parameters={"rope_type": "default", **base}),
    run("qwen2-yarn", transformers.Qwen2ForCausalLM, rope_parameters={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, **base}),
    run("qwen3", transformers.Qwen3ForCausalLM, rope_parameters={"rope_type": "default", **base}),
]
with open(sys.argv[1], "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
