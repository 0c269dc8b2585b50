"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const data = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");

  // What to keep when the page renews itself. A browser may refuse, for files most of all.
  const memory = `coinage ${location.pathname}`;
  const recall = () => { try { return JSON.parse(sessionStorage.getItem(memory)) ?? {}; } catch { return {}; } };
  const keep = (change) => { try { sessionStorage.setItem(memory, JSON.stringify({ ...recall(), ...change })); } catch { /* then not */ } };

  function stage(root) {
    const plan = data("plan");
    const shots = data("record")?.shots; // none on a page that compares runs
    const runs = data("pictures") ?? [shots.map((shot) => shot.pictures)];
    const range = root.querySelector("input"), told = root.querySelector("output"), end = plan.labels.length - 1;
    const printed = root.querySelector(".without-script");
    const tiles = all("[data-run]", root);
    const acts = root.querySelector("[data-acts]"), wanted = acts?.querySelector("input");
    let now = end;
    const drawn = (tile, shot) => runs[tile.dataset.run][shot]?.[tile.dataset.prompt];
    const url = (tile, at) => {
      let shot = plan.shots[tile.dataset.run][at];
      if ("still" in tile.dataset) while (shot > 0 && !drawn(tile, shot)) shot--; // drawn once, since it does not change
      return drawn(tile, shot);
    };

    function showHeat() {
      if (!wanted) return;
      for (const tile of tiles) {
        const layer = tile.querySelector(".heat");
        const source = wanted.checked && shots[plan.shots[tile.dataset.run][now]].heat[tile.dataset.prompt];
        layer.hidden = !source;
        if (source) layer.src = source;
        tile.querySelector(".picture").classList.toggle("grey", Boolean(source));
      }
    }
    function show(at) {
      now = at;
      range.value = at;
      told.textContent = printed.textContent = plan.labels[at];
      range.setAttribute("aria-valuetext", plan.labels[at]);
      for (const tile of tiles) {
        const step = tile.querySelector("[data-step]");
        if (step) step.textContent = plan.steps[tile.dataset.run][at];
        const picture = tile.querySelector(".picture"), source = url(tile, at);
        picture.hidden = !source;
        tile.querySelector(".nothing").hidden = Boolean(source);
        if (source) picture.src = source;
        const small = all(".strip img", tile), shown = small.filter((one) => one.dataset.place <= at).pop();
        for (const one of small) one.classList.toggle("shown", one === shown);
      }
      showHeat();
    }
    function choose(at) {
      show(at);
      keep({ label: at === end ? null : plan.labels[at] }); // at the end it stays at the end, as new pictures come
    }
    function strip(tile) {
      const count = Math.min(6, end + 1);
      for (let i = 0; i < count; i++) {
        const at = Math.floor(i * end / (count - 1)), source = url(tile, at);
        if (!source) continue;
        const small = new Image();
        small.src = source;
        small.alt = "";
        small.title = plan.labels[at];
        small.dataset.place = at;
        small.addEventListener("click", () => choose(at));
        tile.querySelector(".strip").append(small);
      }
    }
    if (wanted) {
      acts.hidden = false;
      wanted.checked = Boolean(recall().acts);
      wanted.addEventListener("change", () => { keep({ acts: wanted.checked }); showHeat(); });
      showHeat();
    }
    if (!range) return;
    root.querySelector(".slider").hidden = false;
    root.classList.add("live");
    tiles.filter((tile) => tile.querySelector(".strip") && !("still" in tile.dataset)).forEach(strip);
    range.addEventListener("input", () => choose(Number(range.value)));
    for (const button of all("[data-at]", root)) button.addEventListener("click", () => choose(Number(button.dataset.at)));
    const at = plan.labels.indexOf(recall().label);
    show(at < 0 ? end : at);
  }

  function readOut(figure) {
    const chart = figure.querySelector("svg.chart"), told = figure.querySelector("[data-now]");
    const [left, right, first, last] = chart.dataset.x.split(" ").map(Number);
    const [bottom, top, low, high, log] = chart.dataset.y.split(" ").map(Number);
    const values = all("[data-value]", figure), ends = values.map((value) => value.textContent);
    const lines = all("path.line", chart).map((path) => [...path.getAttribute("d").matchAll(/([\d.]+),([\d.]+)/g)].map((pair) => [+pair[1], +pair[2]]));
    const rule = document.createElementNS(chart.namespaceURI, "path");
    rule.setAttribute("class", "rule");
    chart.append(rule);
    const height = (y) => {
      const part = (y - bottom) / (top - bottom);
      const value = log ? low * (high / low) ** part : low + (high - low) * part;
      return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
    };
    const clear = () => {
      rule.setAttribute("d", "");
      told.textContent = "";
      values.forEach((value, i) => { value.textContent = ends[i]; });
    };
    const point = (event) => {
      const box = chart.getBoundingClientRect();
      const x = Math.min(right, Math.max(left, (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width));
      rule.setAttribute("d", `M${x},${top}V${bottom}`);
      told.textContent = `step ${Math.round(first + (last - first) * (x - left) / (right - left)).toLocaleString("en")}`;
      lines.forEach((points, i) => {
        const near = points.reduce((best, one) => (Math.abs(one[0] - x) < Math.abs(best[0] - x) ? one : best));
        if (values[i]) values[i].textContent = height(near[1]);
      });
    };
    chart.addEventListener("pointermove", point);
    chart.addEventListener("pointerdown", point);
    chart.addEventListener("pointerleave", clear);
  }

  function copier(button) {
    const text = button.parentElement.querySelector("code");
    const select = () => {
      getSelection().selectAllChildren(text);
      return document.execCommand("copy");
    };
    button.hidden = false;
    button.addEventListener("click", async () => {
      let done = true;
      try { await navigator.clipboard.writeText(text.textContent); } catch { done = select(); }
      button.textContent = done ? "copied" : "press Ctrl+C";
      setTimeout(() => { button.textContent = "copy"; }, 2000);
    });
  }

  all("[data-stage]").forEach(stage);
  all(".plot").forEach(readOut);
  all("[data-copy]").forEach(copier);

  const folds = all("details");
  folds.forEach((fold, i) => {
    fold.open = Boolean(recall().folds?.[i]);
    fold.addEventListener("toggle", () => keep({ folds: folds.map((one) => one.open) }));
  });

  // A page of a run that goes on renews itself, but not while somebody is at it.
  const top = document.querySelector("[data-refresh]");
  if (top) {
    scrollTo(0, recall().y ?? 0);
    addEventListener("pagehide", () => keep({ y: scrollY }));
    const written = new Date(top.dataset.written), silent = 30 * 60 * 1000;
    if (Date.now() - written > silent) top.querySelector("[data-news]").textContent = `, but no news since ${written.toLocaleTimeString()}`;
    setInterval(() => {
      const idle = document.activeElement === document.body && getSelection().isCollapsed;
      if (idle && document.visibilityState === "visible") location.reload();
    }, 1000 * top.dataset.refresh);
  }
})();
