/* Headwater widget: asks for an arm, waits 150 ms at the most, and echoes the decision's token with every event.
 *
 *   <script src="https://decide.shop.example/widget.js"></script>
 *   headwater.decide({
 *     experiment: "hero-banner", visitor: clientId, fallback: "calm",
 *     consent: {"cmp.personalization": "granted"}, context: {locale: "de-DE"}
 *   }).then(function (decision) { render(decision.arm); send("widget_viewed", decision.token); });
 *
 * The promise always resolves. After a timeout or an error it resolves to the static default with an empty token: what
 * was not decided is not learned from. Reserve the space of the largest arm, so that nothing on the page moves.
 */
(function (root) {
  "use strict";

  var script = root.document && root.document.currentScript;
  var home = script && script.src ? new URL(script.src).origin : "";
  var TIMEOUT_MS = 150;

  function decide(options) {
    var fallback = { arm: options.fallback, payload: "", group: "none", is_control: false, reason: "timeout", token: "" };
    var question = { experiment: options.experiment, visitor: options.visitor || "", consent: options.consent || {} };
    if (options.context) question.context = options.context;
    if (options.candidates) question.candidates = options.candidates;

    var abort = typeof AbortController === "function" ? new AbortController() : null;
    return new Promise(function (resolve) {
      var timer = setTimeout(function () {
        resolve(fallback);
        if (abort) abort.abort();
      }, options.timeout_ms || TIMEOUT_MS);

      function settle(decision) {
        clearTimeout(timer);
        resolve(decision);
      }

      fetch((options.endpoint || home) + "/v1/decide", {
        method: "POST",
        // text/plain needs no preflight, which would cost a second round trip of the 150 ms.
        headers: { "Content-Type": "text/plain" },
        credentials: "omit",
        body: JSON.stringify(question),
        signal: abort ? abort.signal : undefined
      })
        .then(function (response) {
          if (!response.ok) throw new Error("status " + response.status);
          return response.json();
        })
        .then(settle, function () {
          settle(Object.assign({}, fallback, { reason: "error" }));
        });
    });
  }

  root.headwater = Object.assign(root.headwater || {}, { decide: decide });
})(typeof globalThis === "undefined" ? window : globalThis);
