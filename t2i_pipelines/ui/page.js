// Runs once for each HTML component of the page that it is given to: `element`, `trigger` and `watch` are
// that component's. What they share is `globalThis.t2i`.
const page = (globalThis.t2i ??= { current: null, like: () => {}, say });
const dialog = () => document.querySelector("#t2i-viewer dialog");
const part = (name) => dialog().querySelector(`[data-${name}]`);
let to_heading = false;

function say(text) {
  const open = dialog()?.open;
  const place = open ? part("said") : document.querySelector("#t2i-viewer .t2i-toast");
  place.textContent = "";
  // a text that was there is announced again only as a change
  requestAnimationFrame(() => { place.textContent = text; });
  clearTimeout(page.clears);
  page.clears = setTimeout(() => { place.textContent = ""; }, 4000);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied.`);
  } catch {
    say(`The browser did not allow it. ${what}: ${text}`);
  }
}

function openable() {
  return [...document.querySelectorAll("#t2i-found .t2i-hit")].filter((hit) => hit.offsetParent);
}

function show(hit) {
  page.current = hit;
  const { id, name, path, file, web } = hit.dataset;
  const at = (kind) => `image/${kind}?id=${encodeURIComponent(id)}`;
  const small = hit.querySelector("img");
  const large = part("view");
  large.alt = name;
  large.hidden = !file;
  part("instead").textContent = file ? "" : hit.querySelector(".t2i-gone")?.textContent ?? "cannot be shown";
  if (file) {
    large.src = small?.currentSrc ?? "";
    const loaded = new Image();
    loaded.onload = () => { if (page.current === hit) large.src = loaded.src; };
    loaded.onerror = () => { if (page.current === hit) say("The file cannot be read any more; it may have been moved."); };
    loaded.src = at("view");
  }
  part("name").textContent = name;
  part("details").replaceChildren(hit.querySelector("template").content.cloneNode(true));
  const original = part("original");
  original.hidden = !file && !web;
  original.href = file ? at("original") : web || "#";
  const download = part("download");
  download.hidden = !file;
  download.href = file ? at("download") : "#";
  part("said").textContent = "";
  const hits = openable();
  const place = hits.indexOf(hit);
  part("place").textContent = `${place + 1} of ${hits.length}`;
  for (const [step, name] of [[-1, "back"], [1, "on"]]) part(name).disabled = !hits[place + step];
}

function step_to(step) {
  const hits = openable();
  const next = hits[hits.indexOf(page.current) + step];
  if (!next) return;
  show(next);
  // the button that was pressed may be disabled now, and focus must stay inside
  if (document.activeElement === document.body || document.activeElement.disabled) part("close").focus();
}

element.addEventListener("click", (event) => {
  if (event.target === dialog()) dialog().close();
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  const { ask, like, step, open, fold, unfilter, share } = button.dataset;
  to_heading = like !== undefined || step !== undefined;
  if (ask !== undefined) trigger("ask", { number: Number(ask) });
  if (like !== undefined) trigger("like", { id: like });
  if (step !== undefined) trigger("step", { step: Number(step) });
  if (unfilter !== undefined) trigger("unchoose", { number: Number(unfilter) });
  if (open !== undefined) {
    show(button.closest(".t2i-hit"));
    dialog().showModal();
  }
  if (fold !== undefined) {
    const more = document.getElementById(fold);
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
  }
  if (share !== undefined) copy(location.href, "Link");
});

element.addEventListener("change", (event) => {
  const menu = event.target.closest("select");
  if (!menu || !menu.value) return;
  if (menu.dataset.column !== undefined) trigger("column", { column: menu.value });
  if (menu.dataset.value !== undefined) trigger("choose", { column: menu.dataset.value, value: menu.value });
});

if (element.closest("#t2i-filters")) {
  watch("value", () => {
    // the menu that was used was replaced: go on with the one that it led to
    if (document.activeElement === document.body) element.querySelector("select[data-value], select")?.focus();
  });
}

if (element.closest("#t2i-viewer")) {
  const own = element.querySelector("dialog");
  own.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.close !== undefined) own.close();
    if (button.dataset.back !== undefined) step_to(-1);
    if (button.dataset.on !== undefined) step_to(1);
    if (button.dataset.copy !== undefined) copy(page.current.dataset.path, "Path");
    if (button.dataset.similar !== undefined) {
      own.close();
      page.like(page.current.dataset.id);
    }
  });
  own.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step_to(-1);
    if (event.key === "ArrowRight") step_to(1);
  });
  // back to the image that was looked at last, which need not be the one that was opened
  own.addEventListener("close", () => page.current?.querySelector("[data-open]")?.focus());
}

if (element.closest("#t2i-found")) {
  const title = document.title;
  let visiting = true;
  page.like = (id) => { to_heading = true; trigger("like", { id }); };
  addEventListener("popstate", () => {
    visiting = true;
    dialog().close();
    trigger("visit", { search: location.search });
  });
  watch("value", () => {
    const answer = element.querySelector("[data-turn]");
    if (answer && Number(answer.dataset.turn) === globalThis.t2i_turn) {
      document.documentElement.classList.remove("t2i-busy");
    }
    const shown = answer?.querySelector("[data-link]");
    if (shown) {
      const { link, title: query } = shown.dataset;
      if (link !== location.search) {
        history[visiting ? "replaceState" : "pushState"](null, "", link || location.pathname);
      }
      document.title = query ? `${query} – ${title}` : title;
    }
    if (answer) visiting = false;
    if (!to_heading) return;
    to_heading = false;
    // what was clicked is gone: go on where the new results begin
    const heading = element.querySelector("h2, [role=alert]");
    if (!heading) return;
    heading.focus({ preventScroll: true });
    heading.scrollIntoView({ block: "start", behavior: "instant" });
  });
}
