// Follows the job's events and shows its latest frame. The token is held in memory only, and renewed when it has ended.
"use strict";

const csrf = document.currentScript.dataset.csrf;
const part = (id) => document.getElementById(id);
let credentials = null; // {job, token}
let last = ""; // the last stage's id: the stream goes on after it
let shown = ""; // the frame that the picture shows, as serial/index

async function ask(path, headers = {}) {
  if (!credentials) {
    const reply = await fetch("/token", { method: "POST", headers: { "X-CSRF": csrf } });
    if (!reply.ok) throw new Error(`no token: ${reply.status}`);
    credentials = await reply.json();
  }
  const reply = await fetch(credentials.job + path, {
    headers: { ...headers, Authorization: `Bearer ${credentials.token}` },
  });
  if (reply.status === 401) credentials = null;
  if (!reply.ok) throw new Error(`jobd answered ${reply.status}`);
  return reply;
}

async function watch() {
  const reply = await ask("/events", last ? { "Last-Event-ID": last } : {});
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/)));
      last = fields.id || last;
      if (fields.event === "status") show(JSON.parse(fields.data));
    }
  }
}

function show(status) {
  const progress = status.progress || { fraction: null, text: "", frames: {} };
  const words = status.cause || status.situation || progress;
  part("state").textContent = status.state;
  part("text").textContent = words.text; // never innerHTML: a code has written it
  part("fraction").value = progress.fraction || 0;
  part("serial").value = status.serial || "";
  const frame = `${status.serial}/${(progress.frames.atoms || 0) - 1}`;
  if (!frame.endsWith("/-1") && frame !== shown) picture(...frame.split("/")).catch(() => (shown = ""));
  shown = frame;
}

async function picture(serial, index) {
  const reply = await ask(`/frames/atoms/${index}?format=png&width=400&serial=${serial}`);
  const before = part("picture").src;
  part("picture").src = URL.createObjectURL(await reply.blob());
  part("picture").hidden = false;
  URL.revokeObjectURL(before);
}

(async () => {
  for (;;) {
    await watch().catch((error) => (part("text").textContent = error.message));
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
})();
