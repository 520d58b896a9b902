// Writes a Llama model of random weights in any format that edge runs: for timing only.
//
//   node make_random_gguf.mjs OUT.gguf TYPE [WIDTH LAYERS HEADS KV_HEADS FFN VOCABULARY CONTEXT]
//
// The default shape has 1.1 billion parameters. All bits but the scales are random; scales keep
// every output near the size of the input. Matrices whose rows do not divide into blocks of
// TYPE are Q8_0. The vocabulary is bytes, then t259, t260, ...
import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';

const [out, type, ...numbers] = process.argv.slice(2);
const [width, layers, heads, kvHeads, ffn, vocabulary, context] = numbers.length
  ? numbers.map(Number) : [2048, 22, 32, 4, 5632, 32000, 8192];
// number, values and bytes of a block, where the halves stand, root mean square of quants
const TYPES = {
  f16: [1, 1, 2, null, 1], q4_0: [2, 32, 18, [0], 4.6], q4_1: [3, 32, 20, [0, 2], 8.8],
  q5_0: [6, 32, 22, [0], 9.2], q5_1: [7, 32, 24, [0, 2], 18], q8_0: [8, 32, 34, [0], 74],
  q4_k: [12, 256, 144, [0, 2], 320], q5_k: [13, 256, 176, [0, 2], 640],
  q6_k: [14, 256, 210, [208], 1360], iq4_nl: [20, 32, 18, [0], 68],
};
if (!out || !TYPES[type]) {
  console.error(`usage: make_random_gguf.mjs OUT.gguf ${Object.keys(TYPES).join('|')} [SHAPE]`);
  process.exit(2);
}

const half = (x) => {  // x in the normal range of halves
  const bits = new Uint32Array(new Float32Array([x]).buffer)[0];
  return ((bits >>> 16) & 0x8000) | (((bits >>> 23) & 255) - 112) << 10 | (bits >>> 13) & 1023;
};
const text = (s) => {
  const bytes = Buffer.from(s), length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes.length));
  return Buffer.concat([length, bytes]);
};
const u32 = (v) => { const b = Buffer.alloc(4); b.writeUInt32LE(v); return b; };
const u64 = (v) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(v)); return b; };
const f32 = (v) => { const b = Buffer.alloc(4); b.writeFloatLE(v); return b; };
const array = (kind, items) => Buffer.concat([u32(kind), u64(items.length), ...items]);

const tensors = [];
const matrix = (name, columns, rows) => {
  const kind = columns % TYPES[type][1] === 0 ? type : 'q8_0';
  const [number, values, bytes] = TYPES[kind];
  tensors.push({ name, kind, number, shape: [columns, rows], size: rows * columns / values * bytes });
};
const norm = (name) => tensors.push({ name, number: 0, shape: [width], size: width * 4 });
const headSize = width / heads;
matrix('token_embd.weight', width, vocabulary);
for (let i = 0; i < layers; i++) {
  const at = `blk.${i}.`;
  norm(at + 'attn_norm.weight');
  matrix(at + 'attn_q.weight', width, width);
  matrix(at + 'attn_k.weight', width, kvHeads * headSize);
  matrix(at + 'attn_v.weight', width, kvHeads * headSize);
  matrix(at + 'attn_output.weight', width, width);
  norm(at + 'ffn_norm.weight');
  matrix(at + 'ffn_gate.weight', width, ffn);
  matrix(at + 'ffn_up.weight', width, ffn);
  matrix(at + 'ffn_down.weight', ffn, width);
}
norm('output_norm.weight');
matrix('output.weight', width, vocabulary);

const tokens = ['<unk>', '<s>', '</s>'];
for (let i = 0; i < 256; i++) tokens.push(`<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`);
while (tokens.length < vocabulary) tokens.push(`t${tokens.length}`);
const metadata = [
  ['general.architecture', 8, text('llama')], ['llama.context_length', 4, u32(context)],
  ['llama.embedding_length', 4, u32(width)], ['llama.block_count', 4, u32(layers)],
  ['llama.feed_forward_length', 4, u32(ffn)], ['llama.attention.head_count', 4, u32(heads)],
  ['llama.attention.head_count_kv', 4, u32(kvHeads)],
  ['llama.rope.dimension_count', 4, u32(headSize)],
  ['llama.attention.layer_norm_rms_epsilon', 6, f32(1e-5)],
  ['tokenizer.ggml.model', 8, text('llama')],
  ['tokenizer.ggml.tokens', 9, array(8, tokens.map(text))],
  ['tokenizer.ggml.scores', 9, array(6, tokens.map((_, i) => f32(i < 259 ? 0 : -i)))],
  ['tokenizer.ggml.token_type', 9,
    array(5, tokens.map((_, i) => u32(i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1)))],
  ['tokenizer.ggml.bos_token_id', 4, u32(1)], ['tokenizer.ggml.eos_token_id', 4, u32(2)],
  ['tokenizer.ggml.unknown_token_id', 4, u32(0)],
];
const aligned = (n) => Math.ceil(n / 32) * 32;
const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(metadata.length)];
for (const [key, kind, value] of metadata) parts.push(text(key), u32(kind), value);
let offset = 0;
for (const t of tensors) {
  parts.push(text(t.name), u32(t.shape.length), ...t.shape.map(u64), u32(t.number), u64(offset));
  offset += aligned(t.size);
}
const header = Buffer.concat(parts);
const file = fs.openSync(out, 'w');
fs.writeSync(file, Buffer.concat([header, Buffer.alloc(aligned(header.length) - header.length)]));
for (const t of tensors) {
  const bytes = Buffer.alloc(aligned(t.size));
  if (t.number === 0) {
    for (let i = 0; i < width; i++) bytes.writeFloatLE(1, i * 4);
  } else {
    const [, values, size, halves, spread] = TYPES[t.kind];
    const scale = 1 / Math.sqrt(t.shape[0]);
    randomFillSync(bytes, 0, t.size);
    if (halves === null) {
      for (let at = 0; at < t.size; at += 2) {
        bytes.writeUInt16LE(half(scale * 1.7 * (bytes.readInt16LE(at) + 0.5) / 32768), at);
      }
    } else {
      for (let at = 0; at < t.size; at += size) {
        bytes.writeUInt16LE(half(scale / spread), at + halves[0]);
        if (halves.length < 2) continue;
        // The minimum takes the mean away: 7.5 (15.5) quants, of which the K formats subtract.
        const middle = t.kind.startsWith('q5') ? 15.5 : 7.5;
        const minimum = (t.kind.endsWith('k') ? 1 : -1) * middle * scale / spread;
        bytes.writeUInt16LE(half(minimum), at + halves[1]);
      }
    }
  }
  fs.writeSync(file, bytes);
}
fs.closeSync(file);
