/** Sliders for what each group keeps, what is predicted of the model that is left, and the recipe that makes it. */
function choice(page) {
  const given = page.choice;
  const groups = given.sliders.map((slider) => page.groups[slider.group]);
  const kept = groups.map((group) => group.channels - group.removed);
  const start = [...kept];
  const totals = forecast(page);
  const recipe = element("pre", { class: "recipe", tabindex: "0", "aria-label": "The recipe" });
  const names = distinct(groups.map((group) => group.name), NARROW);
  const rows = groups.map((group, i) => shareRow(page, i, names[i], (value) => set(i, value)));
  const update = () => {
    rows.forEach((row, i) => row.show(kept[i]));
    totals.show(groups.map((group, i) => group.channels - kept[i]));
    recipe.textContent = recipeOf(page, kept);
  };
  const set = (i, value) => {
    kept[i] = value;
    update();
  };
  const steps = () => given.sliders.map((slider) => (fast.checked ? slider.step : 1));
  const setAll = (share) => {
    steps().forEach((step, i) => (kept[i] = Math.max(step, step * Math.round((share * groups[i].channels) / step))));
    update();
  };
  const reset = () => {
    start.forEach((value, i) => (kept[i] = value));
    update();
  };
  const fast = element("input", { type: "checkbox" });
  fast.checked = true;
  const setSteps = () => {
    steps().forEach((step, i) => rows[i].setStep(step));
    update();
  };
  fast.addEventListener("change", setSteps);
  const stepped = given.sliders.some((slider) => slider.step > 1);
  const only = element("label", {}, fast, element("span", {}, `only widths that ${printable(given.engine)} computes fast`));
  const all = slider("every group", 100, 1, (value) => setAll(value / 100));
  all.value = 100;
  setSteps();
  const asked = groups.some((group) => group.removed) ? "As in this run" : "Keep all";
  return [
    element("p", { class: "quiet" }, `Drag to choose how many channels each group keeps. Parameters and MACs are what a run of the recipe has${page.curves_add ? "; damage is the sum of the groups' own, an estimate" : ""}.`),
    totals.made,
    element("div", { class: "controls" }, element("label", {}, element("span", {}, "every group"), all), ...(stepped ? [only] : []), button(asked, reset)),
    element("div", { class: "shares" }, ...rows.map((row) => row.made)),
    element("h3", {}, "Recipe"),
    recipe,
    element("div", { class: "controls" }, button(`Save ${given.file}`, () => save(given.file, recipe.textContent)), button("Select all of it", () => getSelection().selectAllChildren(recipe))),
    element("p", { class: "quiet" }, "Run it with:"),
    element("pre", {}, printable(given.command)),
  ];
}

function button(text, pressed) {
  const made = element("button", { type: "button" }, text);
  made.addEventListener("click", pressed);
  return made;
}

function slider(name, most, least, moved) {
  const made = element("input", { type: "range", min: least, max: most, step: 1, "aria-label": `channels that ${printable(name)} keeps` });
  made.addEventListener("input", () => moved(Number(made.value)));
  return made;
}

/** The slider of a group, with how many channels it keeps and what that is predicted to damage. */
function shareRow(page, i, shown, moved) {
  const group = page.groups[page.choice.sliders[i].group];
  const curve = page.curves.find((one) => one.group === page.choice.sliders[i].group);
  const input = slider(group.name, group.channels, 1, moved);
  const count = element("span", { class: "share" });
  const damage = element("span", { class: "share" });
  const setStep = (step) => {
    input.min = step;
    input.step = step;
  };
  const show = (kept) => {
    input.value = kept;
    input.setAttribute("aria-valuetext", `${kept} of ${group.channels}`);
    count.textContent = `${kept} of ${group.channels}`;
    damage.textContent = curve && page.curves_add ? percent(damageAt(curve, 1 - kept / group.channels)) : "";
  };
  const name = element("span", { class: "name", title: printable(group.name) }, shown);
  return { made: element("div", { class: "one" }, name, input, count, damage), show, setStep };
}

/** What is predicted of the model, kept in sight while one drags. */
function forecast(page) {
  const given = page.choice;
  const whole = (number) => number.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const costs = [["parameters", given.params, whole], ["MACs", given.macs, whole], ["time", given.latency, duration]].filter((one) => one[1]);
  const none = given.sliders.map(() => 0);
  const entries = costs.map(([name, cost, words]) => {
    const [value, bar] = [element("strong"), element("div", { class: "bar" })];
    const before = left(cost, none);
    const show = (removed) => {
      const now = left(cost, removed);
      value.textContent = words(now);
      note.textContent = `${percent(before ? now / before : 1)} of ${words(before)}${name === "parameters" ? added(given, removed, whole) : ""}`;
      bar.style.width = `${before ? (100 * now) / before : 100}%`;
    };
    const note = element("span", { class: "quiet" });
    return { made: element("div", { "data-cost": name }, element("div", {}, `${name} `, value), element("div", { class: "track" }, bar), note), show };
  });
  if (page.curves_add) entries.push(damageEntry(page));
  return {
    made: element("div", { class: "forecast", "aria-live": "polite" }, ...entries.map((entry) => entry.made)),
    show: (removed) => entries.forEach((entry) => entry.show(removed)),
  };
}

/** What a repair may add to the parameters. */
function added(given, removed, words) {
  const most = given.biases ? left(given.biases, removed) : 0;
  return most && removed.some(Boolean) ? `; a repair may add biases, ${words(most)} at most` : "";
}

function damageEntry(page) {
  const [value, bar] = [element("strong"), element("div", { class: "bar" })];
  const show = (removed) => {
    const found = page.choice.sliders.map((one, i) => {
      const curve = page.curves.find((c) => c.group === one.group);
      return removed[i] && curve ? damageAt(curve, removed[i] / page.groups[one.group].channels) : 0;
    });
    const sum = found.reduce((a, b) => a + (b ?? 0), 0);
    value.textContent = `about ${percent(sum)}`;
    bar.style.width = `${100 * level(sum)}%`;
    bar.style.background = colour(sum);
  };
  const note = element("span", { class: "quiet" }, "error of the outputs; the bar is logarithmic, from 0.01%");
  return { made: element("div", { "data-cost": "damage" }, element("div", {}, "damage ", value), element("div", { class: "track" }, bar), note), show };
}

/** The recipe: groups that stay whole need no line, unless the expression of another one matches them too. */
function recipeOf(page, kept) {
  const given = page.choice;
  const lines = given.order.flatMap((i) => {
    const { group, pattern, shared } = given.sliders[i];
    const units = page.groups[group].channels;
    return kept[i] < units || shared ? [`${quoted(pattern)} = ${shareOf(kept[i], units)}`] : [];
  });
  return `${given.recipe}\n${lines.length ? `[keep]\n${lines.join("\n")}\n` : ""}`;
}

/** A share of which a run keeps exactly so many channels, with as few digits as that takes. */
function shareOf(kept, units) {
  const makes = (share) => units - Math.floor((1 - share) * units + 1e-9) === kept;
  for (let digits = 1; digits < 15; digits++) {
    const share = Number((kept / units).toFixed(digits));
    if (share > 0 && makes(share)) return Number.isInteger(share) ? `${share}.0` : String(share);
  }
  return String(kept / units);
}

/** A string of TOML, which has the escapes of JSON. */
function quoted(text) {
  return JSON.stringify(text).replace(/\u007f/g, "\\u007f");
}

function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  element("a", { download: name, href: address }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
