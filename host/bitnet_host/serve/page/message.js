// A message, with what can be done with it and what it cost.

import { html, useState, useRef, useEffect } from "./lib/htm.js";
import { toHtml } from "./markdown.js";
import { Cost } from "./cost.js";

function Edit({ text, done, cancel }) {
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const submit = (event) => {
    event.preventDefault();
    if (field.current.value.trim()) done(field.current.value);
  };
  return html`<form class="edit" onSubmit=${submit}>
    <label class="unseen" for="edit">Change the message</label>
    <textarea id="edit" ref=${field} rows="3">${text}</textarea>
    <div class="row"><button type="submit">Send</button><button type="button" onClick=${cancel}>Leave it</button></div>
  </form>`;
}

function Waiting({ progress }) {
  if (!progress || progress.processed >= progress.total) return html`<p class="wait">…</p>`;
  return html`<p class="wait">Reading the prompt, ${progress.processed} of ${progress.total} tokens
    <progress max=${progress.total} value=${progress.processed} aria-label="Reading the prompt"></progress></p>`;
}

const REASONS = { length: "The answer was cut: it reached the most tokens, or the context is full.", stopped: "Stopped." };

export function Message({ message, busy, last, retry, change }) {
  const [editing, setEditing] = useState(false);
  const mine = message.role === "user";
  if (editing) {
    return html`<article class="mine"><h2 class="unseen">You</h2>
      <${Edit} text=${message.content} cancel=${() => setEditing(false)}
        done=${(text) => { setEditing(false); change(text); }} /></article>`;
  }
  return html`<article class=${mine ? "mine" : "theirs"}>
    <h2 class="unseen">${mine ? "You" : "The model"}</h2>
    ${mine ? html`<p class="plain">${message.content}</p>`
      : html`<div class="said" dangerouslySetInnerHTML=${{ __html: toHtml(message.content) }}></div>`}
    ${message.pending && !message.content && html`<${Waiting} progress=${message.progress} />`}
    ${message.error && html`<p class="problem" role="alert">${message.error}</p>`}
    ${REASONS[message.reason] && html`<p class="note">${REASONS[message.reason]}</p>`}
    ${message.timings && !message.pending && html`<${Cost} timings=${message.timings} board=${message.board} />`}
    ${!busy && html`<div class="row tools">
      ${mine && html`<button onClick=${() => setEditing(true)}>Edit</button>`}
      ${!mine && last && html`<button onClick=${retry}>Try again</button>`}
      ${!mine && html`<button onClick=${() => navigator.clipboard?.writeText(message.content)}>Copy</button>`}
    </div>`}
  </article>`;
}
