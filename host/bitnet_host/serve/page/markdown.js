// Markdown that a model wrote, as HTML that can do no harm.

import { marked } from "./lib/marked.js";
import purify from "./lib/dompurify.js";

purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

// No pictures and no forms: the first would tell others what is read here, the second look like the page's own.
const KEPT = { USE_PROFILES: { html: true }, FORBID_TAGS: ["img", "form", "input", "button", "style", "video", "audio"],
  FORBID_ATTR: ["style", "id", "class", "name"], ALLOW_DATA_ATTR: false, ALLOWED_URI_REGEXP: /^(https?:|mailto:|#)/i };

export function toHtml(text) {
  return purify.sanitize(marked.parse(text, { async: false, gfm: true, breaks: true }), KEPT);
}
