// Fetches the page again and again, and brings what is shown up to date in place, so that scrolling, focus and a choice stay.
"use strict";

const EVERY = 3000; // ms between two fetches
const PATIENCE = 5000; // ms for an answer: what is shown is never older than both without saying so

const stale = document.getElementById("stale");
let timer;
let busy = false;

async function refresh() {
  if (busy) return;
  busy = true;
  clearTimeout(timer);
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    tell(false);
  } catch {
    tell(true);
  }
  busy = false;
  if (!document.hidden) timer = setTimeout(refresh, EVERY);
}

function show(next) {
  document.title = next.title;
  const icon = document.querySelector("link[rel=icon]");
  icon.href = next.querySelector("link[rel=icon]").href;
  update(document.querySelector("main"), next.querySelector("main"));
}

// Makes an element, and all in it, like another one.
function update(old, next) {
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const wanted = [...next.childNodes];
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
  wanted.forEach((child, n) => {
    const present = old.childNodes[n];
    if (!present) old.append(child);
    else if (present.nodeName !== child.nodeName) present.replaceWith(child);
    else if (child.nodeType === Node.ELEMENT_NODE) update(present, child);
    else if (present.data !== child.data) present.data = child.data;
  });
}

// The text changes once for an outage, so that it is read out once.
function tell(failed) {
  document.body.classList.toggle("old", failed);
  if (failed && stale.hidden) {
    const time = document.getElementById("age").dataset.time;
    stale.textContent = `The gateway does not answer. This is how it was at ${time}.`;
  }
  stale.hidden = !failed;
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) refresh();
});
timer = setTimeout(refresh, EVERY);
