// A VM's screen, keyboard and mouse: noVNC before a WebSocket.
import RFB from "./vendor/novnc/core/rfb.js";
import { initLogging } from "./vendor/novnc/core/util/logging.js";

// The page itself says what went wrong.
initLogging("none");

const place = document.getElementById("screen");
const state = document.getElementById("state");
const again = document.getElementById("connect");
const takeOver = document.getElementById("take-over");
const reset = document.getElementById("reset");
let viewer = null;

function connect(force) {
  if (viewer) { viewer.disconnect(); viewer = null; }
  place.replaceChildren();
  again.hidden = true;
  takeOver.hidden = true;
  reset.disabled = true;
  state.textContent = "Connecting.";
  const address = new URL(place.dataset.socket, location.href);
  address.protocol = "ws:";
  if (force) address.searchParams.set("force", "yes");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  const mine = new RFB(place, socket, { shared: true });
  viewer = mine;
  mine.scaleViewport = true;
  mine.background = "#000";
  mine.addEventListener("connect", () => { state.textContent = "Connected."; reset.disabled = false; mine.focus(); });
  socket.addEventListener("close", (event) => { if (viewer === mine) ended(event.reason || "the screen does not answer"); });
}

function ended(why) {
  viewer = null;
  again.hidden = false;
  takeOver.hidden = !why.includes("[CONSOLE_BUSY]");
  reset.disabled = true;
  state.textContent = "Disconnected: " + why;
}

// noVNC takes every key; this one comes before it.
place.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey && event.key === "]")) return;
  event.stopPropagation();
  event.preventDefault();
  document.querySelector("h1 a").focus();
}, true);
again.addEventListener("click", () => connect(false));
takeOver.addEventListener("click", () => connect(true));
reset.addEventListener("click", () => { if (viewer) { viewer.sendCtrlAltDel(); viewer.focus(); } });
window.addEventListener("pagehide", () => viewer && viewer.disconnect());
connect(false);
