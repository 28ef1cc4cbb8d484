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
    const value = field.value.trim();
    if (field.required) words.push(value ? quoted(value) : field.name.toUpperCase());
    else if (field.type !== "checkbox" && value) words.push(field.dataset.flag, quoted(value));
    else if (field.type === "checkbox" && field.checked) words.push(field.dataset.flag);
  }
  command.textContent = words.join(" ");
}

form.addEventListener("input", show);
form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
show();
