// What an answer cost: tokens per second, and what only this machine can tell: bytes, and where the cycles went.

import { html } from "./lib/htm.js";

const KINDS = [["moving", "weights and cache"], ["stall_memory", "waiting for memory"],
  ["stall_compute", "computing"], ["stall_control", "nothing queued"]];

function amount(bytes) {
  const [size, unit] = bytes >= 1e9 ? [bytes / 1e9, "GB"] : bytes >= 1e6 ? [bytes / 1e6, "MB"] : [bytes / 1e3, "KB"];
  return `${size >= 100 ? size.toFixed(0) : size.toFixed(1)} ${unit}`;
}

function Bar({ title, parts }) {
  const total = parts.reduce((sum, [, cycles]) => sum + cycles, 0);
  if (!total) return null;
  const shares = parts.filter(([, cycles]) => cycles / total >= 0.005)
    .map(([name, cycles], place) => ({ name, share: 100 * cycles / total, place }));
  let x = 0;
  return html`<figure><figcaption>${title}</figcaption>
    <svg viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=${`${title}: ${
      shares.map(({ name, share }) => `${name} ${share.toFixed(0)} %`).join(", ")}`}>
      ${shares.map(({ share, place }) => html`<rect x=${(x += share) - share} y="0" width=${share} height="6" class=${`c${place % 8}`} />`)}
    </svg>
    <ul class="legend">${shares.map(({ name, share, place }) => html`
      <li><span class=${`dot c${place % 8}`}></span>${name} ${share.toFixed(0)} %</li>`)}</ul>
  </figure>`;
}

export function Cost({ timings, board }) {
  const cached = timings.cache_n ? ` (${timings.cache_n} kept from before)` : "";
  return html`<details class="cost">
    <summary>${timings.predicted_n} tokens${timings.predicted_per_second > 0
      ? `, ${timings.predicted_per_second.toFixed(1)} per second` : ""}</summary>
    <p>Prompt: ${timings.prompt_n + timings.cache_n} tokens${cached}, ${(timings.prompt_ms / 1000).toFixed(1)} s.</p>
    ${board && html`<p>On the board: ${board.tokens_per_second.toFixed(1)} tokens per second of its own clock;
        each token read ${amount(board.bytes_per_token)} and skipped ${amount(board.skipped_bytes_per_token)}.</p>
      <${Bar} title="Cycles of a token" parts=${KINDS.map(([kind, name]) => [name, board.kinds[kind]])} />
      <${Bar} title="By operator" parts=${Object.entries(board.operators).sort((a, b) => b[1] - a[1])} />`}
  </details>`;
}
