// System prompt, sampling, key and colours.

import { html, useRef, useEffect } from "./lib/htm.js";

const NUMBERS = [
  ["temperature", "Temperature", "0 takes the best word each time", 0, 5, 0.1],
  ["top_p", "Top p", "share of the probability that is kept", 0, 1, 0.05],
  ["top_k", "Top k", "at most so many words to choose from", 0, 64, 1],
  ["max_tokens", "Most tokens", "of an answer", 1, 100000, 1],
  ["seed", "Seed", "the same answer each time", 0, 4294967295, 1],
];

export function Settings({ open, settings, close, keep }) {
  const dialog = useRef(null);
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);
  const submit = (event) => {
    event.preventDefault();
    keep({ ...settings, ...Object.fromEntries(new FormData(event.target)) });
  };
  return html`<dialog ref=${dialog} onClose=${close} aria-labelledby="settings-title">
    <form method="dialog" onSubmit=${submit} key=${open}>
      <h2 id="settings-title">Settings</h2>
      <label for="system">System prompt</label>
      <textarea id="system" name="system" rows="4">${settings.system}</textarea>
      <p class="note">Numbers that are left empty are the server's.</p>
      <div class="grid">${NUMBERS.map(([name, title, what, low, high, step]) => html`
        <label for=${name}>${title} <small>${what}</small></label>
        <input id=${name} name=${name} type="number" min=${low} max=${high} step=${step} value=${settings[name]} />`)}
        <label for="key">API key <small>if the server wants one</small></label>
        <input id="key" name="key" type="password" autocomplete="off" value=${settings.key} />
        <label for="theme">Colours</label>
        <select id="theme" name="theme">${["system", "light", "dark"].map((theme) => html`
          <option value=${theme} selected=${theme === settings.theme}>${theme}</option>`)}</select>
      </div>
      <div class="row"><button type="submit" class="main">Keep</button>
        <button type="button" onClick=${close}>Leave it</button></div>
    </form>
  </dialog>`;
}
