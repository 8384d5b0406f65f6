// Buttons that copy text.

/** A button that copies what `text` returns, and says so for a moment. */
function copyButton(label, what, text) {
  const button = make("button", { type: "button", class: "copy", title: what, "aria-label": what, onclick: async () => {
    const done = await copy(text());
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  } }, label);
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not everywhere may a page from disk use the clipboard so.
    const area = make("textarea", { class: "unseen", "aria-hidden": "true", tabindex: -1 });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
