// Requests to the server, and the stream of an answer.

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

function headers(settings) {
  const all = { "Content-Type": "application/json" };
  if (settings.key) all.Authorization = `Bearer ${settings.key}`;
  return all;
}

async function refusal(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? body.error ?? `the server says ${response.status}`;
  } catch {
    return `the server says ${response.status}`;
  }
}

export async function properties(settings) {
  const response = await fetch("/props", { headers: headers(settings) });
  if (!response.ok) throw new Error(await refusal(response));
  return response.json();
}

// Yields the objects of an answer's stream; ends it when `signal` is aborted.
export async function* answer(messages, settings, signal) {
  const system = settings.system.trim();
  const body = { model: "bitnet", stream: true, return_progress: true, stream_options: { include_usage: true },
    messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  for (const name of NUMBERS) {
    if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) body[name] = Number(settings[name]);
  }
  const response = await fetch("/v1/chat/completions",
    { method: "POST", headers: headers(settings), body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error(await refusal(response));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
  throw new Error("the connection to the server was lost in the middle of the answer: try again");
}

// The data of server-sent events, however they are cut into pieces.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) yield data.join("\n");
    }
  }
}
