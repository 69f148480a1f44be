
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const picks = data.picks;
  const place = `segal-review:${data.file.run}:${data.file.selection}`;
  const byId = (id) => document.getElementById(id);
  const make = (name, type, text) => {
    const made = document.createElement(name);
    if (type) made.className = type;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) => (Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(3) : String(Number(value.toPrecision(4))));

  // What is decided: by pick, "keep" or a reason to skip it; the order, as places in `picks`.
  let decided = new Map();
  let order = picks.map((_, i) => i);
  let current = 0;
  let unsaved = false;
  const past = [];

  const source = (id) => (id === null || id === undefined
    ? "" : `data:image/jpeg;base64,${byId(`p${id}`).textContent}`);
  const thumbnail = (pick) => (pick.crop === null ? data.images[pick.of].image : pick.crop);

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      if (!kept) return;
      const valid = Array.isArray(kept.order) && kept.order.length === picks.length
        && [...kept.order].sort((a, b) => a - b).every((x, i) => x === i);
      if (valid) order = kept.order;
      for (const [i, what] of kept.decided || []) {
        if (picks[i] && (what === "keep" || data.reasons.includes(what))) decided.set(i, what);
      }
      unsaved = Boolean(kept.unsaved);
    } catch (error) { /* without storage, or with a damaged one, the page begins anew */ }
  }

  function store() {
    try {
      localStorage.setItem(place, JSON.stringify({ decided: [...decided], order, unsaved }));
    } catch (error) { /* private windows may have none */ }
  }

  // The list: thumbnails are there only while they are near what is seen.
  const list = byId("picks");
  const rows = picks.map((pick, i) => {
    const row = make("li");
    const button = make("button", "item");
    button.type = "button";
    button.tabIndex = -1;
    const thumb = make("span", "thumb");
    const image = make("img");
    image.alt = "";
    thumb.append(image);
    const words = make("span");
    words.append(make("span", "name", pick.image), make("span", "badge"));
    button.append(make("span", "rank"), thumb, words);
    button.addEventListener("click", () => show(i));
    row.append(button);
    return { row, button, image, pick, badge: words.lastChild, rank: button.firstChild };
  });
  const watcher = new IntersectionObserver((seen) => {
    for (const one of seen) {
      const { image, pick } = rows[Number(one.target.dataset.pick)];
      if (one.isIntersecting && thumbnail(pick) !== null) image.src = source(thumbnail(pick));
      else image.removeAttribute("src");
    }
  }, { root: byId("list"), rootMargin: "400px" });

  function wording(i) {
    const what = decided.get(i);
    if (what) return what === "keep" ? ["kept", "keep"] : [`skipped: ${what}`, "skip"];
    return [{ open: "", handed: "with annotators", returned: "label came back" }[picks[i].state], ""];
  }

  function mark(i) {
    const { row, badge } = rows[i];
    const [text, type] = wording(i);
    badge.textContent = text;
    badge.className = `badge ${type}`;
    row.className = type === "skip" ? "skipped" : "";
  }

  function arrange() {
    list.append(...order.map((i) => rows[i].row));
    order.forEach((i, at) => { rows[i].rank.textContent = String(data.first + at); });
  }

  function count() {
    let kept = 0;
    for (const what of decided.values()) kept += what === "keep";
    const skipped = decided.size - kept;
    const open = picks.filter((pick, i) => pick.state !== "returned" && !decided.has(i)).length;
    byId("counts").textContent = `${kept} kept, ${skipped} skipped, ${open} of ${picks.length} to decide`
      + (unsaved ? " · not saved yet" : "");
    byId("meter-kept").style.width = `${100 * kept / picks.length}%`;
    byId("meter-skipped").style.width = `${100 * skipped / picks.length}%`;
    byId("undo").disabled = past.length === 0;
  }

  function outlined(figure, boxes) {
    const frame = figure.querySelector(".frame");
    frame.querySelectorAll(".box").forEach((box) => box.remove());
    for (const [shares, label, type] of boxes) {
      const box = make("div", `box ${type}`);
      [box.style.left, box.style.top, box.style.width, box.style.height] = shares.map((s) => `${s}%`);
      if (label) box.append(make("span", "", label));
      frame.append(box);
    }
  }

  const shares = (pick) => [
    100 * pick.box[0] / pick.size[0], 100 * pick.box[1] / pick.size[1],
    100 * pick.box[2] / pick.size[0], 100 * pick.box[3] / pick.size[1],
  ];
  const whole = (pick) => pick.box[2] === pick.size[0] && pick.box[3] === pick.size[1];
  const rankOf = (i) => data.first + order.indexOf(i);

  function picture(id, picked, ratio, alt, boxes) {
    const figure = byId(id);
    // As high as the others; wide ones no wider than there is room.
    figure.style.width = `min(100%, calc(var(--tall) * ${ratio.toFixed(4)}))`;
    const image = figure.querySelector("img");
    figure.hidden = picked === null || picked === undefined;
    if (figure.hidden) image.removeAttribute("src");
    else image.src = source(picked);
    image.alt = alt;
    outlined(figure, boxes);
  }

  function show(i, focus = true) {
    rows[current].button.removeAttribute("aria-current");
    rows[current].button.tabIndex = -1;
    current = i;
    const { button } = rows[i];
    button.setAttribute("aria-current", "true");
    button.tabIndex = 0;
    button.scrollIntoView({ block: "nearest" });
    if (focus) button.focus({ preventScroll: true });
    const pick = picks[i];
    const about = data.images[pick.of];
    const [x, y, wide, high] = pick.box;
    byId("facts").textContent = `${rankOf(i)} of ${data.all} · ${pick.image} · `
      + (whole(pick) ? `whole image, ${wide} × ${high}` : `x ${x}, y ${y}, ${wide} × ${high} pixels`)
      + ` · score ${number(pick.score)}`
      + { open: "", handed: " · with annotators already: if it is skipped, tell them, what comes back is not taken",
        returned: " · its label has come back: it cannot be skipped" }[pick.state];
    const here = [[shares(pick), "", "this"]];
    const others = picks.map((other, o) => [other, o])
      .filter(([other, o]) => other.of === pick.of && o !== i)
      .map(([other, o]) => [shares(other), String(rankOf(o)), "other"]);
    const boxes = whole(pick) ? [] : [...others, ...here];
    const where = whole(pick) ? "" : `, the region at x ${x}, y ${y}, ${wide} × ${high} outlined`;
    byId("others-key").hidden = others.length === 0;
    const ratio = pick.size[0] / pick.size[1];
    const around = pick.inner ? (wide * pick.inner[3]) / (high * pick.inner[2]) : 1;
    picture("f-image", about.image, ratio, `${pick.image}${where}`, boxes);
    picture("f-crop", pick.crop, around, `The region of ${pick.image} and what is around it`,
      pick.inner ? [[pick.inner, "", "this"]] : []);
    picture("f-map", about.map, ratio, `${data.map.caption} of ${pick.image}${where}`, whole(pick) ? [] : here);
    picture("f-predicted", about.predicted, ratio, `What the network predicts of ${pick.image}`, whole(pick) ? [] : here);
    byId("legend").replaceChildren(...about.legend.map(([name, colour]) => {
      const entry = make("li");
      const swatch = make("i");
      swatch.style.background = colour;
      entry.append(swatch, make("span", "", name));
      return entry;
    }));
    byId("said").replaceChildren(...about.said.map((line) => make("li", "", line)));
    byId("near-title").textContent = data.near;
    byId("near").replaceChildren(...pick.near.map((o) => {
      const entry = make("li");
      const other = make("button", "near");
      other.type = "button";
      const thumb = make("span", "thumb");
      thumb.style.display = "block";
      const image = make("img");
      image.alt = "";
      if (thumbnail(picks[o]) !== null) image.src = source(thumbnail(picks[o]));
      thumb.append(image);
      const [text, type] = wording(o);
      other.append(thumb, make("span", "name", `${rankOf(o)} ${picks[o].image}`), make("span", `badge ${type}`, text));
      other.title = picks[o].image;
      other.addEventListener("click", () => show(o));
      entry.append(other);
      return entry;
    }));
    byId("near-title").hidden = pick.near.length === 0;
    byId("look").scrollTop = 0;
    buttons();
  }

  function buttons() {
    const what = decided.get(current);
    const fixed = picks[current].state === "returned";
    byId("keep").disabled = fixed;
    byId("keep").setAttribute("aria-pressed", String(what === "keep"));
    document.querySelectorAll("button.skip").forEach((button) => {
      button.disabled = fixed;
      button.setAttribute("aria-pressed", String(what === button.dataset.reason));
    });
    const all = ofImage(current);
    byId("whole").hidden = all.length === 1;
    byId("whole-label").textContent = `All ${all.length} of this image`;
    document.querySelectorAll("button.skip-all").forEach((button) => {
      button.disabled = all.every((i) => picks[i].state === "returned");
    });
    const at = order.indexOf(current);
    byId("up").disabled = at === 0;
    byId("top").disabled = at === 0;
    byId("down").disabled = at === order.length - 1;
    count();
  }

  function tell(text) { byId("state").textContent = text; }

  function changed() {
    unsaved = true;
    store();
  }

  function remember() {
    past.push({ decided: new Map(decided), order: [...order], current });
    if (past.length > 500) past.shift();
  }

  function next(from) {
    const at = order.indexOf(from);
    const ahead = [...order.slice(at + 1), ...order.slice(0, at)];
    return ahead.find((i) => !decided.has(i) && picks[i].state !== "returned");
  }

  const ofImage = (i) => picks.map((_, o) => o).filter((o) => picks[o].of === picks[i].of);

  function decide(what, chosen = [current]) {
    const free = chosen.filter((i) => picks[i].state !== "returned");
    if (free.length === 0) {
      tell(`${rankOf(current)}: its label has come back; it cannot be skipped`);
      return;
    }
    remember();
    for (const i of free) {
      decided.set(i, what);
      mark(i);
    }
    changed();
    const ranks = free.length === 1 ? String(rankOf(free[0])) : `${free.length} regions of ${picks[current].image}`;
    const fixed = chosen.length - free.length;
    const said = `${ranks} ${what === "keep" ? "kept" : `skipped: ${what}`}`
      + (fixed ? `, but ${fixed} whose label has come back` : "");
    const ahead = next(current);
    if (ahead === undefined) {
      show(current);
      tell(`${said}. All are decided: save the review.`);
    } else {
      tell(said);
      show(ahead);
    }
  }

  function move(to) {
    const at = order.indexOf(current);
    if (to < 0 || to >= order.length || to === at) return;
    remember();
    order.splice(at, 1);
    order.splice(to, 0, current);
    changed();
    arrange();
    show(current);
    tell(`${picks[current].image}: now ${data.first + to}`);
  }

  function undo() {
    const before = past.pop();
    if (!before) return;
    const old = decided;
    decided = before.decided;
    order = before.order;
    changed();
    for (const i of new Set([...old.keys(), ...decided.keys()])) mark(i);
    arrange();
    show(before.current);
    tell("Undone");
  }

  function save() {
    const made = {
      ...data.file,
      order: order.map((i) => picks[i].key),
      decisions: [...decided].sort((a, b) => a[0] - b[0]).map(([i, what]) => (what === "keep"
        ? { pick: picks[i].key, decision: "keep" }
        : { pick: picks[i].key, decision: "skip", reason: what })),
      saved: new Date().toISOString(),
    };
    const name = `review-${data.name}-${data.first}-${data.first + picks.length - 1}.json`;
    const address = URL.createObjectURL(new Blob([JSON.stringify(made, null, 1)], { type: "application/json" }));
    const link = make("a");
    link.href = address;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    unsaved = false;
    store();
    count();
    tell(`Saved as ${name}: take it in with segal import`);
  }

  const keys = {
    k: () => decide("keep"), n: () => { const i = next(current); if (i !== undefined) show(i); },
    t: () => move(0), u: undo, s: save,
  };
  const held = {};
  for (const reason of data.reasons) {
    keys[reason[0]] = () => decide(reason);
    held[reason[0]] = () => decide(reason, ofImage(current));
  }

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey && event.key !== "z") return;
    const at = order.indexOf(current);
    if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
    else if (event.ctrlKey) return;
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const to = at + (event.key === "ArrowUp" ? -1 : 1);
      if (event.shiftKey) move(to);
      else if (to >= 0 && to < order.length) show(order[to]);
    } else if (event.key === "Home" || event.key === "End") show(order.at(event.key === "Home" ? 0 : -1));
    else {
      const act = (event.shiftKey && held[event.key.toLowerCase()]) || keys[event.key.toLowerCase()];
      if (!act || event.repeat) return;
      act();
    }
    event.preventDefault();
  });
  byId("keep").addEventListener("click", () => decide("keep"));
  document.querySelectorAll("button.skip").forEach((button) => {
    button.addEventListener("click", () => decide(button.dataset.reason));
  });
  document.querySelectorAll("button.skip-all").forEach((button) => {
    button.addEventListener("click", () => decide(button.dataset.reason, ofImage(current)));
  });
  byId("up").addEventListener("click", () => move(order.indexOf(current) - 1));
  byId("down").addEventListener("click", () => move(order.indexOf(current) + 1));
  byId("top").addEventListener("click", () => move(0));
  byId("undo").addEventListener("click", undo);
  byId("save").addEventListener("click", save);
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });

  restore();
  byId("map-caption").textContent = data.map.caption;
  if (data.map.low !== null) {
    byId("map-low").textContent = number(data.map.low);
    byId("map-high").textContent = number(data.map.high);
  }
  arrange();
  picks.forEach((_, i) => {
    rows[i].row.dataset.pick = String(i);
    watcher.observe(rows[i].row);
    mark(i);
  });
  const first = order.find((i) => !decided.has(i) && picks[i].state !== "returned");
  show(first === undefined ? order[0] : first, false);
  if (unsaved) tell("Decisions of before are here again; they are not saved yet");
})();
