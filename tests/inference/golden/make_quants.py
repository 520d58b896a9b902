#!/usr/bin/env python3
"""Writes quants.json: random blocks of every quantized format, and their values in float32.

    make_quants.py OUT.json

The reader is the `gguf` package's numpy one. Scales are random halves of moderate size, all
other bits are random. Needs: gguf numpy.
"""
import json
import sys

import gguf
import numpy

COLUMNS, ROWS = 512, 1
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
random = numpy.random.default_rng(20240607)
entries = []
for name, halves in HALVES.items():
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (ROWS * COLUMNS // elements, size), dtype=numpy.uint8)
    for at in halves:
        values = (random.random(len(blocks)) * 4 - 2).astype(numpy.float16)
        blocks[:, at:at + 2] = values.view(numpy.uint8).reshape(-1, 2)
    floats = gguf.quants.dequantize(blocks.reshape(ROWS, -1), kind).astype(numpy.float32)
    entries.append({"name": name, "type": int(kind), "blocks": blocks.tobytes().hex(),
                    "floats": floats.tobytes().hex()})
with open(sys.argv[1], "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
