// Keeps #live as the server has it now. The connection is held only while the page is seen: browsers have few for a host.
"use strict";

// What the page shows when it opens is fresh: who clicks through pages needs no stream of each. data-live="now" is a page
// that waits for its first update.
const DELAY_MS = 1000;

const place = document.getElementById("live");
const connection = document.getElementById("connection");
let source = null;
let delay = null;

// What the user has opened or typed stays.
const options = {
  morphStyle: "innerHTML",
  ignoreActiveValue: true,
  callbacks: { beforeAttributeUpdated: (name) => name !== "open" },
};

function connect() {
  if (source || document.hidden) return;
  source = new EventSource(location.pathname + location.search);
  source.addEventListener("content", (event) => {
    Idiomorph.morph(place, event.data, options);
    connection.textContent = "";
    document.body.dataset.updated = String(Number(document.body.dataset.updated || 0) + 1);
  });
  source.addEventListener("failure", (event) => { connection.textContent = event.data; });
  source.onerror = () => { connection.textContent = "The console does not answer; retrying."; };
}

function disconnect() {
  clearTimeout(delay);
  if (source) source.close();
  source = null;
}

if (place) {
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("pagehide", disconnect);
  if (place.dataset.live === "now") connect();
  else delay = setTimeout(connect, DELAY_MS);
}
