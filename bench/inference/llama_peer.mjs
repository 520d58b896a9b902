#!/usr/bin/env node
// The peer of inference_bench: llama.cpp through the npm package node-llama-cpp.
//   node llama_peer.mjs FOLDER_WITH_node-llama-cpp MODEL.gguf THREADS CONTEXT SEQUENCES flash|plain
// Reads lines and answers each with "TOKENS_PER_SECOND ID ID ...":
//   prefill ID...          the greedy token after the prompt
//   decode COUNT ID...     COUNT greedy tokens; timed after the first
//   deep COUNT ID...       likewise, but what is known of the prompt is kept from the last line
//   batch COUNT ID...      COUNT greedy tokens in each sequence at once; timed from the first token
//                          of the last sequence; the rate is that of all, the ids those of one
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';
const [folder, modelPath, threads, contextSize, sequences, flash] = process.argv.slice(2);
const entry = path.join(folder, 'node-llama-cpp/dist/index.js');
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 0 });
const model = await llama.loadModel({ modelPath, useMmap: true });
const context = await model.createContext({
  contextSize: +contextSize, batchSize: 512, threads: +threads, sequences: +sequences, flashAttention: flash === 'flash',
});
const all = Array.from({ length: +sequences }, () => context.getSequence());
console.log('ready ' + llama.llamaCppRelease.release);

async function generate(sequence, ids, count, onFirst) {
  const out = [];
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    out.push(token);
    if (out.length === 1) onFirst?.();
    if (out.length >= count) break;
  }
  return out;
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [what, ...numbers] = line.split(' ');
  const ids = numbers.map(Number);
  const count = what === 'prefill' ? 1 : ids.shift();
  let rest = ids;
  if (what === 'deep') {
    await all[0].adaptStateToTokens(ids.slice(0, -1), false);
    rest = ids.slice(all[0].nextTokenIndex);
  } else {
    for (const sequence of all) await sequence.clearHistory();
  }
  let start = performance.now();
  const restart = () => { start = performance.now(); };
  let out, tokens;
  if (what === 'batch') {
    const made = await Promise.all(all.map((sequence) => generate(sequence, rest, count, restart)));
    out = made[0];
    tokens = all.length * (count - 1);
  } else {
    out = await generate(all[0], rest, count, what === 'prefill' ? undefined : restart);
    tokens = what === 'prefill' ? ids.length : count - 1;
  }
  const seconds = (performance.now() - start) / 1e3;
  console.log([tokens / seconds, ...out].join(' '));
}
process.exit(0);
