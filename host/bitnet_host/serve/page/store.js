// Conversations and settings, kept in this browser. Tabs that are open at once see each other's changes.

const CONVERSATIONS = "bitnet.conversations", SETTINGS = "bitnet.settings";

export const DEFAULTS = {
  system: "", temperature: "", top_p: "", top_k: "", max_tokens: "", seed: "", key: "", theme: "system",
};

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch { // full, or switched off
    return false;
  }
}

export function readConversations() {
  const found = read(CONVERSATIONS, []);
  return Array.isArray(found) ? found.filter((one) => one && one.id && Array.isArray(one.messages)) : [];
}

// Puts one conversation in, or takes it out, among those that another tab may have changed meanwhile.
export function keepConversation(one) {
  const others = readConversations().filter((other) => other.id !== one.id);
  return write(CONVERSATIONS, one.messages.length ? [one, ...others] : others);
}

export function dropConversation(id) {
  return write(CONVERSATIONS, readConversations().filter((one) => one.id !== id));
}

export function readSettings() {
  return { ...DEFAULTS, ...read(SETTINGS, {}) };
}

export function writeSettings(settings) {
  return write(SETTINGS, settings);
}

export function newConversation() {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, messages: [], when: Date.now() };
}

export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  const text = (first?.content ?? "").trim().replace(/\s+/g, " ");
  return text.length > 48 ? `${text.slice(0, 47)}…` : text || "New conversation";
}

// Calls back when another tab has changed something.
export function watch(changed) {
  const listen = (event) => {
    if (event.key === null || event.key === CONVERSATIONS || event.key === SETTINGS) changed();
  };
  addEventListener("storage", listen);
  return () => removeEventListener("storage", listen);
}
