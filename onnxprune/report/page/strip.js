/** Colour of a damage, mixed of the three of the style sheet. */
function colour(damage) {
  const at = 2 * level(damage);
  const [from, to, share] = at < 1 ? ["low", "middle", at] : ["middle", "high", at - 1];
  return `color-mix(in oklab, var(--${to}) ${Math.round(100 * share)}%, var(--${from}))`;
}

/** The layers in execution order: a bar is as long as what stays of the layer; pointing at one shows what is tied. */
function strip(page) {
  const told = element("div", { class: "told", "aria-live": "polite" });
  const hint = () => told.replaceChildren(element("p", { class: "quiet" }, "Point at a layer, or step to it by Tab, to see what is tied to it."));
  const list = element("ol", { class: "strip" });
  const names = distinct(page.layers.map((layer) => layer.name), NAME);
  const rows = page.layers.map((layer, i) => row(page, layer, names[i]));
  const show = (i) => {
    list.classList.add("asked");
    rows.forEach((one, j) => one.classList.toggle("tied", i === j || tied(page, page.layers[i], page.layers[j])));
    told.replaceChildren(...explanation(page, page.layers[i]));
  };
  const clear = () => {
    list.classList.remove("asked");
    rows.forEach((one) => one.classList.remove("tied"));
    hint();
  };
  rows.forEach((one, i) => {
    one.addEventListener("mouseenter", () => show(i));
    one.addEventListener("focus", () => show(i));
    one.addEventListener("blur", clear);
  });
  list.addEventListener("mouseleave", clear);
  list.append(...rows);
  hint();
  return [legend(page), list, told];
}

/** Whether two layers share a group that may be pruned. */
function tied(page, one, other) {
  return one.groups.some((g) => page.groups[g].grade !== "pinned" && other.groups.includes(g));
}

function row(page, layer, name) {
  const known = layer.groups.map((g) => page.groups[g].damage).filter((damage) => damage !== null);
  const free = layer.groups.some((g) => page.groups[g].grade !== "pinned");
  const fill = known.length ? colour(Math.max(...known)) : free ? "var(--unknown)" : "var(--pinned)";
  const stays = percent(layer.kept);
  return element(
    "li",
    { tabindex: "0", "aria-label": `${printable(layer.name)}, ${printable(layer.operator)}: ${stays} stays` },
    element("span", { class: "name", title: printable(layer.name) }, name),
    element("span", { class: "track" }, element("div", { class: "bar", style: `width: ${100 * layer.kept}%; background: ${fill}` })),
    element("span", { class: "share" }, stays),
  );
}

function explanation(page, layer) {
  const shape = (sizes) => sizes.join("×");
  const changed = shape(layer.before) === shape(layer.after) ? "" : ` → ${shape(layer.after)}`;
  const head = element("strong", {}, short(layer.name, 90));
  const lines = layer.groups.map((g) => {
    const group = page.groups[g];
    const lost = group.removed ? `${group.removed} of ${group.channels} channels removed` : `${group.channels} channels`;
    const damage = group.damage === null ? "" : `, damage ${percent(group.damage)}`;
    const why = group.reasons.length ? `; ${group.grade}: ${group.reasons.map((text) => short(text, 120)).join("; ")}` : "";
    return element("div", { class: "quiet" }, `${short(group.name, 60)}: ${lost}${damage}${why}`);
  });
  const costs = [`${amount(layer.params)} parameters`, layer.macs ? `${amount(layer.macs)} MACs` : ""].filter(Boolean).join(", ");
  return [element("div", {}, head, ` ${printable(layer.operator)} ${shape(layer.before)}${changed}, ${costs}`), ...lines];
}

function legend(page) {
  const key = (style, text) => element("span", {}, element("i", style), text);
  const damaged = page.groups.some((group) => group.damage !== null);
  return element(
    "div",
    { class: "legend quiet" },
    damaged ? key({ class: "scale" }, "damage, from 0.01% to 100%") : null,
    key({ style: "background: var(--unknown)" }, damaged ? "damage not known" : "may be pruned"),
    key({ style: "background: var(--pinned)" }, "pinned"),
  );
}
