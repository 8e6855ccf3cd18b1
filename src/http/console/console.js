// The little that the console does in the browser by itself: says when live
// figures are not live any more and asks for them again, finds the search field
// by "/", and copies commands. Everything else works without it.
(() => {
  "use strict";
  const region = () => document.getElementById("live");
  const state = () => document.getElementById("live-state");
  const RETRY_MILLISECONDS = 3000;
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

  document.addEventListener("htmx:sse:after:message", () => say("live", "live"));
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
