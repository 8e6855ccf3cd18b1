// The little that the console does in the browser by itself: says when live
// figures are not live any more and asks for them again, finds the search field
// by "/", and copies commands. Everything else works without it.
(() => {
  "use strict";
  const region = () => document.getElementById("live");
  const state = () => document.getElementById("live-state");
  const RETRY_MILLISECONDS = 3000;
  // The gateway is never silent for longer than two seconds. Figures of a connection that
  // is silent for four rounds in a row are not live, and after twelve it is none, whatever
  // the browser believes of it. Rounds and no clock: a page that the browser did not run
  // has not heard anything either.
  const SILENT_ROUNDS = 4;
  const LOST_ROUNDS = 12;
  let silent = 0;
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

  document.addEventListener("htmx:sse:after:message", (event) => {
    silent = 0;
    if (!event.detail?.message?.event) say("live", "live");
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
    silent = document.hidden || !region() ? 0 : silent + 1;
    if (silent < SILENT_ROUNDS) return;
    lost();
    if (silent < LOST_ROUNDS) return;
    silent = 0;
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
