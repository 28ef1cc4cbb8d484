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
    if (field.type === "checkbox") {
      if (field.checked) words.push(field.dataset.flag);
    } else if (value || field.required) {
      const given = "list" in field.dataset ? value.split(/\s+/) : [value];
      words.push(field.dataset.flag, value ? given.map(quoted).join(" ") : field.name.toUpperCase());
    }
  }
  command.textContent = words.filter(Boolean).join(" ");
}

form.addEventListener("input", show);
form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
// A page that the browser has kept comes back as it was left.
window.addEventListener("pageshow", () => { form.querySelector("button").disabled = false; });
show();
