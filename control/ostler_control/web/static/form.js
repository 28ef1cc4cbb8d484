// Shows the command with the options that are chosen.
"use strict";

const form = document.querySelector("form[data-command]");
const command = document.getElementById("command");

function quoted(word) {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\"'\"'") + "'";
}

function show() {
  const words = [form.dataset.command];
  for (const field of form.querySelectorAll("[data-flag]")) {
    if (field.type === "checkbox" && field.checked) words.push(field.dataset.flag);
    if (field.type !== "checkbox" && field.value.trim()) words.push(field.dataset.flag, quoted(field.value.trim()));
  }
  command.textContent = words.join(" ");
}

form.addEventListener("input", show);
form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
