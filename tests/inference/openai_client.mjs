#!/usr/bin/env node
// The stock OpenAI client against edge-serve.
//   node openai_client.mjs FOLDER_WITH_openai EDGE_SERVE MODEL.gguf
// Starts the server on a free port, checks what a program would use, and prints "N passed".
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';
const [modules, program, model] = process.argv.slice(2);
if (!existsSync(path.join(modules, 'openai/package.json'))) {
  console.log('SKIPPED: no npm package openai in ' + modules);
  process.exit(77);
}
const { default: OpenAI } = await import(pathToFileURL(path.join(modules, 'openai/index.mjs')).href);
const server = spawn(program, [model, '--listen', '127.0.0.1:0'], { stdio: ['ignore', 'pipe', 'inherit'] });
const first = await new Promise((resolve) => readline.createInterface({ input: server.stdout }).once('line', resolve));
const base = first.match(/http:\S+/)[0];
const client = new OpenAI({ baseURL: base + '/v1', apiKey: 'none', maxRetries: 0 });
let passed = 0;
async function check(what, work) {
  try {
    await work();
    ++passed;
  } catch (error) {
    console.log('FAILED: ' + what + '\n' + error.stack);
    process.exitCode = 1;
  }
}
const messages = [{ role: 'user', content: 'Which seat is free?' }];
const greedy = { model: 'any', temperature: 0, max_tokens: 24 };

await check('the model is listed', async () => {
  const models = await client.models.list();
  assert.equal(models.data.length, 1);
  assert.equal(models.data[0].object, 'model');
});
let whole;
await check('a chat is answered', async () => {
  const answer = await client.chat.completions.create({ ...greedy, messages });
  whole = answer.choices[0].message.content;
  assert.ok(whole.length > 0);
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.ok(['stop', 'length'].includes(answer.choices[0].finish_reason));
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});
await check('a stream brings the same text in pieces', async () => {
  const stream = await client.chat.completions.create({ ...greedy, messages, stream: true, stream_options: { include_usage: true } });
  let text = '', pieces = 0, finish = null, usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    pieces += chunk.choices[0]?.delta.content ? 1 : 0;
    finish ??= chunk.choices[0]?.finish_reason;
    usage ??= chunk.usage;
  }
  assert.equal(text, whole);
  assert.ok(pieces > 1);
  assert.ok(['stop', 'length'].includes(finish));
  assert.ok(usage.completion_tokens > 0);
});
await check('a stream that nobody reads on is given up', async () => {
  const stream = await client.chat.completions.create({ ...greedy, max_tokens: 200, messages, stream: true });
  for await (const chunk of stream) break;
  stream.controller.abort();
});
await check('many at once get what each gets alone', async () => {
  const answers = await Promise.all(Array.from({ length: 12 }, () => client.chat.completions.create({ ...greedy, messages })));
  for (const answer of answers) assert.equal(answer.choices[0].message.content, whole);
});
await check('text is completed', async () => {
  const answer = await client.completions.create({ ...greedy, prompt: 'Seat', stop: ['\n'] });
  assert.equal(answer.object, 'text_completion');
  assert.equal(typeof answer.choices[0].text, 'string');
  let text = '';
  for await (const chunk of await client.completions.create({ ...greedy, prompt: 'Seat', stop: ['\n'], stream: true })) {
    text += chunk.choices[0].text;
  }
  assert.equal(text, answer.choices[0].text);
});
await check('log probabilities come with each token', async () => {
  const answer = await client.chat.completions.create({ ...greedy, messages, logprobs: true, top_logprobs: 2 });
  const content = answer.choices[0].logprobs.content;
  assert.equal(content.length, answer.usage.completion_tokens);
  assert.equal(content[0].top_logprobs.length, 2);
  assert.ok(content[0].logprob <= 0);
});
await check('tools and their answers are taken', async () => {
  const tools = [{ type: 'function', function: { name: 'seats', description: 'Free seats', parameters: { type: 'object', properties: {} } } }];
  const answer = await client.chat.completions.create({
    ...greedy, tools,
    messages: [...messages,
      { role: 'assistant', content: null, tool_calls: [{ id: 'a', type: 'function', function: { name: 'seats', arguments: '{}' } }] },
      { role: 'tool', tool_call_id: 'a', content: '["1A"]' }],
  });
  assert.ok(['stop', 'length', 'tool_calls'].includes(answer.choices[0].finish_reason));
});
await check('a call that must come comes, with arguments that fit', async () => {
  // Short, for a small model's context.
  const parameters = { type: 'object', properties: { row: { enum: ['1', '2'] } }, required: ['row'] };
  const tools = [{ type: 'function', function: { name: 'b', parameters } }];
  const answer = await client.chat.completions.create({
    ...greedy, max_tokens: 250, messages: [{ role: 'user', content: 'Go' }], tools, tool_choice: 'required' });
  assert.equal(answer.choices[0].finish_reason, 'tool_calls');
  const call = answer.choices[0].message.tool_calls[0].function;
  assert.equal(call.name, 'b');
  assert.ok(['1', '2'].includes(JSON.parse(call.arguments).row));
});
await check('a reply follows a JSON schema, in its order', async () => {
  const schema = { type: 'object', properties: { seat: { type: 'string', maxLength: 3 }, free: { type: 'boolean' } }, required: ['seat', 'free'], additionalProperties: false };
  const answer = await client.chat.completions.create({
    ...greedy, max_tokens: 64, messages, response_format: { type: 'json_schema', json_schema: { name: 'seat', schema } } });
  const value = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(Object.keys(value), ['seat', 'free']);
  assert.equal(typeof value.free, 'boolean');
  const any = await client.chat.completions.create({ ...greedy, max_tokens: 200, messages, response_format: { type: 'json_object' } });
  if (any.choices[0].finish_reason === 'stop') assert.equal(typeof JSON.parse(any.choices[0].message.content), 'object');
});
await check('what is wrong is said, with its status', async () => {
  const refuses = (body, status, text) => assert.rejects(
    client.chat.completions.create(body), (error) => error.status === status && error.message.includes(text));
  await refuses({ ...greedy, messages: [] }, 400, 'messages');
  await refuses({ ...greedy, messages, temperature: -1 }, 400, 'temperature');
  await refuses({ ...greedy, messages, response_format: { type: 'xml' } }, 400, 'json_schema');
  await refuses({ ...greedy, messages, n: 3 }, 400, 'one choice');
  await refuses({ ...greedy, messages: [{ role: 'user', content: 'x '.repeat(20000) }] }, 400, 'context');
  await assert.rejects(client.get('/nowhere'), (error) => error.status === 404);
});
await check('metrics and the page are there', async () => {
  const metrics = await (await fetch(base + '/metrics')).text();
  assert.match(metrics, /edge_inference_tokens_total [1-9]/);
  assert.match(await (await fetch(base + '/')).text(), /<!doctype html>/);
});
server.kill('SIGTERM');
const status = await new Promise((resolve) => server.once('exit', (code) => resolve(code)));
await check('the server ends when it is told to', async () => assert.equal(status, 0));
console.log(passed + ' passed');
