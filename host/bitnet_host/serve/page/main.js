// The page: conversations at the side, one of them in the middle, the composer below.

import { html, render, useState, useEffect, useRef, useCallback } from "./lib/htm.js";
import { answer, properties } from "./api.js";
import { Message } from "./message.js";
import { Composer } from "./composer.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";

function idOfPage() {
  return location.hash.slice(1);
}

function useConversations() {
  const [all, setAll] = useState(store.readConversations);
  const reload = useCallback(() => setAll(store.readConversations()), []);
  useEffect(() => store.watch(reload), []);
  return [all, reload];
}

function Sidebar({ all, current, open, choose, begin, drop, close }) {
  return html`<nav id="conversations" class=${open ? "open" : ""} aria-label="Conversations">
    <button class="wide" onClick=${begin}>New conversation</button>
    <ul>${all.map((one) => html`<li key=${one.id} class=${one.id === current ? "current" : ""}>
      <button class="title" aria-current=${one.id === current ? "page" : undefined}
        onClick=${() => choose(one.id)}>${store.titleOf(one)}</button>
      <button class="icon" aria-label=${`Delete ${store.titleOf(one)}`} onClick=${() => drop(one.id)}>✕</button>
    </li>`)}</ul>
    <button class="wide only-narrow" onClick=${close}>Close</button>
  </nav>`;
}

// Writes an answer into `conversation`; resolves when it is over. `show` is called when there is more to see.
async function write(conversation, settings, signal, show) {
  const reply = { role: "assistant", content: "", pending: true };
  const asked = conversation.messages.map(({ role, content }) => ({ role, content }));
  conversation.messages.push(reply);
  show();
  try {
    for await (const chunk of answer(asked, settings, signal)) {
      if (chunk.prompt_progress) reply.progress = chunk.prompt_progress;
      const choice = chunk.choices[0];
      if (choice?.delta.content) reply.content += choice.delta.content;
      if (choice?.finish_reason) reply.reason = choice.finish_reason;
      if (chunk.timings) reply.timings = chunk.timings;
      if (chunk.board) reply.board = chunk.board;
      show();
    }
  } catch (error) {
    if (signal.aborted) reply.reason = "stopped";
    else reply.error = error.message;
  }
  delete reply.pending;
  delete reply.progress;
  if (!reply.content && !reply.error) conversation.messages.pop();
  show();
}

function App() {
  const [all, reload] = useConversations();
  const [settings, setSettings] = useState(store.readSettings);
  const [open, setOpen] = useState(false);
  const [asking, setAsking] = useState(false);
  const [problem, setProblem] = useState("");
  const [said, setSaid] = useState("");
  const [, redraw] = useState(0);
  const here = useRef(null); // the conversation that is shown, newer than what is kept
  const running = useRef(null);
  const end = useRef(null);

  const show = useCallback(() => redraw((count) => count + 1), []);
  const choose = (id) => {
    running.current?.abort();
    here.current = store.readConversations().find((one) => one.id === id) ?? store.newConversation();
    history.replaceState(null, "", `#${here.current.id}`);
    setOpen(false);
    show();
  };
  if (!here.current) here.current = all.find((one) => one.id === idOfPage()) ?? store.newConversation();
  useEffect(() => { history.replaceState(null, "", `#${here.current.id}`); }, []);
  useEffect(() => { document.documentElement.dataset.theme = settings.theme; }, [settings.theme]);
  useEffect(() => {
    properties(settings).then(() => setProblem(""), (error) => setProblem(error.message));
  }, [settings.key]);

  const keep = () => {
    here.current.when = Date.now();
    if (!store.keepConversation(here.current)) setProblem("This browser keeps no more conversations: delete some.");
    reload();
  };
  const run = async () => {
    const conversation = here.current, abort = new AbortController();
    running.current = abort;
    keep();
    setSaid("The answer begins.");
    const timer = setInterval(() => { if (here.current === conversation) keep(); }, 1000);
    await write(conversation, settings, abort.signal, () => {
      show();
      end.current?.scrollIntoView({ block: "end" });
    });
    clearInterval(timer);
    if (running.current === abort) running.current = null;
    if (here.current === conversation) keep();
    else if (conversation.messages.length) store.keepConversation(conversation);
    reload();
    setSaid("The answer is complete.");
    show();
  };
  const send = (text) => {
    here.current.messages.push({ role: "user", content: text });
    run();
  };
  const again = (place, text) => { // from a message on, which may have changed
    here.current.messages.length = place;
    if (text !== undefined) here.current.messages.push({ role: "user", content: text });
    run();
  };
  const drop = (id) => {
    store.dropConversation(id);
    reload();
    if (id === here.current.id) {
      here.current.messages.length = 0; // what is being written into it is not kept
      choose("");
    }
  };
  useEffect(() => {
    const key = (event) => { if (event.key === "Escape" && running.current) running.current.abort(); };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);

  const messages = here.current.messages, busy = Boolean(running.current);
  return html`
    <a class="skip" href="#composer">Go to the message field</a>
    <header>
      <button class="icon only-narrow" aria-label="Conversations" aria-expanded=${open} aria-controls="conversations"
        onClick=${() => setOpen(!open)}>☰</button>
      <h1>BitNet</h1>
      <button onClick=${() => setAsking(true)}>Settings</button>
    </header>
    <${Sidebar} all=${all} current=${here.current.id} open=${open} choose=${choose} drop=${drop}
      begin=${() => choose("")} close=${() => setOpen(false)} />
    <main>
      <section class="talk" aria-label="Conversation">
        ${messages.length === 0 && html`<p class="empty">Say something to the model on the board.</p>`}
        ${messages.map((message, place) => html`<${Message} key=${place} message=${message} busy=${busy}
          last=${place === messages.length - 1} retry=${() => again(place)} change=${(text) => again(place, text)} />`)}
        <div ref=${end}></div>
      </section>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <${Composer} busy=${busy} send=${send} stop=${() => running.current?.abort()} />
      <p class="unseen" role="status">${said}</p>
    </main>
    <${Settings} open=${asking} settings=${settings} close=${() => setAsking(false)}
      keep=${(changed) => { store.writeSettings(changed); setSettings(changed); setAsking(false); }} />`;
}

const root = document.getElementById("page");
root.textContent = "";
render(html`<${App} />`, root);
