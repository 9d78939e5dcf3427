// Where a message is written: Enter sends, Shift and Enter makes a line, Escape stops the answer.

import { html, useRef } from "./lib/htm.js";

export function Composer({ busy, send, stop }) {
  const field = useRef(null);
  const submit = (event) => {
    event.preventDefault();
    const text = field.current.value;
    if (busy || !text.trim()) return;
    field.current.value = "";
    grow();
    send(text);
  };
  const grow = () => {
    field.current.rows = Math.min(10, field.current.value.split("\n").length);
  };
  const key = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<form class="composer" onSubmit=${submit}>
    <label class="unseen" for="composer">Message</label>
    <textarea id="composer" ref=${field} rows="1" placeholder="Message" onInput=${grow} onKeyDown=${key} autofocus></textarea>
    ${busy ? html`<button type="button" class="main" onClick=${stop}>Stop</button>`
      : html`<button type="submit" class="main">Send</button>`}
  </form>`;
}
