// The serial console: xterm.js before a WebSocket.
"use strict";

// xterm makes style sheets as it goes; the page's policy admits those with its nonce.
const nonce = document.currentScript ? document.currentScript.nonce : document.querySelector("script[nonce]").nonce;
const createElement = document.createElement.bind(document);
document.createElement = (name, options) => {
  const element = createElement(name, options);
  if (name === "style") element.nonce = nonce;
  return element;
};

const place = document.getElementById("terminal");
const state = document.getElementById("state");
const again = document.getElementById("connect");
const takeOver = document.getElementById("take-over");
const terminal = new Terminal({ cols: 80, rows: 24, screenReaderMode: true, scrollback: 5000 });
const encoder = new TextEncoder();
let socket = null;

function connect(force) {
  if (socket) { socket.onclose = null; socket.close(); }
  again.hidden = true;
  takeOver.hidden = true;
  state.textContent = "Connecting.";
  const address = new URL(place.dataset.socket, location.href);
  address.protocol = "ws:";
  if (force) address.searchParams.set("force", "yes");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => {
    if (typeof event.data === "string") { ended(event.data); return; }
    if (state.textContent === "Connecting.") state.textContent = "Connected.";
    terminal.write(new Uint8Array(event.data));
  };
  socket.onclose = () => ended("the console does not answer");
  terminal.focus();
}

function ended(why) {
  socket.onclose = null;
  again.hidden = false;
  takeOver.hidden = !why.includes("[CONSOLE_BUSY]");
  state.textContent = "Disconnected: " + why;
}

function send(bytes) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(bytes);
}

terminal.open(place);
terminal.onData((text) => send(encoder.encode(text)));
terminal.onBinary((text) => send(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
terminal.attachCustomKeyEventHandler((event) => {
  if (!(event.ctrlKey && event.key === "]")) return true;
  if (event.type === "keydown") { event.preventDefault(); document.querySelector("h1 a").focus(); }
  return false;
});
again.addEventListener("click", () => connect(false));
takeOver.addEventListener("click", () => connect(true));
window.addEventListener("pagehide", () => socket && socket.close());
connect(false);
