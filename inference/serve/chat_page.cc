#include "inference/serve/openai_api.h"

namespace edge::inference {

std::string_view ChatPage() {
  return R"(<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>edge</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 0 auto; padding: 1rem; }
  #log div { white-space: pre-wrap; padding: .5rem .75rem; margin: .5rem 0; border-radius: .5rem; }
  .user { background: #e8eefc; margin-left: 4rem !important; }
  .assistant { background: #f3f3f3; }
  .error { background: #fde8e8; }
  form { display: flex; gap: .5rem; position: sticky; bottom: 0; background: white; padding: .5rem 0; }
  textarea { flex: 1; font: inherit; padding: .5rem; }
  small { color: #666; }
</style>
<h1>edge</h1>
<div id="log" aria-live="polite"></div>
<form>
  <textarea id="text" rows="2" placeholder="Ask something" aria-label="Message" autofocus></textarea>
  <button id="send">Send</button>
</form>
<small id="state"></small>
<script type="module">
const log = document.querySelector('#log'), text = document.querySelector('#text');
const send = document.querySelector('#send'), state = document.querySelector('#state');
const messages = [];
let stop = null;
function show(role, content) {
  const row = document.createElement('div');
  row.className = role;
  row.textContent = content;
  log.append(row);
  row.scrollIntoView();
  return row;
}
async function ask() {
  const content = text.value.trim();
  if (!content) return;
  text.value = '';
  messages.push({ role: 'user', content });
  show('user', content);
  const row = show('assistant', '');
  stop = new AbortController();
  send.textContent = 'Stop';
  const start = performance.now();
  let reply = '', pieces = 0, rest = '';
  try {
    const answer = await fetch('/v1/chat/completions', {
      method: 'POST', signal: stop.signal, headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ messages, stream: true, temperature: 0.7, top_p: 0.9 }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const bytes of answer.body.pipeThrough(new TextDecoderStream())) {
      const events = (rest + bytes).split('\n\n');
      rest = events.pop();
      for (const event of events) {
        if (event === 'data: [DONE]') continue;
        const value = JSON.parse(event.slice(6));
        if (value.error) throw new Error(value.error.message);
        reply += value.choices[0]?.delta.content ?? '';
        row.textContent = reply;
        ++pieces;
      }
    }
    state.textContent = `${(pieces / (performance.now() - start) * 1e3).toFixed(1)} pieces/s`;
  } catch (error) {
    if (error.name !== 'AbortError') show('error', error.message);
  }
  messages.push({ role: 'assistant', content: reply });
  send.textContent = 'Send';
  stop = null;
}
document.querySelector('form').onsubmit = (event) => {
  event.preventDefault();
  if (stop) stop.abort(); else ask();
};
text.onkeydown = (event) => {
  if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); if (!stop) ask(); }
};
</script>
</html>
)";
}

}  // namespace edge::inference
