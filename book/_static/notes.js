// The note of a mention (chapter 14f): shown while the pointer rests on it, while it has the focus, or after a first tap.
// Without scripts it is the title of the link, and the link works as any other.
(() => {
  const note = document.createElement("div");
  let shown = null, leaving = 0;
  note.id = "sft-note-shown";
  note.hidden = true;

  function place() {
    if (!shown) return;
    const words = shown.getClientRects()[0], page = document.documentElement;
    const left = Math.min(words.left, page.clientWidth - note.offsetWidth - 8);
    const above = words.top - note.offsetHeight - 6, below = words.bottom + 6;
    note.style.left = `${Math.max(8, left)}px`;
    note.style.top = `${below + note.offsetHeight > page.clientHeight && above > 0 ? above : below}px`;
  }

  function show(link, more = "") {
    clearTimeout(leaving);
    shown = link;
    note.textContent = link.dataset.note + more;
    note.hidden = false;
    place();
  }

  function hide() {
    clearTimeout(leaving);
    shown = null;
    note.hidden = true;
  }

  function listen(link) {
    link.dataset.note = link.title;
    link.setAttribute("aria-description", link.title);
    link.removeAttribute("title");
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(link); });
    link.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leaving = setTimeout(hide, 150); });
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) show(link); });
    link.addEventListener("blur", hide);
    link.addEventListener("click", (event) => {
      if (event.pointerType !== "touch" || shown === link) return;
      event.preventDefault();
      show(link, " Tap again to go there.");
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(note);
    document.querySelectorAll("a.sft-note").forEach(listen);
    note.addEventListener("pointerenter", () => clearTimeout(leaving));
    note.addEventListener("pointerleave", hide);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    document.addEventListener("click", (event) => { if (shown && !event.target.closest("a.sft-note, #sft-note-shown")) hide(); });
    addEventListener("scroll", place, { passive: true, capture: true });
  });
})();
