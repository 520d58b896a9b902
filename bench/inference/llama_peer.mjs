#!/usr/bin/env node
// The peer of inference_bench: llama.cpp through the npm package node-llama-cpp.
//   node llama_peer.mjs FOLDER_WITH_node-llama-cpp MODEL.gguf THREADS
// Reads lines "prefill ID ID ..." or "decode COUNT ID ID ..." and answers each with
// "TOKENS_PER_SECOND ID ID ...": the greedy token after the prompt, or COUNT greedy tokens.
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';
const [folder, modelPath, threads] = process.argv.slice(2);
const entry = path.join(folder, 'node-llama-cpp/dist/index.js');
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 0 });
const model = await llama.loadModel({ modelPath, useMmap: true });
const context = await model.createContext({ contextSize: 2048, batchSize: 512, threads: +threads, flashAttention: true });
const sequence = context.getSequence();
console.log('ready ' + llama.llamaCppRelease.release);
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [what, ...numbers] = line.split(' ');
  const ids = numbers.map(Number);
  const count = what === 'decode' ? ids.shift() : 1;
  await sequence.clearHistory();
  const out = [];
  let start = performance.now();
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    out.push(token);
    if (out.length === 1 && what === 'decode') start = performance.now();  // the prompt is done
    if (out.length >= count) break;
  }
  const seconds = (performance.now() - start) / 1e3;
  const tokens = what === 'decode' ? count - 1 : ids.length;
  console.log([tokens / seconds, ...out].join(' '));
}
process.exit(0);
