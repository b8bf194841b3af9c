"use strict";
const review = document.getElementById("review");
const cards = [...document.querySelectorAll(".card")];
let kept = {}; // where the browser keeps nothing of local files

function decisions() {
  try {
    return JSON.parse(localStorage.getItem(review.dataset.key)) || kept;
  } catch {
    return kept;
  }
}

function keep(found) {
  kept = found;
  try {
    localStorage.setItem(review.dataset.key, JSON.stringify(found));
  } catch {}
}

function show() {
  const found = decisions();
  for (const card of cards) {
    for (const button of card.querySelectorAll("[data-choice]")) {
      button.setAttribute("aria-pressed", String(found[card.dataset.image] === button.dataset.choice));
    }
  }
  const here = cards.filter((card) => found[card.dataset.image]).length;
  const flagged = Object.values(found).filter((choice) => choice === "flag").length;
  const all = Object.keys(found).length;
  document.getElementById("status").textContent = `${here} of ${cards.length} here decided; in all ${all}, ${flagged} flagged`;
}

function decide(card, choice) {
  const found = { ...decisions() };
  if (choice) {
    found[card.dataset.image] = choice;
  } else {
    delete found[card.dataset.image];
  }
  keep(found);
  show();
}

function go(from, step) {
  const index = from ? cards.indexOf(from) + step : 0;
  const next = cards[Math.max(0, Math.min(cards.length - 1, index))];
  if (next) {
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

function save(type) {
  const rows = Object.entries(decisions()).sort(([a], [b]) => (a < b ? -1 : 1));
  const quoted = ([image, choice]) => `"${image.replaceAll('"', '""')}",${choice}\n`;
  const csv = "image,decision\n" + rows.map(quoted).join("");
  const json = JSON.stringify(Object.fromEntries(rows), null, 1) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([type === "csv" ? csv : json], { type: "text/plain" }));
  link.download = `decisions.${type}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

review.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const card = event.target.closest(".card");
  if (button && button.dataset.save) {
    save(button.dataset.save);
  } else if (button && card) {
    decide(card, button.getAttribute("aria-pressed") === "true" ? null : button.dataset.choice);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const card = document.activeElement.closest(".card");
  const choices = { a: "accept", f: "flag", u: null };
  if (event.key === "ArrowDown" || event.key === "j") {
    go(card, 1);
  } else if (event.key === "ArrowUp" || event.key === "k") {
    go(card, -1);
  } else if (card && event.key in choices) {
    decide(card, choices[event.key]);
    if (choices[event.key]) {
      go(card, 1);
    }
  } else {
    return;
  }
  event.preventDefault();
});

show();
