// Fetches the page again and swaps its main part in place: scroll, open details and focus stay where they are.
(() => {
  "use strict";
  const seconds = Number(document.body.dataset.refresh) || 10;
  let failures = 0;

  const swap = (html) => {
    const next = new DOMParser().parseFromString(html, "text/html");
    const fresh = next.getElementById("main");
    if (!fresh) throw new Error("not the page");
    for (const open of document.querySelectorAll("details[open][id]")) {
      const same = fresh.querySelector("#" + CSS.escape(open.id));
      if (same) same.open = true;
    }
    const focused = document.activeElement;
    const holder = focused && focused.closest("details[id]");
    const onSummary = holder && focused.tagName === "SUMMARY";
    const scrolled = [...document.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    // The headline stays the same element, so that a screen reader speaks only when its words change.
    const headline = document.getElementById("headline");
    const words = fresh.querySelector("#headline");
    if (headline.textContent === words.textContent && headline.className === words.className) {
      words.replaceWith(headline);
    } else {
      headline.className = words.className;
      headline.replaceChildren(...words.childNodes);
      words.replaceWith(headline);
    }
    document.getElementById("main").replaceWith(fresh);
    document.getElementById("asof").textContent = next.getElementById("asof").textContent;
    document.title = next.title;
    [...document.querySelectorAll(".scroll")].forEach((box, i) => { box.scrollLeft = scrolled[i] || 0; });
    if (onSummary) document.querySelector("#" + CSS.escape(holder.id) + " > summary")?.focus({ preventScroll: true });
  };

  const tick = async () => {
    if (document.hidden || String(getSelection())) return;
    const live = document.getElementById("live");
    try {
      const answer = await fetch("/", { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
      if (answer.status === 401) { location.reload(); return; }
      swap(await answer.text());
      failures = 0;
      live.textContent = `refreshes every ${seconds} s`;
    } catch {
      failures += 1;
      live.textContent = `the gauge does not answer (${failures} tries)`;
      document.getElementById("headline").classList.add("gone");
    }
  };

  const loop = async () => { await tick(); setTimeout(loop, seconds * 1000); };
  setTimeout(loop, seconds * 1000);
  document.addEventListener("visibilitychange", tick);
})();
