// The little that the console does in the browser by itself: says when live
// figures are not live any more and asks for them again, finds the search field
// by "/", and copies commands. Everything else works without it.
(() => {
  "use strict";
  const region = () => document.getElementById("live");
  const state = () => document.getElementById("live-state");
  const RETRY_MILLISECONDS = 3000;
  // Figures come every second or two. A connection that is silent for longer is
  // none, whatever the browser believes of it.
  const SILENCE_MILLISECONDS = 10000;
  let heard = Date.now();
  let shown = "";

  const say = (mode, text) => {
    if (shown === text || !state()) return;
    shown = text;
    state().dataset.mode = mode;
    state().textContent = text;
  };
  const lost = () => {
    const figures = document.querySelector("[data-as-of]");
    const since = figures ? `; these figures are of ${figures.dataset.asOf}` : "";
    say("lost", `not live: the gateway does not answer${since}`);
  };

  document.addEventListener("htmx:sse:after:message", () => {
    heard = Date.now();
    say("live", "live");
  });
  document.addEventListener("htmx:sse:error", lost);
  document.addEventListener("htmx:sse:close", lost);
  // The first connection failed: the extension gives up, we do not.
  const again = () => {
    lost();
    setTimeout(() => {
      const element = region();
      if (!element || element._htmx?.sse || document.hidden) return;
      htmx.ajax("GET", element.getAttribute("hx-sse:connect"), { source: element });
    }, RETRY_MILLISECONDS);
  };
  for (const name of ["htmx:error", "htmx:response:error"]) {
    document.addEventListener(name, (event) => {
      if (event.target === region()) again();
    });
  }

  setInterval(async () => {
    if (document.hidden || !region()) heard = Date.now();
    if (Date.now() - heard < SILENCE_MILLISECONDS) return;
    lost();
    heard = Date.now();
    // Not before the gateway answers: the page that is there says more than none.
    const patience = AbortSignal.timeout(RETRY_MILLISECONDS);
    const asked = fetch(location.href, { cache: "no-store", signal: patience });
    const answer = await asked.catch(() => null);
    if (answer?.ok) location.reload();
  }, RETRY_MILLISECONDS);

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = document.getElementById("search");
    if (!search) return;
    event.preventDefault();
    search.focus();
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      button.textContent = "select and copy it by hand";
    }
  });
})();
