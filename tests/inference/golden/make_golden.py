#!/usr/bin/env python3
"""Writes the token ids that an independent engine generates, one JSON file per model.

    make_golden.py MODEL.gguf PROMPTS.json OUT.json

The engine is transformers + torch: the weights of the GGUF file are dequantized to float32
and run as LlamaForCausalLM in float32, one greedy token at a time (the lowest id of equal
logits), never stopping at an end token. Also recorded per step: the gap between the best and
the second logit, so that a reader sees how close a tie was. Needs: torch transformers gguf.
"""
import hashlib
import json
import os
import sys

import torch
import transformers

path, prompts_path, out_path = sys.argv[1:4]
folder, name = os.path.split(os.path.abspath(path))
torch.set_num_threads(1)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
model.eval()

cases = []
for prompt in json.load(open(prompts_path)):
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if model.config.vocab_size == 512:  # the SentencePiece model starts with <s>
            ids = [1] + [i for i in ids if i != 1]
    else:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    generated, gaps, past = [], [], None
    step = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(64):
            result = model(step, past_key_values=past, use_cache=True)
            past = result.past_key_values
            logits = result.logits[0, -1]
            top = torch.topk(logits, 2).values
            token = int(torch.argmax(logits))
            generated.append(token)
            gaps.append(round(float(top[0] - top[1]), 5))
            step = torch.tensor([[token]])
    cases.append({"prompt": prompt, "prompt_ids": ids, "ids": generated, "gaps": gaps,
                  "text": tokenizer.decode(generated)})
    print(repr(prompt), repr(cases[-1]["text"]), "smallest gap", min(gaps), file=sys.stderr)

digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
with open(out_path, "w") as out:
    out.write('{"model": %s, "sha256": "%s",\n "engine": "transformers %s, torch %s, float32, dequantized weights",\n "cases": [\n'
              % (json.dumps(name), digest, transformers.__version__, torch.__version__))
    out.write(",\n".join("  " + json.dumps(case) for case in cases))
    out.write("\n]}\n")
